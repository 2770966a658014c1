"""Who is let in: bytes in flight have a budget, and a disk that is nearly full takes nothing more."""

from __future__ import annotations

import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from app.model.errors import OutOfSpace, Overloaded
from app.model.options import BIG_BYTES
from app.model.values import Content

RANGED_BYTES = 4 * 2**20
"""What an object that is read in ranges takes of the budget: the buffers on its way."""
LOOK_S = 1.0


def estimate(size: int | None) -> int:
    """Return how many bytes of an object of this announced size a fetch holds at most."""
    if size is None:
        return BIG_BYTES
    return size if size <= BIG_BYTES else RANGED_BYTES


def cost(content: Content) -> int:
    """Return how many bytes a fetched object holds."""
    return RANGED_BYTES if content.data is None else len(content.data)


class Budget:
    """How many bytes of objects may be held at once; 0 is no limit. Safe to call from several threads.

    An event that finds no room waits up to `patience_s` seconds (None: as long as it takes), first come,
    first served: a large object would otherwise wait for ever behind a stream of small ones. Refusing at once
    is worse than waiting: each refusal is a failed delivery, slows the whole subscription, and makes Cloud
    Run see an idle instance and add none.
    """

    def __init__(self, max_bytes: int, patience_s: float | None = 0.0) -> None:
        self._max_bytes, self._patience_s = max_bytes, patience_s
        self._changed = threading.Condition()
        self._held = 0
        self._queue: deque[object] = deque()

    @contextmanager
    def hold(self, size: int, wait_s: float | None = None) -> Iterator[Callable[[int], None]]:
        """Hold `size` bytes while the block runs; it is given a function to correct that number.

        An object larger than the whole budget is let in alone. Raises Overloaded when there is no room within
        `wait_s` seconds, at most the budget's patience.
        """
        turn = object()
        with self._changed:
            self._queue.append(turn)
            try:
                limits = [seconds for seconds in (wait_s, self._patience_s) if seconds is not None]
                patience_s = min(limits, default=None)
                if not self._changed.wait_for(
                    lambda: self._queue[0] is turn and self._has_room(size), patience_s
                ):
                    raise Overloaded(
                        f"{self._max_bytes} bytes of objects are in flight; see workers.inflight_bytes"
                    )
                self._held += size
            finally:
                self._queue.remove(turn)
                self._changed.notify_all()

        def correct(to: int) -> None:
            nonlocal size
            with self._changed:
                self._held += to - size
                size = to
                self._changed.notify_all()

        try:
            yield correct
        finally:
            correct(0)

    def _has_room(self, size: int) -> bool:
        return not (self._max_bytes and self._held) or self._held + size <= self._max_bytes


class Space:
    """Free bytes on the disks of these folders, looked at once a second at most; a minimum of 0 is none."""

    def __init__(
        self, folders: Iterable[Path], min_free_bytes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folders = tuple(folders) if min_free_bytes else ()
        self._min_free_bytes, self._clock = min_free_bytes, clock
        self._look_at = clock()
        self._full: Path | None = None

    def check(self) -> None:
        """Raise OutOfSpace while one of the disks has less free than it must have."""
        now = self._clock()
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            self._full = next((folder for folder in self._folders if self._is_full(folder)), None)
        if self._full is not None:
            text = f"less than {self._min_free_bytes} bytes are free in {self._full}"
            raise OutOfSpace(f"{text}; see delivery.min_free_bytes")

    def _is_full(self, folder: Path) -> bool:
        with suppress(OSError):  # a folder that cannot be asked is not full; who writes there is told
            return shutil.disk_usage(folder).free < self._min_free_bytes
        return False
