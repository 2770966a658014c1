"""Rules for converting elements to JSON, by tag and VR: the converter, and what stays in the object."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from app.dicom.metadata.values import BINARY, CONVERTERS, SIZES, Converter
from app.dicom.read.vr import public_vr

BULK = {0x7FE00008, 0x7FE00009, 0x7FE00010, 0x00420011, 0x54001010, 0x56000020}
"""Float, double and integer pixel data, encapsulated document, waveform data, spectroscopy data."""
REPEATED_BULK = {0x60003000, 0x50003000, 0x5000200C}
"""Overlay data, curve data, audio sample data: in the groups 60xx and 50xx."""
KINDS = {
    **dict.fromkeys(("US", "SS", "UL", "SL", "UV", "SV"), "integers"),
    **dict.fromkeys(("FL", "FD"), "floats"),
    **dict.fromkeys(("OB", "OD", "OF", "OL", "OV", "OW"), "bytes"),
    **dict.fromkeys(("SQ", "AT"), "structure"),
}


class Form(NamedTuple):
    """The rules for one tag and VR.

    size: bytes of one value. mismatch: the dictionary has another kind of value for this tag. binary: not
    text or numbers, so left in the object if it is long. bulk: left in the object whatever its length.
    """

    convert: Converter | None
    size: int
    mismatch: bool
    binary: bool
    bulk: bool


@lru_cache(maxsize=1 << 16)
def key(tag: int) -> str:
    """Return a tag as eight hex digits."""
    return f"{tag:08X}"


@lru_cache(maxsize=1 << 16)
def form(tag: int, vr: str) -> Form:
    """Return the rules for a tag and VR."""
    public, expected = not tag & 0x10000, public_vr(tag)
    known = vr not in expected and "UN" not in (vr, expected)
    kinds = {KINDS.get(one, "text") for one in expected.split(" or ")}
    bulk = tag in BULK or (public and tag & 0xFF00FFFF in REPEATED_BULK)
    return Form(
        convert=CONVERTERS.get(vr),
        size=SIZES.get(vr, 1),
        mismatch=public and known and KINDS.get(vr, "text") not in kinds,
        binary=bulk or vr in BINARY or "OW" in vr,
        bulk=bulk,
    )
