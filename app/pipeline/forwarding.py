"""Forward pictures: a message for each picture and receiver, on the bus of events or a topic of their own.

    append the row ─▶ announce ─▶ publish a message for each receiver ─▶ ack
    that message ─▶ read the preview ─▶ send it ─▶ a row of `deliveries` ─▶ ack

So retries, pauses, dead letters and requeue are those of the bus. Each delivery has a row `queued` before the
row of its instance is appended: whoever sees that row can see which deliveries are not finished yet.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime

from app.model.errors import BadEvent, ForwardRefused, ForwardUnavailable, ObjectGone
from app.model.names import digest
from app.model.values import FORWARD_TO, Message, ObjectEvent, Outcome, Picture, Row, Stage, Status
from app.pipeline.attempt import Attempt
from app.services import Services

QUEUED, DELIVERED, REFUSED, DROPPED = "queued", "delivered", "refused", "dropped"
"""States of a delivery. Dropped: its receiver is set no more, or its picture is gone."""
FACTS = ("collection", "study_instance_uid", "series_instance_uid", "sop_instance_uid", "modality")
"""Columns of `instances` that a receiver gets."""
MAX_ATTRIBUTE_BYTES = 1024  # as Pub/Sub


def expect_deliveries(rows: Sequence[Row], services: Services) -> None:
    """Record which deliveries the rows will have; called before the rows are appended."""
    queued = [
        _delivery(str(row["row_id"]), name, QUEUED, services)
        for row in _with_picture(rows)
        for name in services.receivers
    ]
    if queued:
        services.warehouse.append("deliveries", queued)


def publish_deliveries(event: ObjectEvent, rows: Sequence[Row], services: Services) -> None:
    """Publish a message for each picture and receiver; return once all are durable."""
    messages = [_message(event, row, name) for row in _with_picture(rows) for name in services.receivers]
    if messages:
        (services.forward_bus or services.bus).publish_all(messages)


def deliver(message: Message, attempt: Attempt, services: Services) -> Outcome:
    """Send one picture to one receiver and record that.

    Raises ForwardRefused if the receiver refuses it or this was the last delivery, else ForwardUnavailable.
    """
    name = message.attributes[FORWARD_TO]
    with attempt.step(Stage.READ):
        row_id, path, uri, facts = _fields(message)
        receiver, gone = services.receivers.get(name), "receiver_gone"
        if receiver is not None:
            try:
                picture = Picture(row_id, path, facts, services.artifacts.read(uri))
            except ObjectGone as error:
                receiver, gone = None, error.code
    if receiver is None:
        services.warehouse.append("deliveries", [_delivery(row_id, name, DROPPED, services)])
        return Outcome(Status.SUPERSEDED, gone)
    try:
        with attempt.step(Stage.FORWARD):
            receiver.forward(picture)
    except ForwardUnavailable as error:
        if (message.attempt or 0) < services.settings.delivery.max_attempts:
            unavailable = ForwardUnavailable(f"{name}: {error.text}")
            unavailable.retry_after_s = _seconds(error.retry_after, services.now())
            raise unavailable from error
        services.warehouse.append("deliveries", [_delivery(row_id, name, REFUSED, services)])
        raise ForwardRefused(f"{name}: {error.text} after {message.attempt} deliveries") from error
    except ForwardRefused as error:
        services.warehouse.append("deliveries", [_delivery(row_id, name, REFUSED, services)])
        raise ForwardRefused(f"{name}: {error.text}") from error
    services.warehouse.append("deliveries", [_delivery(row_id, name, DELIVERED, services)])
    return Outcome(Status.FORWARDED)


def _with_picture(rows: Sequence[Row]) -> Iterable[Row]:
    return (row for row in rows if row["preview_uri"] is not None)


def _delivery(row_id: str, target: str, status: str, services: Services) -> Row:
    return {"row_id": row_id, "target": target, "status": status, "at": services.now()}


def _message(event: ObjectEvent, row: Row, target: str) -> Message:
    """Return the message of one delivery; its id lets the embedded queue drop a repetition."""
    row_id, uri = str(row["row_id"]), str(row["object_uri"])
    path = event.shown.name if row["member"] is None else f"{event.shown.name}/{row['member']}"
    value = {
        "row_id": row_id,
        "path": path,
        "preview_uri": row["preview_uri"],
        "facts": {name: row.get(name) for name in FACTS},
    }
    attributes = {FORWARD_TO: target}
    if len(uri.encode()) <= MAX_ATTRIBUTE_BYTES:
        attributes["objectUri"] = uri
    if row.get("correlation_id"):
        attributes["correlationId"] = str(row["correlation_id"])
    return Message(json.dumps(value).encode(), attributes, digest(f"{row_id} {target}"))


def _fields(message: Message) -> tuple[str, str, str, dict[str, str | None]]:
    """Return row_id, path, address of the preview and facts; raises BadEvent unless it is ours."""
    try:
        value = json.loads(message.data)
        row_id, path, uri = (value[name] for name in ("row_id", "path", "preview_uri"))
        facts = {name: value["facts"].get(name) for name in FACTS}
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise BadEvent(f"message.data: is not that of a message with {FORWARD_TO}") from None
    if not all(isinstance(text, str) for text in (row_id, path, uri, *facts.values()) if text is not None):
        raise BadEvent("message.data: has something else where text is expected")
    return row_id, path, uri, facts


def _seconds(retry_after: str, now: datetime) -> float:
    """Return the pause that a receiver asks for in Retry-After; 0 if none or not readable."""
    if retry_after.isascii() and retry_after.isdecimal():
        return float(retry_after[:9])
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - now).total_seconds())
    except (ValueError, TypeError):  # no date, or one without a zone
        return 0.0
