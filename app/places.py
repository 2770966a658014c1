"""Where the settings put things: the addresses of source and outputs, our own prefixes, local files.

Two URLs of one place have one address, so that places can be compared.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.config import Settings

CACHE = "cache/"
"""Prefix of the answers that are kept for browsers, in the storage of artifacts."""
STATE = "state/"
"""Prefix of our own records, in the storage of artifacts."""
COPIES = "dicom/"
"""Prefix of de-identified copies, in the storage of artifacts."""


def address(url: str) -> str:
    """Normalize the URL of a storage; the result ends in a slash."""
    scheme, _, rest = url.partition(":")
    if scheme == "file":
        return f"file:{_resolved(rest.removeprefix('//') or '.')}".rstrip("/") + "/"
    return f"{scheme}://{posixpath.normpath(rest.strip('/'))}/"


def _resolved(path: str) -> Path:
    try:
        return Path(path).resolve()
    except (OSError, ValueError, RuntimeError):  # the storage reports what is wrong with it
        return Path(path)


def folder(url: str) -> Path:
    """Return the folder of a `file:` URL."""
    return Path(address(url).removeprefix("file:"))


def outputs(settings: Settings) -> tuple[str, ...]:
    """Return the addresses below which the service writes artifacts."""
    artifacts = settings.artifacts
    return tuple(
        address(artifacts.url) + prefix
        for prefix in (artifacts.images, artifacts.metadata, COPIES, CACHE, STATE)
    )


def own_prefixes(settings: Settings, bucket: str) -> dict[str, tuple[str, ...]]:
    """Return, for each source bucket, the prefixes of our own artifacts in it.

    `bucket` is the name that events use for the bucket of `source.url`.
    """
    is_folder = settings.source.url.startswith("file:")
    roots = {name: f"gs://{name}/" for name in settings.source.buckets}
    roots[bucket] = address(settings.source.url) if is_folder else f"gs://{bucket}/"
    return {
        name: tuple(output.removeprefix(root) for output in outputs(settings) if output.startswith(root))
        for name, root in roots.items()
    }


def written_folders(settings: Settings) -> Iterator[Path]:
    """Yield the local folders of artifacts and rows."""
    for url in (settings.artifacts.url, settings.warehouse.url):
        scheme, _, path = url.partition(":")
        if scheme == "file":
            yield folder(url)
        elif scheme == "sqlite":
            yield Path(path).absolute().parent


def index_file(settings: Settings) -> Path | None:
    """Return the file that stores generations of files: the embedded queue's, else one beside the source."""
    scheme, _, path = settings.bus.url.partition(":")
    return Path(path) if scheme == "local" else index_beside(settings.source.url)


def index_beside(source: str) -> Path | None:
    """Return the file beside a folder that stores generations of its files; None if it is no folder."""
    return Path(str(folder(source)) + ".index.db") if source.startswith("file:") else None
