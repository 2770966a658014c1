"""Compare the listing of a storage with the rows of the warehouse: a merge of two ordered streams.

    listing, in the order of UTF-8 bytes ─┐
                                          ├─▶ differences
    rows of `instances_current`, the same ┘

Nothing is collected, so memory does not grow with the number of objects. If rows show hashes of names, the
listing is hashed and then sorted, in temporary files.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from tempfile import TemporaryFile
from typing import IO, Any

from app.model.errors import BadEvent, ConfigError, StorageUnavailable, WarehouseUnavailable
from app.model.values import EventType, ObjectEvent, ObjectRef
from app.pipeline import unwanted
from app.services import Services
from app.storage import Listed
from app.warehouse.queries import open_letter_versions, versions_below

Rows = Iterable[Mapping[str, object]]
Shown = tuple[str, Listed]
"""The address that rows show for an object, and the object."""
PROGRESS_EVERY = 1024
SORTED_AT_ONCE = 200_000
"""Objects of a listing that are sorted in memory."""


class Kind(StrEnum):
    """How listing and rows differ.

    MISSING: an object without a row. STALE: its rows are of another version. ORPHAN_ROW: rows of a version
    that is not there. ORPHAN_ARTIFACT: an artifact that no row names.
    """

    MISSING = "missing"
    STALE = "stale"
    ORPHAN_ROW = "orphan_row"
    ORPHAN_ARTIFACT = "orphan_artifact"


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference. listed: the object, if it is there. row: one of another version, if any."""

    kind: Kind
    object_uri: str
    listed: Listed | None = None
    row: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """A part of the source: a bucket, and the prefix of its objects."""

    bucket: str
    prefix: str = ""


class Comparison:
    """The differences of a listing and rows, both ordered by address. Iterate once.

    objects, rows: how many there were so far. position: the last address that was compared. progress: gets
    the number of objects from time to time.
    """

    def __init__(self, listing: Iterable[Shown], rows: Rows) -> None:
        self.objects = self.rows = 0
        self.position = ""
        self.progress: Callable[[int], object] = lambda objects: None
        self._listing, self._rows = iter(listing), iter(rows)

    def __iter__(self) -> Iterator[Difference]:
        """Raise StorageUnavailable or WarehouseUnavailable if one of them is not in order."""
        item, row = next(self._listing, None), next(self._rows, None)
        while item is not None or row is not None:
            listed, live = None, None
            if item is not None and (row is None or item[0] <= row["object_uri"]):  # type: ignore[operator]
                uri, listed = item
                live = listed.ref.generation
                self.objects += 1
                if not self.objects % PROGRESS_EVERY:
                    self.progress(self.objects)
                item = next(self._listing, None)
                if item is not None and item[0] <= uri:
                    raise StorageUnavailable("the listing is not in the order of names")
            else:
                assert row is not None
                uri = str(row["object_uri"])
            others: list[Mapping[str, object]] = []
            known = False
            while row is not None and row["object_uri"] == uri:
                self.rows += 1
                if row["generation"] == live:
                    known = True
                else:
                    others.append(row)
                row = next(self._rows, None)
            if row is not None and str(row["object_uri"]) < uri:
                raise WarehouseUnavailable("the rows are not in the order of addresses")
            self.position = uri
            if listed is not None and not known:
                kind = Kind.STALE if others else Kind.MISSING
                yield Difference(kind, uri, listed, others[-1] if others else None)
            elif others:
                yield from (Difference(Kind.ORPHAN_ROW, uri, listed, other) for other in others)


def compare(services: Services, place: Place, after: str = "", slowly: bool = False) -> Comparison:
    """Compare the objects of a place with their current rows.

    Parameters
    ----------
    after : a position to go on from
    slowly : the caller may take hours
    """
    base = base_uri(services, place)
    after = after if after.startswith(base) else ""
    asked = versions_below(base + _shown_prefix(services, place), after)
    return Comparison(listing(services, place, after), services.warehouse.stream(*asked, slowly=slowly))


def places(services: Services, url: str = "") -> list[Place]:
    """Return the parts of the source that a URL names; all of it if there is none.

    Raises
    ------
    ConfigError : the URL is not of the source
    """
    source = services.source
    if not url:
        return [Place(source.bucket), *(Place(bucket) for bucket in services.settings.source.buckets)]
    for place in places(services):
        base = base_uri(services, place)
        if url.startswith(base) or f"{url}/" == base:
            return [Place(place.bucket, url[len(base) :])]
    raise ConfigError(f"{url} is not in source.url or source.buckets; `dicomlake ingest` takes other files")


def base_uri(services: Services, place: Place) -> str:
    """Return the common prefix of the addresses of all objects in the bucket of a place."""
    own = place.bucket == services.source.bucket
    return services.source.uri("", "" if own else place.bucket)


def _shown_prefix(services: Services, place: Place) -> str:
    """Return the prefix of the names that rows show, as far as it is known."""
    return "" if _hashed(services) else place.prefix


def _hashed(services: Services) -> bool:
    return services.cleaning is not None and not services.cleaning.keep_names


def listing(services: Services, place: Place, after: str = "") -> Iterator[Shown]:
    """Yield the objects of a place after a position, in the order of the addresses that rows show."""
    source, bucket, base = services.source, place.bucket, base_uri(services, place)
    drop = len(source.prefix) if bucket == source.bucket else 0
    if not _hashed(services):
        for listed in source.listing(place.prefix, after.removeprefix(base) if after else "", bucket):
            yield base + listed.ref.name[drop:], listed
        return
    cleaning = services.cleaning
    assert cleaning is not None
    named = (
        (base + cleaning.name(listed.ref.name)[drop:], listed)
        for listed in source.listing(place.prefix, bucket=bucket)
    )
    yield from (one for one in in_order(named) if one[0] > after)


def in_order(listing: Iterable[Shown], at_once: int = SORTED_AT_ONCE) -> Iterator[Shown]:
    """Yield a listing by address; parts of it are sorted in memory and merged from unnamed files."""
    rest = iter(listing)
    with ExitStack() as files:
        parts: list[Iterator[Shown]] = []
        while part := sorted(islice(rest, at_once), key=lambda one: one[0]):
            stream = files.enter_context(TemporaryFile("w+"))
            stream.writelines(json.dumps(_flat(*one)) + "\n" for one in part)
            stream.seek(0)
            parts.append(_read(stream))
        yield from heapq.merge(*parts, key=lambda one: one[0])


def _flat(uri: str, listed: Listed) -> list[object]:
    ref = listed.ref
    facts = [listed.size, listed.written_s, listed.metageneration, listed.crc32c, listed.storage_class]
    return [uri, ref.bucket, ref.name, ref.generation, *facts]


def _read(lines: IO[str]) -> Iterator[Shown]:
    for line in lines:
        facts: list[Any] = json.loads(line)
        uri, bucket, name, generation, *others = facts
        yield uri, Listed(ObjectRef(bucket, name, generation), *others)


def is_wanted(listed: Listed, services: Services) -> bool:
    """Return whether the pipeline would do anything with an object."""
    event = ObjectEvent(EventType.FINALIZE, listed.ref, services.now(), size=listed.size)
    try:
        return unwanted(event, services) is None
    except BadEvent:
        return False


def open_letters(services: Services) -> set[tuple[object, object, object]]:
    """Return bucket, object and generation of the open dead letters: they have no row, but are not lost."""
    letters = services.warehouse.stream(*open_letter_versions())
    return {(letter["bucket"], letter["object"], letter["generation"]) for letter in letters}
