"""The steps between writing the artifacts and the ack: append the rows, then clean up.

    groups of rows ─▶ append ─▶ settle ─▶ Outcome

Objects and archives both end here, so whatever must happen to every stored row stands once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from app.model.errors import ObjectGone, RowsRejected
from app.model.values import REMOVALS, ObjectEvent, Outcome, Row, Stage, Status
from app.pipeline.artifacts import remove_artifacts, remove_earlier, remove_written
from app.pipeline.attempt import Attempt
from app.services import Services
from app.warehouse.queries import rows_of_version


def store(
    event: ObjectEvent,
    groups: Iterable[list[Row]],
    refuse: Callable[[Row, str], None],
    attempt: Attempt,
    services: Services,
) -> Outcome:
    """Append the rows of one event, group by group, and return how the event ends.

    The artifacts of a group are written when it is taken from `groups`. `refuse` gets each row that the
    warehouse refuses, with the reason, and may raise.
    """
    members: set[str | None] = set()
    for rows in groups:
        with attempt.step(Stage.APPEND):
            refused = _append(event, rows, services)
        for index, reason in refused.items():
            refuse(rows[index], reason)
        stored = [row for index, row in enumerate(rows) if index not in refused]
        if attempt.stored is not None:
            attempt.stored += len(stored)
        members |= {_member(row) for row in stored}
    return _settle(event, Outcome(Status.STORED, stored=attempt.stored), members, services)


def _append(event: ObjectEvent, rows: list[Row], services: Services) -> Mapping[int, str]:
    """Append rows and return the reason for each refused row, by its index.

    The artifacts of a refused row are removed, unless a row of an earlier event or delivery points at them.
    """
    try:
        services.warehouse.append("instances", rows)
    except RowsRejected as error:
        of_version = rows_of_version(str(rows[0]["object_uri"]), event.ref.generation)
        stored = {(row["member"], row["revision"]) for row in services.warehouse.query(*of_version)}
        for index in error.rejected:
            member = _member(rows[index])
            if (member, event.revision) not in stored:
                remove_written(event.shown, member, event.revision, services)
        return error.rejected
    return {}


def _settle(
    event: ObjectEvent, outcome: Outcome, members: Collection[str | None], services: Services
) -> Outcome:
    """Clean up after storing: remove artifacts that have become obsolete meanwhile.

    If the object is gone, remove what was just written: its removal may have been processed before these
    writes. The row may stay, because the tombstone hides it. Skipped if removals are not among the events.

    If this was a revision, remove the artifacts that it replaces, unless a metadata update of the object has
    made the earlier description current again.
    """
    if set(REMOVALS) & set(services.settings.source.events) and not services.source.is_live(event.ref):
        remove_artifacts(event.shown, services)
        return Outcome(Status.SUPERSEDED, ObjectGone.code)
    if event.revision is not None and services.source.is_live(event.ref, event.metageneration):
        remove_earlier(event.shown, event.revision, members, services)
    return outcome


def _member(row: Row) -> str | None:
    """Return the member of an archive that a row describes; None for an object that is no archive."""
    member = row["member"]
    return None if member is None else str(member)
