"""The steps between writing the artifacts and the ack: append the rows, announce and forward them, clean up.

    groups of rows ─▶ append ─▶ is the object still there? ─▶ announce ─▶ forward ─▶ clean up ─▶ Outcome

Objects and archives both end here, so whatever must happen to every stored row stands once. The message is
the outbox: if the process dies before the ack, the redelivery announces again, with the same ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from app.announce import announcements
from app.model.errors import ObjectGone, RowsRejected
from app.model.values import REMOVALS, EventType, ObjectEvent, Outcome, Row, Stage, Status
from app.pipeline.artifacts import remove_artifacts, remove_earlier, remove_written
from app.pipeline.attempt import Attempt
from app.pipeline.forwarding import expect_deliveries, publish_deliveries
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

    If the object is gone, its removal may have been processed before these writes. So the artifacts are
    removed again, and nothing is announced; the rows may stay, because the tombstone hides them.
    """
    members: set[str | None] = set()
    gone: bool | None = None
    for rows in groups:
        with attempt.step(Stage.APPEND):
            if event.type is EventType.FINALIZE:
                expect_deliveries(rows, services)
            refused = _append(event, rows, services)
        for index, reason in refused.items():
            refuse(rows[index], reason)
        stored = [row for index, row in enumerate(rows) if index not in refused]
        if attempt.stored is not None:
            attempt.stored += len(stored)
        members |= {_member(row) for row in stored}
        if gone := _is_gone(event, services):
            break
        if event.type is EventType.FINALIZE:
            with attempt.step(Stage.ANNOUNCE):
                services.announcers.announce([announcements.stored(row) for row in stored])
            with attempt.step(Stage.FORWARD):
                publish_deliveries(event, stored, services)
    if _is_gone(event, services) if gone is None else gone:
        remove_artifacts(event.shown, services)
        return Outcome(Status.SUPERSEDED, ObjectGone.code)
    if event.revision is not None and services.source.is_live(event.ref, event.metageneration):
        # Unless a metadata update of the object has made the earlier description current again.
        remove_earlier(event.shown, event.revision, members, services)
    return Outcome(Status.STORED, stored=attempt.stored)


def _is_gone(event: ObjectEvent, services: Services) -> bool:
    """Return whether the object was removed meanwhile; False if removals are not among the events."""
    told = set(REMOVALS) & set(services.settings.source.events)
    return bool(told) and not services.source.is_live(event.ref)


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


def _member(row: Row) -> str | None:
    """Return the member of an archive that a row describes; None for an object that is no archive."""
    member = row["member"]
    return None if member is None else str(member)
