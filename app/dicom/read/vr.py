"""What the encoding of a data set is made of: delimiters and value representations (PS3.5 7)."""

from __future__ import annotations

from functools import lru_cache

from pydicom import datadict

UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
EXTENDED_OFFSET_TABLE, PIXEL_DATA = 0x7FE00001, 0x7FE00010
PIXELS = (0x7FE00008, 0x7FE00009, PIXEL_DATA)
"""Float, double and integer pixel data."""

LONG = {"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"}
SHORT = {"AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "PN", "SH", "SL", "SS"}
SHORT |= {"ST", "TM", "UI", "UL", "US"}
UNSETTLED = {"SQ", "UN"}
"""VRs that a file may give to a value of another one."""
VRS = {vr.encode(): vr for vr in LONG | SHORT}
PLAIN = {vr.encode(): vr for vr in SHORT}
"""VRs with two bytes of length, none of which needs a closer look."""


@lru_cache(maxsize=1 << 16)
def public_vr(tag: int) -> str:
    """Return the VR of a public tag by the data dictionary, `UN` where it is not there."""
    try:
        return datadict.dictionary_VR(tag)
    except KeyError:
        return "UN" if tag & 0xFFFF else "UL"


@lru_cache(maxsize=1 << 16)
def private_vr(tag: int, creator: str) -> str:
    """Return the VR of a private tag under its creator, `UN` where it is not known."""
    try:
        return datadict.private_dictionary_VR(tag, creator)
    except KeyError:
        return "UN"


def known_name(tag: int) -> str:
    """Return how a fault names an element: where a scan went astray, a tag is four bytes of some value."""
    return f"{tag:08X}" if tag & 0xFFFF and public_vr(tag) != "UN" else "an unknown element"
