"""Turn a message into an event: which version of which object changed, and whether it needs work.

Pure. A refusal is a BadEvent with one sentence: the JSON path and what is wrong there, never the value.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from app.events.requests import check_attributes, read_time
from app.events.strict_json import check, read_json
from app.model.errors import BadEvent
from app.model.values import REMOVALS, REVISION, EventType, Message, ObjectEvent, ObjectRef

MAX_INT64 = 2**63 - 1
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
COMPOSITE_PARTS = ("gcloud/tmp/parallel_composite_uploads/", "gsutil/tmp/parallel_composite_uploads/")
FOLDER_MARKERS = ("/", "_$folder$")
"""Suffixes of empty objects that represent folders: those of the Cloud console and of Hadoop."""

_BUCKET = re.compile(r"[^/\x00-\x1f\x7f]{1,222}")
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")


def object_event(message: Message) -> ObjectEvent:
    """Parse a Cloud Storage notification: its attributes and, if present, its payload.

    Parameters
    ----------
    message : has the attributes of a notification; `data` is the JSON object resource or empty. Empty data is
        accepted with any payloadFormat: the attributes alone identify the object version, and Pub/Sub's JSON
        does not distinguish an empty field from a missing one. With payloadFormat NONE, data is ignored

    Returns
    -------
    ObjectEvent; `size` in bytes. `time` is eventTime, else the publish time, else 1970-01-01: a bad time is
    accepted, because nothing is ordered by time

    Raises
    ------
    BadEvent : a value is missing or illegal, payload and attributes disagree, or an event other than a
        finalize has a revision

    References
    ----------
    Cloud Storage: Pub/Sub notifications; object and bucket naming; JSON API object resource
    """
    attributes = message.attributes
    check_attributes(attributes)
    kind = _event_type(_attribute(attributes, "eventType"))
    ref = ObjectRef(_bucket(attributes), _name(attributes), _generation(attributes, "objectGeneration"))
    resource = _resource(message, ref)
    if REVISION in attributes and kind is not EventType.FINALIZE:
        raise BadEvent(f"message.attributes.{REVISION}: only an OBJECT_FINALIZE may have one")

    def optional_number(name: str) -> int | None:
        return _generation(attributes, name) if name in attributes else None

    return ObjectEvent(
        type=kind,
        ref=ref,
        time=read_time(attributes.get("eventTime")) or message.publish_time or EPOCH,
        metageneration=_count(resource, "metageneration"),
        size=_count(resource, "size"),
        crc32c=resource.get("crc32c"),
        storage_class=resource.get("storageClass"),
        overwritten_by=optional_number("overwrittenByGeneration"),
        overwrote=optional_number("overwroteGeneration"),
        revision=optional_number(REVISION),
    )


def ignored(
    event: ObjectEvent, own_prefixes: tuple[str, ...], wanted_types: Collection[EventType]
) -> str | None:
    """Return why an event needs no work.

    Parameters
    ----------
    event : any event
    own_prefixes : prefixes of our own artifacts in the event's bucket; () if there are none
    wanted_types : types of events to process

    Returns
    -------
    `unwanted_type`, `own_artifact`, `composite_part` or `empty_object`; None if the event needs work
    """
    name = event.ref.name
    if event.type not in wanted_types:
        return "unwanted_type"
    if name.startswith(own_prefixes):
        return "own_artifact"
    if name.removeprefix("/").startswith(COMPOSITE_PARTS):
        return "composite_part"
    # Without a size, a final slash means a folder. Keep its removal all the same: it may have been an object.
    gone = event.type in REMOVALS
    folder = event.size is None and name.endswith("/") and not gone
    # Any other empty object may be a failed upload; `source.expect` decides by its name.
    marker = event.size == 0 and name.endswith(FOLDER_MARKERS)
    return "empty_object" if marker or folder else None


def _attribute(attributes: Mapping[str, str], name: str) -> str:
    if not attributes.get(name):
        raise BadEvent(f"message.attributes.{name}: is missing")
    return attributes[name]


def _event_type(value: str) -> EventType:
    try:
        return EventType(value)
    except ValueError:
        raise BadEvent("message.attributes.eventType: is not a known type of event") from None


def _bucket(attributes: Mapping[str, str]) -> str:
    bucket = _attribute(attributes, "bucketId")
    if not _BUCKET.fullmatch(bucket) or bucket in (".", ".."):
        raise BadEvent("message.attributes.bucketId: is not a legal bucket name")
    return bucket


def _name(attributes: Mapping[str, str]) -> str:
    name = _attribute(attributes, "objectId")
    if name in (".", "..") or "\r" in name or "\n" in name:
        raise BadEvent("message.attributes.objectId: is not a legal object name")
    return name


def _generation(attributes: Mapping[str, str], name: str) -> int:
    value, path = _attribute(attributes, name), f"message.attributes.{name}"
    if value == "0":
        raise BadEvent(f"{path}: is not a positive integer")
    return _number(value, path, "positive")


def _count(resource: Mapping[str, str], name: str) -> int | None:
    value = resource.get(name)
    return None if value is None else _number(value, f"message.data.{name}", "non-negative")


def _number(value: str, path: str, kind: str) -> int:
    if not _DECIMAL.fullmatch(value) or int(value) > MAX_INT64:
        raise BadEvent(f"{path}: is not a {kind} integer")
    return int(value)


def _resource(message: Message, ref: ObjectRef) -> dict[str, Any]:
    """Return the payload, checked against the attributes; empty when there is none."""
    form = message.attributes.get("payloadFormat", "JSON_API_V1")
    if form not in ("JSON_API_V1", "NONE"):
        raise BadEvent("message.attributes.payloadFormat: is not a known format")
    if form == "NONE" or not message.data:
        return {}
    resource: dict[str, Any] = read_json(message.data, "message.data")
    check(resource, "object.json", "message.data")
    said = {"bucket": ref.bucket, "name": ref.name, "generation": str(ref.generation)}
    for key, value in said.items():
        if resource[key] != value:
            raise BadEvent(f"message.data.{key}: differs from the message's attribute")
    return resource
