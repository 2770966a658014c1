"""Retention: archive received files, delete them, and delete old outputs. Retention is no removal.

A received file goes only when its event has ended: its version has current rows, no message about it waits in
the queue, it has no open dead letter, and all its deliveries are finished. Its row and artifacts stay.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import chain, islice

from app.forward.encoded import SUFFIX
from app.model.errors import DicomlakeError, ObjectGone, StorageUnavailable
from app.model.values import ObjectRef
from app.places import COPIES
from app.services import Services
from app.storage import open_storage
from app.storage.local.files import delete_file, walk
from app.storage.local.generations import Seen
from app.storage.local.storage import LocalStorage
from app.warehouse.queries import letters_below, retained

log = logging.getLogger("dicomlake")

AT_ONCE = 500
"""Files in one statement."""
DAY_S = 86_400
ARCHIVED, RELEASED, DELETED, FAILED = "archived", "released", "deleted", "failed"
Line = dict[str, object]
File = tuple[str, Seen]


def retain(
    services: Services, emit: Callable[[Line], object] = lambda line: None, dry_run: bool = False
) -> dict[str, int]:
    """Archive and delete what is due now; return how many files were archived, released, deleted, or failed.

    Emits a line for each file. A file that fails does not stop the others, and is tried again the next time.
    With `dry_run` nothing is changed.
    """
    counts = dict.fromkeys((ARCHIVED, RELEASED, DELETED, FAILED), 0)
    for name, status, act in chain(_received(services), _outputs(services)):
        line: Line = {"object": name, "status": status}
        try:
            if not dry_run:
                act()
        except DicomlakeError as error:
            line |= {"status": FAILED, "code": error.code, "reason": error.text}
            log.warning("retention", extra={"object": name, "code": error.code})
        counts[str(line["status"])] += 1
        emit(line)
    return counts


Step = tuple[str, str, Callable[[], object]]
"""The shown name of a file, the status it will have, and the function that does the work."""


def _received(services: Services) -> Iterator[Step]:
    """Yield the steps that are due for received files."""
    settings, source = services.settings.retention, services.source
    if not isinstance(source, LocalStorage) or not (
        settings.archive_after_days or settings.delete_after_days
    ):
        return
    files = source.retained()
    while some := list(islice(files, AT_ONCE)):
        for (name, seen), stored_at in _ended(some, source, services):
            age_s = (services.now() - stored_at).total_seconds()
            shown = services.cleaning.name(name) if services.cleaning else name
            if _due(settings.delete_after_days, age_s):
                yield shown, RELEASED, partial(_release, name, seen, source, services)
            elif _due(settings.archive_after_days, age_s) and not seen.archived:
                yield shown, ARCHIVED, partial(_archive, name, seen, source, services)


def _ended(
    files: Sequence[File], source: LocalStorage, services: Services
) -> Iterator[tuple[File, datetime]]:
    """Yield the files whose events have ended, with the time when their latest row was made.

    The queue is read first: an event that leaves it meanwhile is in the tables by then.
    """
    waiting = services.bus.unfinished()
    if waiting is None:
        return
    names = {one.get("objectId") for one in waiting if one.get("bucketId") == source.bucket}
    uris = {services.shown_uri(name): (name, seen) for name, seen in files if name not in names}
    if not uris:
        return
    rows = services.warehouse.query(*retained([*uris]))
    letters = {
        (str(one["object_uri"]), one["generation"])
        for one in services.warehouse.query(*letters_below(source.uri("")))
    }
    for row in rows:
        uri = str(row["object_uri"])
        name, seen = uris[uri]
        # What the queue itself has given up has the name of the file even in a lake that shows hashes.
        open_letters = letters & {(uri, seen.generation), (source.uri(name), seen.generation)}
        if row["generation"] == seen.generation and not row["unfinished"] and not open_letters:
            yield uris[uri], _time(row["stored_at"])


def _archive(name: str, seen: Seen, source: LocalStorage, services: Services) -> None:
    """Copy a file to the archive, durably; beside an earlier version of its name, with its generation."""
    archive = services.archive
    assert archive is not None
    content = source.locate(ObjectRef(source.bucket, name, seen.generation))
    for target in (name, f"{name}.{seen.generation}"):
        with content.open() as stream:
            if archive.land(target, stream) is not None:
                source.remember(name, replace(seen, archived=True))
                return
    raise StorageUnavailable("the archive has another file under this name and generation")


def _release(name: str, seen: Seen, source: LocalStorage, services: Services) -> None:
    """Delete a received file; if there is an archive, only once the archive has it."""
    if services.archive is not None and not seen.archived and not seen.released:
        _archive(name, seen, source, services)
    if not source.release(name, seen):
        raise ObjectGone("the file has changed meanwhile")


def _outputs(services: Services) -> Iterator[Step]:
    """Yield the encoded pictures and the de-identified copies that are due; those in buckets are not ours."""
    days, now = services.settings.retention.outputs_after_days, services.now().timestamp()
    if not days:
        return
    folders = [(url, "", SUFFIX) for url in services.settings.forward.urls if url.startswith("file:")]
    for url, prefix, suffix in (*folders, (services.settings.artifacts.url, COPIES, ".dcm")):
        storage = open_storage("retention", url) if url.startswith("file:") else None
        if not isinstance(storage, LocalStorage):
            continue
        for name, found in walk(storage.root, prefix, skip=lambda *_: None):
            if name.endswith(suffix) and _due(days, now - found.mtime_ns / 1e9):
                yield name, DELETED, partial(delete_file, storage.root, name)
        storage.close()


def _due(days: float, age_s: float) -> bool:
    return bool(days) and age_s >= days * DAY_S


def _time(value: object) -> datetime:
    """Return a timestamp, which SQLite stores as text."""
    time = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    return time.astimezone(UTC)
