"""The server's end of one worker process and of the zygote that forks it; the other side is zygote.py."""

from __future__ import annotations

import io
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from app.model.errors import DicomlakeError
from app.workers.messages import SIZE, Line, Unreadable, read_packed
from app.workers.remote_reads import Served
from app.workers.zygote import BEGUN, NUMBER, ORDER, READY

START_TIMEOUT_S = 60.0  # for the imports of the zygote and a fork
CONTROL_TIMEOUT_S = 10.0  # for the death of a worker; past it the zygote is taken for broken and replaced


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one process.

    memory_bytes: address space beyond what a fresh worker has. cpu_s: processor time, 0 for any.
    abort_is_memory: the task's library calls abort() when it gets no memory.
    """

    memory_bytes: int
    cpu_s: int = 0
    abort_is_memory: bool = False


class Worker:
    """One place in the pool: the server's end of a worker process, and of the next one after a failure."""

    def __init__(self) -> None:
        self.alive = False

    def start(self, zygote: Zygote, limits: Limits) -> None:
        """Ask for a process; returns before it is there."""
        ours, theirs = socket.socketpair()
        self.line = Line(ours)
        self.stream = io.BufferedReader(self.line)
        with theirs:
            self.number = zygote.fork(theirs, limits)
        self.zygote, self.tasks, self.ready, self.alive = zygote, 0, False, True

    def begin(self, task: list[bytes], limit_s: float) -> bool:
        """Send a task; False when no process was there to begin it."""
        if not self.alive or not self._is_ready():
            return False
        self.tasks += 1
        self.line.deadline = time.monotonic() + limit_s
        try:
            with suppress(BrokenPipeError):
                self.line.send(task)
            return self.stream.read(1) == BEGUN
        except ConnectionError:
            return False

    def results(self, most: int, served: Served) -> Generator[Any]:
        """Yield the results of the task, and serve its reads; raises its error."""
        while True:
            match read_packed(self.stream, most):
                case [int(number), int(position), int(count)]:
                    began = time.monotonic()
                    data = served.read(number, position, count)
                    self.line.deadline += time.monotonic() - began  # a slow store is no fault of the bytes
                    self.line.send([SIZE.pack(len(data)), data])
                case (True, result):
                    yield result
                case (False, error) if isinstance(error, DicomlakeError):
                    raise error
                case ():
                    return
                case _:
                    raise Unreadable("neither a result nor an error")

    def stop(self) -> int | None:
        """Kill the process if there is one; return its exit code, negative for a signal, None if unknown."""
        if not self.alive:
            return None
        self.alive = False
        self.stream.close()
        return self.zygote.kill(self.number)

    def _is_ready(self) -> bool:
        if not self.ready:
            self.line.deadline = time.monotonic() + START_TIMEOUT_S
            with suppress(OSError):
                self.ready = self.stream.read(1) == READY
        return self.ready


class Zygote:
    """The server's end of the zygote: a number with a socket starts a worker, the number alone ends it."""

    def __init__(self, preload: tuple[str, ...], environment: Mapping[str, str]) -> None:
        self.control, theirs = socket.socketpair()
        self.control.settimeout(CONTROL_TIMEOUT_S)
        self.lock = threading.Lock()
        self.last = 0
        call = f"breed({theirs.fileno()}, {preload!r})"
        boot = f"import sys; sys.path[:] = sys.argv[1:]; from app.workers.zygote import breed; {call}"
        # A session of its own: Ctrl-C in the terminal does not reach it, and the group can be killed whole.
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", boot, *sys.path],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                # Threads of numpy's libraries would not survive a fork, and their stacks are address space.
                env={**environment, "OPENBLAS_NUM_THREADS": "1"},
                start_new_session=True,
            )

    @property
    def alive(self) -> bool:
        """Whether the process is there."""
        return self.process.poll() is None

    def fork(self, line: socket.socket, limits: Limits) -> int:
        """Ask for a worker that listens on `line`; returns its number, before it is there."""
        with self.lock:
            self.last += 1
            order = ORDER.pack(self.last, limits.memory_bytes, limits.cpu_s)
            socket.send_fds(self.control, [order], [line.fileno()])
            return self.last

    def kill(self, number: int) -> int | None:
        """Kill a worker and return its exit code; None when the zygote is gone, and so all its workers."""
        try:
            with self.lock:
                self.control.sendall(ORDER.pack(number, 0, 0))
                (exit_code,) = NUMBER.unpack(self.control.recv(NUMBER.size))
            return int(exit_code)
        except (OSError, struct.error):
            self.close()
            return None

    def close(self) -> None:
        """Kill it with all its workers."""
        if self.alive:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.control.close()
