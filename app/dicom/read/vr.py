"""Delimiters and value representations of the encoding of a data set (PS3.5 7)."""

from __future__ import annotations

from functools import lru_cache

from pydicom import datadict

UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
EXTENDED_OFFSET_TABLE, PIXEL_DATA = 0x7FE00001, 0x7FE00010
PIXELS = (0x7FE00008, 0x7FE00009, PIXEL_DATA)
"""Float, double and integer pixel data."""

# VRs whose length has four bytes, after two reserved ones, and VRs whose length has two (PS3.5 7.1.2).
LONG = {"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"}
SHORT = {"AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "PN", "SH", "SL", "SS"}
SHORT |= {"ST", "TM", "UI", "UL", "US"}
UNRELIABLE = {"SQ", "UN"}
"""VRs that files also write for values of other VRs, so the dictionary is consulted."""
VRS = {vr.encode(): vr for vr in LONG | SHORT}
SHORT_VRS = {vr.encode(): vr for vr in SHORT}
"""VR as written -> VR, for those that never need the dictionary."""


@lru_cache(maxsize=1 << 16)
def public_vr(tag: int) -> str:
    """Return the VR of a public tag by the data dictionary, `UN` if the tag is unknown."""
    try:
        return datadict.dictionary_VR(tag)
    except KeyError:
        return "UN" if tag & 0xFFFF else "UL"


@lru_cache(maxsize=1 << 16)
def private_vr(tag: int, creator: str) -> str:
    """Return the VR of a private tag of its creator, `UN` if the dictionary does not have it."""
    try:
        return datadict.private_dictionary_VR(tag, creator)
    except KeyError:
        return "UN"


def known_name(tag: int) -> str:
    """Return the name of an element for an error text.

    Unknown tags are not named: once a scan is off course a "tag" may be four bytes of a value, which must not
    reach a log.
    """
    return f"{tag:08X}" if tag & 0xFFFF and public_vr(tag) != "UN" else "an unknown element"
