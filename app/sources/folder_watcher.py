"""Watch a folder and publish a notification for every change, including those since the last run.

Hints of the operating system only say where to look; a regular full scan finds changes whose hints got lost.
A file that differs from the index waits until it has been quiet for a while and nobody has it open for
writing. Then its new version is recorded as unpublished, published, and recorded as published. So a crash in
between may repeat an event, but never loses one, nor the removal of a published version.

Some changes give no hint and are found only by the full scan, such as a write through a hard link from
outside. The watching library also stops at a name that is not UTF-8. It is restarted after such a file; while
a folder has such a name, only scans are used.
"""

from __future__ import annotations

import logging
import os
import threading
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from errno import ENOSPC
from itertools import islice
from math import inf
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING

from watchfiles import watch

from app.model.errors import (
    DicomlakeError,
    InternalError,
    NotAFile,
    ObjectGone,
    StorageUnavailable,
    TransientError,
    internal,
)
from app.model.names import spelled
from app.sources.inotify import below, folders, must_poll, used_up
from app.sources.mounts import mount_points
from app.sources.notifications import messages
from app.sources.removals import Removals
from app.storage import Publish, WatchOptions
from app.storage.local.file_version import version
from app.storage.local.files import TEMP, is_event_name, os_errors, probe, stat_file, walk
from app.storage.local.generations import Index, Seen, Stamp

if TYPE_CHECKING:
    from app.storage.local.storage import LocalStorage

log = logging.getLogger("dicomlake.watcher")

RESCAN_S = 60.0
POLL_S = 1.0
"""Seconds between scans while the operating system gives no hints."""
HINT_S = 0.2
"""Time the library waits for hints; the first wait ends when all folders are watched."""
RETRY_S = 1.0
BATCH, BATCH_S = 100, 0.05
"""Changes are published in groups of this number, or after this many seconds."""
PAUSE_S = 0.2
"""Seconds after which a full scan pauses for files that are written meanwhile."""
SCAN_SHARE = 10
"""A scan or a start of the library is repeated only after this multiple of its duration. The library blocks
all threads while it walks all folders, including those behind links."""


