"""What the server and its workers say to each other.

The server trusts nothing that a worker says: what it decoded may have taken it over, and a pickle may name
any function to be called. So only values and errors of ours become objects again.
"""

from __future__ import annotations

import pickle
from datetime import date, time
from typing import Any, BinaryIO, cast

from app.errors import DicomlakeError

ROOMS = frozenset(("app.types", "app.errors", "app.archive.entries"))
"""Modules that define values and errors, and do nothing."""
OTHERS = {(kind.__module__, kind.__name__): kind for kind in (date, time)}


class _Chunks(list[bytes]):
    """What a pickler writes, without a copy of large bytes."""

    def write(self, chunk: bytes) -> None:
        """Keep a chunk: the object itself if it is bytes, else a copy, as a view ends with this call."""
        self.append(bytes(chunk))


class _Answers(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in OTHERS:
            return OTHERS[module, name]
        found = super().find_class(module, name) if module in ROOMS and "." not in name else None
        if getattr(found, "__module__", None) != module:  # what a room has imported is not its own
            raise pickle.UnpicklingError("a worker may not name this")
        return found


def pickled(value: object) -> list[bytes]:
    """Pickle into chunks; large bytes are copied neither here nor by reading them from a stream."""
    chunks = _Chunks()
    pickle.Pickler(chunks, pickle.HIGHEST_PROTOCOL).dump(value)
    return chunks


def answer(stream: BinaryIO) -> tuple[bool, Any]:
    """Read the end of a task, (True, result) or (False, error); UnpicklingError for anything else."""
    try:
        succeeded, value = _Answers(stream).load()
        if succeeded is not True and not isinstance(value, DicomlakeError):
            raise pickle.UnpicklingError("a worker failed with what is no error")
    except (EOFError, OSError, pickle.UnpicklingError):
        raise
    except Exception as exc:  # noqa: BLE001 - a stream made up may raise anything
        raise pickle.UnpicklingError(type(exc).__name__) from None
    return cast(bool, succeeded), value
