"""`reconcile`: compare the storage with the warehouse, and publish the events that make them agree.

It never edits rows: `--fix` publishes the events that were lost, and the pipeline processes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from app.jobs.compare import Comparison, Difference, Kind, Place, compare, is_wanted, open_letters
from app.jobs.lane import event_of
from app.model.values import EventType, Message, ObjectRef
from app.places import COPIES
from app.services import Services
from app.sources.notifications import notification
from app.storage import Listed
from app.warehouse.queries import artifact_uris

if TYPE_CHECKING:
    from app.bus import Publisher

AGE_S = 3600.0
"""Objects, rows and artifacts that are younger may still be on their way."""
BATCH = 200

Emit = Callable[[dict[str, object]], object]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to reconcile. fix: publish events. age_s: leave out what is younger."""

    places: tuple[Place, ...]
    fix: bool = False
    age_s: float = AGE_S


def reconcile(
    services: Services,
    bus: Publisher,
    wanted: Wanted,
    emit: Emit,
    progress: Callable[[int], object] = lambda objects: None,
) -> dict[str, object]:
    """Emit a line for each difference, publish its events if `fix`, and return the counts.

    progress: gets the number of objects so far, from time to time. not_fixed counts orphan rows whose object
    has come back, or whose name is only known as a hash.
    """
    counts: Counter[str] = Counter()
    letters = open_letters(services)
    waiting: list[Message] = []

    def publish() -> None:
        bus.publish_all(waiting)
        counts["published"] += len(waiting)
        waiting.clear()

    before = Counter[str]()
    for place in wanted.places:
        comparison = compare(services, place)
        comparison.progress = partial(_further, progress, before["objects"])
        for found in comparison:
            if reason := _left_out(found, services, wanted, letters):
                counts[reason] += 1
                continue
            counts[found.kind] += 1
            emit(_line(found))
            if wanted.fix:
                events = list(_events(found, services))
                waiting += events
                counts["not_fixed"] += not events
            if len(waiting) >= BATCH:
                publish()
        before.update(objects=comparison.objects, rows=comparison.rows)
    if waiting:
        publish()
    for uri in orphan_artifacts(services, wanted.age_s):
        counts[Kind.ORPHAN_ARTIFACT] += 1
        emit({"kind": Kind.ORPHAN_ARTIFACT.value, "uri": uri})
    kinds = {str(kind): counts.pop(kind, 0) for kind in Kind}
    return {"objects": before["objects"], "rows": before["rows"], **kinds, **counts}


def _further(progress: Callable[[int], object], before: int, objects: int) -> None:
    progress(before + objects)


def differences(summary: Mapping[str, object]) -> int:
    """Return how many differences a summary has."""
    return sum(int(str(summary.get(kind, 0))) for kind in Kind)


def orphan_artifacts(services: Services, age_s: float) -> Iterator[str]:
    """Yield the addresses of artifacts that no current row names; a document, preview or clean copy each."""
    settings, now_s = services.settings.artifacts, services.now().timestamp()
    kept = {"metadata_uri": settings.metadata, "preview_uri": settings.images, "dicom_uri": COPIES}
    store = services.artifacts
    base, drop = store.uri(""), len(store.prefix)
    for column, prefix in kept.items():
        found = ((base + one.ref.name[drop:], one) for one in store.listing(prefix))
        rows = services.warehouse.stream(*artifact_uris(column))
        named = ({"object_uri": row["uri"], "generation": 0} for row in rows)
        for one in Comparison(_as_generation_0(found), named):
            if one.listed is not None and one.listed.written_s <= now_s - age_s:
                yield one.object_uri


def _as_generation_0(found: Iterator[tuple[str, Listed]]) -> Iterator[tuple[str, Listed]]:
    """Yield artifacts as if each had one version: they never change."""
    for uri, one in found:
        yield uri, Listed(ObjectRef(one.ref.bucket, one.ref.name, 0), one.size, one.written_s)


def _left_out(
    found: Difference, services: Services, wanted: Wanted, letters: set[tuple[object, object, object]]
) -> str:
    """Return why a difference does not count, or not yet; empty if it does."""
    youngest_s = services.now().timestamp() - wanted.age_s
    if found.kind is Kind.ORPHAN_ROW:
        assert found.row is not None
        made = found.row["ingested_at"]
        made_at = made if isinstance(made, datetime) else datetime.fromisoformat(str(made))
        return "young" if made_at.timestamp() > youngest_s else ""
    assert found.listed is not None
    if found.listed.written_s > youngest_s:
        return "young"
    ref = found.listed.ref
    if (ref.bucket, ref.name, ref.generation) in letters:
        return "dead_lettered"
    return "" if is_wanted(found.listed, services) else "unwanted"


def _line(found: Difference) -> dict[str, object]:
    line: dict[str, object] = {"kind": found.kind.value, "object_uri": found.object_uri}
    if found.kind is not Kind.ORPHAN_ROW and found.listed is not None:
        line["generation"] = found.listed.ref.generation
    if found.row is not None:
        line["row_generation"] = found.row["generation"]
    return line


def _events(found: Difference, services: Services) -> Iterator[Message]:
    """Yield the lost event: the finalize of the version that exists, or the removal of the row's version."""
    now = services.now()
    if found.kind is not Kind.ORPHAN_ROW:
        assert found.listed is not None
        yield event_of(found.listed, found.object_uri, now)
        return
    assert found.row is not None
    generation = int(str(found.row["generation"]))
    ref = _removed(found, generation, services)
    # It may have come back, or have been listed too early: the store has the last word.
    if ref is not None and not services.source.is_live(ref):
        yield notification(EventType.DELETE, ref, found.object_uri, now)


def _removed(found: Difference, generation: int, services: Services) -> ObjectRef | None:
    """Return the version that a row describes; None if only a hash of its name is left."""
    if found.listed is not None:
        return ObjectRef(found.listed.ref.bucket, found.listed.ref.name, generation)
    if services.cleaning is not None and not services.cleaning.keep_names:
        return None
    return services.source.ref_of(found.object_uri, generation)
