"""What we write of one object version, and its names: derived from the event, so a repeat writes the same."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from app.rows import Written, artifact_path
from app.services import Services
from app.types import Instance, ObjectRef

AT_ONCE = 8
"""Artifacts of one archive that are written or removed at the same time."""


def write_artifacts(ref: ObjectRef, instance: Instance, services: Services) -> Written:
    """Write the JSON document and the PNG and return their URIs; a PNG that stands already is only named."""
    document_name, preview_name = artifact_names(ref, services, instance.member)
    document_uri = services.artifacts.write(document_name, instance.document, "application/dicom+json")
    if instance.preview is not None:
        preview_uri = services.artifacts.write(preview_name, instance.preview, "image/png")
        return Written(document_uri, preview_uri)
    return Written(document_uri, None if instance.preview_error else services.artifacts.uri(preview_name))


def artifact_names(ref: ObjectRef, services: Services, member: str | None = None) -> tuple[str, str]:
    """Return the names of the DICOM JSON document and the preview of one object version or member."""
    settings = services.settings.artifacts
    stem = f"{ref.name}.{ref.generation}"
    if member is not None:
        stem = artifact_path(f"{stem}/{member}")
    return f"{settings.metadata}{stem}.json", f"{settings.images}{stem}.png"


def member_artifacts(ref: ObjectRef, services: Services) -> Iterator[str]:
    """Yield the names of all artifacts of members of one object version, an archive or not."""
    settings = services.settings.artifacts
    folder = artifact_path(f"{ref.name}.{ref.generation}")
    for prefix in (settings.metadata, settings.images):
        found = list(services.artifacts.list(f"{prefix}{folder}/"))  # whole, for it is removed meanwhile
        yield from (ref.name.removeprefix(services.artifacts.prefix) for ref in found)


def remove_artifacts(ref: ObjectRef, services: Services) -> None:
    """Remove all that was written of one object version, an archive's members included."""
    names = [*artifact_names(ref, services), *member_artifacts(ref, services)]
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="artifacts") as pool:
        list(pool.map(services.artifacts.delete, names))


def remove_written(ref: ObjectRef, member: str | None, services: Services) -> None:
    """Remove what was written of one object version, or of one member of it."""
    for name in artifact_names(ref, services, member):
        services.artifacts.delete(name)


def rendered(ref: ObjectRef, services: Services) -> bool:
    """Tell whether the preview of this generation stands already."""
    _, preview_name = artifact_names(ref, services)
    return any(
        found.name == services.artifacts.prefix + preview_name
        for found in services.artifacts.list(preview_name)
    )
