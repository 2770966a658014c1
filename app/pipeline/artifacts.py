"""Write and remove the artifacts of one object version, under names derived from the event.

A document is written before its preview and removed after it, so listing the documents finds every artifact.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from app.model.names import digest
from app.model.values import Instance, ObjectEvent, ObjectRef
from app.pipeline.rows import Written, artifact_path, artifact_stem, version_path
from app.places import COPIES
from app.services import Services
from app.warehouse.queries import rows_below, rows_of_version

AT_ONCE = 8
"""Number of artifacts of one archive that are written or removed concurrently."""
_SUFFIX = re.compile(r"\.(json|png)\Z")
_OWN = re.compile(r"((?:\^/.+?)?)(?:\.r([0-9]+))?", re.DOTALL)
"""Suffix of a version's artifacts after `version_path`: a member, a revision, or nothing."""
# Older releases wrote the artifacts of members to the folder `<archive>.<generation>`. A folder of the source
# may have that name too, and then contains artifacts of its own objects.
_OLD_SEGMENT, _OLD_PATH = 240, 700
_OF_ANOTHER = re.compile(r"\.[0-9]+(\.r[0-9]+)?(/|\Z)")
_OF_ARCHIVE = re.compile(r"(\.[0-9]+|\^~[0-9a-f]{64})\^/")


def write_artifacts(
    ref: ObjectRef,
    revision: int | None,
    instance: Instance,
    services: Services,
    copy: Iterable[bytes] = (),
) -> Written:
    """Write the clean copy, the JSON document and the PNG, and return their URIs; an existing PNG is kept.

    copy: chunks of the clean copy, where `instance` has only its size. It is written first, because it may
    fail half-way, and then nothing else may be there.
    """
    stem = artifact_stem(ref, instance.member, revision)
    copy_uri = None
    if instance.copy is not None or instance.copy_size is not None:
        data = copy if instance.copy is None else instance.copy
        copy_uri = services.artifacts.write(_copy_name(stem), data, "application/dicom")
    document_name, preview_name = _names(stem, services)
    document_uri = services.artifacts.write(document_name, instance.document, "application/dicom+json")
    preview_uri = None if instance.preview_error else services.artifacts.uri(preview_name)
    if instance.preview is not None:
        preview_uri = services.artifacts.write(preview_name, instance.preview, "image/png")
    return Written(document_uri, preview_uri, copy_uri)


def copy_uri(event: ObjectEvent, services: Services, member: str | None = None) -> str:
    """Return the address of the clean copy of an object, or of a member of an archive."""
    return services.artifacts.uri(_copy_name(artifact_stem(event.shown, member, event.revision)))


def rendered(ref: ObjectRef, services: Services) -> bool:
    """Return whether the preview of this generation already exists."""
    _, preview_name = _names(artifact_stem(ref), services)
    return any(
        found.name == services.artifacts.prefix + preview_name
        for found in services.artifacts.list(preview_name)
    )


def remove_artifacts(ref: ObjectRef, services: Services) -> None:
    """Remove all artifacts of one object version, including revisions and members of an archive."""
    listed = _listed(ref, services)
    own = {stem for stem, _, _ in _own(listed, ref)}
    _remove({*_first_stems(ref, services), *own, *_old_members(listed, ref, services)}, services)


def remove_earlier(
    ref: ObjectRef, revision: int, members: Collection[str | None], services: Services
) -> None:
    """Remove artifacts of earlier revisions of an object version, once the rows of this revision are stored.

    members: the members with a row of this revision; {None} for an object that is not an archive. Artifacts
    of other members are kept, because their earlier rows are still current.
    """
    listed = _listed(ref, services)
    bases = {version_path(ref) if member is None else artifact_stem(ref, member) for member in members}
    earlier = {stem for stem, base, number in _own(listed, ref) if base in bases and number < revision}
    if None in members:
        earlier |= _first_stems(ref, services)
    else:
        old = {f"{_old_folder(ref)}/{_old_member(member)}" for member in members if member is not None}
        earlier |= old & _old_members(listed, ref, services)
    _remove(earlier, services)


