"""`ingest`: files and folders through the same pipeline now, on all cores, read where they lie."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter, deque
from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from click.termui import progressbar

from app import pipeline
from app.errors import DicomlakeError, ObjectGone
from app.services import Services
from app.storage.local import LocalStorage, notification
from app.types import EventType, GiveUp, Message, ObjectRef, Status

Emit = Callable[[object], object]
Job = tuple[Services, ObjectRef]
AHEAD = 64
"""Files under way at once: enough to keep every worker busy, few enough to hold in memory."""


def ingest(paths: Iterable[Path], services: Services, emit: Emit) -> dict[str, int]:
    """Put every file below `paths` through the pipeline, emit one line each and return how many ended how.

    A permanent failure is dead-lettered at once. Names and keys are those of the service, so this may run
    beside it, and a second run changes nothing: what is a dead letter already is tried again, but not told
    twice.
    """
    counts: Counter[str] = Counter()
    jobs: list[Job] = []
    for path in paths:
        try:
            jobs += _jobs(path, services)
        except DicomlakeError as error:
            emit({"object_uri": f"file://{path.resolve()}", "status": "failed", "code": error.code})
            counts["failed"] += 1
    known = _open_letters(services)
    with progressbar(length=len(jobs), label="ingest", file=sys.stderr) as bar:
        for line in _lines(jobs, known):
            emit(line)
            counts[str(line["status"])] += 1
            bar.update(1)
    return {"files": counts.total(), **counts}


def machine_view(services: Services) -> Services:
    """Return the services with the whole machine as their source, to read files where they lie."""
    return replace(services, source=LocalStorage("file:/", None), own_prefixes=())


def _jobs(path: Path, services: Services) -> list[Job]:
    """Return the objects at or below `path`, each with the services whose source holds it.

    Inside the landing folder a file is the object that the watcher sees; elsewhere the machine is the bucket.
    """
    whole = path.resolve()
    source = services.source
    if isinstance(source, LocalStorage) and whole.is_relative_to(source.root):
        view, name = services, whole.relative_to(source.root).as_posix()
    else:
        view, name = machine_view(services), str(whole).lstrip("/")
    if whole.is_dir():
        return [(view, ref) for ref in view.source.list("" if name == "." else f"{name}/")]
    assert isinstance(view.source, LocalStorage)
    return [(view, view.source.find(name))]


def _open_letters(services: Services) -> set[tuple[object, object]]:
    letters = services.warehouse.query("SELECT object_uri, generation FROM dead_letters")
    return {(letter["object_uri"], letter["generation"]) for letter in letters}


def _lines(jobs: Iterable[Job], known: Container[tuple[object, object]]) -> Iterator[dict[str, object]]:
    running: deque[Future[dict[str, object]]] = deque()
    with ThreadPoolExecutor(AHEAD // 2, thread_name_prefix="ingest") as pool:
        for view, ref in jobs:
            told = (view.source.uri(ref.name), ref.generation) in known
            running.append(pool.submit(_one, view, ref, GiveUp.SILENTLY if told else GiveUp.NOW))
            if len(running) >= AHEAD:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def _one(services: Services, ref: ObjectRef, give_up: GiveUp) -> dict[str, object]:
    uri = services.source.uri(ref.name)
    line: dict[str, object] = {"object_uri": uri}
    try:
        outcome = pipeline.handle(_message(services, ref, uri), services, give_up)
    except FileNotFoundError:
        return line | {"status": Status.SUPERSEDED.value, "code": ObjectGone.code}
    except DicomlakeError as error:
        return line | {"status": "failed", "code": error.code}
    line |= {"status": outcome.status.value}
    if outcome.code:
        line["code"] = outcome.code
    if outcome.stored is not None:
        return line | {"members": outcome.stored}
    if outcome.status is Status.STORED:
        row = outcome.instances[0]
        line |= {key: row.get(key) for key in ("modality", "preview_uri", "preview_error", "metadata_uri")}
    return line


def _message(services: Services, ref: ObjectRef, uri: str) -> Message:
    assert isinstance(services.source, LocalStorage)
    size = Path(uri.removeprefix("file://")).stat().st_size
    told = notification(EventType.FINALIZE, ref, uri, services.now(), size)
    key = hashlib.sha256(f"{uri}#{ref.generation}".encode()).hexdigest()[:16]
    return replace(told, message_id=f"ingest-{key}")
