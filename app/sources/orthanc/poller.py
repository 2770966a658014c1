"""Copy instances from Orthanc into the landing storage, each change once, whatever stops in between.

    round:  requested studies ─▶ changes since the position, page by page ─▶ once a day a comparison

The position is stored after its page has landed, so a crash repeats at most one page, and what is there
already is not written again. Nothing is ever removed: not when Orthanc deletes, not when it loses its
database. New instances are fetched, not stable studies: Orthanc forgets to announce those when it is killed.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import islice

from app.model.errors import InternalError, TransientError, internal
from app.model.options import OrthancOptions
from app.sources.landing import Landing
from app.sources.orthanc.client import (
    CONNECTIONS,
    ID,
    OrthancClient,
    OrthancDamaged,
    OrthancUnavailable,
    Stopped,
)
from app.sources.orthanc.state import Position, State
from app.storage import Storage

log = logging.getLogger("dicomlake.orthanc")

FOLDER = "orthanc/"
PAGE = 100
"""Changes in one page; after a crash at most one page is repeated."""
TRIES = 3
MAX_FAILED = 1000
"""Stop at more damaged instances: something general is wrong, such as an unmounted storage of Orthanc."""
COMPARE_AFTER = timedelta(days=1)

Show = Callable[[int, int], object]
"""Told the number of the last change that is done, and of the newest."""


class Fate(StrEnum):
    """What became of one instance."""

    STORED = "stored"
    UNCHANGED = "unchanged"
    GONE = "gone"
    FAILED = "failed"


class OrthancPoller:
    """Polls one Orthanc: `start` in a thread until closed, or `pull` for one round."""

    def __init__(
        self, options: OrthancOptions, landing: Landing, artifacts: Storage, now: Callable[[], datetime]
    ) -> None:
        self._options, self._landing, self._now = options, landing, now
        self._stop, self._wake = threading.Event(), threading.Event()
        self._client = OrthancClient(options, self._stop.is_set)
        self._state = State(artifacts)
        self._thread: threading.Thread | None = None
        self._held_up = False

    def start(self) -> None:
        """Start to poll, in a thread."""
        self._thread = threading.Thread(target=self._work, name="orthanc", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop and join the thread; unfinished work is repeated at the next start."""
        self._stop.set()
        self._wake.set()
        if self._thread:
            self._thread.join(1.0)
        self._client.close()

    def request(self, study: str) -> bool:
        """Request all instances of a study, durably; return False if Orthanc does not know it.

        A poller in this process fetches them at once, one in another process at its next round.

        Raises
        ------
        OrthancUnavailable, StorageUnavailable : nothing was requested
        """
        if not ID.fullmatch(study) or not self._client.knows(study):
            return False
        self._state.request(study)
        self._wake.set()
        return True

    def pull(self, show: Show = lambda _, __: None) -> Counter[str]:
        """Fetch all new instances and return how many were stored, unchanged, gone, failed.

        Raises
        ------
        OrthancUnavailable, StorageUnavailable, OutOfSpace : the next round goes on where this one ended
        """
        counts: Counter[str] = Counter()
        with ThreadPoolExecutor(CONNECTIONS, "orthanc") as pool:
            try:
                position = self._state.position(self._client.url)
                failed_before = position.failed
                position = self._fetch_requests(position, pool, counts)
                position = self._walk(position, pool, counts, show)
                if self._now().timestamp() - position.compared_at >= COMPARE_AFTER.total_seconds():
                    self._compare(position, failed_before, pool, counts)
            except Stopped:
                pass
        return counts

    def follow(self, tell: Callable[[Counter[str]], object], show: Show = lambda _, __: None) -> None:
        """Poll until interrupted; `tell` gets the counts of each round that did something."""
        while not self._stop.is_set():
            counts = self._round(show)
            if counts:
                tell(counts)
            self._wake.wait(self._options.poll_s)
            self._wake.clear()

    def _work(self) -> None:
        self.follow(lambda counts: log.info("pulled from Orthanc", extra=_facts(counts)))

    def _round(self, show: Show) -> Counter[str]:
        """Pull; the first error in a row is logged, and the next round repeats what was left out."""
        try:
            with internal():
                counts = self.pull(show)
        except (TransientError, InternalError) as error:
            if not self._held_up:
                log.warning("polling Orthanc is held up", extra={"code": error.code}, exc_info=error)
            self._held_up = True
            return Counter()
        self._held_up = False
        return counts

    def _fetch_requests(self, position: Position, pool: ThreadPoolExecutor, counts: Counter[str]) -> Position:
        for study in self._state.requests():
            instances = self._client.instances_of(study)
            if instances is not None:
                position = self._take_all(instances, position, pool, counts)
                self._state.store(position)
            self._state.done(study)
        return position

    def _walk(
        self, position: Position, pool: ThreadPoolExecutor, counts: Counter[str], show: Show
    ) -> Position:
        newest = self._client.last_change()
        if newest < position.since:
            log.warning("Orthanc counts its changes anew: starting from the first")
            position = replace(position, since=0, compared_at=0)
        while True:
            page = self._client.changes(position.since, PAGE)
            position = self._take_all(page.new_instances, position, pool, counts)
            if page.last != position.since:
                position = replace(position, since=page.last)
                self._state.store(position)
            show(page.last, max(newest, page.last))
            if page.done:
                return position

    def _compare(
        self, position: Position, again: tuple[str, ...], pool: ThreadPoolExecutor, counts: Counter[str]
    ) -> None:
        """Fetch instances that are in Orthanc and not in the landing storage, and `again`, those that failed.

        This finds what no change reports: changes that were deleted in Orthanc, or a new database whose
        numbers are above the stored position. An ID takes about 90 bytes of memory.
        """
        began = self._now()
        missing = {bytes.fromhex(one.replace("-", "")) for one in self._client.instances()}
        for name in self._landing.names(FOLDER):
            if ID.fullmatch(name.removesuffix(".dcm")):
                missing.discard(bytes.fromhex(name.removesuffix(".dcm").replace("-", "")))
        failed_now = set(position.failed) - set(again)
        wanted = dict.fromkeys((*again, *(one.hex("-", 4) for one in missing)))
        position = self._take_all([one for one in wanted if one not in failed_now], position, pool, counts)
        self._state.store(replace(position, compared_at=int(began.timestamp())))

    def _take_all(
        self, instances: Iterable[str], position: Position, pool: ThreadPoolExecutor, counts: Counter[str]
    ) -> Position:
        """Land instances, some at a time; return the position with those that failed added to it."""
        for some in _batches(instances):
            fates = dict(zip(some, pool.map(self._take, some), strict=True))
            counts.update(map(str, fates.values()))
            before = [one for one in position.failed if one not in fates]
            failed = (*before, *(one for one in some if fates[one] is Fate.FAILED))
            if len(failed) > MAX_FAILED:
                raise OrthancUnavailable(f"Orthanc cannot give more than {MAX_FAILED} of its instances")
            position = replace(position, failed=failed)
        return position

    def _take(self, instance: str) -> Fate:
        """Land one instance."""
        for _ in range(TRIES):
            if self._stop.is_set():
                raise Stopped
            try:
                file = self._client.fetch(instance)
            except OrthancDamaged as error:
                damage = error
                continue
            if file is None:
                return Fate.GONE
            with file:
                written = self._landing.land(f"{FOLDER}{instance}.dcm", file)
            return Fate.STORED if written else Fate.UNCHANGED
        log.warning("left for the daily comparison", extra={"object": instance}, exc_info=damage)
        return Fate.FAILED


def _batches(instances: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(instances)
    while some := list(islice(rest, PAGE)):
        yield some


def _facts(counts: Counter[str]) -> dict[str, int]:
    return {"objects": counts.total(), "stored": counts[Fate.STORED]}
