"""What the tests of the workers let them do; here, because a worker finds its tasks by import."""

import ctypes
import errno
import fcntl
import io
import os
import resource
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from app.model.errors import LimitExceeded, ObjectGone, PermanentError, Unrenderable, permanent
from app.model.values import Content


def double(number: int) -> int:
    return 2 * number


def own_pid() -> int:
    return os.getpid()


def measure(data: bytes) -> tuple[int, int]:
    return len(data), sum(data[:4])


def signal_self(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(30)


def say_gone() -> None:
    raise ObjectGone("object version is gone")


def refuse() -> None:
    raise Unrenderable("no pixel data", code="no_pixel_data")


def quote(value: str) -> None:
    raise ValueError(f"bad value {value}")


def panic() -> None:
    class PanicException(BaseException):
        pass

    raise PanicException("value of the data set")


def say(answer: bytes) -> None:
    """Say something on the worker's own line to the server, as code that has taken it over could."""
    for number in range(256):
        with suppress(OSError):
            os.write(number, answer)


def naps(*seconds: float) -> Iterator[float]:
    for one in seconds:
        time.sleep(one)
        yield one


def doubles_then(deed: str, *numbers: int) -> Iterator[int]:
    """Yield the doubles, then end as told; `after` each, tell how far it came."""
    for number in numbers:
        yield 2 * number
    if deed == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    if deed == "refuse":
        refuse()


def read_in_pieces(content: Content, count: int) -> Iterator[int]:
    with content.open() as stream:
        while piece := stream.read(count):
            yield len(piece)


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def pages_faulted_in(size: int, times: int) -> int:
    """Hold and free memory so many times, once before, and return how many pages the system had to give."""
    bytearray(size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        bytearray(size)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def hold(size: int) -> int:
    return len(bytearray(size))


def hold_many_small() -> int:
    found = {}
    number = 0
    while True:
        found[number] = str(number)
        number += 1


def hold_in_pure_step() -> None:
    with permanent(PermanentError):
        hold_many_small()


def repeat(size: int) -> str:
    return "x" * size


def make_unpicklable() -> threading.Lock:
    return threading.Lock()


def print_everywhere() -> None:
    print("value", flush=True)
    print("value", file=sys.stderr, flush=True)
    os.write(1, b"value")
    os.write(2, b"value")
    warnings.warn("value", stacklevel=1)


def tried(deed: str, *arguments: object) -> str:
    """Return how the system answers what code that has taken a worker over would do."""
    deeds: dict[str, Callable[..., object]] = {
        "read": lambda path: Path(path).read_bytes(),
        "list": os.listdir,
        "write": lambda path: Path(path).write_bytes(b"x"),
        "truncate": lambda path: os.open(path, os.O_RDONLY | os.O_TRUNC),
        "remove": os.unlink,
        "rename": os.rename,
        "make a folder": os.mkdir,
        "connect": lambda port: socket.create_connection(("127.0.0.1", port), 1),
        "send a datagram": lambda port: socket.socket(type=socket.SOCK_DGRAM).sendto(
            b"", ("127.0.0.1", port)
        ),
        "speak locally": lambda: socket.socket(socket.AF_UNIX),
        "make a pair": socket.socketpair,
        "execute": lambda: os.execv("/bin/true", ["true"]),
        "fork": os.fork,
        "begin a thread": lambda: threading.Thread(target=int).start(),
        "signal": lambda pid: os.kill(pid, signal.SIGKILL),
        "leave the session": os.setsid,
        "lift a limit": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30)),
        "have signalled": lambda pid: fcntl.fcntl(0, fcntl.F_SETOWN, pid),  # by input on a line of its own
        # An address whose lower half is zero: it must not pass for none.
        "limit": lambda pid: called("prlimit", pid, resource.RLIMIT_NOFILE, 1 << 32, 0),
        "trace": lambda pid: called("ptrace", 16, pid, 0, 0),
        "look into": lambda pid: called("process_vm_readv", pid, 0, 0, 0, 0, 0),
        "undo": lambda: called("prctl", 22, 0, 0, 0, 0),
    }
    try:
        deeds[deed](*arguments)
    except OSError as exc:
        return errno.errorcode[exc.errno or 0]
    except (RuntimeError, ValueError) as exc:  # as Python says it of a thread, and of a limit
        return str(exc)
    return "done"


def called(name: str, *arguments: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*map(ctypes.c_long, arguments)) < 0:
        raise OSError(ctypes.get_errno(), name)


def read_again(content: Content, count: int, times: int) -> int:
    """Read the first bytes so many times, and return how many came."""
    taken = 0
    with content.open() as stream:
        for _ in range(times):
            stream.seek(count)  # forgets what was read ahead
            stream.seek(0)
            taken += len(stream.read(count))
    return taken


def say_beside(answer: bytes, content: Content) -> None:
    """Say it in a task that does have something to read."""
    say(answer)


def upper_and_pid(stream: BinaryIO) -> BinaryIO:
    return io.BytesIO(stream.read().upper() + b" %d" % os.getpid())


def environment() -> dict[str, str]:
    return dict(os.environ)


def read_ranges(content: Content, places: list[tuple[int, int]]) -> list[bytes]:
    """Return what stands at some places, by position and count."""
    with content.open() as stream:
        if content.decode:
            return [stream.read()]
        found = [stream.read(count) for position, count in places if stream.seek(position) == position]
        stream.seek(0, os.SEEK_END)
        return [*found, b"%d" % stream.tell()]


def read_all(content: Content) -> bytes:
    with content.open() as stream:
        return stream.read()


def state() -> dict[str, object]:
    return {
        "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
        "sigint": int(signal.getsignal(signal.SIGINT)),
        "sigterm": int(signal.getsignal(signal.SIGTERM)),
        "server": sorted({"fastapi", "pytest", "app.workers.pool"} & set(sys.modules)),
    }


def maybe_crash(number: int) -> int:
    """Crash, exit, refuse or answer, by the remainder."""
    match number % 16:
        case 3:
            os.abort()
        case 7:
            os._exit(0)
        case 11:
            raise LimitExceeded(f"task {number}")
    return number


def parent_and_self() -> tuple[int, int]:
    return os.getppid(), os.getpid()
