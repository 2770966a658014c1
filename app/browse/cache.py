"""Cache answers: in memory, and as objects below `<artifacts>/cache/`, which may be removed at any time.

The name of an object is derived from everything that its content depends on, such as the ids of the current
rows of a series. So nothing has to be invalidated: after a new row, a revision or a removal the name is a
different one, and the old object is never read again. A bucket's lifecycle removes it after seven days;
in a folder, `prune` does.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from app.model.errors import DicomlakeError
from app.places import CACHE
from app.storage import Storage

MAX_MEMORY_BYTES = 64 << 20
MAX_OBJECT_BYTES = 64 << 20
"""Largest answer that is cached."""
AGE_S = 7 * 86_400
PRUNE_EVERY_S = 86_400
_SAFE = re.compile(r"[0-9.]{1,64}")


def key_of(parts: Iterable[object]) -> str:
    """Return a short text that differs for different lists of parts."""
    digest = hashlib.sha256()
    for part in parts:
        data = str(part).encode(errors="surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:32]


@dataclass
class Cache:
    """Earlier answers. A failing store only costs time. Safe to call from several threads."""

    artifacts: Storage
    max_memory_bytes: int = MAX_MEMORY_BYTES
    _memory: OrderedDict[str, bytes] = field(default_factory=OrderedDict)
    _held: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _prune_at: float = 0.0

    def get(self, series: str, name: str, stored: bool = True) -> bytes | None:
        """Return the answer under a name, None if there is none; stored: look among the objects, too."""
        full = _name(series, name)
        with self._lock:
            if full in self._memory:
                self._memory.move_to_end(full)
                return self._memory[full]
        if not stored:
            return None
        with suppress(DicomlakeError):
            data = self.artifacts.read(self.artifacts.uri(full))
            self._remember(full, data)
            return data
        return None

    def put(self, series: str, name: str, data: bytes, content_type: str, stored: bool = True) -> None:
        """Keep an answer; stored: as an object too, for other processes and later ones."""
        if len(data) > MAX_OBJECT_BYTES:
            return
        full = _name(series, name)
        self._remember(full, data)
        if stored:
            with suppress(DicomlakeError):
                self.artifacts.write(full, data, content_type)
            self._prune()

    def _remember(self, name: str, data: bytes) -> None:
        with self._lock:
            self._held -= len(self._memory.pop(name, b""))
            self._memory[name] = data
            self._held += len(data)
            while self._held > self.max_memory_bytes:
                self._held -= len(self._memory.popitem(last=False)[1])

    def _prune(self) -> None:
        """Once a day, begin to remove what is old; a bucket does so itself."""
        now = time.monotonic()
        with self._lock:
            if now < self._prune_at or not self.artifacts.uri("").startswith("file:"):
                return
            self._prune_at = now + PRUNE_EVERY_S
        threading.Thread(target=prune, args=(self.artifacts, time.time()), name="prune", daemon=True).start()


def prune(artifacts: Storage, now_s: float) -> None:
    """Remove what lies in the cache of a folder for more than seven days; generations are times there."""
    with suppress(DicomlakeError):
        for ref in artifacts.list(CACHE):
            if ref.generation < (now_s - AGE_S) * 1e9:
                artifacts.delete(ref.name)


def _name(series: str, name: str) -> str:
    return f"{CACHE}{series if _SAFE.fullmatch(series) else key_of([series])}/{name}"
