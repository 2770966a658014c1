"""The real service as a process of its own, and what a user sees of it from outside."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx

from tests.parts import ROOT
from tests.processes import PATIENCE_S


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def until(found: Callable[[], object], seconds: float = PATIENCE_S) -> object:
    """Return the first true answer of `found`, or its last one after `seconds`."""
    end = time.monotonic() + seconds
    while not (answer := found()) and time.monotonic() < end:
        time.sleep(0.02)
    return answer


def paths(root: Path) -> list[Path]:
    """Return what lies under a folder while others remove from it, where `Path.rglob` would raise."""
    return [Path(folder, name) for folder, folders, files in os.walk(root) for name in folders + files]


class Service:
    """`dicomlake serve` over one lake folder, of the code in the folder `code`."""

    def __init__(self, lake: Path, code: Path = ROOT, **settings: object) -> None:
        self.lake = lake
        self.code = code
        self.landing = lake / "landing"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.log = lake / "service.log"
        lake.mkdir(exist_ok=True)
        places = {
            "SOURCE__URL": f"file:{self.landing}",
            "ARTIFACTS__URL": f"file:{lake / 'output'}",
            "WAREHOUSE__URL": f"sqlite:{lake / 'lake.db'}",
            "BUS__URL": f"local:{lake / 'lake.db'}",
            "API__PORT": self.port,
            **{name.upper(): value for name, value in settings.items()},
        }
        clean = {key: value for key, value in os.environ.items() if not key.startswith("DICOMLAKE_")}
        self.env = clean | {f"DICOMLAKE__{name}": str(value) for name, value in places.items()}

    def __enter__(self) -> "Service":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, *options: str, wait: bool = True) -> "Service":
        command = [sys.executable, "-m", "app", "serve", *options]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=self.code, env=self.env, stdout=log, stderr=log)
        if wait:
            assert until(self.healthy), self.log.read_text()
        return self

    def healthy(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=PATIENCE_S).status_code == 200
        except httpx.HTTPError:
            return False

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        try:
            return self.process.wait(timeout=PATIENCE_S)
        finally:
            self.process.kill()  # one that hangs must not outlive its test and hold its folders

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run one `dicomlake` command on this lake."""
        return subprocess.run(
            [sys.executable, "-m", "app", *command],
            cwd=self.code,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def rows(self, sql: str) -> list[dict[str, object]]:
        """Query with Python's own SQLite, so that a fault of ours cannot hide another."""
        import sqlite3

        file = f"file:{self.lake / 'lake.db'}?mode=ro"
        with closing(sqlite3.connect(file, uri=True, timeout=30)) as database:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute(sql)]

    def drop(self, name: str, data: bytes) -> Path:
        """Put a file into the landing folder as a copy does: the bytes appear under the final name."""
        path = self.landing / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def current(self) -> dict[str, dict[str, object]]:
        """Return the current rows by the name of their object."""
        prefix = f"file://{self.landing}/"
        rows = self.rows("SELECT * FROM instances_current")
        return {str(row["object_uri"]).removeprefix(prefix): row for row in rows}

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]
