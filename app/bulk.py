"""`ingest`: files and folders through the same pipeline now, on all cores, read where they lie."""

from __future__ import annotations

import hashlib
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from click.termui import progressbar

from app import pipeline
from app.admission import Budget
from app.errors import DicomlakeError, ObjectGone, StorageUnavailable
from app.own_files import Owner, OwnFiles
from app.services import Services
from app.storage.folder import is_event_name, is_object_name, spelled, stat_file, walk
from app.storage.index import Seen
from app.storage.local import LocalStorage
from app.storage.telling import described_again, messages
from app.types import EventType, GiveUp, Message, Outcome, Row, Status
from app.warehouse.queries import described

Line = dict[str, object]
Emit = Callable[[object], object]
Letters = Container[tuple[object, object, object]]
AHEAD = 64
"""Files under way at once: enough to keep every worker busy, few enough to hold in memory."""
BATCH = 256
"""Files whose rows are asked for in one statement."""
UNCHANGED = "unchanged"
"""Status of a file that has its row, by the settings of now; it is not read."""
BAD_NAME = "bad_name"
"""Code of a file whose name no object can have: not UTF-8, with a line end, or over 1024 bytes."""


@dataclass(frozen=True, slots=True)
class File:
    """One file to put through the pipeline: its name in `source`, which is the source of the services."""

    name: str
    source: LocalStorage
    services: Services


@dataclass(frozen=True, slots=True)
class Run:
    """What decides, besides the file, what is to be done with it.

    key: what rows described by the settings of now have as `describe_key`. again: describe anew what has such
    a row, too. started: in seconds since 1970. letters: the open dead letters.
    """

    key: str
    again: bool
    started: int
    letters: Letters


def ingest(paths: Iterable[Path], services: Services, emit: Emit, again: bool = False) -> dict[str, int]:
    """Put every file below `paths` through the pipeline, emit one line each and return how many ended how.

    A permanent failure is dead-lettered at once. Names and keys are those of the service, so this may run
    beside it, and a second run changes nothing: what has its row is not read, and what is a dead letter
    already is tried again, but not told twice. With other settings, or `again`, what has its row is described
    again. What cannot be read, or can be no object by its name, is a failed line and keeps no other file up.
    Of files that the lake itself made, its databases and artifacts, only the number is returned: `skipped`.
    """
    counts: Counter[str] = Counter()
    patient = Budget(services.settings.workers.inflight_bytes, patience_s=None)  # nobody here would try again
    services = replace(services, budget=patient)

    def tell(line: Line) -> None:
        emit(line)
        counts[str(line["status"])] += 1

    with machine_view(services) as machine:
        own = OwnFiles(services)
        found = [file for path in paths for file in _files(path.resolve(), services, machine, own, tell)]
        files = [file for file in found if file]
        key, started = services.settings.describe_options().key, int(services.now().timestamp())
        run = Run(key, again, started, _open_letters(services))
        with progressbar(length=len(files), label="ingest", file=sys.stderr) as bar:
            for line in _lines(files, run):
                tell(line)
                bar.update(1)
    skipped = len(found) - len(files)
    return {"files": counts.total(), **counts} | ({"skipped": skipped} if skipped else {})


@contextmanager
def machine_view(services: Services) -> Iterator[Services]:
    """Yield the services with the whole machine as their source, to read files where they lie."""
    source = LocalStorage("file:/", services.index)
    try:
        yield replace(services, source=source, own_prefixes={})
    finally:
        source.close()


def _files(
    path: Path, services: Services, machine: Services, own: OwnFiles, tell: Callable[[Line], None]
) -> Iterator[File | None]:
    """Yield the files at or below `path`, None for each of the lake's own; report those that are not usable.

    Inside the landing folder a file is the object that the watcher sees; elsewhere the machine is the bucket.
    """
    source = machine.source
    assert isinstance(source, LocalStorage)

    def fail(name: str, code: str) -> None:
        tell({"object_uri": source.uri(spelled(name)), "status": "failed", "code": code})

    name = path.relative_to(source.root).as_posix() if path != source.root else ""
    try:
        for found in _names(name, source.root, skip=lambda folder: fail(folder, StorageUnavailable.code)):
            owner, inside = own.owner(source.root / found)
            view = services if owner is Owner.LANDING else machine
            if owner is Owner.LAKE:
                yield None
            elif is_event_name(inside):
                assert isinstance(view.source, LocalStorage)
                yield File(inside, view.source, view)
            else:
                fail(found, BAD_NAME)
    except DicomlakeError as error:
        fail(name, error.code)


