"""Build rows from events and instances. Pure: every key is derived from the event."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from app import __version__
from app.model.names import digest, escaped, shortened
from app.model.values import Instance, Message, ObjectEvent, ObjectRef, Reason, Row

MAX_SEGMENT = 224
"""Longest segment of an artifact's path in UTF-8 bytes, before a revision and a suffix are added."""
MAX_PATH = 450
"""Longest path of an object version and of a member in it; Cloud Storage allows 1,024 bytes in all."""
_UNSAFE = re.compile("[%^\0-\x1f\x7f\ud800-\udfff]")
_ARTIFACT = re.compile(r"(?i)\.(json|png)$")
_LIKE_REVISION = re.compile(r"\.(r[0-9]+)\Z")


@dataclass(frozen=True, slots=True)
class Written:
    """URIs of the artifacts of one instance."""

    metadata_uri: str
    preview_uri: str | None
    dicom_uri: str | None = None


def row_id(event: ObjectEvent, member: str | None = None) -> str:
    """Return the key of a row: SHA-256 over the event's identity, so a repeated event has the same key."""
    ref = event.shown
    parts = [ref.bucket, ref.name, ref.generation, event.metageneration, member, event.type.value]
    if event.revision is not None:
        parts.append(event.revision)
    return hashlib.sha256(json.dumps(parts, ensure_ascii=True).encode()).hexdigest()


def collection(name: str, prefixes: Sequence[str]) -> str | None:
    """Return the first path segment of an object's name, such as a customer's folder; None without one.

    The first of `prefixes` that the name has is left out.
    """
    prefix = next((one for one in prefixes if name.startswith(one)), "")
    folder, slash, _ = name.removeprefix(prefix).partition("/")
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
    """Return the stem of the artifact names of one object version, or of one of its members.

    Stems are unique. Stems that begin with `version_path` can be found by listing. The exception is the first
    description of an object that is not an archive: its name is passed to the store unchanged except for `^`.
    Therefore only the version of an archive is a segment that ends in `^`.
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
    """Return a path, or its digest if the complete name would be too long for an object store."""
    return path if len(path.encode()) <= MAX_PATH else f"^~{digest(path)}"


def artifact_path(name: str, max_segment: int = MAX_SEGMENT) -> str:
    """Return a file name as a path that every object store accepts and lists unchanged.

    Ordinary names stay as they are, and different names stay different. Characters that some object store or
    file system rejects are escaped as in `^25`, and so are `^` itself and the first character of the segments
    `.` and `..`. A folder never has the name of an artifact. A long segment is cut and ends in a digest.
    """
    *folders, last = [_segment(segment, max_segment) for segment in name.split("/")]
    return "/".join([*(f"{one}^" if _ARTIFACT.search(one) else one for one in folders), last])


def _segment(segment: str, max_segment: int) -> str:
    text = escaped(segment, _UNSAFE, "^") or "^"
    if segment in (".", "..") or segment.startswith(".dicomlake-"):
        text = f"^2e{text[1:]}"
    if len(text.encode()) <= max_segment:
        return text
    return shortened(text, max_segment - 68, "^~")


def instance_row(
    row: Row, event: ObjectEvent, instance: Instance, written: Written, took_ms: Mapping[str, int]
) -> Row:
    """Return the row of one stored instance: the event's `row`, the data set's columns, the artifacts."""
    took = {**took_ms, **instance.took_ms}
    # A clean copy has no checksum: that of the original would let anyone who holds it recognise the picture.
    size = instance.copy_size if instance.copy is None else len(instance.copy)
    bytes_of = {} if size is None else {"size_bytes": size, "crc32c": None}
    return {
        **instance.columns,  # first, so that the data set cannot override columns of the event
        **row,
        **bytes_of,
        "row_id": row_id(event, instance.member),
        "member": instance.member,
        "metadata": instance.metadata,
        "metadata_uri": written.metadata_uri,
        "preview_uri": written.preview_uri,
        "dicom_uri": written.dicom_uri,
        "preview_error": instance.preview_error,
        "warnings": [{"tag": warning.tag, "code": warning.code} for warning in instance.warnings],
        "took_ms": {stage: took.get(stage, 0) for stage in ("read", "parse", "render", "write")},
    }


def failure_row(reason: Reason, permanent: bool, facts: Row, now: datetime) -> Row:
    """Return the row of `failures` for one failed attempt; `facts` describe the delivery."""
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
