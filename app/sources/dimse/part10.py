"""The file of a received instance, PS3.10 7.1: the data set stays as it was received, byte for byte."""

from __future__ import annotations

import io
import struct
from typing import BinaryIO

from app.model.names import IMPLEMENTATION_UID

VERSION_NAME = b"DICOMLAKE"
"""Without a number: the same instance makes the same bytes in every release."""


def file_meta(sop_class: str, sop_instance: str, transfer_syntax: str, ae_title: str) -> bytes:
    """Return preamble, prefix and file meta of an instance.

    Parameters
    ----------
    sop_class, sop_instance, transfer_syntax : UIDs
    ae_title : of the sender

    References
    ----------
    PS3.10 7.1: Explicit VR Little Endian, with a group length
    """
    elements = (
        b"\x02\x00\x01\x00OB\0\0" + struct.pack("<I", 2) + b"\0\x01",
        _element(0x0002, b"UI", sop_class.encode(), b"\0"),
        _element(0x0003, b"UI", sop_instance.encode(), b"\0"),
        _element(0x0010, b"UI", transfer_syntax.encode(), b"\0"),
        _element(0x0012, b"UI", IMPLEMENTATION_UID.encode(), b"\0"),
        _element(0x0013, b"SH", VERSION_NAME, b" "),
        _element(0x0016, b"AE", ae_title.strip().encode("ascii", "replace"), b" "),
    )
    meta = b"".join(elements)
    return b"\0" * 128 + b"DICM" + b"\x02\x00\x00\x00UL\x04\0" + struct.pack("<I", len(meta)) + meta


def _element(element: int, vr: bytes, value: bytes, padding: bytes) -> bytes:
    value += padding * (len(value) % 2)
    return struct.pack("<HH2sH", 2, element, vr, len(value)) + value


class Joined(io.RawIOBase):
    """The bytes of a head and of a seekable body as one stream."""

    def __init__(self, head: bytes, body: BinaryIO) -> None:
        self._head, self._body, self._at = head, body, 0
        self._size = len(head) + body.seek(0, io.SEEK_END)

    def readable(self) -> bool:
        """Return true."""
        return True

    def seekable(self) -> bool:
        """Return true."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position and return it."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # of any buffer
        """Read into a buffer, and return how much."""
        if self._at < len(self._head):
            part = self._head[self._at : self._at + len(buffer)]
        else:
            self._body.seek(self._at - len(self._head))
            part = self._body.read(len(buffer))
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)
