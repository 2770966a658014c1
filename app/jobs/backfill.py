"""`backfill`: publish an event for every object that has no row; `reprocess`: for rows to be made anew.

The deployed service does the work, with its acks, dead letters and workers; here is only the lister.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.jobs.compare import (
    Difference,
    Kind,
    Place,
    Shown,
    base_uri,
    compare,
    is_wanted,
    listing,
    open_letters,
    places,
)
from app.jobs.lane import RATE, Job, Lane, Pacing, event_of, recorded, seconds_for
from app.model.errors import ConfigError
from app.model.values import EventType, Message, ObjectRef
from app.services import Services
from app.sources.notifications import described_again, notification
from app.warehouse import Warehouse
from app.warehouse.queries import made_by, to_reprocess

if TYPE_CHECKING:
    from app.bus import Publisher

Values = dict[str, Any]
Count = Callable[[int], object]
Note = Callable[[dict[str, object]], object]

# List prices of docs/cost.md in USD, for a million objects that are CT images.
CLOUD_RUN, PUBSUB, BIGQUERY, LOGGING = 1.31, 0.10, 0.20, 0.60
CLASS_A, CLASS_B, PER_LISTING = 0.000005, 0.0000004, 1000
RETRIEVAL = {"NEARLINE": 0.01, "COLDLINE": 0.02, "ARCHIVE": 0.05}
"""USD per GiB read, by storage class."""


@dataclass(frozen=True, slots=True)
class Reporting:
    """Called while a job runs: with the number of objects so far, and with each published object."""

    count: Count = lambda objects: None
    note: Note = lambda line: None


def estimate(services: Services, url: str, rate: float = RATE, count: Count = lambda _: None) -> Values:
    """Return what a backfill of a URL would do, and about what it would cost and how long it would take."""
    total: Counter[str] = Counter()
    to_read: Counter[str] = Counter()
    letters = open_letters(services)
    for place in places(services, url):
        comparison = compare(services, place)
        comparison.progress = count
        for found in comparison:
            reason = _left_out(found, services, letters)
            if not reason:
                assert found.listed is not None
                to_read[found.listed.storage_class or "STANDARD"] += found.listed.size
            total[reason or "to_publish"] += 1
        total["objects"] += comparison.objects
    publish = total["to_publish"]
    known = total["objects"] - sum(total[name] for name in ("to_publish", "dead_lettered", "unwanted"))
    summary: Values = {"objects": total["objects"], "known": known, "to_publish": publish}
    summary |= {name: total[name] for name in ("dead_lettered", "unwanted") if total[name]}
    summary |= {"bytes": dict(to_read), "hours": round(seconds_for(publish, rate) / 3600, 2)}
    if services.settings.source.url.startswith("gs:"):
        summary["usd"] = cost(total["objects"], publish, to_read, services.settings.preview.enabled)
    return summary


def cost(objects: int, publish: int, to_read: Mapping[str, int], previews: bool) -> dict[str, float]:
    """Return USD by item, at the list prices of docs/cost.md.

    Parameters
    ----------
    objects : number that is listed
    publish : number that is processed
    to_read : bytes by storage class
    previews : whether a PNG is written beside each document
    """
    million = publish / 1e6
    lines = {
        "cloud_run": CLOUD_RUN * million,
        "storage_writes": (2 if previews else 1) * CLASS_A * publish,
        "storage_reads": 2 * CLASS_B * publish,
        "listing": math.ceil(objects / PER_LISTING) * CLASS_A,
        "pubsub": PUBSUB * million,
        "bigquery": BIGQUERY * million,
        "logging": LOGGING * million,
    }
    lines |= {
        f"retrieval_{name.lower()}": price * to_read[name] / 2**30
        for name, price in RETRIEVAL.items()
        if name in to_read
    }
    return {name: round(usd, 2) for name, usd in {**lines, "total": sum(lines.values())}.items()}


def backfill(
    services: Services, bus: Publisher, job: Job, pacing: Pacing, reporting: Reporting = Reporting()
) -> dict[str, object]:
    """Publish an event for every object of `job.arguments["url"]` that has no row; return the counts.

    It goes on after `job.cursor`. If it is interrupted, the job can be resumed.
    """
    letters = open_letters(services)
    url = str(job.arguments["url"])
    with recorded(Lane(services, bus, job, pacing)) as lane:
        for place in _left(services, places(services, url), job.cursor):
            comparison = compare(services, place, job.cursor, slowly=True)
            comparison.progress = reporting.count
            before = 0
            for found in comparison:
                reason = _left_out(found, services, letters)
                if not reason:
                    assert found.listed is not None
                    lane.add(event_of(found.listed, found.object_uri, services.now()))
                    ref = found.listed.ref
                    reporting.note({"object_uri": found.object_uri, "generation": ref.generation})
                elif reason != Kind.ORPHAN_ROW:
                    job.counts[reason] += 1
                lane.passed(comparison.position, comparison.objects - before)
                before = comparison.objects
            lane.passed(comparison.position, comparison.objects - before)
        lane.finish()
    return dict(job.counts)


def _left(services: Services, every: list[Place], cursor: str) -> list[Place]:
    """Return the places that a job has not finished: the one of its cursor, and those after it."""
    for index, place in enumerate(every):
        if cursor.startswith(base_uri(services, place)):
            return every[index:]
    return every


def _left_out(found: Difference, services: Services, letters: set[tuple[object, object, object]]) -> str:
    """Return why nothing is to be published for a difference; empty if an event is."""
    if found.kind is Kind.ORPHAN_ROW or found.listed is None:
        return Kind.ORPHAN_ROW.value
    ref = found.listed.ref
    if (ref.bucket, ref.name, ref.generation) in letters:
        return "dead_lettered"
    return "" if is_wanted(found.listed, services) else "unwanted"


def older_versions(warehouse: Warehouse, version: str) -> list[str]:
    """Return the versions of the software, older than one, that made current rows.

    Raises
    ------
    ConfigError : the version is not of the form 1.2.3
    """
    limit = _numbers(version)
    if limit is None:
        raise ConfigError(f"--older-than: {version} is no version; write it as 1.2.3")
    made = (str(row["app_version"]) for row in warehouse.query(*made_by()))
    return sorted(one for one in made if (numbers := _numbers(one)) is None or numbers < limit)


def _numbers(version: str) -> tuple[int, ...] | None:
    parts = version.split("+")[0].split(".")
    return tuple(map(int, parts)) if all(part.isdecimal() for part in parts) else None


def rows_to_reprocess(services: Services, arguments: Mapping[str, object], after: str) -> Iterator[Values]:
    """Yield the object versions to be described again, ordered by address.

    Parameters
    ----------
    arguments : `older_than`, a version of the software, or `where`, a condition in SQL
    after : address to go on from
    """
    warehouse = services.warehouse
    if where := arguments.get("where"):
        yield from warehouse.stream(*to_reprocess(None, str(where), after), slowly=True)
    elif versions := older_versions(warehouse, str(arguments["older_than"])):
        yield from warehouse.stream(*to_reprocess(versions, "", after), slowly=True)


def reprocess(
    services: Services, bus: Publisher, job: Job, pacing: Pacing, reporting: Reporting = Reporting()
) -> dict[str, object]:
    """Publish a request to describe each of some object versions again, as a revision; return the counts."""
    started = int(job.started_at.timestamp())
    with recorded(Lane(services, bus, job, pacing)) as lane:
        for row, ref in _with_refs(services, rows_to_reprocess(services, job.arguments, job.cursor)):
            if ref is None:
                job.counts["outside"] += 1
            else:
                uri = str(row["object_uri"])
                lane.add(_again(ref, uri, row, started, services))
                reporting.note({"object_uri": uri, "generation": ref.generation})
            lane.passed(str(row["object_uri"]))
            reporting.count(job.counts["objects"])
        lane.finish()
    return dict(job.counts)


def _again(ref: ObjectRef, uri: str, row: Values, started: int, services: Services) -> Message:
    """Return the request for a revision: the time at which the job started, or one more than the last."""
    last, metageneration = row["revision"], row["metageneration"]
    revision = max(started, last + 1 if isinstance(last, int) else 1)
    message = notification(EventType.FINALIZE, ref, uri, services.now())
    return described_again(message, revision, metageneration if isinstance(metageneration, int) else None)


def _with_refs(services: Services, rows: Iterator[Values]) -> Iterator[tuple[Values, ObjectRef | None]]:
    """Yield each row with its object version; None for one outside of the source.

    Where rows show hashes of names, the names come from the listing, in the same order.
    """
    if services.cleaning is None or services.cleaning.keep_names:
        for row in rows:
            yield row, services.source.ref_of(str(row["object_uri"]), int(row["generation"]))
        return
    named = _everything(services)
    item = next(named, None)
    for row in rows:
        while item is not None and item[0] < row["object_uri"]:
            item = next(named, None)
        same = item is not None and item[0] == row["object_uri"]
        ref = item[1].ref if same and item is not None else None
        yield row, ref if ref is not None and ref.generation == row["generation"] else None


def _everything(services: Services) -> Iterator[Shown]:
    for place in sorted(places(services), key=lambda place: place.bucket):
        yield from listing(services, place)
