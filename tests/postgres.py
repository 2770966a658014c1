"""A real PostgreSQL for tests: its own cluster in a scratch folder, on a socket there, without a port."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote


def find_postgres() -> Path | None:
    """Return the folder of the newest server that is installed, None without one."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if which := shutil.which("initdb"):
        found.append(Path(which).resolve().parent)
    return max(found, key=_version, default=None)


def _version(folder: Path) -> list[int]:
    return [int(part) for part in folder.parent.name.split(".") if part.isdigit()]


@dataclass
class Cluster:
    """A running server; `url` names a database in it."""

    folder: Path
    bin: Path
    user: str
    fsync: bool

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://{self.user}@/{database}?host={quote(str(self.folder), safe='')}"

    def run(self, *command: str) -> None:
        """Run a program of the server as its owner, for it refuses to run as root."""
        subprocess.run(
            [str(self.bin / command[0]), *command[1:]],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=self.user if os.geteuid() == 0 else None,
            cwd=self.folder,
        )

    def start(self) -> None:
        fsync = "on" if self.fsync else "off"
        options = f"-c listen_addresses= -c unix_socket_directories={self.folder} -c fsync={fsync}"
        log = str(self.folder / "log")
        self.run("pg_ctl", "-D", str(self.folder / "data"), "-o", options, "-l", log, "-w", "start")

    def stop(self, mode: str = "immediate") -> None:
        self.run("pg_ctl", "-D", str(self.folder / "data"), "-m", mode, "-w", "stop")


@contextmanager
def running_postgres(fsync: bool = False) -> Iterator[Cluster]:
    """Start a server and stop it afterwards."""
    found = find_postgres()
    assert found is not None
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp", ignore_cleanup_errors=True) as scratch:
        cluster = Cluster(Path(scratch), found, user, fsync)
        if os.geteuid() == 0:
            shutil.chown(scratch, user)
        cluster.run(
            "initdb", "-D", str(cluster.folder / "data"), "-U", user, "-A", "trust", "-E", "UTF8", "-N"
        )
        cluster.start()
        try:
            yield cluster
        finally:
            for _ in range(3):
                try:
                    cluster.stop()
                    break
                except subprocess.CalledProcessError:  # a test has stopped it
                    time.sleep(0.2)
