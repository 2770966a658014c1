"""Pure: what an event and an instance become in the tables; every key is derived from the event."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from app import __version__
from app.model.values import Instance, Message, ObjectEvent, ObjectRef, Reason, Row

MAX_SEGMENT = 224
"""Longest segment of an artifact's path in bytes of UTF-8; a revision and a suffix are still to come."""
MAX_PATH = 450
"""Longest path of an object version, and of a member in it, of the 1,024 bytes that Cloud Storage takes."""
_UNSAFE = re.compile("[%^\0-\x1f\x7f\ud800-\udfff]")
_ARTIFACT = re.compile(r"(?i)\.(json|png)$")
_LIKE_REVISION = re.compile(r"\.(r[0-9]+)\Z")


@dataclass(frozen=True, slots=True)
class Written:
    """The artifacts of one instance, by URI."""

    metadata_uri: str
    preview_uri: str | None


def row_id(event: ObjectEvent, member: str | None = None) -> str:
    """Return the key of a row: SHA-256 over what names the event, so that a repeat has the same key."""
    ref = event.ref
    parts = [ref.bucket, ref.name, ref.generation, event.metageneration, member, event.type.value]
    if event.revision is not None:
        parts.append(event.revision)
    return hashlib.sha256(json.dumps(parts, ensure_ascii=True).encode()).hexdigest()


def collection(name: str) -> str | None:
    """Return the first segment of an object's name: a customer's folder; None where the name is in none."""
    folder, slash, _ = name.partition("/")
    return folder if slash and folder else None


def event_row(event: ObjectEvent, message: Message, object_uri: str, now: datetime) -> dict[str, object]:
    """Return the columns of `instances` that come from the event alone; for a removal, the whole row."""
    return {
        "row_id": row_id(event),
        "object_uri": object_uri,
        "generation": event.ref.generation,
        "metageneration": event.metageneration,
        "revision": event.revision,
        "event_type": event.type.value,
        "event_time": event.time,
        "ingested_at": now,
        "message_id": message.message_id or None,
        "correlation_id": message.correlation_id or None,
        "delivery_attempt": message.attempt,
        "size_bytes": event.size,
        "crc32c": event.crc32c,
        "storage_class": event.storage_class,
        "app_version": __version__,
    }


def artifact_stem(ref: ObjectRef, member: str | None = None, revision: int | None = None) -> str:
    """Return what the names of the artifacts of one object version, or of a member of it, have in common.

    No two are equal. Only what `version_path` begins can be found in a list: all but the first description of
    an object that is no archive, whose name is left to the store, except for `^`. So a segment that ends in
    `^` is the version of an archive.
    """
    if member is not None:
        path = _LIKE_REVISION.sub(r"^2e\1", artifact_path(member))
        stem = f"{version_path(ref)}^/{_short(path)}"
    elif revision is None:
        stem = f"{ref.name}.{ref.generation}".replace("^", "^5e")
    else:
        stem = version_path(ref)
    return stem if revision is None else f"{stem}.r{revision}"


def version_path(ref: ObjectRef) -> str:
    """Return the path of one object version in the form that every store lists unchanged."""
    return _short(artifact_path(f"{ref.name}.{ref.generation}"))


def _short(path: str) -> str:
    """Return a path, or its digest where object stores would not take it with all that is around it."""
    data = path.encode()
    return path if len(data) <= MAX_PATH else f"^~{hashlib.sha256(data).hexdigest()}"


def artifact_path(name: str, max_segment: int = MAX_SEGMENT) -> str:
    """Return the name of a file as a path that every object store takes and gives back unchanged in a list.

    Ordinary names stay as they are, and no two become one. What some object store or file system does not
    take is written `^25`, as is `^` itself, and the first character of a segment `.` or `..`. A folder is
    never called as an artifact may be, and a long segment ends in a digest.
    """
    *folders, last = [_segment(segment, max_segment) for segment in name.split("/")]
    return "/".join([*(f"{one}^" if _ARTIFACT.search(one) else one for one in folders), last])


def _segment(segment: str, max_segment: int) -> str:
    text = _UNSAFE.sub(lambda found: f"^{ord(found.group()):02x}", segment) or "^"
    if segment in (".", "..") or segment.startswith(".dicomlake-"):
        text = f"^2e{text[1:]}"
    if len(text.encode()) <= max_segment:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{text.encode()[: max_segment - 68].decode(errors='ignore')}^~{digest}"


def instance_row(
    row: Row, event: ObjectEvent, instance: Instance, written: Written, took_ms: Mapping[str, int]
) -> Row:
    """Return the row of one stored instance: `row` of the event, the data set's columns, the artifacts."""
    took = {**took_ms, **instance.took_ms}
    return {
        **instance.columns,  # first, so that nothing in them stands for what the event says
        **row,
        "row_id": row_id(event, instance.member),
        "member": instance.member,
        "metadata": instance.metadata,
        "metadata_uri": written.metadata_uri,
        "preview_uri": written.preview_uri,
        "preview_error": instance.preview_error,
        "warnings": [{"tag": warning.tag, "code": warning.code} for warning in instance.warnings],
        "took_ms": {stage: took.get(stage, 0) for stage in ("read", "parse", "render", "write")},
    }


def failure_row(reason: Reason, permanent: bool, facts: Row, now: datetime) -> Row:
    """Return the row of `failures` for one failed attempt; `facts` are those of the delivery."""
    return {
        "message_id": facts.get("message_id"),
        "delivery_attempt": facts.get("attempt"),
        "object_uri": reason.object_uri or None,
        "generation": facts.get("generation"),
        "event_type": facts.get("event_type"),
        "code": reason.code,
        "message": reason.text,
        "permanent": permanent,
        "failed_at": now,
        "app_version": __version__,
    }
