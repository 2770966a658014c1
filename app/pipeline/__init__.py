"""Process one event: read this file first.

    fetch -> describe (in a worker) -> write artifacts -> append the row -> announce -> forward -> ack

The order is the design: artifacts, then the row that points at them, then its announcement, then the ack.
Every name and key is derived from the event, so after a crash at any point a redelivery produces the same
objects, the same row and the same announcement.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from functools import partial

from app import events
from app.announce import announcements
from app.archive import is_archive
from app.dicom import describe, describe_pieces
from app.model.errors import (
    BadEvent,
    DicomlakeError,
    ForwardRefused,
    LimitExceeded,
    NotDicom,
    ObjectGone,
    ObjectReleased,
    ObjectTooLarge,
    Overloaded,
    PermanentError,
    PlainText,
    RowsRejected,
    WorkerCrashed,
    internal,
)
from app.model.listing import Refused
from app.model.not_dicom import is_expected
from app.model.options import ANY_MEMBER, DescribeOptions
from app.model.values import (
    FORWARD_TO,
    REMOVALS,
    REVISION,
    Content,
    EventType,
    GiveUp,
    Instance,
    Message,
    ObjectEvent,
    Outcome,
    Pieces,
    Reason,
    Row,
    Stage,
    Status,
)
from app.pipeline.archive_members import Members
from app.pipeline.artifacts import (
    AT_ONCE,
    copy_uri,
    remove_artifacts,
    remove_written,
    rendered,
    write_artifacts,
)
from app.pipeline.attempt import Attempt
from app.pipeline.forwarding import deliver
from app.pipeline.pdf_pages import MAX_WAIT_S, with_page
from app.pipeline.rows import collection, event_row, failure_row, instance_row
from app.pipeline.stored import store
from app.plumbing.admission import cost, estimate
from app.plumbing.pieces import joined
from app.services import Services
from app.warehouse.queries import rows_of_version

AHEAD_S = 86_400
"""Accepted clock difference, in seconds, between the sender of a revision and us."""
NO_PIECE = "the worker answered with something else than one description and its copy"
OVERLOADED_ATTEMPTS = 10
"""Record `overloaded` in `failures` from this delivery on: half of the default attempts are used up."""


def handle(message: Message, services: Services, how: GiveUp = GiveUp.WHEN_DUE) -> Outcome:
    """Process one delivery and return its outcome. Returning means ack, raising means nack.

    `how` decides when a permanent failure becomes a dead letter; until then it is raised, so the bus retries.
    """
    patient = how is not GiveUp.WHEN_DUE
    deadline_s = services.settings.delivery.deadline_s
    attempt = Attempt(message, deadline_s, services.metrics, patient, services.spans)
    try:
        with services.metrics.in_flight(), internal():
            if FORWARD_TO in message.attributes:
                outcome = deliver(message, attempt, services)
            else:
                with attempt.step(Stage.EVENT):
                    event = events.object_event(message)
                    attempt.event = services.cleaning.shown(event) if services.cleaning else event
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
    """Store the artifacts and the row of one event, or return why the event is ignored."""
    if reason := unwanted(event, services):
        return Outcome(Status.IGNORED, reason)
    uri = services.shown_uri(event.ref.name, event.ref.bucket)
    prefix = services.source.prefix
    uploads = prefix + services.settings.source.write_prefix
    prefixes = (uploads, prefix) if event.ref.bucket == services.source.bucket else ()
    row = {
        **event_row(event, attempt.message, uri, services.now()),
        "collection": collection(event.shown.name, prefixes),
    }
    if event.type in REMOVALS:
        check_removal(event, row, services)
        return remove(event, row, attempt, services)
    services.space.check()
    with ExitStack() as held:
        with attempt.waiting():
            correct = held.enter_context(services.budget.hold(estimate(event.size), attempt.wait_s()))
        return ingest_object(event, row, correct, attempt, services)


def ingest_object(
    event: ObjectEvent,
    row: dict[str, object],
    correct: Callable[[int], None],
    attempt: Attempt,
    services: Services,
) -> Outcome:
    """Fetch one object and store its artifacts and row.

    `correct` replaces the estimated size in the memory budget once the real size is known.
    """
    try:
        with attempt.step(Stage.READ):
            content = fetch(event, services)
            correct(cost(content))
            packed = looks_packed(content, attempt, services)
        options = describe_options(event.ref.name, services)
        row |= {"size_bytes": content.size, "crc32c": content.crc32c, "describe_key": options.key}
        if packed:
            return ingest_members(content, options, event, row, attempt, services)
        with ExitStack() as opened:
            with attempt.step(Stage.DESCRIBE):
                instance, rest = describe_safely(content, options, event, attempt, services)
                opened.enter_context(closing(rest))
                correct(cost(content) + len(instance.pdf or b""))
                instance = with_page(instance, options.preview, attempt, services.workers, MAX_WAIT_S)
            with attempt.step(Stage.WRITE):
                copy = joined(_copy_of(rest), content, services.settings.workers.memory_bytes)
                written = write_artifacts(event.shown, event.revision, instance, services, copy)
        if instance.preview is None and instance.preview_error is None:
            # The existing picture was kept, and may have been made with other settings.
            row["describe_key"] = options.without_preview().key
    except ObjectReleased as released:
        return Outcome(Status.IGNORED, released.code)  # its row and artifacts stay
    except ObjectGone as gone:
        remove_artifacts(event.shown, services)  # an earlier delivery may have died before it cleaned up
        remove_written(event.shown, None, event.revision, services)  # or while it copied
        return Outcome(Status.SUPERSEDED, gone.code)
    except NotDicom as error:
        if is_expected(event.ref.name, services.settings.source.expect, isinstance(error, PlainText)):
            raise
        return Outcome(Status.IGNORED, error.code)
    stored = instance_row(row, event, instance, written, attempt.took_ms)
    outcome = store(event, [[stored]], _refuse, attempt, services)
    return replace(outcome, instances=(stored,)) if outcome.status is Status.STORED else outcome


def ingest_members(
    content: Content,
    options: DescribeOptions,
    event: ObjectEvent,
    row: Row,
    attempt: Attempt,
    services: Services,
) -> Outcome:
    """Store the good members of an archive in batches, then raise if any member was refused."""
    if services.cleaning:
        content = replace(content, uri=copy_uri(event, services, ANY_MEMBER))
    members = Members(content, options, attempt, services)
    attempt.stored = 0
    write = partial(write_artifacts, event.shown, event.revision, services=services)
    pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="members")

    def written_rows(groups: Iterable[list[Instance]]) -> Iterator[list[Row]]:
        for instances in groups:
            with attempt.step(Stage.WRITE):
                written = list(pool.map(write, instances))
            yield [
                instance_row(row, event, instance, uris, attempt.took_ms)
                for instance, uris in zip(instances, written, strict=True)
            ]

    def refuse(row: Row, reason: str) -> None:
        members.refuse([Refused(str(row["member"]), RowsRejected.code)])

    with pool, closing(members.groups()) as groups:
        outcome = store(event, written_rows(groups), refuse, attempt, services)
    if outcome.status is Status.STORED:
        members.check()
    return outcome


def _refuse(row: Row, reason: str) -> None:
    """Fail the event of a single object if the warehouse refuses its row."""
    raise RowsRejected({0: reason})


def unwanted(event: ObjectEvent, services: Services) -> str | None:
    """Return why an event is acknowledged without work, or None. Raise BadEvent for a foreign bucket."""
    settings = services.settings.source
    if event.ref.bucket not in (services.source.bucket, *settings.buckets):
        raise BadEvent(
            "bucketId: is not a bucket that this service serves; see source.url and source.buckets"
        )
    if not event.ref.name.startswith(services.source.prefix) and event.ref.bucket == services.source.bucket:
        return "outside_prefix"
    if event.revision is not None and event.revision > services.now().timestamp() + AHEAD_S:
        # A revision from the future would hide all later revisions of this version.
        raise BadEvent(f"message.attributes.{REVISION}: lies in the future; it is UNIX seconds")
    own = services.own_prefixes.get(event.ref.bucket, ())
    return events.ignored(event, own, settings.events)


def fetch(event: ObjectEvent, services: Services) -> Content:
    """Read exactly the notified generation, with its length and checksum verified."""
    limit = services.settings.source.max_object_bytes
    if limit and event.size is not None and event.size > limit:
        raise ObjectTooLarge(f"the object is over source.max_object_bytes ({limit})")
    content = services.source.fetch(event.ref, event.size, event.crc32c)
    if limit and content.size > limit:
        raise ObjectTooLarge(f"the object is over source.max_object_bytes ({limit})")
    services.metrics.bytes(content.size)
    return content


def describe_options(name: str, services: Services) -> DescribeOptions:
    """Return how to describe an object by its name: de-identification may depend on its collection."""
    options = services.settings.describe_options()
    return replace(options, clean=services.cleaning.options(name)) if services.cleaning else options


def looks_packed(content: Content, attempt: Attempt, services: Services) -> bool:
    """Return whether an object is an archive. An encoded object is inflated for this, so in a worker."""
    if content.decode is None:
        return is_archive(content)
    return attempt.run(services.workers, is_archive, content)


def describe_safely(
    content: Content, options: DescribeOptions, event: ObjectEvent, attempt: Attempt, services: Services
) -> tuple[Instance, Generator[Instance | Pieces]]:
    """Describe a data set in a worker; if the worker dies while rendering, again without a preview.

    Also returns what follows: the pieces of a large clean copy. Until the last one the worker is busy; close
    it to free the worker early.
    """
    if services.cleaning:
        content = replace(content, uri=copy_uri(event, services))
    options = options.leaving_pdf()
    plain = options.without_preview()
    run = partial(_described, content, attempt=attempt, services=services)
    if event.type is EventType.METADATA_UPDATE and rendered(event.shown, services):
        instance, rest = run(plain)
        return replace(instance, preview_error=None), rest
    try:
        return run(options)
    except (WorkerCrashed, LimitExceeded) as error:
        if not options.preview.enabled:
            raise
        instance, rest = run(plain)
        return replace(instance, preview_error=error.code), rest


def _described(
    content: Content, options: DescribeOptions, attempt: Attempt, services: Services
) -> tuple[Instance, Generator[Instance | Pieces]]:
    """Describe a data set in a worker, which stays busy only until the last piece of a large copy."""
    if options.clean is None:
        return attempt.run(services.workers, describe, content, options), _nothing()
    found = attempt.stream(services.workers, describe_pieces, content, options)
    instance = next(found, None)
    if not isinstance(instance, Instance):
        raise WorkerCrashed(NO_PIECE)
    if instance.copy_size is None or instance.copy is not None:
        list(found)  # nothing follows, so the worker is free
    return instance, found


def _nothing() -> Generator[Instance | Pieces]:
    yield from ()


def _copy_of(found: Iterable[Instance | Pieces]) -> Iterator[Pieces]:
    for piece in found:
        if isinstance(piece, Instance):
            raise WorkerCrashed(NO_PIECE)
        yield piece


def check_removal(event: ObjectEvent, row: Row, services: Services) -> None:
    """Raise BadEvent for the removal of a version that never existed: it would hide all later versions.

    The storage may not know a version, such as a file that was pushed by hand before the watcher saw it; then
    its row proves that it existed.
    """
    if services.source.had(event.ref, services.now()):
        return
    of_version = rows_of_version(str(row["object_uri"]), event.ref.generation)
    if not services.warehouse.query(*of_version):
        raise BadEvent("message.attributes.objectGeneration: is no version that this object ever had")


def remove(event: ObjectEvent, row: Row, attempt: Attempt, services: Services) -> Outcome:
    """Write the tombstone of one object version, then remove its artifacts and announce that.

    This also handles the removal event of an overwrite: a tombstone hides only that version, so the order in
    which the events arrive does not matter.
    """
    with attempt.step(Stage.APPEND):
        services.warehouse.append("instances", [row])
    with attempt.step(Stage.WRITE):
        remove_artifacts(event.shown, services)
    with attempt.step(Stage.ANNOUNCE):
        services.announcers.announce([announcements.removed(row)])
    return Outcome(Status.DELETED)


def give_up(error: DicomlakeError, attempt: Attempt, services: Services, how: GiveUp) -> Outcome:
    """Record a failed attempt; dead-letter a permanent failure that is due, else raise the error again."""
    message, event = attempt.message, attempt.event
    error.stage = attempt.stage
    uri = services.shown_uri(event.ref.name, event.ref.bucket) if event else ""
    if FORWARD_TO in message.attributes:
        uri = message.attributes.get("objectUri", "")
    reason = Reason(error.code, f"{attempt.stage}: {error.text}", uri)
    permanent = isinstance(error, PermanentError)
    given_up = Outcome(Status.DEAD_LETTERED, error.code, stored=attempt.stored, reason=reason.text)
    if permanent and how is GiveUp.SILENTLY:
        return given_up
    # Overload is not the object's fault. Record it only late, so that a dead letter will have a reason.
    if not (isinstance(error, Overloaded) and (message.attempt or 0) < OVERLOADED_ATTEMPTS):
        with suppress(DicomlakeError):  # best effort: the redelivery is what matters
            row = failure_row(reason, permanent, attempt.facts(), services.now())
            services.warehouse.append("failures", [row])
    now = how is GiveUp.NOW or isinstance(error, ForwardRefused)  # asking a receiver again changes nothing
    if not (permanent and (now or _due(message, services))):
        raise error
    services.bus.dead_letter(message, reason)
    if services.letter_announcers:
        is_verbatim = services.cleaning is None  # else names of objects would leave the lake
        letter = announcements.dead_lettered(message, reason, is_verbatim)
        services.letter_announcers.announce([letter])
    return given_up


def _due(message: Message, services: Services) -> bool:
    """Return whether this delivery is the one at which a permanent failure is given up."""
    last = services.settings.delivery.permanent_attempts
    return bool(last) and message.attempt is not None and message.attempt >= last
