"""`ingest`: process files and folders with the same pipeline now, on all cores, in place."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

from app import pipeline
from app.jobs.advice import what_to_do
from app.jobs.own_files import Owner, OwnFiles
from app.model.errors import AnnounceUnavailable, DicomlakeError, NotAFile, ObjectGone
from app.model.names import spelled
from app.model.values import EventType, GiveUp, Message, Outcome, Row, Status
from app.plumbing.admission import Budget
from app.services import Services
from app.sources.notifications import described_again, messages
from app.storage.local.files import check_event_name, is_object_name, stat_file, walk
from app.storage.local.generations import Seen
from app.storage.local.storage import LocalStorage
from app.warehouse import Warehouse
from app.warehouse.queries import described, letters_by_event, open_letter_versions

T = TypeVar("T")
Line = dict[str, object]
Emit = Callable[[Line], object]
Progress = Callable[[int, int], object]
"""Called with the number of files done and the total."""
Letters = Mapping[tuple[object, object, object], str]
"""Bucket, object and generation of each open dead letter -> its id if it only waits for its announcement."""
AHEAD = 64
"""Files in progress: enough to keep every worker busy, few enough to fit in memory."""
BATCH = 256
"""Files whose rows are read in one statement."""
UNCHANGED = "unchanged"
"""Status of a file that already has a row with the current settings; it is not read."""
FAILED = "failed"
"""Status of a file that is neither stored nor dead-lettered: another run may succeed."""
FAULTS = frozenset((FAILED, Status.DEAD_LETTERED.value))
"""Statuses whose lines have a code, a reason and advice."""


class PassedOver(Enum):
    """Files that are only counted in the summary, under this key: the lake's own files, and links."""

    OWN = "skipped"
    LINK = "links"


@dataclass(frozen=True, slots=True)
class File:
    """One file to process: its name in `source`, the source of the services."""

    name: str
    source: LocalStorage
    services: Services

    @property
    def uri(self) -> str:
        """The address of the object."""
        return self.source.uri(self.name)

    @property
    def shown_uri(self) -> str:
        """The address that rows show."""
        return self.services.shown_uri(self.name)


@dataclass(frozen=True, slots=True)
class Run:
    """The facts of a run that decide what to do with a file.

    again: describe a file again even if its row has the `describe_key` of the current settings. started:
    seconds since 1970. letters: the open dead letters.
    """

    again: bool
    started: int
    letters: Letters


class Tally:
    """Emits lines and counts them by status, and failures also by code."""

    def __init__(self, emit: Emit) -> None:
        self.counts: Counter[str] = Counter()
        self._codes: Counter[str] = Counter()
        self._emit = emit

    def add(self, line: Line) -> None:
        """Emit and count a line."""
        self._emit(line)
        self.counts[str(line["status"])] += 1
        if line["status"] in FAULTS:
            self._codes[str(line["code"])] += 1

    def failures(self) -> dict[str, object]:
        """Return the part of a summary that counts failures; empty if there are none."""
        return {"codes": dict(self._codes)} if self._codes else {}


def ingest(
    paths: Iterable[Path],
    services: Services,
    emit: Emit,
    again: bool = False,
    progress: Progress = lambda done, total: None,
) -> dict[str, object]:
    """Process every file below `paths`, emit one line for each, and return a summary.

    A permanent failure is dead-lettered at once. Names and keys are the same as the service's, so both may
    run at the same time, and a second run changes nothing: a file that has a row is not read, and a file that
    is an open dead letter is tried again without a second letter. With other settings, or with `again`, a
    file that has a row is described again. A file that cannot be read, or whose name cannot be an object's,
    gets a failed line and does not stop the run. The summary counts lines by status, skipped files, and
    failures by code.
    """
    tally = Tally(emit)
    patient = Budget(services.settings.workers.inflight_bytes, patience_s=None)  # this sender does not retry
    services = replace(services, budget=patient)

    with machine_view(services) as machine:
        own = OwnFiles(services)
        found = {uri: what for path in paths for uri, what in _found(path.resolve(), services, machine, own)}
        files = [what for what in found.values() if isinstance(what, File)]
        passed_over = Counter(what.value for what in found.values() if isinstance(what, PassedOver))
        run = Run(again, int(services.now().timestamp()), _open_letters(services))
        for what in found.values():
            if isinstance(what, dict):
                tally.add(what)
        for done, line in enumerate(at_once(partial(_begun, files, run)), 1):
            tally.add(line)
            progress(done, len(files))
    counts = tally.counts
    ends = {status: counts[status] for status in sorted(counts, key=FAULTS.__contains__)}
    return {"files": counts.total(), **ends, **passed_over, **tally.failures()}


