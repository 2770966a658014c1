"""The other side of app/workers/pool.py: the zygote, which forks workers, and what a worker does.

The zygote reads orders from its control socket: with a socket attached, it forks a worker that listens on
that; alone, it kills the worker of that number and answers with its exit code. A worker says READY once, then
to each pickled (function, arguments) BEGUN, then packed (True, result) for each result, and at the end () or
(False, error); between them what it has to read of big contents (remote_reads.py). What both may do is
little: sandbox.py.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import io
import logging
import os
import resource
import signal
import socket
import struct
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from app.model.errors import DicomlakeError, LimitExceeded, WorkerCrashed, internal_error
from app.workers.messages import packed, unpickled
from app.workers.remote_reads import asker
from app.workers.sandbox import close_calls, close_files

READY, BEGUN = b"r", b"b"
NUMBER = struct.Struct("!i")
ORDER = struct.Struct("!iQi")
"""A worker's number, its bytes of memory beyond a fresh one's, its seconds of processor time or 0 for any."""
MAX_OPEN_FILES = 256
PR_SET_PDEATHSIG = 1
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
FONTS = ("/usr/share/fonts", "/usr/local/share/fonts", "/usr/share/X11/fonts")
KEPT_BYTES = 64 << 20
"""Free memory that a worker keeps for its next task: faulting it in again costs as much as drawing a CT."""


def breed(control_fd: int, preload: tuple[str, ...]) -> None:
    """Be the zygote: import, then fork and bury workers as the server asks, until the server is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):  # it ends when the server does
        signal.signal(number, signal.SIG_IGN)
    for name in preload:
        importlib.import_module(name)
    _keep_memory()
    mapped = _mapped_bytes()
    close_files(_code())
    _mute()
    workers: dict[int, int] = {}
    control = socket.socket(fileno=control_fd)
    try:
        while True:
            message, lines, _, _ = socket.recv_fds(control, ORDER.size, 1)
            number, memory_bytes, cpu_s = ORDER.unpack(message)
            if lines:
                most = mapped + memory_bytes if mapped else 0
                with socket.socket(fileno=lines[0]) as line, suppress(OSError):  # the server sees it close
                    workers[number] = _fork(control, line, most, cpu_s)
            else:
                control.sendall(NUMBER.pack(_bury(workers.pop(number, None))))
    finally:
        os.killpg(0, signal.SIGKILL)


def _mute() -> None:
    """Let nothing a task prints out of its process: it may quote values. Standard output goes nowhere yet."""
    os.dup2(1, 2)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    sys.dont_write_bytecode = True
    gc.freeze()  # so that no collection in a worker copies the pages of what was imported


def _keep_memory() -> None:
    """Have glibc keep what is freed instead of giving every picture back to the system."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, KEPT_BYTES // 2)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def _mapped_bytes() -> int:
    """Return the address space that is taken; 0 where the kernel keeps no limit of it (not on macOS)."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[0]) * resource.getpagesize() if statm.exists() else 0


def _code() -> Iterable[Path]:
    """Yield the folders of the interpreter, the libraries, this package, and the fonts that documents name.

    Not the folder that the package lies in, nor the working directory, unless libraries lie in it too: it may
    be anything, a lake as well, and also forbidden or removed.
    """
    package = Path(__file__).resolve().parents[1]
    yield package
    nowhere = [package.parent]
    with suppress(FileNotFoundError):
        nowhere.append(Path.cwd())
    for name in ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", *FONTS):
        yield Path(name)
    for name in (f"{sys.prefix}/lib", f"{sys.base_prefix}/lib", *filter(os.path.isdir, sys.path)):
        folder = Path(name).resolve()
        if folder not in nowhere or os.path.exists(folder / "numpy"):
            yield folder


def _bury(pid: int | None) -> int:
    """Kill a worker and return its exit code; one that is already dying keeps the code it dies with."""
    if pid is None:
        return 0
    os.kill(pid, signal.SIGKILL)  # not reaped yet, so the id is still its own
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _fork(control: socket.socket, line: socket.socket, most: int, cpu_s: int) -> int:
    """Fork a worker and return its process id."""
    pid = os.fork()
    if pid == 0:
        try:
            control.close()
            _confine(most, cpu_s)
            _work(line)
        finally:
            os._exit(1)
    return pid


def _confine(most: int, cpu_s: int) -> None:
    """Set the limits of a worker, of address space to `most`, and leave it only the calls it needs.

    At `cpu_s` the kernel sends SIGXCPU, which ends a worker whatever library it is in.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # the zygote has one thread, so its death is what is meant
    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_NOFILE: MAX_OPEN_FILES}
    if most:
        limits[resource.RLIMIT_AS] = most
    if cpu_s:
        limits[resource.RLIMIT_CPU] = cpu_s
    for kind, limit in limits.items():
        hard = resource.getrlimit(kind)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        # At a hard limit of processor time the kernel sends SIGKILL, which says nothing.
        resource.setrlimit(kind, (limit, hard if kind == resource.RLIMIT_CPU else limit))
    close_calls()


def _work(line: socket.socket) -> None:
    """Be a worker: answer tasks until the server closes the line, or one fails."""
    stream = line.makefile("rb")
    line.sendall(READY)
    succeeded = True
    while succeeded and stream.peek(1):
        line.sendall(BEGUN)
        succeeded, answer = _answer(line, stream)
        line.sendall(answer)
    while stream.read(io.DEFAULT_BUFFER_SIZE):  # a task that did not fit must not block who sends it
        pass


def _answer(line: socket.socket, stream: io.BufferedReader) -> tuple[bool, bytes]:
    """Read a task, run it, send its results and return whether it succeeded, and its packed end."""
    error: BaseException = LimitExceeded("out of memory")
    try:
        function, args = unpickled(stream, asker(line, stream))
        result = function(*args)
        for one in result if isinstance(result, Iterator) else (result,):
            line.sendall(packed((True, one)))
        return True, packed(())
    except MemoryError:
        pass
    except DicomlakeError as exc:
        error = exc
    except Exception as exc:  # noqa: BLE001 - its text may quote values, so it ends here
        error = internal_error(exc)
    except BaseException as exc:  # noqa: BLE001 - an exit, or the panic of a codec written in Rust
        error = WorkerCrashed(type(exc).__name__)
    error.__traceback__ = error.__context__ = error.__cause__ = None  # frees what the task still holds
    return False, packed((False, error))
