"""A service while it is attacked, seen from outside: its memory, its answers, the ends of its events."""

import json
import subprocess
import sys
import threading
from pathlib import Path

from tests.parts import ROOT
from tests.processes import children, cpu_s
from tests.system.e2e.service import Service, until

WEIGH = """
import os, signal, subprocess, sys
server = subprocess.Popen([sys.executable, "-m", "app", "serve"])
signal.signal(signal.SIGTERM, lambda *_: server.terminate())
_, status, usage = os.wait4(server.pid, 0)
kib = usage.ru_maxrss // (1024 if sys.platform == "darwin" else 1)
print(kib, usage.ru_utime + usage.ru_stime, file=open(sys.argv[1], "w"))
sys.exit(os.waitstatus_to_exitcode(status))
"""


class Weighed(Service):
    """A service whose end tells the most memory of any of its processes, and the CPU seconds of all.

    The kernel keeps both of each process and hands it on to who waits for its end, from parent to parent: no
    worker is too short-lived. Only what began as a copy of the tests has weighed as much as they do, so
    something small stands between.
    """

    def start(self, wait: bool = True) -> "Weighed":
        self.weight = self.lake.with_suffix(".usage")
        with self.log.open("ab") as log:
            command = [sys.executable, "-c", WEIGH, str(self.weight)]
            self.process = subprocess.Popen(command, cwd=ROOT, env=self.env, stdout=log, stderr=log)
        assert until(self.healthy), self.log.read_text()
        return self

    def server(self) -> int:
        """Return the process id of the server, that of its parent where the kernel lists no children."""
        return next(iter(children(self.process.pid)), self.process.pid)


class Observer(threading.Thread):
    """Asks for /health again and again, and looks at the memory of the server and its workers.

    asked, silent: how often, and how often without a good answer. busy_s: the most CPU seconds that the
    server itself used between two good answers. peak_kib, cpu_s: the most memory of any process and the CPU
    seconds of all, as `end` knows them. own_kib: of the server.
    """

    def __init__(self, service: Weighed) -> None:
        super().__init__(daemon=True)
        self.service, self.over = service, threading.Event()
        self.asked = self.silent = self.peak_kib = self.own_kib = 0
        self.busy_s = self.cpu_s = 0.0

    def run(self) -> None:
        server = self.service.server()
        answered_s = cpu_s(server)
        while not self.over.wait(0.02):
            self.weigh()
            self.asked += 1
            if not self.service.healthy():
                self.silent += 1
                continue
            now_s = cpu_s(server)
            self.busy_s, answered_s = max(self.busy_s, now_s - answered_s), now_s

    def weigh(self) -> None:
        """Look at the processes that are there."""
        server = self.service.server()
        workers = [worker for zygote in children(server) for worker in children(zygote)]
        self.peak_kib = max(self.peak_kib, *map(peak_kib, workers), 0)
        self.own_kib = max(self.own_kib, peak_kib(server))

    def end(self) -> None:
        """Stop to observe and end the service; the workers it kills then are weighed just before."""
        self.over.set()
        self.join()
        self.weigh()
        assert self.service.process.poll() is None, "the service has ended by itself"
        assert self.service.stop() == 0
        kib, cpu = self.service.weight.read_text().split()
        self.peak_kib, self.cpu_s = max(self.peak_kib, int(kib)), float(cpu)


def peak_kib(pid: int) -> int:
    """Return the most memory that a process has had so far; 0 where nobody tells, or it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)


class Events:
    """The lines with which events ended, by object, read from the log as it grows."""

    def __init__(self, service: Service) -> None:
        self.log, self.at, self.rest = service.log, 0, b""
        self.lines: dict[str, list[dict]] = {}

    def ended(self) -> dict[str, list[dict]]:
        """Return all so far; each line must be JSON, and a failure that comes again is no end."""
        with self.log.open("rb") as file:
            file.seek(self.at)
            new = file.read()
        self.at += len(new)
        *whole, self.rest = (self.rest + new).split(b"\n")
        for line in map(json.loads, whole):
            if line["message"] == "event" and line["status"] != "failed":
                self.lines.setdefault(line["object"], []).append(line)
        return self.lines
