"""A lake for tests of browsing: objects put into the landing folder and described by the pipeline."""

from __future__ import annotations

from datetime import UTC, datetime

from app import pipeline
from app.model.values import EventType, ObjectRef
from app.services import Services
from app.sources.notifications import notification

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def put(services: Services, name: str, data: bytes) -> ObjectRef:
    """Store an object, describe it, and return its version."""
    path = services.source.root / name  # type: ignore[attr-defined]  # a folder
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    ref: ObjectRef = services.source.find(name)  # type: ignore[attr-defined]
    tell(services, ref, EventType.FINALIZE)
    return ref


def remove(services: Services, ref: ObjectRef) -> None:
    """Remove an object and tell of it."""
    (services.source.root / ref.name).unlink()  # type: ignore[attr-defined]
    tell(services, ref, EventType.DELETE)


def tell(services: Services, ref: ObjectRef, kind: EventType) -> None:
    """Handle a notification of one version."""
    pipeline.handle(notification(kind, ref, services.source.uri(ref.name), NOON), services)
