"""Times as text."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal


def rfc3339(moment: datetime, timespec: Literal["milliseconds", "microseconds"] = "microseconds") -> str:
    """Return a time in UTC, such as `2026-03-01T12:00:00.250000Z`; Pub/Sub writes milliseconds."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec=timespec) + "Z"
