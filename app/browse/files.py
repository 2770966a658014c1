"""A stored instance as a DICOM file: as it is stored, or in Explicit VR Little Endian."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from app.browse import tasks
from app.browse.instances import Stored
from app.browse.objects import MAX_TRANSCODED_BYTES, Originals, Spooled
from app.model.values import Content

EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
NEVER = ("", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2")
"""No transfer syntax, Implicit VR and big endian: never sent to clients (PS3.18 8.7.3)."""
_JPEG = "1.2.840.10008.1.2.4"
LOSSLESS = (
    *("1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.8.1"),
    *(f"{_JPEG}.{last}" for last in (57, 70, 80, 90, 92, 110, 201, 202)),
)
"""Decoded for a client that names no transfer syntax (PS3.18 8.7.3.4)."""
LOSSY = tuple(f"{_JPEG}.{last}" for last in (50, 51, 53, 55, 81, 91, 93, 111, 112, 203))
"""Sent as stored to such a client, and decoded on request. All others are only sent as stored."""


@dataclass(frozen=True, slots=True)
class DicomFile:
    """A file of `size` bytes: `spooled` if it was converted, else the content itself."""

    transfer_syntax: str
    size: int
    content: Content
    spooled: Spooled | None = None

    def pieces(self, originals: Originals, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Yield its bytes or a part of them."""
        length = self.size - offset if length is None else length
        if self.spooled is not None:
            yield from self.spooled.pieces(offset, length)
        else:
            yield from originals.bytes_of(self.content, offset, length)


def as_stored(stored: Stored) -> str:
    """Return the transfer syntax in which the object can be sent unchanged, empty if it cannot."""
    syntax = stored.transfer_syntax_uid or ""
    return "" if syntax in NEVER else syntax


def can_decode(stored: Stored) -> bool:
    """Return whether the object can be converted to Explicit VR Little Endian."""
    syntax = stored.transfer_syntax_uid or ""
    return syntax in (*NEVER, EXPLICIT_LITTLE, *LOSSLESS, *LOSSY)


def stays_compressed(stored: Stored) -> bool:
    """Return whether a client that names no transfer syntax gets the object as it is stored."""
    return as_stored(stored) not in ("", EXPLICIT_LITTLE, *LOSSLESS)


def open_file(stored: Stored, transfer_syntax: str, originals: Originals) -> DicomFile:
    """Return an instance as a file in its own transfer syntax or in Explicit VR Little Endian.

    Raises
    ------
    ObjectGone : the object no longer exists
    Unrenderable : the pixel data cannot be decoded
    """
    content = originals.content(stored)
    if transfer_syntax == as_stored(stored):
        if content.decode is not None:
            spooled = originals.spooled(content, tasks.decoded_pieces)
            return DicomFile(transfer_syntax, spooled.size, content, spooled)
        head = b"".join(originals.bytes_of(content, 0, min(132, content.size)))
        if head[128:] == b"DICM":
            return DicomFile(transfer_syntax, content.size, content)
    task = tasks.explicit_pieces, originals.limits, MAX_TRANSCODED_BYTES
    spooled = originals.spooled(content, *task)
    return DicomFile(EXPLICIT_LITTLE, spooled.size, content, spooled)
