"""The objects of one bucket: generations, preconditions, versions, and what is told of each change."""

import base64
import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any
from urllib.parse import quote

import google_crc32c

from tests.fake_gcs.errors import ApiError

WRITABLE = {
    "cacheControl",
    "contentDisposition",
    "contentEncoding",
    "contentLanguage",
    "contentType",
    "customTime",
    "metadata",
}
Notify = Callable[[str, dict[str, Any], dict[str, str]], None]
"""(event type, object resource, further attributes)"""

_clock = threading.Lock()
_last = 0


def next_generation() -> int:
    """Return microseconds of now, and more than any before."""
    global _last
    with _clock:
        _last = max(_last + 1, time.time_ns() // 1000)
        return _last


def stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def crc32c(data: bytes) -> str:
    return base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()


def md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data).digest()).decode()


def check_name(name: str) -> None:
    """Refuse what the naming rules of objects refuse."""
    legal = 0 < len(name.encode()) <= 1024 and name not in (".", "..")
    if not legal or "\r" in name or "\n" in name or name.startswith(".well-known/acme-challenge/"):
        raise ApiError(400, "Invalid object name")


@dataclass(frozen=True)
class Version:
    """One generation of one object; `settings` are the fields a client may write."""

    bucket: str
    name: str
    generation: int
    data: bytes
    settings: dict[str, Any]
    made: datetime
    updated: datetime
    metageneration: int = 1
    components: int = 0
    deleted: datetime | None = None

    def resource(self, host: str = "https://storage.googleapis.com") -> dict[str, Any]:
        """Return the object resource of the JSON API; 64-bit numbers are strings, links lead to `host`."""
        path = f"b/{self.bucket}/o/{quote(self.name, safe='')}"
        found = {
            "kind": "storage#object",
            "id": f"{self.bucket}/{self.name}/{self.generation}",
            "selfLink": f"{host}/storage/v1/{path}",
            "mediaLink": f"{host}/download/storage/v1/{path}?generation={self.generation}&alt=media",
            "name": self.name,
            "bucket": self.bucket,
            "generation": str(self.generation),
            "metageneration": str(self.metageneration),
            "storageClass": "STANDARD",
            "size": str(len(self.data)),
            "crc32c": self.crc32c,
            "etag": self.etag(),
            "timeCreated": stamp(self.made),
            "updated": stamp(self.updated),
            "timeStorageClassUpdated": stamp(self.made),
            "timeFinalized": stamp(self.made),
            **self.settings,
        }
        if self.components:
            found["componentCount"] = self.components
        else:
            found["md5Hash"] = self.md5
        if self.deleted:
            found["timeDeleted"] = stamp(self.deleted)
        return found

    @cached_property
    def crc32c(self) -> str:
        return crc32c(self.data)

    @cached_property
    def md5(self) -> str:
        return md5(self.data)

    def etag(self) -> str:
        return base64.b64encode(f"{self.generation}/{self.metageneration}".encode()).decode()


@dataclass(frozen=True)
class Preconditions:
    """The four conditions of a request; a missing object has generation 0 and no metageneration."""

    generation: int | None = None
    not_generation: int | None = None
    metageneration: int | None = None
    not_metageneration: int | None = None

    def check(self, found: Version | None, reading: bool = False) -> None:
        """Raise 412, or 304 for a read, when they are not met."""
        generation, meta = (found.generation, found.metageneration) if found else (0, None)
        if self.generation not in (None, generation) or self.metageneration not in (None, meta):
            raise ApiError(412, "At least one of the pre-conditions you specified did not hold.")
        same_meta = self.not_metageneration is not None and self.not_metageneration == meta
        if self.not_generation == generation or same_meta:
            raise ApiError(304 if reading else 412)


