"""One value of an instance that its document leaves in the object, as bytes in little endian."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from app.browse import tasks
from app.browse.instances import NotFound, Stored
from app.browse.metadata import bulk_entry
from app.browse.objects import Originals
from app.model.errors import BadDataset, ObjectGone
from app.model.values import Content

BIG_ENDIAN = "1.2.840.10008.1.2.2"


@dataclass(frozen=True, slots=True)
class BulkValue:
    """A value: bytes at hand, or where they lie in the content."""

    content: Content
    data: bytes | None
    offset: int
    size: int

    def pieces(self, originals: Originals, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Yield its bytes or a part of them."""
        length = self.size - offset if length is None else length
        if self.data is not None:
            yield self.data[offset : offset + length]
        else:
            yield from originals.bytes_of(self.content, self.offset + offset, length)


def read_bulk_value(stored: Stored, tag: str, number: int, originals: Originals) -> BulkValue:
    """Return a value by its tag and its number among the values of this tag.

    Raises
    ------
    NotFound : the document leaves no such value in the object
    ObjectGone : the object no longer exists
    """
    entry = bulk_entry(stored, tag, number, originals)
    content = originals.content(stored)
    in_place = content.decode is None and stored.transfer_syntax_uid != BIG_ENDIAN
    if entry.offset is not None and entry.length is not None and in_place:
        if entry.offset + entry.length > content.size:
            raise ObjectGone("the object is not the one that was described")
        return BulkValue(content, None, entry.offset, entry.length)
    threshold = originals.options.metadata.bulk_threshold_bytes
    try:
        task = tasks.bulk_value, originals.limits, threshold, tag, number
        data = originals.run_on(content, *task)
    except BadDataset as error:
        if error.code == "no_such_value":
            raise NotFound("the instance has no such value") from None
        raise
    return BulkValue(content, data, 0, len(data))
