"""Add keywords to DICOM JSON, for human readers."""

from __future__ import annotations

from typing import Any

import orjson
from pydicom.datadict import keyword_for_tag


def with_keywords(document: bytes) -> bytes:
    """Return a DICOM JSON document in which each element starts with its `keyword`, in sequences too.

    Private elements, and those that the data dictionary does not have, get none.

    Parameters
    ----------
    document : DICOM JSON of one object, UTF-8

    References
    ----------
    PS3.18 F.2; PS3.6 6
    """
    return orjson.dumps(_named(orjson.loads(document)))


def keyword_of(tag: str) -> str:
    """Return the keyword for a tag of eight hex digits, empty for a private or unknown tag."""
    return keyword_for_tag(int(tag, 16))


def _named(elements: dict[str, Any]) -> dict[str, Any]:
    named = {}
    for tag, element in elements.items():
        keyword = keyword_of(tag)
        named[tag] = {"keyword": keyword, **element} if keyword else element
        if element["vr"] == "SQ" and "Value" in element:
            named[tag]["Value"] = [_named(item or {}) for item in element["Value"]]
    return named
