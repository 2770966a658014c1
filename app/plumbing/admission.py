"""Admission control: a budget for bytes in memory, and no new work while a disk is nearly full."""

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
"""Budget of an object that is read in ranges: its buffers."""
LOOK_S = 1.0


def estimate(size: int | None) -> int:
    """Return the maximum bytes that a fetch of an object of this announced size holds in memory."""
    if size is None:
        return BIG_BYTES
    return size if size <= BIG_BYTES else RANGED_BYTES


def cost(content: Content) -> int:
    """Return the bytes that a fetched object holds in memory."""
    return RANGED_BYTES if content.data is None else len(content.data)


class Budget:
    """Limits the bytes of objects in memory; 0 is no limit. Safe to call from several threads.

    An event that does not fit waits up to `patience_s` seconds (None: without limit). Events are admitted in
    order of arrival; otherwise a large object might wait for ever behind a stream of small ones. Waiting is
    better than refusing at once: a refusal is a failed delivery, slows the whole subscription, and makes the
    instance look idle to Cloud Run, which then adds none.
    """

    def __init__(self, max_bytes: int, patience_s: float | None = 0.0) -> None:
        self._max_bytes, self._patience_s = max_bytes, patience_s
        self._changed = threading.Condition()
        self._held = 0
        self._queue: deque[object] = deque()

    @contextmanager
    def hold(self, size: int, wait_s: float | None = None) -> Iterator[Callable[[int], None]]:
        """Reserve `size` bytes during the block, which receives a function to correct that number.

        An object larger than the whole budget is admitted alone. Raises Overloaded if there is no room within
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
    """Checks free space on the disks of these folders, at most once a second; a minimum of 0 disables it."""

    def __init__(
        self, folders: Iterable[Path], min_free_bytes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folders = tuple(folders) if min_free_bytes else ()
        self._min_free_bytes, self._clock = min_free_bytes, clock
        self._look_at = clock()
        self._full: Path | None = None

    def check(self) -> None:
        """Raise OutOfSpace while one of the disks has less free space than the minimum."""
        now = self._clock()
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            self._full = next((folder for folder in self._folders if self._is_full(folder)), None)
        if self._full is not None:
            text = f"less than {self._min_free_bytes} bytes are free in {self._full}"
            raise OutOfSpace(f"{text}; see delivery.min_free_bytes")

    def _is_full(self, folder: Path) -> bool:
        with suppress(OSError):  # the next write there will report the error
            return shutil.disk_usage(folder).free < self._min_free_bytes
        return False
