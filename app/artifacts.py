"""What we write of one object version, and its names: derived from the event, so a repeat writes the same."""

from __future__ import annotations

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor

from app.rows import Written, artifact_path
from app.services import Services
from app.types import Instance, ObjectRef

AT_ONCE = 8
"""Artifacts of one archive that are written or removed at the same time."""
MOST_BYTES = 700
"""Longest path of a member in the name of an artifact, of which Cloud Storage takes 1,024 bytes in all."""
_OF_ANOTHER = re.compile(r"\.[0-9]+(/|\.(json|png)\Z)")
"""In what the artifacts of objects in a folder are called, archives and their members too; in few others."""


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
        stem = f"{artifact_path(stem)}/{_short(artifact_path(member))}"
    return f"{settings.metadata}{stem}.json", f"{settings.images}{stem}.png"


def _short(path: str) -> str:
    """Return a path, or its digest where object stores would not take it below that of the archive."""
    data = path.encode()
    return path if len(data) <= MOST_BYTES else f"^~{hashlib.sha256(data).hexdigest()}"


def member_artifacts(ref: ObjectRef, services: Services) -> list[str]:
    """Return the names of all artifacts of members of one object version, an archive or not."""
    settings = services.settings.artifacts
    folder = artifact_path(f"{ref.name}.{ref.generation}")
    names = [
        found.name.removeprefix(services.artifacts.prefix)
        for prefix in (settings.metadata, settings.images)
        for found in services.artifacts.list(f"{prefix}{folder}/")
    ]
    if not any(_OF_ANOTHER.search(name.partition(f"{folder}/")[2]) for name in names):
        return names
    others = _artifacts_below(services.source.uri(f"{folder}/", ref.bucket), services)
    return [name for name in names if services.artifacts.uri(name) not in others]


def _artifacts_below(folder: str, services: Services) -> set[object]:
    """Return the artifacts that rows of objects in a folder of the source name.

    The folder may be called as an archive and its generation are: it is common to call folders by UIDs.
    """
    sql = "SELECT metadata_uri, preview_uri FROM instances WHERE object_uri >= :low AND object_uri < :high"
    rows = services.warehouse.query(sql, {"low": folder, "high": f"{folder[:-1]}0"})  # "0" follows "/"
    return {uri for row in rows for uri in row.values()}


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
