"""What happens to one event: read this page first.

    fetch -> describe (in a worker) -> write artifacts -> append the row -> ack

Order is the design: artifacts, then the row that points at them, then the ack. Every name and key is
derived from the event, so a crash anywhere and a redelivery give the same objects and the same row.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial

from app import events
from app.admission import cost, estimate
from app.archive import is_archive
from app.archive.entries import Refused
from app.artifacts import AT_ONCE, remove_artifacts, remove_written, rendered, write_artifacts
from app.attempt import Attempt
from app.dicom import describe
from app.errors import (
    BadEvent,
    DicomlakeError,
    LimitExceeded,
    NotDicom,
    ObjectGone,
    ObjectTooLarge,
    PermanentError,
    RowsRejected,
    WorkerCrashed,
    internal,
)
from app.members import Members
from app.pages import with_page
from app.rows import event_row, failure_row, instance_row
from app.services import Services
from app.types import (
    Content,
    EventType,
    GiveUp,
    Instance,
    Message,
    ObjectEvent,
    Outcome,
    Reason,
    Row,
    Status,
)

REMOVALS = (EventType.DELETE, EventType.ARCHIVE)


def handle(message: Message, services: Services, how: GiveUp = GiveUp.WHEN_DUE) -> Outcome:
    """Process one delivery and return how it ended; returning means ack, raising means nack.

    A permanent failure is dead-lettered with its reason when `how` says so; until then it is raised, so that
    it is tried again.
    """
    attempt = Attempt(message, services.settings.delivery.deadline_s, services.metrics)
    try:
        with services.metrics.in_flight(), internal():
            with attempt.step("event"):
                attempt.event = events.object_event(message)
            outcome = ingest(attempt.event, attempt, services)
    except DicomlakeError as error:
        try:
            with internal():
                outcome = give_up(error, attempt, services, how)
        except DicomlakeError as raised:
            attempt.end(logging.WARNING, "failed", raised)
            raise
        attempt.end(logging.ERROR, outcome.status, error)
        return outcome
    attempt.end(logging.INFO, outcome.status, outcome)
    return outcome


def ingest(event: ObjectEvent, attempt: Attempt, services: Services) -> Outcome:
    """Make the row and the artifacts of one event, or say why there is nothing to make."""
    if reason := unwanted(event, services):
        return Outcome(Status.IGNORED, reason)
    uri = services.source.uri(event.ref.name, event.ref.bucket)
    row = event_row(event, attempt.message, uri, services.now())
    if event.type in REMOVALS:
        return remove(event, row, attempt, services)
    services.space.check()
    with services.budget.hold(estimate(event.size)) as correct:
        return ingest_object(event, row, correct, attempt, services)


def ingest_object(
    event: ObjectEvent, row: Row, correct: Callable[[int], None], attempt: Attempt, services: Services
) -> Outcome:
    """Fetch one object and make its row and artifacts; `correct` is told how many bytes it holds."""
    try:
        with attempt.step("read"):
            content = fetch(event, services)
            correct(cost(content))
            packed = looks_packed(content, attempt, services)
        row = {**row, "size_bytes": content.size, "crc32c": content.crc32c}
        if packed:
            return ingest_members(content, event, row, attempt, services)
        with attempt.step("describe"):
            instance = describe_safely(content, event, attempt, services)
            correct(cost(content) + len(instance.pdf or b""))
            wait_s = min(attempt.left_s(), services.page_wait_s)
            preview = services.settings.describe_options().preview
            instance = with_page(instance, preview, services.workers, wait_s)
    except ObjectGone as gone:
        remove_artifacts(event.ref, services)  # of a delivery that died before it could settle
        return Outcome(Status.SUPERSEDED, gone.code)
    except NotDicom as error:
        if re.search(services.settings.source.expect, event.ref.name):
            raise
        return Outcome(Status.IGNORED, error.code)
    with attempt.step("write"):
        written = write_artifacts(event.ref, instance, services)
    stored = instance_row(row, event, instance, written, attempt.took_ms)
    with attempt.step("append"):
        if refused := append_rows(event, [stored], services):
            raise RowsRejected(refused)
    return settle(event, Outcome(Status.STORED, instances=(stored,)), services)


def ingest_members(
    content: Content, event: ObjectEvent, row: Row, attempt: Attempt, services: Services
) -> Outcome:
    """Make rows and artifacts of the good members of an archive, batch by batch; then fail for the others."""
    members = Members(content, attempt, services)
    attempt.stored = 0
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="members") as pool:
        for instances in members:
            with attempt.step("write"):
                written = list(pool.map(partial(write_artifacts, event.ref, services=services), instances))
            rows = [
                instance_row(row, event, instance, uris, attempt.took_ms)
                for instance, uris in zip(instances, written, strict=True)
            ]
            with attempt.step("append"):
                refused = append_rows(event, rows, services)
            members.refuse(Refused(str(rows[index]["member"]), RowsRejected.code) for index in refused)
            attempt.stored += len(rows) - len(refused)
    outcome = settle(event, Outcome(Status.STORED, stored=attempt.stored), services)
    if outcome.status is Status.STORED:
        members.check()
    return outcome


def settle(event: ObjectEvent, outcome: Outcome, services: Services) -> Outcome:
    """Take the artifacts back if the object went meanwhile: its removal may have been handled before them.

    The row stays, for the tombstone hides it. Where removals are not events, nothing that went is looked for.
    """
    if not set(REMOVALS) & set(services.settings.source.events) or services.source.is_live(event.ref):
        return outcome
    remove_artifacts(event.ref, services)
    return Outcome(Status.SUPERSEDED, ObjectGone.code)


def append_rows(event: ObjectEvent, rows: list[Row], services: Services) -> Mapping[int, str]:
    """Append rows and return which of them the warehouse refused, and why.

    What was written for those goes again, unless an earlier row points at it: another event, or delivery.
    """
    try:
        services.warehouse.append("instances", rows)
    except RowsRejected as error:
        sql = "SELECT member FROM instances WHERE object_uri = :uri AND generation = :generation"
        of_object = {"uri": rows[0]["object_uri"], "generation": event.ref.generation}
        stored = {row["member"] for row in services.warehouse.query(sql, of_object)}
        for index in error.rejected:
            member = rows[index]["member"]
            if member not in stored:
                remove_written(event.ref, None if member is None else str(member), services)
        return error.rejected
    return {}


def unwanted(event: ObjectEvent, services: Services) -> str | None:
    """Return why an event is acked without work, or None; an event of a foreign bucket is refused."""
    settings = services.settings.source
    if event.ref.bucket not in (services.source.bucket, *settings.buckets):
        raise BadEvent(
            "bucketId: is not a bucket that this service serves; see source.url and source.buckets"
        )
    if not event.ref.name.startswith(services.source.prefix) and event.ref.bucket == services.source.bucket:
        return "outside_prefix"
    own = services.own_prefixes.get(event.ref.bucket, ())
    return events.ignored(event, own, settings.events)


def fetch(event: ObjectEvent, services: Services) -> Content:
    """Return the checked bytes of exactly the notified generation."""
    limit = services.settings.source.max_object_bytes
    if limit and event.size is not None and event.size > limit:
        raise ObjectTooLarge(f"the object is over source.max_object_bytes ({limit})")
    content = services.source.fetch(event.ref, event.size, event.crc32c)
    if limit and content.size > limit:
        raise ObjectTooLarge(f"the object is over source.max_object_bytes ({limit})")
    services.metrics.bytes(content.size)
    return content


def looks_packed(content: Content, attempt: Attempt, services: Services) -> bool:
    """Tell whether an object is an archive; a worker tells where its bytes have to be inflated for that."""
    if content.decode is None:
        return is_archive(content)
    return services.workers.run(is_archive, content, wait_s=attempt.left_s())


def describe_safely(content: Content, event: ObjectEvent, attempt: Attempt, services: Services) -> Instance:
    """Describe a data set in a worker; a worker lost while rendering costs the picture, not the metadata."""
    run = partial(services.workers.run, describe, content, wait_s=attempt.left_s())
    options = services.settings.describe_options().leaving_pdf()
    plain = options.without_preview()
    if event.type is EventType.METADATA_UPDATE and rendered(event.ref, services):
        instance: Instance = run(plain)
        return replace(instance, preview_error=None)
    try:
        return run(options)
    except (WorkerCrashed, LimitExceeded) as error:
        if not options.preview.enabled:
            raise
        instance = run(plain)
        return replace(instance, preview_error=error.code)


def remove(event: ObjectEvent, row: Row, attempt: Attempt, services: Services) -> Outcome:
    """Write the tombstone of one object version, then remove its artifacts.

    An overwrite's event too: the tombstone hides that version only, whatever comes before or after it.
    """
    with attempt.step("append"):
        services.warehouse.append("instances", [row])
    with attempt.step("write"):
        remove_artifacts(event.ref, services)
    return Outcome(Status.DELETED)


def give_up(error: DicomlakeError, attempt: Attempt, services: Services, how: GiveUp) -> Outcome:
    """Record a failed attempt; dead-letter it where it is permanent and due, else raise the error again."""
    message, event = attempt.message, attempt.event
    uri = services.source.uri(event.ref.name, event.ref.bucket) if event else ""
    reason = Reason(error.code, f"{attempt.stage}: {error.text}", uri)
    permanent = isinstance(error, PermanentError)
    given_up = Outcome(Status.DEAD_LETTERED, error.code, stored=attempt.stored, reason=reason.text)
    if permanent and how is GiveUp.SILENTLY:
        return given_up
    with suppress(DicomlakeError):  # best effort: what matters is that the message comes again
        row = failure_row(reason, permanent, attempt.facts(), services.now())
        services.warehouse.append("failures", [row])
    if not (permanent and (how is GiveUp.NOW or _due(message, services))):
        raise error
    services.bus.dead_letter(message, reason)
    return given_up


def _due(message: Message, services: Services) -> bool:
    """Tell whether a permanent failure of this delivery is the last one we let happen."""
    last = services.settings.delivery.permanent_attempts
    return bool(last) and message.attempt is not None and message.attempt >= last
