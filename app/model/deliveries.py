"""Deliveries of pictures: the message of each, and its rows in the table `deliveries`."""

from __future__ import annotations

import json
from datetime import datetime

from app.model.errors import BadEvent
from app.model.names import digest
from app.model.values import FORWARD_TO, Message, ObjectEvent, Row

QUEUED, DELIVERED, REFUSED, DROPPED = "queued", "delivered", "refused", "dropped"
"""States of a delivery. Dropped: its receiver is no longer set, or its picture no longer exists."""
FACTS = ("collection", "study_instance_uid", "series_instance_uid", "sop_instance_uid", "modality")
"""Columns of `instances` that a receiver gets."""
MAX_ATTRIBUTE_BYTES = 1024  # as Pub/Sub


def delivery(row_id: str, target: str, status: str, at: datetime) -> Row:
    """Return the row of `deliveries` for one change."""
    return {"row_id": row_id, "target": target, "status": status, "at": at}


def delivery_message(event: ObjectEvent, row: Row, target: str) -> Message:
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


def delivery_fields(message: Message) -> tuple[str, str, str, dict[str, str | None]]:
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


def refused_delivery(letter: Message, at: datetime) -> Row | None:
    """Return the row of a delivery that became a dead letter; None if the letter is not one of a delivery."""
    target = letter.attributes.get(FORWARD_TO)
    if target is None:
        return None
    try:
        row_id, *_ = delivery_fields(letter)
    except BadEvent:
        return None
    return delivery(row_id, target, REFUSED, at)
