"""The landing storage as ways in see it: they put raw objects there, and its notifications do the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from app.plumbing.admission import Space
from app.storage import Storage


@dataclass(frozen=True)
class Landing:
    """Where objects are put: below `prefix`, while the disks that are written to have space."""

    storage: Storage
    prefix: str
    space: Space

    def land(self, name: str, stream: BinaryIO) -> bool:
        """Store an object whole and durably; return False if the same bytes are already there.

        Other bytes under this name become its new version.

        Raises
        ------
        StorageUnavailable, OutOfSpace : nothing was stored; trying again may help
        """
        self.space.check()
        landed = self.storage.land(self.prefix + name, stream, replace=True)
        assert landed is not None  # which only a landing without `replace` returns
        return landed.written

    def names(self, folder: str) -> Iterator[str]:
        """Yield the names of the objects in a folder, without that of the folder, which ends in a slash."""
        begins = len(self.storage.prefix + self.prefix + folder)
        return (ref.name[begins:] for ref in self.storage.list(self.prefix + folder))
