"""Pure: rows, tombstones, settled studies and dead letters as CloudEvents.

A value has a link and the main columns, never the data set. It depends only on the event, so a redelivery
announces the same value under the same id. docs/schemas has a JSON Schema for the value of each type.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from datetime import date, datetime

from app.model.values import REVISION, Announcement, Message, Reason, Row

STORED = "dicomlake.instance.stored.v1"
REMOVED = "dicomlake.instance.removed.v1"
SETTLED = "dicomlake.study.settled.v1"
DEAD_LETTERED = "dicomlake.message.dead_lettered.v1"

MAX_TEXT = 1024
"""Longer values of a data set are left out, since a broken file may have one of megabytes."""
MAX_DATA_BYTES = 256 * 2**10
"""A longer body of a dead letter is left out: brokers refuse messages over 1 MB. The table has it."""
ADDED = ("CloudPubSubDeadLetter", "dicomlake")
"""Prefix of attributes that were added when a message was given up; the revision was there before."""

_OBJECT = ("object_uri", "member", "generation", "metageneration", "revision", "collection")
_UIDS = ("study_instance_uid", "series_instance_uid", "sop_instance_uid")
_STUDY = ("patient_id", "issuer_of_patient_id", "accession_number", "study_date")
_STORED = (
    *(*_OBJECT, "size_bytes", *_UIDS, "sop_class_uid", "transfer_syntax_uid", *_STUDY, "modality"),
    *("metadata_uri", "preview_uri", "preview_error"),
)
_REMOVED = ("object_uri", "generation", "event_type")
STUDY_COLUMNS = ("study_instance_uid", *_STUDY, "object_uri", "row_id")
"""Columns of `instances` that `settled` reads from the last row of a study."""
_VERSIONS = ("generation", "metageneration")


def stored(row: Row) -> Announcement:
    """Return the announcement of a stored row of `instances`."""
    return _of_row(STORED, row, _STORED)


def removed(row: Row) -> Announcement:
    """Return the announcement of a removal from its row of `instances`."""
    return _of_row(REMOVED, row, _REMOVED)


def settled(row: Row, arrived_at: datetime) -> Announcement:
    """Return the announcement that a study is complete for now.

    Parameters
    ----------
    row : the STUDY_COLUMNS of the last row that arrived for the study
    arrived_at : when that row was made
    """
    value = {name: _plain(name, row.get(name)) for name in STUDY_COLUMNS}
    value["last_object_uri"] = value.pop("object_uri")
    value["last_row_id"] = value.pop("row_id")
    value["last_ingested_at"] = _plain("last_ingested_at", arrived_at)
    uid = str(row["study_instance_uid"])
    return Announcement(settled_id(row), SETTLED, "/dicomlake/studies", uid, _json(value), arrived_at)


def settled_id(row: Row) -> str:
    """Return the id of the announcement of a study whose last row is `row`."""
    return f"{row['study_instance_uid']}/{row['row_id']}"


def dead_lettered(message: Message, reason: Reason | None = None, is_verbatim: bool = True) -> Announcement:
    """Return the announcement of a message that was given up.

    Parameters
    ----------
    message : the message, or its copy on the dead-letter topic
    reason : why it was given up; None reads it from the attributes that the copy gained
    is_verbatim : false leaves out attributes and data, which name the object
    """
    given = message.attributes
    if reason is None:
        reason = Reason(
            given.get("dicomlakeCode", ""), given.get("dicomlakeReason", ""), given.get("objectUri", "")
        )
    uri = reason.object_uri or (object_uri(given) if is_verbatim else "")
    message_id = given.get("dicomlakeMessageId") or message.message_id
    data = message.data if is_verbatim and len(message.data) <= MAX_DATA_BYTES else None
    value = {
        "message_id": message_id,
        "delivery_attempt": _attempt(message),
        "object_uri": uri or None,
        "generation": given.get("objectGeneration"),
        "event_type": given.get("eventType"),
        "code": reason.code or None,
        "reason": reason.text or None,
        "attributes": own_attributes(given) if is_verbatim else {},
        "data": None if data is None else base64.b64encode(data).decode(),
        "correlation_id": given.get("correlationId") or message.correlation_id or message_id,
    }
    key = uri or message_id
    return Announcement(
        hashlib.sha256(json.dumps([DEAD_LETTERED, message_id, key]).encode()).hexdigest(),
        DEAD_LETTERED,
        "/dicomlake/dead_letters",
        key,
        _json(value),
        message.publish_time,
        str(value["correlation_id"]),
    )


def object_uri(attributes: Mapping[str, str]) -> str:
    """Return the address of the object that a message is about, by its attributes; empty if unknown."""
    given, bucket, name = (attributes.get(key, "") for key in ("objectUri", "bucketId", "objectId"))
    return given or (f"gs://{bucket}/{name}" if bucket and name else "")


def own_attributes(attributes: Mapping[str, str]) -> dict[str, str]:
    """Return the attributes that a message had before it was given up."""
    return {
        name: value for name, value in attributes.items() if name == REVISION or not name.startswith(ADDED)
    }


def _of_row(kind: str, row: Row, columns: tuple[str, ...]) -> Announcement:
    correlation_id = row.get("correlation_id")
    value = {name: _plain(name, row.get(name)) for name in columns}
    value["correlation_id"] = correlation_id
    time = row["event_time"]
    return Announcement(
        id=str(row["row_id"]),
        type=kind,
        source="/dicomlake/instances",
        key=str(row["object_uri"]),
        data=_json(value),
        time=time if isinstance(time, datetime) else None,
        correlation_id=str(correlation_id or ""),
    )


def _plain(name: str, value: object) -> object:
    """Return the value of a column as JSON has it; generations are text, for they exceed 2^53."""
    if name in _VERSIONS and value is not None:
        return str(value)
    if isinstance(value, date):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, str) and len(value) > MAX_TEXT and not name.endswith(("_uri", "member")):
        return None
    return value


def _attempt(message: Message) -> int | None:
    count = message.attributes.get("CloudPubSubDeadLetterSourceDeliveryCount", "")
    given = int(count) if count.isascii() and count.isdecimal() and len(count) < 10 else None
    return given or message.attempt


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
