"""Pub/Sub notifications as Cloud Storage writes them: attributes, and the object resource as data."""

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

EVENT_TYPES = ("OBJECT_FINALIZE", "OBJECT_METADATA_UPDATE", "OBJECT_DELETE", "OBJECT_ARCHIVE")
Callback = Callable[[dict[str, str], bytes], object]


@dataclass(frozen=True)
class Subscription:
    """A notification configuration; no event types means all, as in the API."""

    callback: Callback
    number: int = 1
    bucket: str = ""
    prefix: str = ""
    event_types: Collection[str] = ()
    payload: str = "JSON_API_V1"
    custom: dict[str, str] = field(default_factory=dict)

    def send(self, kind: str, resource: dict[str, Any], further: dict[str, str]) -> None:
        """Hand a change over, if it is one of those asked for."""
        if self.bucket and self.bucket != resource["bucket"]:
            return
        if not resource["name"].startswith(self.prefix) or kind not in (self.event_types or EVENT_TYPES):
            return
        config = f"projects/_/buckets/{resource['bucket']}/notificationConfigs/{self.number}"
        attributes = {
            **self.custom,
            "notificationConfig": config,
            "eventType": kind,
            "payloadFormat": self.payload,
            "bucketId": resource["bucket"],
            "objectId": resource["name"],
            "objectGeneration": resource["generation"],
            "eventTime": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            **further,
        }
        data = json.dumps(resource, indent=2).encode() if self.payload == "JSON_API_V1" else b""
        self.callback(attributes, data)