@dataclass
class Bucket:
    """Live versions, noncurrent ones where `versioning` is on, and soft-deleted ones where that is on."""

    name: str
    notify: Notify
    versioning: bool = False
    soft_delete: bool = False
    configurations: list[dict[str, Any]] = field(default_factory=list)
    bindings: list[dict[str, Any]] = field(default_factory=list)
    live: dict[str, Version] = field(default_factory=dict)
    noncurrent: dict[tuple[str, int], Version] = field(default_factory=dict)
    soft_deleted: dict[tuple[str, int], Version] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def find(self, name: str, generation: int | None = None) -> Version | None:
        """Return the live version, or the one that is asked for."""
        found = self.live.get(name)
        if generation is None or (found and found.generation == generation):
            return found
        return self.noncurrent.get((name, generation))

    def get(self, name: str, generation: int | None, conditions: Preconditions, reading: bool) -> Version:
        """Return a version that meets the conditions, which are on the version asked for."""
        found = self.find(name, generation)
        if found is None:
            raise ApiError(404, f"No such object: {self.name}/{name}")
        conditions.check(found, reading)
        return found

    def put(
        self,
        name: str,
        data: bytes,
        settings: dict[str, Any],
        conditions: Preconditions | None = None,
        components: int = 0,
    ) -> Version:
        """Store a new generation, tell of it, and of what became of the one before."""
        check_name(name)
        if unknown := set(settings) - WRITABLE:
            raise ApiError(501, f"fields of an object not served here: {sorted(unknown)}")
        with self.lock:
            before = self.live.get(name)
            (conditions or Preconditions()).check(before)
            now = datetime.now(UTC)
            version = Version(self.name, name, next_generation(), data, settings, now, now, 1, components)
            if before:
                self._retire(before, now)
            self.live[name] = version
        over = {"overwroteGeneration": str(before.generation)} if before else {}
        self.notify("OBJECT_FINALIZE", version.resource(), over)
        if before:
            self._tell_removed(
                before, now, self.versioning, {"overwrittenByGeneration": str(version.generation)}
            )
        return version

    def delete(self, name: str, generation: int | None, conditions: Preconditions) -> None:
        """Make the live version noncurrent where versions are kept, else remove the version for good."""
        with self.lock:
            found = self.get(name, generation, conditions, reading=False)
            now = datetime.now(UTC)
            kept = self.versioning and generation is None
            if self.live.get(name) == found:
                del self.live[name]
            if kept:
                self.noncurrent[name, found.generation] = replace(found, deleted=now)
            else:
                self.noncurrent.pop((name, found.generation), None)
                self._bury(found, now)
        self._tell_removed(found, now, kept, {})

    def patch(
        self, name: str, generation: int | None, conditions: Preconditions, changes: dict[str, Any]
    ) -> Version:
        """Change metadata: the same generation, the next metageneration; null removes a field."""
        if unknown := set(changes) - WRITABLE:
            raise ApiError(501, f"fields of an object not served here: {sorted(unknown)}")
        with self.lock:
            found = self.get(name, generation, conditions, reading=False)
            settings = {**found.settings, **changes}
            changed = replace(
                found,
                settings={key: value for key, value in settings.items() if value is not None},
                metageneration=found.metageneration + 1,
                updated=datetime.now(UTC),
            )
            if self.live.get(name) == found:
                self.live[name] = changed
            else:
                self.noncurrent[name, found.generation] = changed
        self.notify("OBJECT_METADATA_UPDATE", changed.resource(), {})
        return changed

    def restore(self, name: str, generation: int, conditions: Preconditions) -> Version:
        """Make a new live generation of a soft-deleted one."""
        found = self.soft_deleted.get((name, generation))
        if found is None:
            raise ApiError(404, f"No such soft-deleted object: {self.name}/{name}")
        return self.put(name, found.data, found.settings, conditions)

    def listing(self, prefix: str, versions: bool) -> list[Version]:
        """Return versions in the order of their names in UTF-8, then of their generations."""
        with self.lock:
            found = [*self.live.values(), *(self.noncurrent.values() if versions else ())]
        chosen = (version for version in found if version.name.startswith(prefix))
        return sorted(chosen, key=lambda version: (version.name.encode(), version.generation))

    def _retire(self, before: Version, now: datetime) -> None:
        if self.versioning:
            self.noncurrent[before.name, before.generation] = replace(before, deleted=now)
        else:
            self._bury(before, now)

    def _bury(self, version: Version, now: datetime) -> None:
        if self.soft_delete:
            self.soft_deleted[version.name, version.generation] = replace(version, deleted=now)

    def _tell_removed(self, version: Version, now: datetime, kept: bool, attributes: dict[str, str]) -> None:
        kind = "OBJECT_ARCHIVE" if kept else "OBJECT_DELETE"
        self.notify(kind, replace(version, deleted=now).resource(), attributes)
