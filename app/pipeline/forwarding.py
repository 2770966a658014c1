"""Forward pictures: a message for each picture and receiver, on the bus of events or a topic of their own.

    append the row ─▶ announce ─▶ publish a message for each receiver ─▶ ack
    that message ─▶ read the preview ─▶ send it ─▶ a row of `deliveries` ─▶ ack

So retries, pauses, dead letters and requeue are those of the bus. Each delivery has a row `queued` before the
row of its instance is appended: whoever sees that row can see which deliveries are not finished yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime

from app.model.deliveries import (
    DELIVERED,
    DROPPED,
    QUEUED,
    REFUSED,
    delivery,
    delivery_fields,
    delivery_message,
)
from app.model.errors import ForwardRefused, ForwardUnavailable, ObjectGone
from app.model.values import FORWARD_TO, Message, ObjectEvent, Outcome, Picture, Row, Stage, Status
from app.pipeline.attempt import Attempt
from app.services import Services


def expect_deliveries(rows: Sequence[Row], services: Services) -> None:
    """Record which deliveries the rows will have; called before the rows are appended."""
    queued = [
        delivery(str(row["row_id"]), name, QUEUED, services.now())
        for row in _with_picture(rows)
        for name in services.receivers
    ]
    if queued:
        services.warehouse.append("deliveries", queued)


def publish_deliveries(event: ObjectEvent, rows: Sequence[Row], services: Services) -> None:
    """Publish a message for each picture and receiver; return once all are durable."""
    messages = [
        delivery_message(event, row, name) for row in _with_picture(rows) for name in services.receivers
    ]
    if messages:
        (services.forward_bus or services.bus).publish_all(messages)


def deliver(message: Message, attempt: Attempt, services: Services) -> Outcome:
    """Send one picture to one receiver and record that.

    Raises ForwardRefused if the receiver refuses it or this was the last delivery, else ForwardUnavailable.
    """
    name = message.attributes[FORWARD_TO]
    with attempt.step(Stage.READ):
        row_id, path, uri, facts = delivery_fields(message)
        receiver, gone = services.receivers.get(name), "receiver_gone"
        if receiver is not None:
            try:
                picture = Picture(row_id, path, facts, services.artifacts.read(uri))
            except ObjectGone as error:
                receiver, gone = None, error.code
    if receiver is None:
        services.warehouse.append("deliveries", [delivery(row_id, name, DROPPED, services.now())])
        return Outcome(Status.SUPERSEDED, gone)
    try:
        with attempt.step(Stage.FORWARD):
            receiver.forward(picture)
    except ForwardUnavailable as error:
        if (message.attempt or 0) < services.settings.delivery.max_attempts:
            unavailable = ForwardUnavailable(f"{name}: {error.text}")
            unavailable.retry_after_s = _seconds(error.retry_after, services.now())
            raise unavailable from error
        services.warehouse.append("deliveries", [delivery(row_id, name, REFUSED, services.now())])
        raise ForwardRefused(f"{name}: {error.text} after {message.attempt} deliveries") from error
    except ForwardRefused as error:
        services.warehouse.append("deliveries", [delivery(row_id, name, REFUSED, services.now())])
        raise ForwardRefused(f"{name}: {error.text}") from error
    services.warehouse.append("deliveries", [delivery(row_id, name, DELIVERED, services.now())])
    return Outcome(Status.FORWARDED)


def _with_picture(rows: Sequence[Row]) -> Iterable[Row]:
    return (row for row in rows if row["preview_uri"] is not None)


def _seconds(retry_after: str, now: datetime) -> float:
    """Return the pause that a receiver asks for in Retry-After; 0 if none or not readable."""
    if retry_after.isascii() and retry_after.isdecimal():
        return float(retry_after[:9])
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - now).total_seconds())
    except (ValueError, TypeError):  # no date, or one without a zone
        return 0.0