class Watcher:
    """Watches one folder until closed. One thread receives hints; the other scans, waits and publishes."""

    def __init__(self, storage: LocalStorage, index: Index, publish: Publish, options: WatchOptions) -> None:
        self._storage, self._index, self._publish = storage, index, publish
        self._settle_s, self._accept, self._shown = options.settle_s, options.accept_removals, options.shown
        hint_age_s = 2 * (RESCAN_S + options.settle_s)
        self.removals = Removals(index.path, storage.root, hint_age_s, options.shown)
        self._hints: SimpleQueue[str] = SimpleQueue()
        self._waiting: dict[str, tuple[Stamp | None, float]] = {}  # ordered by time
        self._stop, self._polls = threading.Event(), must_poll()
        self._listening: bool | None = None  # not known yet
        self._started_at = inf
        self._scanned = self._held_up = self._at_fault = False
        self._scan_at, self._scan_not_before = monotonic() + POLL_S, 0.0
        self._unnamed: set[str] = set()
        self._threads = [
            threading.Thread(target=target, name=f"watcher-{target.__name__.strip('_')}", daemon=True)
            for target in (self._listen, self._work)
        ]

    def start(self) -> None:
        """Start both threads and return."""
        if self._accept:
            self.removals.accept()
        for thread in self._threads:
            thread.start()

    def alive(self) -> bool:
        """Return whether both threads still run, without having hit a bug."""
        return all(thread.is_alive() for thread in self._threads) and not self._at_fault

    def close(self) -> None:
        """Stop and join the threads."""
        self._stop.set()
        self._hints.put("")
        for thread in self._threads:
            thread.join(1.0)
        self.removals.close()

    def _listen(self) -> None:
        while not self._stop.is_set():
            begun, self._started_at = monotonic(), inf
            try:
                self._follow()
                self._listening = None
            except (OSError, RuntimeError) as error:  # no folder, no more watches, a name that is not UTF-8
                if self._listening is not False:
                    log.warning("no hints, scanning instead", extra={"code": type(error).__name__})
                self._listening = False
            self._hints.put("")
            took = min(self._started_at, monotonic()) - begun
            self._stop.wait(max(POLL_S / 2, SCAN_SHARE * took))

    def _follow(self) -> None:
        """Pass hints on until the folder is replaced or a disk is mounted or unmounted.

        An empty hint requests a full scan. Mounting gives no hint, and neither do later changes on that disk.
        """
        root = self._storage.root
        watched, mounts, listening, look_at = os.stat(root), mount_points(root), False, 0.0
        for changes in watch(
            root,
            watch_filter=None,
            debounce=100,
            step=20,
            rust_timeout=int(1000 * HINT_S),
            yield_on_timeout=True,
            stop_event=self._stop,
            raise_interrupt=False,
            ignore_permission_denied=True,
            force_polling=self._polls,
        ):
            if monotonic() >= look_at:
                if used_up(root):
                    raise OSError(ENOSPC, "no more watches")
                if mount_points(root) != mounts:
                    return
                look_at = monotonic() + POLL_S
            if not listening:
                listening = self._listening = True
                self._started_at = monotonic() - HINT_S
                self._hints.put("")
            hints = {hint for _, path in changes if (hint := below(root, path)) is not None}
            for hint in sorted(hints):  # a parent folder comes first, and its scan includes this one
                # Record it now: pending names are dropped if the root itself disappears.
                if not self._polls and _is_object(hint) and not os.path.lexists(root / hint):
                    self.removals.hint(hint)
                self._hints.put(hint)
            if "" in hints or not os.path.samestat(watched, os.stat(root)):
                return

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                with internal():
                    self._take_hints()
                    if monotonic() >= self._scan_at:
                        self._scan_all()
                    self._settle()
                self._at_fault = False
            except (TransientError, InternalError) as error:
                # The next scan finds whatever is not in the index yet, with or without a hint.
                if not self._held_up:
                    bug = error.__cause__ if isinstance(error, InternalError) else None
                    log.warning("watching is held up", extra={"code": error.code}, exc_info=bug)
                self._held_up, self._at_fault = True, isinstance(error, InternalError)
                self._stop.wait(RETRY_S)
                self._waiting.clear()
                self._hints = SimpleQueue()
                self._scan_at = monotonic()

    def _take_hints(self) -> None:
        """Process hints; wait for one at most until something else is due."""
        due = min([self._scan_at, *(at for _, at in islice(self._waiting.values(), 1))])
        with suppress(Empty):
            self._look(self._hints.get(timeout=max(0.0, due - monotonic())))
            for _ in range(self._hints.qsize()):
                self._look(self._hints.get_nowait())

    def _look(self, hint: str) -> None:
        if not hint:
            self._scan_at = min(self._scan_at, max(monotonic(), self._scan_not_before))
        elif _is_object(hint):
            found = self._state(hint)
            self._wait(hint, found)
            if found is None:
                # Perhaps a folder. Changes before it was watched gave no hint, so scan it twice.
                if not any(above in self._waiting for above in folders(hint)):
                    self._scan(f"{hint}/")
                self._wait(f"{hint}/", None)

    def _scan_all(self) -> None:
        started = monotonic()
        self.removals.begin_scan()
        unnamed = self._scan("")
        if self._stop.is_set():
            return
        self.removals.end_scan()
        self._scanned, self._held_up, self._accept = True, False, False
        for name in sorted(unnamed - self._unnamed):
            log.warning(
                "left out, the name can be no object name", extra={"object": self._shown(spelled(name))}
            )
        self._unnamed = unnamed
        pause = SCAN_SHARE * (monotonic() - started)
        self._scan_not_before = monotonic() + pause
        self._scan_at = monotonic() + max(pause, RESCAN_S if self._listening else POLL_S)

    def _scan(self, folder: str) -> set[str]:
        """Queue every name below `folder` that differs from the index; return the invalid names."""
        known = self._index.live(folder)
        unnamed: set[str] = set()
        touched: dict[str, Seen] = {}
        pause_at = monotonic() + PAUSE_S
        for name, found in walk(self._storage.root, folder, self._skip_found):
            if self._stop.is_set():
                return unnamed
            if not folder and monotonic() >= pause_at:
                self._publish_written()
                pause_at = monotonic() + PAUSE_S
            seen = known.pop(name, None)
            self._found(name)
            if seen is not None:
                self.removals.known(name)
            if not is_event_name(name):
                unnamed.add(name)
            elif seen is None or not seen.told:
                self._wait(name, found)
            elif seen.stamp != found:
                # Volume managers change owner and mode of every file between runs; these are not new
                # versions.
                if self._scanned or not seen.stamp.same_content(found):
                    self._wait(name, found)
                else:
                    touched[name] = replace(seen, stamp=found)
        for name in known:
            if self._accept:
                self.removals.hint(name)
            if not self.removals.is_held(name):
                self._wait(name, None)
        self._index.put(touched)
        return unnamed

    def _publish_written(self) -> None:
        """Publish files written during a scan; removals and folders wait for its end."""
        later = []
        for _ in range(self._hints.qsize()):
            hint = self._hints.get_nowait()
            found = self._state(hint) if hint and _is_object(hint) else None
            if found is None:
                later.append(hint)
            else:
                self._wait(hint, found)
        for hint in later:
            self._hints.put(hint)
        self._settle(only_written=True)

    def _found(self, name: str) -> None:
        if self.removals.seen(name):  # a scan will find what is really gone from its folder
            self._hints.put("")

    def _scan_due(self, folder: str) -> None:
        """Scan a folder that has waited, and with it all waiting folders below."""
        now = monotonic()
        self._scan(folder)
        for name in [name for name, (_, due) in self._waiting.items() if due <= now]:
            if name.endswith("/") and name.startswith(folder):
                del self._waiting[name]

    def _skip_found(self, name: str, error: DicomlakeError) -> None:
        if not isinstance(error, NotAFile):  # never an object: not worth a line at every scan
            self._skip(name)

    def _skip(self, name: str) -> None:
        """Log an unreadable path, to retry at the next scan; raise if it is the watched folder itself."""
        with os_errors():
            os.stat(self._storage.root)
        log.warning("cannot be read, tried again", extra={"object": self._shown(name)})

    def _state(self, name: str) -> Stamp | None:
        try:
            return stat_file(self._storage.root, name)
        except ObjectGone:
            return None
        except StorageUnavailable:
            self._skip(name)
            return None

    def _wait(self, name: str, found: Stamp | None) -> None:
        """Queue a name; restart its wait if it has changed meanwhile."""
        before, due = self._waiting.get(name, (None, 0.0))
        if not due or before != found:
            self._waiting.pop(name, None)
            self._waiting[name] = (found, monotonic() + self._settle_s)

    def _settle(self, only_written: bool = False) -> None:
        """Decide on names that have waited long enough, in portions, to process hints in between."""
        changes: dict[str, Seen] = {}
        self.removals.begin()
        enough = monotonic() + BATCH_S
        for name, (before, due) in list(islice(self._waiting.items(), BATCH)):
            if due > monotonic() or monotonic() > enough or self._stop.is_set():
                break
            if only_written and before is None:
                continue
            if self._waiting.pop(name, None) is None:  # scanned with a folder above
                continue
            if name.endswith("/"):
                self._scan_due(name)
            elif change := self._decide(name, before):
                changes[name] = change
        self._tell_all(changes)

    def _decide(self, name: str, before: Stamp | None) -> Seen | None:
        """Return the new version of a name that has waited, or the version that no longer exists."""
        found, busy = None, False
        try:
            found, busy = probe(self._storage.root, name)
        except ObjectGone:
            pass
        except StorageUnavailable as error:
            busy = isinstance(error.__cause__, BlockingIOError)  # a file server has leased it to a client
            if not busy:
                self._skip(name)
                return None
        if not busy and found == before:
            with suppress(ObjectGone):  # it has just changed again
                return self._change(name, found)
        self._wait(name, found)
        return None

    def _change(self, name: str, found: Stamp | None) -> Seen | None:
        if found is None:
            live = self._storage.last(name)
            return replace(live, live=False) if live and self.removals.check(name) else None
        self._found(name)
        self.removals.check(name)
        seen = version(self._storage.root, name, found, self._index)
        return None if seen.told else seen

    def _tell_all(self, changes: dict[str, Seen]) -> None:
        """Record new versions, publish all changes together, and record what was published."""
        if not changes:
            return
        new = self._index.put({name: seen for name, seen in changes.items() if seen.live})
        bucket, now = self._storage.bucket, datetime.now(UTC)
        published = [
            message
            for name, seen in (changes | new).items()
            for message in messages(bucket, name, self._storage.uri(name), seen, now)
        ]
        self._publish(published)  # in one commit: one for each file would cost more than all else here
        told = {name: replace(seen, told=True, replaced=()) for name, seen in (changes | new).items()}
        self._index.put(told)
        self.removals.removed([name for name, seen in told.items() if not seen.live])
        for one in (message.attributes for message in published):
            facts = {"bucket": bucket, "object": self._shown(one["objectId"]), "event_type": one["eventType"]}
            log.debug("published", extra={**facts, "generation": int(one["objectGeneration"])})


def _is_object(hint: str) -> bool:
    return is_event_name(hint) and not TEMP.fullmatch(os.path.basename(hint))
