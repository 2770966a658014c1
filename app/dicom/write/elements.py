"""Elements in Explicit VR Little Endian (PS3.5 7.1.2), from bytes that are in little endian already."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from app.dicom.read.vr import ITEM, LONG

PADDED_WITH_NUL = ("UI", "OB", "UN")


def head(tag: int, vr: str, length: int) -> bytes:
    """Return the header of an element."""
    start = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    return start + (struct.pack("<HI", 0, length) if vr in LONG else struct.pack("<H", length))


def element(tag: int, vr: str, value: bytes) -> bytes:
    """Return an element, its value padded to an even length."""
    pad = b"\0" if vr in PADDED_WITH_NUL else b" "
    value += pad * (len(value) % 2)
    return head(tag, vr, len(value)) + value


def sequence(tag: int, items: Iterable[bytes]) -> bytes:
    """Return a sequence of items with known lengths."""
    body = b"".join(struct.pack("<HHI", ITEM >> 16, ITEM & 0xFFFF, len(item)) + item for item in items)
    return head(tag, "SQ", len(body)) + body


def settled_vr(vr: str, signed: bool) -> str:
    """Return one of the VRs that the dictionary leaves open (PS3.5 A.1, A.2), by Pixel Representation."""
    if len(vr) == 2:
        return vr
    if "OW" in vr:
        return "OW"
    return "OB" if "OB" in vr else "SS" if signed else "US"
