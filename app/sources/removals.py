"""Decide whether missing files were removed or are on an unmounted disk.

Folder here means the landing folder, each of its first-level folders, and each mount point below. If all
known objects of a folder disappear together, without a hint from the system about the files or about a moved
or removed folder around them, their removals are held back until one of the files is seen again. A folder
with a single object is exempt, unless another folder (by device and inode) has replaced it or its disk is
gone.

Held removals are recorded by name: a new file in the empty folder was not on the disk, so it does not release
them.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from time import monotonic

from app.model.errors import DicomlakeError
from app.plumbing.sqlite import connect, transaction
from app.sources.inotify import folders
from app.sources.mounts import mount_points
from app.storage.local.files import stat_file
from app.storage.local.generations import index_errors

log = logging.getLogger("dicomlake.watcher")

MANY = 2
"""Fewer missing objects are held back only if their folder was replaced too. A folder with one file is
common, and so is its removal while the service is down."""
PAGE = 1000
LIVE = """SELECT name FROM landing WHERE root = ? AND live AND NOT released AND name > ? AND name < ?
ORDER BY name LIMIT ?"""
HELD = """SELECT name, folder FROM held_removal JOIN landing USING (root, name) WHERE root = ? AND live
AND NOT released"""
IDENTITIES = "SELECT folder, device, inode FROM folder_identity WHERE root = ?"
IDENTIFY = "INSERT INTO folder_identity (root, folder, device, inode) VALUES (?, ?, ?, ?)"
FORGET = "DELETE FROM folder_identity WHERE root = ? AND folder = ?"
MOST = 2**63 - 1
"""SQLite's highest integer; the top bit of wider numbers is cut."""
Identity = tuple[int, int]


