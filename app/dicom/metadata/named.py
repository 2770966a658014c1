"""Read attributes of a data set by name: keyword, tag, private creator, or a path into sequences."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.datadict import (
    dictionary_description,
    keyword_for_tag,
    private_dictionary_description,
    tag_for_keyword,
)

from app.dicom.metadata.dicom_json import to_metadata
from app.dicom.read.dataset import ObjectDataset
from app.dicom.read.vr import private_vr, public_vr

THRESHOLD = 1 << 16
"""Bytes; longer binary values are reported without their value."""
_SEGMENT = re.compile(
    r"(?:\((?P<group>[0-9A-Fa-f]{4}),(?P<creator>[^()]+),(?P<element>[0-9A-Fa-f]{2})\)"
    r"|(?P<open>\()?(?P<left>[0-9A-Fa-f]{4}),?(?P<right>[0-9A-Fa-f]{4})(?(open)\))"
    r"|(?P<keyword>[A-Za-z][A-Za-z0-9]*))"
    r"(?:\[(?P<item>[0-9]{1,7})\])?(?:\.|\Z)"
)


@dataclass(frozen=True, slots=True)
class Segment:
    """One step of a path: a tag, or with `creator` a private element, and the item to descend into.

    The tag of a private element has the group and the last two digits only.
    """

    tag: int
    creator: str = ""
    item: int | None = None

    def key_in(self, fields: Mapping[str, Any]) -> str:
        """Return the key of this attribute in a data set or item, empty if its creator has no block there."""
        if not self.creator:
            return f"{self.tag:08X}"
        group, element = self.tag >> 16, self.tag & 0xFF
        for block in range(0x10, 0x100):
            names = fields.get(f"{group:04X}{block:04X}", {}).get("Value") or [None]
            if isinstance(names[0], str) and names[0].strip() == self.creator:
                return f"{group:04X}{block:02X}{element:02X}"
        return ""

    @property
    def text(self) -> str:
        """Return the tag in the notation of the standard, such as `(0028,0010)`."""
        group, element = f"{self.tag >> 16:04x}", self.tag & 0xFFFF
        if self.creator:
            return f"({group},{self.creator},{element & 0xFF:02x})"
        return f"({group},{element:04x})"


def read_named(dataset: ObjectDataset, paths: Sequence[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the attributes in the order of `paths`, and the paths that are unknown.

    Parameters
    ----------
    dataset : as read
    paths : `Rows`, `00280010`, `(0028,0010)`, `(0029,SIEMENS CSA HEADER,10)`, with items of sequences as in
        `(0040,0275)[0].(0040,0007)`; the index defaults to the first item

    Returns
    -------
    VM, VR, keyword, name, tag and value of each attribute. The value is None if the data set lacks it, and a
    list only if there are several. A path is unknown if neither the dictionary nor the data set has it.
    """
    metadata = to_metadata(dataset, "", THRESHOLD)
    found, unknown = [], []
    for path in paths:
        segments = _segments(path)
        fields = metadata.file_meta if segments and segments[0].tag >> 16 == 2 else metadata.dataset
        attribute = _attribute(fields, segments) if segments else None
        if attribute is None:
            unknown.append(path)
        else:
            found.append(attribute)
    return found, unknown


def _segments(path: str) -> list[Segment]:
    """Parse a path into steps; an invalid path gives none."""
    segments, position = [], 0
    while position < len(path):
        match = _SEGMENT.match(path, position)
        if not match:
            return []
        segment = _segment(match)
        if segment is None:
            return []
        segments.append(segment)
        position = match.end()
    return [] if path.endswith(".") else segments


def _segment(match: re.Match[str]) -> Segment | None:
    item = int(match["item"]) if match["item"] else None
    if match["creator"]:
        group = int(match["group"], 16)
        return (
            Segment(group << 16 | int(match["element"], 16), match["creator"].strip(), item)
            if group & 1
            else None
        )
    if match["keyword"]:
        tag = tag_for_keyword(match["keyword"])
        return None if tag is None else Segment(tag, "", item)
    return Segment(int(match["left"] + match["right"], 16), "", item)


def _attribute(fields: Mapping[str, Any], segments: Sequence[Segment]) -> dict[str, Any] | None:
    items: Mapping[str, Any] = fields
    for segment in segments[:-1]:
        values = items.get(segment.key_in(items), {})
        inner = values.get("Value", []) if values.get("vr") == "SQ" else []
        index = segment.item or 0
        items = inner[index] if index < len(inner) else {}
    last = segments[-1]
    key = last.key_in(items)
    entry = items.get(key)
    vr, keyword, name = _known(last)
    if entry is None and not name:
        return None
    entry = entry or {"vr": vr}
    values = _values(entry)
    if last.item is not None:
        values = values[last.item : last.item + 1]
    multiplicity = len(values) if "BulkDataURI" not in entry and "InlineBinary" not in entry else 1
    return {
        "VM": multiplicity,
        "VR": entry["vr"],
        "keyword": keyword,
        "name": name or "Private tag data",
        "tag": ".".join([*(f"{one.text}[{one.item or 0}]" for one in segments[:-1]), last.text]),
        "value": None if not values else values[0] if len(values) == 1 else values,
    }


def _known(segment: Segment) -> tuple[str, str, str]:
    """Return VR, keyword and name by the dictionaries; the name is empty if they do not have the tag."""
    tag = segment.tag
    try:
        if segment.creator:
            place = f"{tag >> 16:04X}xx{tag & 0xFF:02X}"
            name = private_dictionary_description(int(place.replace("xx", "10"), 16), segment.creator)
            return private_vr(int(place.replace("xx", "10"), 16), segment.creator), "", name
        if tag >> 16 & 1:
            return "UN", "", ""
        return public_vr(tag)[:2], keyword_for_tag(tag), dictionary_description(tag)
    except KeyError:
        return "UN", "", ""


def _values(entry: Mapping[str, Any]) -> list[Any]:
    if "InlineBinary" in entry:
        return [entry["InlineBinary"]]
    values = entry.get("Value", [])
    return [_name(value) for value in values] if entry["vr"] == "PN" else list(values)


def _name(value: Mapping[str, str] | None) -> str | None:
    if value is None:
        return None
    groups = [value.get(kind, "") for kind in ("Alphabetic", "Ideographic", "Phonetic")]
    return "=".join(groups).rstrip("=")
