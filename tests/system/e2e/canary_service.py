"""The service with its failing seams as a process of its own, and all that comes out of it."""

import re
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

import httpx

from tests import pushes
from tests.parts import ROOT
from tests.system.e2e.service import Service, paths, until


@dataclass
class Said:
    """What came out, by where; and the codes of errors that happened."""

    texts: dict[str, bytes] = field(default_factory=dict)
    codes: set[str] = field(default_factory=set)
    rows: bytes = b""
    left: list[str] = field(default_factory=list)
    running: ExitStack = field(default_factory=ExitStack)

    def add(self, where: str, text: bytes | str) -> None:
        """Keep a text and find the codes in it."""
        text = text.encode() if isinstance(text, str) else text
        self.texts[f"{len(self.texts)} {where}"] = text
        found = CODE.findall(text)
        self.codes |= {code.decode() for one in found for code in one if code}


CODE = re.compile(
    rb"""\\?['"]?code\\?['"]?(?:=|: ?)\\?['"](\w+)"""  # of JSON, maybe in a text, and of metrics
    rb"""| code=(\w+)|\((\w+)(?:: [\w.]+)?\)|Error: (\w+):"""  # a line of the log, a member, a command
)


class CanaryService(Service):
    """The service with its failing seams and a scratch folder of its own."""

    def start(self, wait=True):
        self.scratch = self.lake / "scratch"
        self.scratch.mkdir(exist_ok=True)
        program = "from tests.system.e2e.canary_seams import main; main()"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "always", "-c", program, "serve"],
                cwd=ROOT,
                env=self.env | {"TMPDIR": str(self.scratch)},
                stdout=log,
                stderr=log,
            )
        assert not wait or until(self.healthy), self.log.read_text()
        return self

    def answers(self, said, path, attempt=None):
        with suppress(httpx.HTTPError):
            answer = httpx.post(self.url, json=pushes.wrapped(path, attempt), timeout=30)
            said.add("answer", answer.content + repr(answer.headers).encode())

    def send(self, said, data):
        """Send bytes as they are and keep what comes back."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as line:
            with suppress(ConnectionError):  # it may close before it has read all
                line.sendall(data)
            with suppress(ConnectionError):
                said.add("raw answer", b"".join(iter(lambda: line.recv(65536), b"")))

    def break_off(self, data):
        """Send bytes and go away."""
        with socket.create_connection(("127.0.0.1", self.port)) as line:
            line.sendall(data)
            time.sleep(0.2)

    def keep(self, said):
        """Keep what a running service shows, and what it has made."""
        for name in ("failures", "dead_letter", "dead_letters", "queue", "landing"):
            said.add(name, repr(self.rows(f"SELECT * FROM {name}")))
        said.codes |= {str(row["preview_error"]) for row in self.rows("SELECT preview_error FROM instances")}
        said.rows += repr(self.rows("SELECT * FROM instances")).encode()
        said.add("names", "\n".join(map(str, paths(self.lake))))
        for path in ("/metrics", "/ready", "/nowhere", "/openapi.json"):
            said.add(path, httpx.get(self.url + path).content)

    def end(self, said):
        self.stop()
        said.add("log", self.log.read_bytes())
        said.left += [str(path) for path in self.scratch.rglob("*")]