class Removals:
    """Decides on removals in one watched folder. One thread reports scans; any thread may add hints and ask.

    hint_age_s: lifetime of a hint that no removal has used.
    """

    def __init__(self, path: Path, root: Path, hint_age_s: float, shown: Callable[[str], str] = str) -> None:
        self._root, self._key, self._hint_age_s, self._shown = root, str(root), hint_age_s, shown
        self._lock = threading.RLock()
        with index_errors(path):
            self._connection = connect(path)
            self._held = dict(self._connection.execute(HELD, (self._key,)).fetchall())
            mounts = self._connection.execute("SELECT folder FROM mount_point WHERE root = ?", (self._key,))
            self._mounts = frozenset(name for (name,) in mounts)
            found = self._connection.execute(IDENTITIES, (self._key,))
            self._identities: dict[str, Identity] = {name: (device, inode) for name, device, inode in found}
        self._hints: dict[str, float] = {}
        self._witnesses: dict[str, str] = {}
        self._whole: set[str] = set()
        self._identified: set[str] = set()
        self._changed: dict[str, Identity | None] = {}

    def close(self) -> None:
        """Close the file."""
        with self._lock, index_errors():
            self._connection.close()

    def held(self) -> int:
        """Return the number of held removals."""
        return len(self._held)

    def is_held(self, name: str) -> bool:
        """Return whether the removal of a name is held back without a later hint."""
        return name in self._held and not self._is_hinted(name)

    def hint(self, name: str) -> None:
        """Record that the system reported the removal of a file or folder."""
        self._hints[name] = monotonic()

    def accept(self) -> None:
        """Release all held removals."""
        with self._lock:
            self._write("DELETE FROM held_removal WHERE root = ?", [(self._key,)])
            self._held.clear()

    def seen(self, name: str) -> bool:
        """Record that a file exists; return whether that releases removals held with its own."""
        self._hints.pop(name, None)
        folder = self._held.get(name)
        if folder is None:
            return False
        with self._lock:
            self._write("DELETE FROM held_removal WHERE root = ? AND folder = ?", [(self._key, folder)])
            self._held = {other: of for other, of in self._held.items() if of != folder}
        log.info("removals are held back no more, a known object is there", extra=self._facts(folder))
        return True

    def known(self, name: str) -> None:
        """Record during a scan that a known object still exists."""
        first = name[: name.find("/") + 1]
        if first not in self._identified:
            self._identified.add(first)
            for folder in {"", first}:
                self._identify(folder, name)

    def removed(self, names: Collection[str]) -> None:
        """Record that removals were published, and the identity of the folders of known objects."""
        self._write_identities()
        for name in names:
            self._hints.pop(name, None)
        if held := [name for name in names if name in self._held]:
            with self._lock:
                rows = [(self._key, name) for name in held]
                self._write("DELETE FROM held_removal WHERE root = ? AND name = ?", rows)
                for name in held:
                    del self._held[name]

    def begin(self) -> None:
        """Start a round of decisions; discard what was looked up in the previous one."""
        self._whole.clear()

    def check(self, name: str) -> bool:
        """Hold back removals in all folders of a name as needed; return whether the name may be published.

        Also called for new files: once they are known objects, not all objects of the folder are missing.
        """
        with self._lock:
            if name in self._held or self._is_hinted(name):
                return self._is_hinted(name)
            held = tuple(set(self._held.values()))
            for folder in self._folders(name):
                if folder not in self._whole and not folder.startswith(held):
                    if missing := self._missing(folder):
                        self._hold(folder, missing)
                    else:
                        self._whole.add(folder)
                        self._identify(folder, name)
            return name not in self._held

    def doubtful(self, name: str) -> bool:
        """Return whether a missing file may be on an unmounted disk."""
        with self._lock:
            if self._is_hinted(name):
                return False
            return name in self._held or any(self._missing(folder) for folder in self._folders(name))

    def begin_scan(self) -> None:
        """Record the mount points before a scan."""
        self._set_mounts(self._mounts | mount_points(self._root))
        self._identified.clear()

    def end_scan(self) -> None:
        """Forget mount points without missing objects, and unused hints."""
        gone = self._mounts - mount_points(self._root)
        held = [name for name in gone if any(known.startswith(name) for known in self._held)]
        with self._lock:
            done = {name for name in gone.difference(held) if not self._missing(name)}
        self._set_mounts(self._mounts - done)
        self._write_identities()
        before = monotonic() - self._hint_age_s
        for name, at in list(self._hints.items()):  # a copy: another thread adds to them
            if at <= before:
                self._hints.pop(name, None)

    def _set_mounts(self, mounts: frozenset[str]) -> None:
        if mounts == self._mounts:
            return
        with self._lock, index_errors(), transaction(self._connection):
            self._connection.execute("DELETE FROM mount_point WHERE root = ?", (self._key,))
            rows = [(self._key, name) for name in mounts]
            self._connection.executemany("INSERT INTO mount_point VALUES (?, ?)", rows)
        self._mounts = mounts

    def _folders(self, name: str) -> list[str]:
        first, slash, _ = name.partition("/")
        above = {"", *([f"{first}/"] if slash else []), *self._mounts.intersection(folders(name))}
        return sorted(above)

    def _is_hinted(self, name: str) -> bool:
        """Return whether the system reported the removal of a file, or of a whole folder above it.

        A folder does not count if another has replaced it, or if a disk was mounted at it or below.
        """
        if name in self._hints:
            return True
        for folder in folders(name):
            if folder[:-1] in self._hints and not os.path.lexists(self._root / folder):
                return not any(name.startswith(mount) for mount in self._mounts if mount.startswith(folder))
        return False

    def _missing(self, folder: str) -> list[str]:
        """Return the known objects of a folder that are missing as if their disk were unmounted."""
        witness = self._witnesses.get(folder)
        if witness is not None and self._is_there(witness):
            return []
        unmounted = folder in self._mounts and folder not in mount_points(self._root)
        if folder and not unmounted and not os.path.lexists(self._root / folder):
            return []  # a mount point would still be there, as an empty folder
        missing = []
        for name in self._live(folder):
            if self._is_there(name):
                self._witnesses[folder] = name
                return []
            if not self._is_hinted(name):
                missing.append(name)
        return missing if len(missing) >= MANY or unmounted or self._is_another(folder) else []

    def _is_another(self, folder: str) -> bool:
        known = self._identities.get(folder)
        return known is not None and known != self._identity(folder)

    def _identity(self, folder: str) -> Identity | None:
        try:
            found = os.stat(self._root / folder)
        except OSError:
            return None
        return found.st_dev & MOST, found.st_ino & MOST

    def _identify(self, folder: str, name: str) -> None:
        """Record the identity of a folder if `name`, one of its known objects, is still in it."""
        found = self._identity(folder)
        if found == self._identities.get(folder) or (found and not self._is_there(name)):
            return
        self._changed[folder] = found
        if found:
            self._identities[folder] = found
        else:
            del self._identities[folder]

    def _write_identities(self) -> None:
        if not self._changed:
            return
        with self._lock, index_errors(), transaction(self._connection):
            for folder, found in self._changed.items():
                self._connection.execute(FORGET, (self._key, folder))
                if found:
                    self._connection.execute(IDENTIFY, (self._key, folder, *found))
        self._changed.clear()

    def _is_there(self, name: str) -> bool:
        try:
            stat_file(self._root, name)
        except DicomlakeError:
            return False
        return True

    def _live(self, folder: str) -> Iterator[str]:
        """Yield the names of all known objects of a folder."""
        # "0" follows "/", so this range is all that begins with the folder.
        last, end = folder, folder[:-1] + "0" if folder else "\U0010ffff"
        while True:
            with index_errors():
                page = self._connection.execute(LIVE, (self._key, last, end, PAGE)).fetchall()
            yield from (name for (name,) in page)
            if len(page) < PAGE:
                return
            last = page[-1][0]

    def _hold(self, folder: str, names: list[str]) -> None:
        rows = [(self._key, name, folder) for name in names]
        self._write("INSERT OR IGNORE INTO held_removal VALUES (?, ?, ?)", rows)
        new = {name: folder for name in names if name not in self._held}
        self._held |= new
        if new:
            log.warning(
                "removals held back: all known objects of a folder are gone; mount its disk again, or,"
                " if they were removed, start once with `serve --accept-removals`",
                extra=self._facts(folder) | {"count": len(new)},
            )

    def _facts(self, folder: str) -> dict[str, object]:
        return {"object": self._shown(folder) if folder else "/"}

    def _write(self, sql: str, rows: Iterable[tuple[str, ...]]) -> None:
        with index_errors(), transaction(self._connection):
            self._connection.executemany(sql, rows)
