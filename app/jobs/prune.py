"""`ingest --prune`: remove from the lake what no longer exists in a folder, by processing removal events.

It considers only objects with current rows or an open dead letter. An unmounted disk looks like an emptied
folder; in that case the caller must confirm.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from app import pipeline
from app.jobs.ingest import Emit, File, Line, Progress, Tally, at_once, events, failure, machine_view
from app.jobs.own_files import Owner, OwnFiles
from app.model.errors import ConfigError, DicomlakeError, ObjectGone, RemovalsHeld
from app.model.names import spelled
from app.model.values import GiveUp, Status
from app.services import Services
from app.storage.local.files import is_object_name, stat_file
from app.storage.local.generations import Seen, Stamp
from app.storage.local.storage import LocalStorage
from app.warehouse.queries import current_below, letters_below

MANY = 2
"""An empty folder with this many known objects may be an unmounted disk; one was probably removed."""
KEPT = "kept"


@dataclass(frozen=True, slots=True)
class Known:
    """A file, and the size in bytes of each known version, by generation; 0 if unknown."""

    file: File
    versions: Mapping[int, int]


def prune(
    folder: Path,
    services: Services,
    emit: Emit,
    sure: bool = False,
    progress: Progress = lambda done, total: None,
) -> dict[str, object]:
    """Write tombstones for known objects that no longer exist in a folder; return the number by outcome.

    Emits a line for each removal and each failure. Raises RemovalsHeld, before removing anything, if the
    folder looks like an unmounted disk, unless `sure`; ConfigError for a folder without known objects.
    """
    folder = folder.resolve()
    tally = Tally(emit)
    with machine_view(services) as machine:
        known = _known(folder, services, machine)
        if not known and not folder.is_dir():
            raise ConfigError(
                f"--prune: there is no folder {spelled(str(folder))}, and the lake knows no object in it"
            )
        gone = []
        for one in known:
            file = one.file
            try:
                stat_file(file.source.root, file.name)
                tally.counts[KEPT] += 1
            except ObjectGone:
                if file.source.is_released(file.name):
                    tally.counts[KEPT] += 1
                else:
                    gone.append(one)
            except DicomlakeError as error:  # it may be there
                tally.add(failure({"object_uri": file.uri}, error))
        if gone and not sure:
            _check_mounted(folder, gone, len(known))
        for done, line in enumerate(at_once(partial(_begun, gone)), 1):
            tally.add(line)
            progress(done, len(gone))
    return {Status.DELETED.value: 0, KEPT: 0, **tally.counts, **tally.failures()}


def _known(folder: Path, services: Services, machine: Services) -> list[Known]:
    """Return the known objects of a folder, ordered by address."""
    source = machine.source
    assert isinstance(source, LocalStorage)
    if folder != source.root and not is_object_name(folder.relative_to(source.root).as_posix()):
        return []  # no object has such a name
    owner, inside = OwnFiles(services).owner(folder / "any")
    view = services if owner is Owner.LANDING else machine  # also where a second mount leads there
    below = view.source.uri(inside.removesuffix("any"))
    found: dict[str, dict[int, int]] = {}
    for asked in (current_below(below), letters_below(below)):
        for row in services.warehouse.stream(*asked):
            size, generation = row["size_bytes"], row["generation"]
            if isinstance(generation, int):
                found.setdefault(str(row["object_uri"]), {})[generation] = (
                    size if isinstance(size, int) else 0
                )
    landing = services.source.uri("") if isinstance(services.source, LocalStorage) else None
    return [
        Known(_file(uri, services if landing and uri.startswith(landing) else machine), found[uri])
        for uri in sorted(found)
    ]


def _file(uri: str, view: Services) -> File:
    assert isinstance(view.source, LocalStorage)
    return File(uri.removeprefix(view.source.uri("")), view.source, view)


def _check_mounted(folder: Path, gone: Sequence[Known], known: int) -> None:
    """Raise RemovalsHeld if all known objects are gone, or several of an empty folder inside."""
    left = Counter(_place(one.file) for one in gone)
    suspects = [(place, count) for place, count in left.items() if count >= MANY and _is_empty(place)]
    if len(gone) == known:
        what = f"none of the {known} object(s) that the lake knows in {spelled(str(folder))} is there"
    elif suspects:
        place, count = suspects[0]
        what = f"{spelled(str(place))} is empty and the lake knows {count} objects in it"
    else:
        return
    raise RemovalsHeld(
        f"nothing was removed: {what}; mount its disk again or, if they were removed, give --yes as well"
    )


def _place(file: File) -> Path:
    """Return the nearest existing folder above a file."""
    return next(place for place in (file.source.root / file.name).parents if place.is_dir())


def _is_empty(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except OSError:  # somebody removed it, or it cannot be read
        return False


def _begun(gone: Iterable[Known], pool: ThreadPoolExecutor) -> Iterator[Future[Line]]:
    for one in gone:
        yield pool.submit(_remove, one)


def _remove(known: Known) -> Line:
    """Process the removal of every known version of a file, then record it as removed.

    Otherwise a file that comes back with its old time would equal the version that has a tombstone.
    """
    file = known.file
    line: Line = {"object_uri": file.uri}
    seen = file.source.last(file.name)
    versions = sorted({**known.versions, **dict(seen.versions() if seen else ())}.items())
    (generation, size), replaced = versions[-1], tuple(versions[:-1])
    stamp = seen.stamp if seen else Stamp(generation, size, 0, 0)
    removed = Seen(generation, stamp, live=False, told=False, replaced=replaced)
    try:
        outcomes = [pipeline.handle(event, file.services, GiveUp.NOW) for event in events(file, removed)]
        if all(outcome.status is Status.DELETED for outcome in outcomes):
            file.source.remember(file.name, replace(removed, told=True, replaced=()))
    except DicomlakeError as error:
        return failure(line, error)
    last = outcomes[-1]
    return line | {"status": last.status.value} | ({"code": last.code} if last.code else {})
