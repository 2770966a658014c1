"""Turn an HTTP request into a message: Pub/Sub pushes, wrapped or not, and CloudEvents, binary or structured.

Pure. A refusal is a BadEvent with one sentence: the JSON path and what is wrong there, never the value.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

from app.events.strict_json import check, join_path, peek_json, read_json
from app.model.errors import BadEvent
from app.model.values import REVISION, EventType, Message

MAX_ATTEMPT = 1_000_000
MAX_ID = 1024
STRUCTURED = "application/cloudevents+json"
UNWRAPPED_ID = "x-goog-pubsub-message-id"

_KINDS = {
    "finalize": EventType.FINALIZE,
    "delete": EventType.DELETE,
    "archive": EventType.ARCHIVE,
    "metadataUpdate": EventType.METADATA_UPDATE,
}
# Event types of Eventarc, and of the older background functions.
STORAGE_EVENTS = {f"google.cloud.storage.object.v1.{word}d": kind for word, kind in _KINDS.items()} | {
    f"google.storage.object.{word}": kind for word, kind in _KINDS.items()
}
PUBSUB_EVENT = "google.cloud.pubsub.topic.v1.messagePublished"
# HTTP header names arrive in lower case. Only these become attributes: any other header may be a credential.
UNWRAPPED_ATTRIBUTES = (
    *("notificationConfig", "eventType", "payloadFormat", "bucketId", "objectId", "objectGeneration"),
    *("eventTime", "overwroteGeneration", "overwrittenByGeneration", "correlationId", "correlation_id"),
    REVISION,
)

_SURROGATE = re.compile("[\ud800-\udfff]")
_DIGITS = re.compile(r"[0-9]{1,7}")
_TRACE = re.compile(r"(?:00-)?(?!0{32})([0-9a-f]{32})(?:[-/;].*)?")


def message_from_request(headers: Mapping[str, str], body: bytes) -> Message:
    """Parse one delivery: a Pub/Sub push, wrapped or not, or a CloudEvent, binary or structured.

    Parameters
    ----------
    headers : of the HTTP request, names in any case, values as text (ISO 8859-1 as servers decode them)
    body : of the HTTP request, bytes

    Returns
    -------
    Message; a storage CloudEvent becomes the same message as the notification of that change. A message
    without an id gets the SHA-256 of the body; `attempt` is None unless it is a plausible number

    Raises
    ------
    BadEvent : the request has none of these forms

    References
    ----------
    Pub/Sub push and payload unwrapping; CloudEvents 1.0 HTTP binding 3.1, 3.2; RFC 8259
    """
    headers = _lowered(headers)
    message = _message(headers, body)
    check_attributes(message.attributes)
    message_id = message.message_id or hashlib.sha256(body).hexdigest()
    correlation_id = _correlation_id(message.attributes, headers) or message_id
    return replace(message, message_id=message_id, correlation_id=correlation_id)


def given_id(headers: Mapping[str, str], body: bytes = b"") -> str | None:
    """Return the id of a request's message, or None if there is no readable id.

    Used to answer a refused request, so everything else in the request may be malformed.

    Parameters
    ----------
    headers, body : as in `message_from_request`; the body may be missing
    """
    try:
        headers = _lowered(headers)
    except BadEvent:
        return None
    event: Any = {name[3:]: _ce_value(value) for name, value in headers.items() if name.startswith("ce-")}
    push = peek_json(body)
    if _media_type(headers) == STRUCTURED:
        event = push if isinstance(push, dict) else {}
        push = event.get("data")
        with suppress(BadEvent, TypeError):
            push = peek_json(_from_base64(event["data_base64"], "")) if "data_base64" in event else push
    message = push.get("message") if isinstance(push, dict) else None
    message = message if isinstance(message, dict) else {}
    given = (
        message.get("messageId"), message.get("message_id"), headers.get(UNWRAPPED_ID), event.get("id")
    )  # fmt: skip
    return next((value for value in given if _is_id(value)), None)


def check_attributes(attributes: Mapping[str, str]) -> None:
    """Raise BadEvent for attributes over Pub/Sub's limits: the message could not be dead-lettered."""
    if len(attributes) > 100:
        raise BadEvent("message.attributes: has too many members")
    for name, value in attributes.items():
        try:
            fits = len(name.encode()) <= 256 and len(value.encode()) <= 1024
        except UnicodeEncodeError:
            raise BadEvent(f"{join_path('message.attributes', name)}: is not valid Unicode") from None
        if not fits:
            raise BadEvent(f"{join_path('message.attributes', name)}: is too long")


def read_time(value: object) -> datetime | None:
    """Parse an RFC 3339 time; return None if it is not one."""
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else None
        return time.astimezone(UTC) if time and time.tzinfo else None
    except (ValueError, OverflowError):
        return None