@contextmanager
def machine_view(services: Services) -> Iterator[Services]:
    """Yield the services with the whole file system as their source, to read files in place."""
    source = LocalStorage("file:/", services.index)
    try:
        yield replace(services, source=source, own_prefixes={})
    finally:
        source.close()


def _found(
    path: Path, services: Services, machine: Services, own: OwnFiles
) -> Iterator[tuple[str, File | Line | PassedOver]]:
    """Yield the address of each file at or below `path` with the file, or a failed line if it is unusable.

    Inside the landing folder a file is the object that the watcher knows; elsewhere the bucket is the
    machine.
    """
    source = machine.source
    assert isinstance(source, LocalStorage)
    name = path.relative_to(source.root).as_posix() if path != source.root else ""
    try:
        for found, error in _names(name, source.root):
            uri = source.uri(spelled(found))
            owner, inside = own.owner(source.root / found)
            view = services if owner is Owner.LANDING else machine
            assert isinstance(view.source, LocalStorage)
            try:
                if error is not None:
                    raise error
                if owner is Owner.LAKE:
                    yield uri, PassedOver.OWN
                    continue
                check_event_name(inside)
                file = File(inside, view.source, view)
                yield file.uri, file
            except NotAFile as fault:
                link = (source.root / found).is_symlink()
                yield uri, PassedOver.LINK if link else failure({"object_uri": uri}, fault)
            except DicomlakeError as fault:
                yield uri, failure({"object_uri": uri}, fault)
    except DicomlakeError as error:
        uri = source.uri(spelled(name))
        yield uri, failure({"object_uri": uri}, error)


def _names(name: str, root: Path) -> Iterator[tuple[str, DicomlakeError | None]]:
    """Yield the name of a file, or of every file below a folder, each with its fault or None."""
    if name and not is_object_name(name):
        yield name, None  # the caller reports the name as a fault
    elif os.path.isdir(root / name):
        left: list[tuple[str, DicomlakeError]] = []
        for found, _ in walk(root, f"{name}/" if name else "", lambda *fault: left.append(fault)):
            yield found, None
        yield from left
    else:
        stat_file(root, name)
        yield name, None


def _open_letters(services: Services) -> Letters:
    return {
        (letter["bucket"], letter["object"], letter["generation"]): str(letter["message_id"])
        if letter["code"] == AnnounceUnavailable.code
        else ""
        for letter in services.warehouse.stream(*open_letter_versions())
    }


def _close_letter(message_id: str, warehouse: Warehouse) -> None:
    """Remove a letter and the others of its event: what they waited for has been announced."""
    letters = warehouse.query(*letters_by_event(warehouse.dialect, ["message_id"], [message_id]))
    warehouse.delete("dead_letter", "message_id", [str(row["message_id"]) for row in letters])


