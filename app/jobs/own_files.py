"""Decide which files belong to the lake itself, if `ingest` is given a folder that contains it.

A folder is identified by device and inode, so links, a second mount and another case of its name do not
matter.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

from app.places import CACHE
from app.services import Services
from app.storage.local.storage import LocalStorage

SIDE_FILES = ("", "-wal", "-shm", "-journal")
"""Suffixes of the files that SQLite keeps beside a database."""


Identity = tuple[int, int] | None


class Owner(Enum):
    """What a file is: an object of the landing folder, one of the lake's own files, or neither."""

    LANDING = "landing"
    LAKE = "lake"
    OTHER = "other"


class OwnFiles:
    """Distinguishes the lake's own files from those to ingest. Paths are absolute, without links."""

    def __init__(self, services: Services) -> None:
        self._roots = {
            identity: owner for folder, owner in _folders(services) if (identity := _identity(folder))
        }
        self._databases = {
            (identity, f"{database.name}{end}".casefold())
            for database in _databases(services)
            if (identity := _identity(database.parent))
            for end in SIDE_FILES
        }
        self._known: dict[Path, tuple[Identity, Path, Owner]] = {}

    def owner(self, path: Path) -> tuple[Owner, str]:
        """Return what a file is, and its name below the landing folder, the lake's folder or `/`."""
        identity, root, owner = self._folder(path.parent)
        if (identity, path.name.casefold()) in self._databases:
            owner = Owner.LAKE
        return owner, path.relative_to(root).as_posix()

    def _folder(self, folder: Path) -> tuple[Identity, Path, Owner]:
        """Return what a folder is, and the nearest folder at or above it that decides this, or `/`."""
        if folder not in self._known:
            identity = _identity(folder)
            root, owner = folder, self._roots.get(identity) if identity else None
            if owner is None and folder != folder.parent:
                _, root, owner = self._folder(folder.parent)
            self._known[folder] = identity, root, owner or Owner.OTHER
        return self._known[folder]


def _identity(folder: Path) -> Identity:
    """Return device and inode of a folder, or None if it does not exist."""
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _folders(services: Services) -> Iterator[tuple[Path, Owner]]:
    """Yield the folders of the lake; for artifacts around the landing folder, only their prefixes."""
    source, artifacts = services.source, services.artifacts
    settings = services.settings.artifacts
    if isinstance(artifacts, LocalStorage):
        if isinstance(source, LocalStorage) and source.root.is_relative_to(artifacts.root):
            prefixes = (settings.images, settings.metadata, CACHE)
            yield from ((artifacts.root / prefix, Owner.LAKE) for prefix in prefixes)
        else:
            yield artifacts.root, Owner.LAKE
    if isinstance(source, LocalStorage):
        yield source.root, Owner.LANDING


def _databases(services: Services) -> Iterator[Path]:
    scheme, _, path = services.settings.warehouse.url.partition(":")
    if scheme == "sqlite":
        yield Path(path).resolve()
    if services.index is not None:  # also the database of the embedded queue
        yield services.index.resolve()
