"""Look up attributes by name, and their level in the information model."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal

from app.model.values import Attribute

Level = Literal["study", "series", "instance"]

_TAG = re.compile(r"[0-9A-Fa-f]{8}")
_PRIVATE = re.compile(r"([0-9A-Fa-f]{3}[13579BDFbdf]),([^,\"\\]{1,64}),([0-9A-Fa-f]{2})")

# PS3.3 Table A.1-2: attributes of modules that describe a patient or study, and a series or its equipment.
_STUDY = frozenset(
    {
        *("00080020", "00080030", "00080050", "00080051", "00080061", "00080062", "00080090", "00080096"),
        *("0008009C", "0008009D", "00081030", "00081032", "00081048", "00081049", "00081060", "00081062"),
        *("00081080", "00081084", "00081110", "00081120", "0020000D", "00200010", "00201200", "00201202"),
        *("00201204", "00201206", "00201208", "00120010", "00120020", "00120021", "00120030", "00120031"),
        *("00120040", "00120042", "00120050", "00120051", "00120052", "00120053", "00120062", "00120063"),
        *("00120064", "00120081", "00120082", "00120083", "00380010", "00380014", "00380060", "00380062"),
        *("00380064", "00321032", "00321033", "00321060", "00321064", "00401012", "00080054"),
    }
)
_SERIES = frozenset(
    {
        *("00080021", "00080031", "00080060", "00080068", "00080070", "00080080", "00080081", "00080201"),
        *("00081010", "0008103E", "0008103F", "00081040", "00081041", "00081050", "00081052", "00081070"),
        *("00081072", "00081090", "00081111", "00081250", "00120060", "00120071", "00120072", "00180015"),
        *("00181000", "00181008", "00181020", "00181030", "00181050", "00181200", "00181201", "00185100"),
        *("0020000E", "00200011", "00200052", "00200060", "00201040", "00201209", "00280108", "00280109"),
        *("00280120", "00400244", "00400245", "00400250", "00400251", "00400253", "00400254", "00400260"),
        *("00400275", "00400280", "00400555"),
    }
)


@lru_cache(maxsize=1 << 12)
def attribute(name: str) -> Attribute | None:
    """Return the attribute for a keyword, a tag or `gggg,creator,ee`; None if it is unknown.

    Parameters
    ----------
    name : `PatientID`, `00100020` in either case, `0009,GEMS_IDEN_01,04`. A private element needs its
        creator.
    """
    from pydicom.datadict import keyword_for_tag, tag_for_keyword  # slow to import, and not always needed

    from app.dicom.read.vr import private_vr, public_vr

    if private := _PRIVATE.fullmatch(name):
        group, creator, element = private[1].upper(), private[2].strip(), private[3].upper()
        vr = private_vr(int(f"{group}10{element}", 16), creator)[:2]
        return Attribute(f"{group}00{element}", vr, creator=creator) if creator else None
    if _TAG.fullmatch(name):
        tag = int(name, 16)
    else:
        known = tag_for_keyword(name)
        if known is None:
            return None
        tag = known
    keyword = keyword_for_tag(tag)
    if not keyword or tag >> 16 & 1:
        return None
    return Attribute(f"{tag:08X}", public_vr(tag)[:2], keyword)


def level_of(tag: str) -> Level:
    """Return the level at which an attribute is constant: across a study, across a series, or neither.

    Parameters
    ----------
    tag : eight hex digits in upper case
    """
    if tag in _STUDY or tag.startswith("0010"):
        return "study"
    return "series" if tag in _SERIES else "instance"


def uid_name(uid: str) -> str:
    """Return the name of a UID in PS3.6 Annex A, empty for any other."""
    from pydicom._uid_dict import UID_dictionary

    return UID_dictionary[uid][0] if uid in UID_dictionary else ""