def at_once(begun: Callable[[ThreadPoolExecutor], Iterator[Future[T]]]) -> Iterator[T]:
    """Yield the results of work in threads, in order; at most AHEAD files are in progress."""
    running: deque[Future[T]] = deque()
    pool = ThreadPoolExecutor(AHEAD // 2, thread_name_prefix="ingest")
    try:
        for future in begun(pool):
            running.append(future)
            if len(running) >= AHEAD:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:  # abandoned, as after Ctrl-C: work in progress ends when the services close
        pool.shutdown(wait=False, cancel_futures=True)


def _begun(files: Iterable[File], run: Run, pool: ThreadPoolExecutor) -> Iterator[Future[Line]]:
    rest = iter(files)
    while batch := list(islice(rest, BATCH)):
        rows = pool.submit(_rows, batch)  # before those that wait for it
        for file in batch:
            yield pool.submit(_one, file, rows, run)


def _rows(files: Sequence[File]) -> dict[object, Row]:
    """Return the current rows of some files, by URI."""
    asked = described([file.shown_uri for file in files])
    return {row["object_uri"]: row for row in files[0].services.warehouse.query(*asked)}


def _one(file: File, rows: Future[dict[object, Row]], run: Run) -> Line:
    """Process the current version of a file and the removals of the versions it replaced.

    The version is recorded before and after: before, so that its removal will be processed whatever happens
    meanwhile. This includes revisions, because replaced artifacts may still exist after their row is stored.
    """
    line: Line = {"object_uri": file.shown_uri}
    try:
        key = pipeline.describe_options(file.name, file.services).key
        now = file.source.current(file.name)
        row = rows.result().get(line["object_uri"])
        row = row if row and row["generation"] == now.generation else None
        letter = run.letters.get((file.source.bucket, file.name, now.generation))
        known = letter is not None
        settled = row is not None and row["describe_key"] == key and not run.again
        if settled and now.told and not now.again and not known:
            return line | {"status": UNCHANGED}
        revision = _revision(row, settled, run)
        if not now.told or revision is not None:
            now = file.source.remember(file.name, replace(now, again=revision is not None))
        first, *removals = events(file, now, revision, row)
        outcome = pipeline.handle(first, file.services, GiveUp.SILENTLY if known else GiveUp.NOW)
        if letter and outcome.status is Status.STORED:
            _close_letter(letter, file.services.warehouse)
        for removal in removals:
            pipeline.handle(removal, file.services, GiveUp.NOW)
        if not now.told or now.again:
            file.source.remember(file.name, replace(now, told=True, replaced=(), again=False))
    except ObjectGone as gone:
        return line | {"status": Status.SUPERSEDED.value, "code": gone.code}
    except DicomlakeError as error:
        return failure(line, error)
    return line | facts(outcome)


def failure(line: Line, error: DicomlakeError) -> Line:
    """Return the line of a failed file, with the reason and advice."""
    reason = f"{error.stage}: {error.text}" if error.stage else error.text
    return line | {"status": FAILED, "code": error.code} | _why(error.code, reason)


def _why(code: str, reason: str) -> Line:
    return {"reason": reason, "do": what_to_do(code)}


def facts(outcome: Outcome) -> Line:
    """Return the part of a line that reports the outcome of an event."""
    found: Line = {"status": outcome.status.value}
    if outcome.code:
        found["code"] = outcome.code
    if outcome.status is Status.DEAD_LETTERED:
        found |= _why(outcome.code, outcome.reason)
    if outcome.stored is not None:
        found["members"] = outcome.stored
    elif outcome.status is Status.STORED:
        row = outcome.instances[0]
        found |= {key: row.get(key) for key in ("modality", "preview_uri", "preview_error", "metadata_uri")}
    return found


def _revision(row: Row | None, settled: bool, run: Run) -> int | None:
    """Return the revision number of this description: that of the existing rows, or a new one.

    None for the first description and for a version without rows.
    """
    last = row["revision"] if row else None
    if settled or row is None:
        return last if isinstance(last, int) else None
    return max(run.started, last + 1 if isinstance(last, int) else 1)


def events(file: File, seen: Seen, revision: int | None = None, row: Row | None = None) -> Iterator[Message]:
    """Yield the events of a version and of the versions it replaced; repeating it yields equal events."""
    uri = file.uri
    for told in messages(file.source.bucket, file.name, uri, seen, file.services.now()):
        generation, kind = told.attributes["objectGeneration"], told.attributes["eventType"]
        names = [uri, generation, kind]
        if revision is not None and row and kind == EventType.FINALIZE:
            metageneration = row["metageneration"]
            told = described_again(
                told, revision, metageneration if isinstance(metageneration, int) else None
            )
            names.append(str(revision))
        key = hashlib.sha256("#".join(names).encode()).hexdigest()[:16]
        yield replace(told, message_id=f"ingest-{key}")