def _lowered(headers: Mapping[str, str]) -> dict[str, str]:
    """Lower-case the names, and decode values that were sent as raw UTF-8."""
    lowered = {name.lower(): value for name, value in headers.items()}
    try:
        if not "".join(lowered.values()).isascii():
            lowered = {name: _utf8(value) for name, value in lowered.items()}
    except UnicodeEncodeError:
        raise BadEvent("headers: are not valid Unicode") from None
    return lowered


def _utf8(value: str) -> str:
    value.encode()
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value


def _media_type(headers: Mapping[str, str]) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _is_id(value: object) -> bool:
    """Return whether a value is a valid message id that can be repeated in an answer."""
    return isinstance(value, str) and 0 < len(value) <= MAX_ID and not _SURROGATE.search(value)


def _message(headers: Mapping[str, str], body: bytes) -> Message:
    """Detect the form of the request by its distinctive headers."""
    media = _media_type(headers)
    if media == STRUCTURED:
        return _from_structured(read_json(body, "body"))
    if media.startswith("application/cloudevents"):
        raise BadEvent("headers.content-type: is not the format of a single CloudEvent in JSON")
    if "ce-type" in headers or "ce-specversion" in headers:
        event = {name[3:]: _ce_value(value) for name, value in headers.items() if name.startswith("ce-")}
        check(event, "cloudevent.json", "")
        return _from_cloudevent(event, body, "body")
    if UNWRAPPED_ID in headers:
        return _from_unwrapped(headers, body)
    return _from_push(read_json(body, "body"), "")


def _from_push(push: Any, root: str) -> Message:
    check(push, "push.json", root)
    message = push["message"]
    path = f"{root}.message.data".removeprefix(".")
    return Message(
        data=_from_base64(message.get("data", ""), path),
        attributes=message.get("attributes", {}),
        message_id=message.get("messageId") or message.get("message_id") or "",
        publish_time=read_time(message.get("publishTime", message.get("publish_time"))),
        attempt=_attempt(push.get("deliveryAttempt", push.get("delivery_attempt"))),
        subscription=push.get("subscription", ""),
    )


def _from_unwrapped(headers: Mapping[str, str], body: bytes) -> Message:
    """Parse an unwrapped push: the body is the data.

    Pub/Sub documents no header for the delivery attempt; our embedded queue sends one.
    """
    attempt = headers.get("x-goog-pubsub-delivery-attempt", "")
    return Message(
        data=body,
        attributes={name: headers[name.lower()] for name in UNWRAPPED_ATTRIBUTES if name.lower() in headers},
        message_id=headers[UNWRAPPED_ID],
        publish_time=read_time(headers.get("x-goog-pubsub-publish-time")),
        attempt=_attempt(int(attempt)) if _DIGITS.fullmatch(attempt) else None,
        subscription=headers.get("x-goog-pubsub-subscription-name", ""),
    )


def _from_structured(event: Any) -> Message:
    check(event, "cloudevent.json", "")
    if "data_base64" in event:
        return _from_cloudevent(event, _from_base64(event["data_base64"], "data_base64"), "data_base64")
    return _from_cloudevent(event, json.dumps(event.get("data")).encode(), "data")


def _from_cloudevent(event: dict[str, Any], data: bytes, path: str) -> Message:
    """Parse a CloudEvent whose context attributes are already checked; `path` locates its data in errors."""
    if event["type"] == PUBSUB_EVENT:
        message = _from_push(read_json(data, path), path)
        return replace(message, message_id=message.message_id or event["id"])
    if event["type"] not in STORAGE_EVENTS:
        raise BadEvent("type: is not a CloudEvent that this service takes")
    resource = read_json(data, path)
    check(resource, "object.json", path)
    # Some senders percent-encode the subject and some do not, so decode both sides once more.
    if "subject" in event and unquote(event["subject"]) != unquote(f"objects/{resource['name']}"):
        raise BadEvent("subject: differs from the name in the data")
    attributes = {
        "eventType": STORAGE_EVENTS[event["type"]].value,
        "payloadFormat": "JSON_API_V1",
        "bucketId": event.get("bucket", resource["bucket"]),
        "objectId": resource["name"],
        "objectGeneration": resource["generation"],
        "eventTime": event.get("time", ""),
    }
    return Message(data, attributes, event["id"], publish_time=read_time(event.get("time")))


def _ce_value(value: str) -> str:
    """Decode a `ce-` header: unquote, then percent-decode once (CloudEvents HTTP binding 3.1.3.2)."""
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError:
        return value


def _correlation_id(attributes: Mapping[str, str], headers: Mapping[str, str]) -> str:
    """Return the correlation id set by the publisher, else the id of the request's trace, else ""."""
    given = attributes.get("correlationId") or attributes.get("correlation_id")
    if given:
        return given
    for name in ("traceparent", "x-cloud-trace-context"):
        trace = _TRACE.fullmatch(headers.get(name, ""))
        if trace:
            return trace[1]
    return ""


def _attempt(value: object) -> int | None:
    """Return the delivery attempt if it is a plausible number; it is only a hint, so never refuse."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_ATTEMPT:
        return None
    return value


def _from_base64(text: str, path: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise BadEvent(f"{path}: is not base64") from None
