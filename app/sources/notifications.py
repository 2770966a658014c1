"""Build Cloud Storage notifications for file changes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from app.model.times import rfc3339
from app.model.values import REVISION, EventType, Message, ObjectRef
from app.storage.local.generations import Seen

MAX_ATTRIBUTE_BYTES = 1024  # as Pub/Sub


def messages(bucket: str, name: str, uri: str, seen: Seen, now: datetime) -> Iterator[Message]:
    """Yield the notification of a version or of its removal, and the removals of versions it replaced."""
    by: dict[str, str] = {}
    gone = list(seen.versions())
    if seen.live:
        generation, size = gone.pop()
        overwrote = {"overwroteGeneration": str(gone[-1][0])} if gone else {}
        by = {"overwrittenByGeneration": str(generation)}
        content = {"size": str(size)} | ({"crc32c": seen.crc32c} if seen.crc32c else {})
        message = notification(EventType.FINALIZE, ObjectRef(bucket, name, generation), uri, now, content)
        yield replace(message, attributes={**message.attributes, **overwrote})
    for generation, size in gone:
        content = {"size": str(size)}
        message = notification(EventType.DELETE, ObjectRef(bucket, name, generation), uri, now, content)
        yield replace(message, attributes={**message.attributes, **by})


def described_again(message: Message, revision: int, metageneration: int | None) -> Message:
    """Return a notification as a request to describe the version again.

    metageneration: that of the current row, so that the new row replaces it.
    """
    resource = json.loads(message.data)
    del resource["metageneration"]
    if metageneration is not None:
        resource["metageneration"] = str(metageneration)
    attributes = {**message.attributes, REVISION: str(revision)}
    return replace(message, data=json.dumps(resource).encode(), attributes=attributes)


def notification(
    kind: EventType, ref: ObjectRef, uri: str, time: datetime, content: Mapping[str, str] | None = None
) -> Message:
    """Return the message that Cloud Storage would publish for a change, plus our attribute `objectUri`.

    `objectUri` is omitted if it is longer than Pub/Sub allows; `dead_letters` then has `gs://bucket/object`.
    content: size in bytes and crc32c of the object, if known.
    """
    made, told = rfc3339(datetime.fromtimestamp(ref.generation / 1e9, UTC)), rfc3339(time)
    resource = {
        "kind": "storage#object",
        "id": f"{ref.bucket}/{ref.name}/{ref.generation}",
        "name": ref.name,
        "bucket": ref.bucket,
        "generation": str(ref.generation),
        "metageneration": "1",
        "timeCreated": made,
        "updated": made,
        **(content or {}),
    }
    if kind is EventType.DELETE:
        resource["timeDeleted"] = told
    attributes = {
        "notificationConfig": f"projects/_/buckets/{ref.bucket}/notificationConfigs/local",
        "eventType": kind.value,
        "payloadFormat": "JSON_API_V1",
        "bucketId": ref.bucket,
        "objectId": ref.name,
        "objectGeneration": str(ref.generation),
        "eventTime": told,
    }
    if len(uri.encode()) <= MAX_ATTRIBUTE_BYTES:
        attributes["objectUri"] = uri
    return Message(json.dumps(resource).encode(), attributes, message_id="")
