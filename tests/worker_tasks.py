"""What the tests of the workers let them do; here, because a worker finds its tasks by import."""

import os
import resource
import signal
import socket
import sys
import threading
import time
import warnings
from contextlib import suppress

from app.errors import LimitExceeded, PermanentError, Unrenderable, permanent


def double(number: int) -> int:
    return 2 * number


def measure(data: bytes) -> tuple[int, int]:
    return len(data), sum(data[:4])


def signal_self(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(30)


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
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError), socket.socket(fileno=os.dup(int(name))) as line:
            line.sendall(answer)


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


def write_file(path: str) -> None:
    with open(path, "w") as file:
        file.write("x")


def print_everywhere() -> None:
    print("value", flush=True)
    print("value", file=sys.stderr, flush=True)
    os.write(1, b"value")
    os.write(2, b"value")
    warnings.warn("value", stacklevel=1)


def state() -> dict[str, object]:
    return {
        "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
        "sigint": int(signal.getsignal(signal.SIGINT)),
        "sigterm": int(signal.getsignal(signal.SIGTERM)),
        "server": sorted({"fastapi", "pytest", "app.workers"} & set(sys.modules)),
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
