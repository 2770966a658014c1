"""A message as an event: which version of which object changed, and whether that is work for us.

Pure. Every refusal is a BadEvent of one sentence: the JSON path, then what is wrong there; never the value.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from app.events.requests import check_attributes, read_time
from app.events.strict_json import check, read_json
from app.model.errors import BadEvent
from app.model.values import REVISION, EventType, Message, ObjectEvent, ObjectRef

MAX_INT64 = 2**63 - 1
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
COMPOSITE_PARTS = ("gcloud/tmp/parallel_composite_uploads/", "gsutil/tmp/parallel_composite_uploads/")
FOLDER_MARKERS = ("/", "_$folder$")
"""Ends of the names of empty objects that stand for folders: the console's, and Hadoop's."""

_BUCKET = re.compile(r"[^/\x00-\x1f\x7f]{1,222}")
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")


def object_event(message: Message) -> ObjectEvent:
    """Read a Cloud Storage notification: from its attributes, and from its payload where there is one.

    Parameters
    ----------
    message : with the attributes of a notification; `data` is the JSON object resource or empty. Empty data
        is taken with any payloadFormat: the attributes alone name the object version, and in Pub/Sub's JSON
        an empty field and an absent one are the same. With payloadFormat NONE, data is not looked at

    Returns
    -------
    ObjectEvent; `size` in bytes. `time` is eventTime, else the publish time, else 1970-01-01: nothing is
    ordered by it, so a bad time is no reason to refuse

    Raises
    ------
    BadEvent : a value is missing or not legal, payload and attributes disagree, or something other than a
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
    """Say why an event needs no work.

    Parameters
    ----------
    event : of any object
    own_prefixes : what names of our own artifacts in the event's bucket begin with; () if there are none
    wanted_types : the types of events to work on

    Returns
    -------
    `unwanted_type`, `own_artifact`, `composite_part`, `empty_object`, or None: there is work
    """
    name = event.ref.name
    if event.type not in wanted_types:
        return "unwanted_type"
    if name.startswith(own_prefixes):
        return "own_artifact"
    if name.removeprefix("/").startswith(COMPOSITE_PARTS):
        return "composite_part"
    # Unknown size: a name with a final slash is a folder, but its tombstone stays, in case it was not.
    gone = event.type in (EventType.DELETE, EventType.ARCHIVE)
    folder = event.size is None and name.endswith("/") and not gone
    # Any other empty object may be an upload that failed: its name tells whether that matters.
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
