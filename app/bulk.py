"""`ingest`: files and folders through the same pipeline now, on all cores, read where they lie."""

from __future__ import annotations

import hashlib
import math
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from click.termui import progressbar

from app import pipeline
from app.admission import Budget
from app.errors import DicomlakeError, ObjectGone, StorageUnavailable
from app.services import Services
from app.storage.folder import is_event_name, spelled, walk
from app.storage.index import Seen
from app.storage.local import LocalStorage
from app.storage.telling import messages
from app.types import GiveUp, Message, Outcome, Status

Line = dict[str, object]
Emit = Callable[[object], object]
Letters = Container[tuple[object, object, object]]
AHEAD = 64
"""Files under way at once: enough to keep every worker busy, few enough to hold in memory."""
BAD_NAME = "bad_name"
"""Code of a file whose name no object can have: not UTF-8, with a line end, or over 1024 bytes."""


@dataclass(frozen=True, slots=True)
class File:
    """One file to put through the pipeline: its name in `source`, which is the source of the services."""

    name: str
    source: LocalStorage
    services: Services


def ingest(paths: Iterable[Path], services: Services, emit: Emit) -> dict[str, int]:
    """Put every file below `paths` through the pipeline, emit one line each and return how many ended how.

    A permanent failure is dead-lettered at once. Names and keys are those of the service, so this may run
    beside it, and a second run changes nothing: what is a dead letter already is tried again, but not told
    twice. What cannot be read, or can be no object by its name, is a failed line and keeps no other file up.
    """
    counts: Counter[str] = Counter()
    delivery, workers = services.settings.delivery, services.settings.workers
    patient = Budget(workers.inflight_bytes, patience_s=delivery.deadline_s)  # nobody here would try again
    services = replace(services, budget=patient, page_wait_s=math.inf)

    def tell(line: Line) -> None:
        emit(line)
        counts[str(line["status"])] += 1

    with machine_view(services) as machine:
        files = [file for path in paths for file in _files(path.resolve(), services, machine, tell)]
        letters = _open_letters(services)
        with progressbar(length=len(files), label="ingest", file=sys.stderr) as bar:
            for line in _lines(files, letters):
                tell(line)
                bar.update(1)
    return {"files": counts.total(), **counts}


@contextmanager
def machine_view(services: Services) -> Iterator[Services]:
    """Yield the services with the whole machine as their source, to read files where they lie."""
    source = LocalStorage("file:/", services.index)
    try:
        yield replace(services, source=source, own_prefixes={})
    finally:
        source.close()


def _files(path: Path, services: Services, machine: Services, tell: Callable[[Line], None]) -> Iterator[File]:
    """Yield the files at or below `path`, and tell of what cannot be read or named.

    Inside the landing folder a file is the object that the watcher sees; elsewhere the machine is the bucket.
    """
    landing = services.source
    inside = isinstance(landing, LocalStorage) and path.is_relative_to(landing.root)
    view = services if inside else machine
    source = view.source
    assert isinstance(source, LocalStorage)

    def fail(name: str, code: str) -> None:
        tell({"object_uri": source.uri(spelled(name)), "status": "failed", "code": code})

    name = "" if path == source.root else path.relative_to(source.root).as_posix()
    try:
        for found in _names(name, source, skip=lambda folder: fail(folder, StorageUnavailable.code)):
            if is_event_name(found):
                yield File(found, source, view)
            else:
                fail(found, BAD_NAME)
    except DicomlakeError as error:
        fail(name, error.code)


def _names(name: str, source: LocalStorage, skip: Callable[[str], None]) -> Iterator[str]:
    """Yield the name of a file, or those of all below a folder; of what has a bad name, that name alone."""
    if name and not is_event_name(name):
        yield name
    elif os.path.isdir(source.root / name):
        for found, _ in walk(source.root, f"{name}/" if name else "", skip):
            yield found
    else:
        yield source.find(name).name


def _open_letters(services: Services) -> Letters:
    letters = services.warehouse.query("SELECT bucket, object, generation FROM dead_letters")
    return {(letter["bucket"], letter["object"], letter["generation"]) for letter in letters}


def _lines(files: Iterable[File], letters: Letters) -> Iterator[Line]:
    running: deque[Future[Line]] = deque()
    pool = ThreadPoolExecutor(AHEAD // 2, thread_name_prefix="ingest")
    try:
        for file in files:
            running.append(pool.submit(_one, file, letters))
            if len(running) >= AHEAD:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:  # where nobody wants the rest, as after Ctrl-C: what is under way ends when the services close
        pool.shutdown(wait=False, cancel_futures=True)


def _one(file: File, letters: Letters) -> Line:
    """Handle the version that a file is now and the removals of those it replaced.

    It is remembered before, so that a removal follows whatever happens meanwhile, and after.
    """
    line: Line = {"object_uri": file.source.uri(file.name)}
    try:
        now = file.source.current(file.name)
        known = (file.source.bucket, file.name, now.generation) in letters
        how = GiveUp.SILENTLY if known else GiveUp.NOW
        if not now.told:
            now = file.source.remember(file.name, now)
        first, *removals = _messages(file, now)
        outcome = pipeline.handle(first, file.services, how)
        for removal in removals:
            pipeline.handle(removal, file.services, GiveUp.NOW)
        if not now.told:
            file.source.remember(file.name, replace(now, told=True, replaced=()))
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


def _messages(file: File, seen: Seen) -> Iterator[Message]:
    uri = file.source.uri(file.name)
    for told in messages(file.source.bucket, file.name, uri, seen, file.services.now()):
        generation, kind = told.attributes["objectGeneration"], told.attributes["eventType"]
        key = hashlib.sha256(f"{uri}#{generation}#{kind}".encode()).hexdigest()[:16]
        yield replace(told, message_id=f"ingest-{key}")
