"""Take all rows of a statement now, for a caller who needs hours for them."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterable, Iterator
from errno import errorcode
from itertools import islice
from typing import TypeVar

from app.model.errors import WarehouseUnavailable

T = TypeVar("T")
AT_ONCE = 1000


def spooled(rows: Iterable[T]) -> Iterator[T]:
    """Yield rows from a temporary file, which has all of them before the first is yielded.

    A statement that stays open is expensive for others: SQLite's log grows by all that they append, and
    PostgreSQL keeps all that they replace.

    Raises WarehouseUnavailable if the file cannot be written or read, as on a full disk.
    """
    remaining = iter(rows)
    try:
        with tempfile.TemporaryFile() as file:
            while batch := list(islice(remaining, AT_ONCE)):
                pickle.dump(batch, file, pickle.HIGHEST_PROTOCOL)
            size = file.tell()
            file.seek(0)
            while file.tell() < size:
                yield from pickle.load(file)
    except OSError as error:
        name = errorcode.get(error.errno or 0, type(error).__name__)
        raise WarehouseUnavailable(
            f"the rows of a long result do not fit into a temporary file ({name}); make room, or set TMPDIR"
        ) from error