def _names(name: str, root: Path, skip: Callable[[str], None]) -> Iterator[str]:
    """Yield the name of a file, or those of all below a folder; of what has a bad name, that name alone."""
    if name and not is_object_name(name):
        yield name
    elif os.path.isdir(root / name):
        for found, _ in walk(root, f"{name}/" if name else "", skip):
            yield found
    else:
        stat_file(root, name)
        yield name


def _open_letters(services: Services) -> Letters:
    letters = services.warehouse.stream("SELECT bucket, object, generation FROM dead_letters")
    return {(letter["bucket"], letter["object"], letter["generation"]) for letter in letters}


def _lines(files: Iterable[File], run: Run) -> Iterator[Line]:
    running: deque[Future[Line]] = deque()
    pool = ThreadPoolExecutor(AHEAD // 2, thread_name_prefix="ingest")
    rest = iter(files)
    try:
        while batch := list(islice(rest, BATCH)):
            rows = pool.submit(_rows, batch)  # before those that wait for it
            for file in batch:
                running.append(pool.submit(_one, file, rows, run))
                if len(running) >= AHEAD:
                    yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:  # where nobody wants the rest, as after Ctrl-C: what is under way ends when the services close
        pool.shutdown(wait=False, cancel_futures=True)


def _rows(files: Sequence[File]) -> dict[object, Row]:
    """Return what the current rows of some files say, by URI."""
    asked = described([file.source.uri(file.name) for file in files])
    return {row["object_uri"]: row for row in files[0].services.warehouse.query(*asked)}


def _one(file: File, rows: Future[dict[object, Row]], run: Run) -> Line:
    """Handle the version that a file is now and the removals of those it replaced.

    It is remembered before, so that a removal follows whatever happens meanwhile, and after. A revision is
    remembered too: what it replaces may be there still although its row is stored.
    """
    line: Line = {"object_uri": file.source.uri(file.name)}
    try:
        now = file.source.current(file.name)
        row = rows.result().get(line["object_uri"])
        row = row if row and row["generation"] == now.generation else None
        known = (file.source.bucket, file.name, now.generation) in run.letters
        settled = row is not None and row["describe_key"] == run.key and not run.again
        if settled and now.told and not now.again and not known:
            return line | {"status": UNCHANGED}
        revision = _revision(row, settled, run)
        if not now.told or revision is not None:
            now = file.source.remember(file.name, replace(now, again=revision is not None))
        first, *removals = _messages(file, now, revision, row)
        outcome = pipeline.handle(first, file.services, GiveUp.SILENTLY if known else GiveUp.NOW)
        for removal in removals:
            pipeline.handle(removal, file.services, GiveUp.NOW)
        if not now.told or now.again:
            file.source.remember(file.name, replace(now, told=True, replaced=(), again=False))
    except ObjectGone as gone:
        return line | {"status": Status.SUPERSEDED.value, "code": gone.code}
    except DicomlakeError as error:
        return line | {"status": "failed", "code": error.code}
    return line | _facts(outcome)


def _facts(outcome: Outcome) -> Line:
    facts: Line = {"status": outcome.status.value}
    if outcome.code:
        facts["code"] = outcome.code
    if outcome.reason:
        facts["reason"] = outcome.reason
    if outcome.stored is not None:
        facts["members"] = outcome.stored
    elif outcome.status is Status.STORED:
        row = outcome.instances[0]
        facts |= {key: row.get(key) for key in ("modality", "preview_uri", "preview_error", "metadata_uri")}
    return facts


def _revision(row: Row | None, settled: bool, run: Run) -> int | None:
    """Return the number under which a version is described: that of its rows, once more, or the next.

    None is for the first description, and for a version without rows.
    """
    last = row["revision"] if row else None
    if settled or row is None:
        return last if isinstance(last, int) else None
    return max(run.started, last + 1 if isinstance(last, int) else 1)


def _messages(file: File, seen: Seen, revision: int | None, row: Row | None) -> Iterator[Message]:
    uri = file.source.uri(file.name)
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
