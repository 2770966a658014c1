"""Pushes as the different senders make them, by hand."""

import base64
import json
from pathlib import Path


def resource(path: Path, bucket: str = "landing", **more: object) -> dict[str, object]:
    """Return the JSON object resource of a file in the landing folder."""
    stat = path.stat()
    return {
        "kind": "storage#object",
        "name": path.name,
        "bucket": bucket,
        "generation": str(stat.st_mtime_ns),
        "metageneration": "1",
        "size": str(stat.st_size),
        **more,
    }


def attributes(path: Path, event_type: str = "OBJECT_FINALIZE", **more: str) -> dict[str, str]:
    """Return the attributes of a Cloud Storage notification about a file in the landing folder."""
    return {
        "eventType": event_type,
        "bucketId": "landing",
        "objectId": path.name,
        "objectGeneration": str(path.stat().st_mtime_ns),
        "eventTime": "2026-01-02T03:04:05.678901Z",
        "payloadFormat": "JSON_API_V1",
        **more,
    }


def wrapped(path: Path, attempt: int | None = None, event_type: str = "OBJECT_FINALIZE") -> dict[str, object]:
    """Return a wrapped Pub/Sub push."""
    push: dict[str, object] = {
        "message": {
            "attributes": attributes(path, event_type),
            "data": base64.b64encode(json.dumps(resource(path)).encode()).decode(),
            "messageId": "4711",
            "message_id": "4711",
            "publishTime": "2026-01-02T03:04:06Z",
            "publish_time": "2026-01-02T03:04:06Z",
        },
        "subscription": "projects/p/subscriptions/s",
    }
    return push if attempt is None else {**push, "deliveryAttempt": attempt}
