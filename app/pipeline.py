"""What happens to one event: read this page first.

    fetch -> describe (in a worker) -> write artifacts -> append the row -> ack

Order is the design: artifacts, then the row that points at them, then the ack. Every name and key is
derived from the event, so a crash anywhere and a redelivery give the same objects and the same row.
"""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from dataclasses import replace

from app import events
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
    WorkerCrashed,
    internal,
)
from app.rows import Written, event_row, failure_row, instance_row
from app.services import Services
from app.types import (
    Content,
    EventType,
    Instance,
    Message,
    ObjectEvent,
    ObjectRef,
    Outcome,
    Reason,
    Row,
    Status,
)

REMOVALS = (EventType.DELETE, EventType.ARCHIVE)


def handle(message: Message, services: Services, final: bool = False) -> Outcome:
    """Process one delivery and return how it ended; returning means ack, raising means nack.

    A permanent failure is dead-lettered with its reason at the delivery that the settings name, or at once
    when this delivery is the `final` one; until then it is raised, so that it is tried again.
    """
    attempt = Attempt(message, services.settings.delivery.deadline_s, services.metrics)
    try:
        with services.metrics.in_flight(), internal():
            with attempt.step("event"):
                attempt.event = events.object_event(message)
            outcome = ingest(attempt.event, attempt, services)
    except DicomlakeError as error:
        try:
            outcome = give_up(error, attempt, services, final)
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
    try:
        with attempt.step("read"):
            content = fetch(event, services)
        with attempt.step("describe"):
            instance = describe_safely(content, event, services)
    except ObjectGone as gone:
        return Outcome(Status.SUPERSEDED, gone.code)
    except NotDicom as error:
        if re.search(services.settings.source.expect, event.ref.name):
            raise
        return Outcome(Status.IGNORED, error.code)
    with attempt.step("write"):
        written = write_artifacts(event.ref, instance, services)
    row |= {"size_bytes": content.size, "crc32c": content.crc32c}
    stored = instance_row(row, event, instance, written, attempt.took_ms)
    with attempt.step("append"):
        services.warehouse.append("instances", [stored])
    return Outcome(Status.STORED, instances=(stored,))


def unwanted(event: ObjectEvent, services: Services) -> str | None:
    """Return why an event is acked without work, or None; an event of a foreign bucket is refused."""
    settings = services.settings.source
    if event.ref.bucket not in (services.source.bucket, *settings.buckets):
        raise BadEvent(
            "bucketId: is not a bucket that this service serves; see source.url and source.buckets"
        )
    return events.ignored(event, services.own_prefixes, settings.events)


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


def describe_safely(content: Content, event: ObjectEvent, services: Services) -> Instance:
    """Describe a data set in a worker; a worker lost while rendering costs the picture, not the metadata."""
    options = services.settings.describe_options()
    plain = replace(options, preview=replace(options.preview, enabled=False))
    if event.type is EventType.METADATA_UPDATE and _rendered(event, services):
        instance: Instance = services.workers.run(describe, content, plain)
        return replace(instance, preview_error=None)
    try:
        return services.workers.run(describe, content, options)
    except (WorkerCrashed, LimitExceeded) as error:
        if not options.preview.enabled:
            raise
        instance = services.workers.run(describe, content, plain)
        return replace(instance, preview_error=error.code)


def write_artifacts(ref: ObjectRef, instance: Instance, services: Services) -> Written:
    """Write the JSON document and the PNG and return their URIs; a PNG that stands already is only named."""
    document_name, preview_name = artifact_names(ref, services)
    document_uri = services.artifacts.write(document_name, instance.document, "application/dicom+json")
    if instance.preview is not None:
        preview_uri = services.artifacts.write(preview_name, instance.preview, "image/png")
        return Written(document_uri, preview_uri)
    return Written(document_uri, None if instance.preview_error else services.artifacts.uri(preview_name))


def artifact_names(ref: ObjectRef, services: Services) -> tuple[str, str]:
    """Return the names of the DICOM JSON document and the preview of one object version."""
    settings = services.settings.artifacts
    stem = f"{ref.name}.{ref.generation}"
    return f"{settings.metadata}{stem}.json", f"{settings.images}{stem}.png"


def remove(event: ObjectEvent, row: Row, attempt: Attempt, services: Services) -> Outcome:
    """Write the tombstone of one object version, then remove its artifacts.

    An overwrite's event too: the tombstone hides that version only, whatever comes before or after it.
    """
    with attempt.step("append"):
        services.warehouse.append("instances", [row])
    with attempt.step("write"):
        for name in artifact_names(event.ref, services):
            services.artifacts.delete(name)
    return Outcome(Status.DELETED)


def give_up(error: DicomlakeError, attempt: Attempt, services: Services, final: bool) -> Outcome:
    """Record a failed attempt; dead-letter it where it is permanent and due, else raise the error again."""
    message, event = attempt.message, attempt.event
    uri = services.source.uri(event.ref.name, event.ref.bucket) if event else ""
    reason = Reason(error.code, f"{attempt.stage}: {error.text}", uri)
    permanent = isinstance(error, PermanentError)
    with suppress(DicomlakeError):  # best effort: what matters is that the message comes again
        row = failure_row(reason, permanent, attempt.facts(), services.now())
        services.warehouse.append("failures", [row])
    if not (permanent and (final or _due(message, services))):
        raise error
    services.bus.dead_letter(message, reason)
    return Outcome(Status.DEAD_LETTERED, error.code)


def _due(message: Message, services: Services) -> bool:
    """Tell whether a permanent failure of this delivery is the last one we let happen."""
    last = services.settings.delivery.permanent_attempts
    return bool(last) and message.attempt is not None and message.attempt >= last


def _rendered(event: ObjectEvent, services: Services) -> bool:
    """Tell whether the preview of this generation stands already."""
    _, preview_name = artifact_names(event.ref, services)
    return any(ref.name == preview_name for ref in services.artifacts.list(preview_name))