def remove_written(ref: ObjectRef, member: str | None, revision: int | None, services: Services) -> None:
    """Remove the artifacts that one event wrote for an object version or for one of its members."""
    _remove([artifact_stem(ref, member, revision)], services)


def _names(stem: str, services: Services) -> tuple[str, str]:
    """Return the names of the DICOM JSON document and of the preview."""
    settings = services.settings.artifacts
    return f"{settings.metadata}{stem}.json", f"{settings.images}{stem}.png"


def _copy_name(stem: str) -> str:
    return f"{COPIES}{stem}.dcm"


def _remove(stems: Iterable[str], services: Services) -> None:
    stems = list(stems)
    pairs = [_names(stem, services) for stem in stems]
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="artifacts") as pool:
        if services.cleaning:
            list(pool.map(services.artifacts.delete, map(_copy_name, stems)))
        list(pool.map(services.artifacts.delete, [preview for _, preview in pairs]))
        list(pool.map(services.artifacts.delete, [document for document, _ in pairs]))


def _listed(ref: ObjectRef, services: Services) -> set[str]:
    """Return the stems of all artifacts that may belong to one version, found by listing prefixes."""
    prefix, path, old = services.settings.artifacts.metadata, version_path(ref), f"{_old_folder(ref)}/"
    begins = [path] if old == f"{path}/" else [path, old]
    skip = len(services.artifacts.prefix + prefix)
    return {
        _SUFFIX.sub("", found.name[skip:])
        for begin in begins
        for found in services.artifacts.list(prefix + begin)
    }


def _own(stems: Iterable[str], ref: ObjectRef) -> Iterator[tuple[str, str, int]]:
    """Yield the stems of this version, each with its stem without revision, and its revision or 0."""
    path = version_path(ref)
    for stem in stems:
        found = _OWN.fullmatch(stem[len(path) :]) if stem.startswith(path) else None
        if found:
            yield stem, path + found[1], int(found[2] or 0)


def _first_stems(ref: ObjectRef, services: Services) -> set[str]:
    """Return the possible stems of the first description of an object that is not an archive.

    One is the name without escapes, as older releases wrote it. It may equal the escaped name of another
    object; the caller checks that object's row.
    """
    stem, raw = artifact_stem(ref), f"{ref.name}.{ref.generation}"
    other = ref.name.replace("^5e", "^")
    if raw != stem and other.replace("^", "^5e") == ref.name:
        uri = services.source.uri(other, ref.bucket)
        return {stem} if services.warehouse.query(*rows_of_version(uri, ref.generation)) else {stem, raw}
    return {stem, raw}


def _old_folder(ref: ObjectRef) -> str:
    return artifact_path(f"{ref.name}.{ref.generation}", _OLD_SEGMENT)


def _old_member(member: str) -> str:
    path = artifact_path(member, _OLD_SEGMENT)
    return path if len(path.encode()) <= _OLD_PATH else f"^~{digest(path)}"


def _old_members(stems: Iterable[str], ref: ObjectRef, services: Services) -> set[str]:
    """Return the stems that an older release gave to the members of this version."""
    folder = f"{_old_folder(ref)}/"
    below = {
        stem for stem in stems if stem.startswith(folder) and not _OF_ARCHIVE.search(stem[len(folder) :])
    }
    if not any(_OF_ANOTHER.search(stem[len(folder) :]) for stem in below):
        return below
    folders = {folder, f"{ref.name}.{ref.generation}/"}  # of the source: with the escapes in its name, or not
    others = {
        uri for one in folders for uri in _artifacts_below(services.source.uri(one, ref.bucket), services)
    }
    return {stem for stem in below if services.artifacts.uri(_names(stem, services)[0]) not in others}


def _artifacts_below(folder: str, services: Services) -> set[object]:
    """Return the documents that belong to objects in a folder of the source, according to their rows.

    A folder can have the name `<archive>.<generation>`: folders are often named by UIDs.
    """
    rows = services.warehouse.query(*rows_below(folder, "instances", ["metadata_uri"]))
    return {row["metadata_uri"] for row in rows}
