"""`ingest`: files and folders through the same pipeline now, on all cores, read where they lie."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from click.termui import progressbar

from app import pipeline
from app.errors import DicomlakeError
from app.services import Services
from app.storage.local import LocalStorage, notification
from app.types import EventType, Message, ObjectRef, Status

Emit = Callable[[object], object]
AHEAD = 64
"""Files under way at once: enough to keep every worker busy, few enough to hold in memory."""


def ingest(paths: Iterable[Path], services: Services, emit: Emit) -> dict[str, int]:
    """Put every file below `paths` through the pipeline, emit one line each and return how many ended how.

    A permanent failure is dead-lettered at once. Names and keys are those of the service, so this may run
    beside it, and a second run changes nothing.
    """
    jobs = [(view, ref) for path in paths for view, refs in [_files(path, services)] for ref in refs]
    counts: Counter[str] = Counter()
    with progressbar(length=len(jobs), label="ingest", file=sys.stderr) as bar:
        for line in _lines(jobs):
            emit(line)
            counts[str(line["status"])] += 1
            bar.update(1)
    return {"files": len(jobs), **counts}


def _files(path: Path, services: Services) -> tuple[Services, Iterator[ObjectRef]]:
    """Return the services whose source holds `path`, and the objects at or below it.

    Inside the landing folder a file is the object that the watcher sees; elsewhere the machine is the bucket.
    """
    whole = path.resolve()
    source = services.source
    if isinstance(source, LocalStorage) and whole.is_relative_to(source.root):
        view, name = services, whole.relative_to(source.root).as_posix()
    else:
        view, name = (
            replace(services, source=LocalStorage("file:/", None), own_prefixes=()),
            str(whole).lstrip("/"),
        )
    if whole.is_dir():
        return view, view.source.list("" if name == "." else f"{name}/")
    assert isinstance(view.source, LocalStorage)
    return view, iter([view.source.find(name)])


def _lines(jobs: Iterable[tuple[Services, ObjectRef]]) -> Iterator[dict[str, object]]:
    running: deque[Future[dict[str, object]]] = deque()
    with ThreadPoolExecutor(AHEAD // 2, thread_name_prefix="ingest") as pool:
        for view, ref in jobs:
            running.append(pool.submit(_one, view, ref))
            if len(running) >= AHEAD:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def _one(services: Services, ref: ObjectRef) -> dict[str, object]:
    uri = services.source.uri(ref.name)
    line: dict[str, object] = {"object_uri": uri}
    try:
        outcome = pipeline.handle(_message(services, ref, uri), services, final=True)
    except DicomlakeError as error:
        return line | {"status": "failed", "code": error.code}
    line |= {"status": outcome.status.value}
    if outcome.code:
        line["code"] = outcome.code
    if outcome.status is Status.STORED:
        row = outcome.instances[0]
        line |= {key: row.get(key) for key in ("modality", "preview_uri", "preview_error", "metadata_uri")}
    return line


def _message(services: Services, ref: ObjectRef, uri: str) -> Message:
    assert isinstance(services.source, LocalStorage)
    told = notification(EventType.FINALIZE, ref, uri, services.now())
    key = hashlib.sha256(f"{uri}#{ref.generation}".encode()).hexdigest()[:16]
    return replace(told, message_id=f"ingest-{key}")
