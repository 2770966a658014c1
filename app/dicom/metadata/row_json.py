"""The JSON of the column `metadata`: one key per element and plain values, designed for queries."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import orjson
from pydicom.datadict import keyword_for_tag

from app.dicom.metadata.dicom_json import Metadata
from app.model.options import MetadataOptions

Fields = Mapping[str, Any]
EVEN = frozenset("02468ACE")
"""Last digits of an even group, as public elements have it."""


def to_row_metadata(metadata: Metadata, options: MetadataOptions) -> str:
    """Return the JSON text for a row.

    The key of a public element is its keyword, or its tag if it has no keyword of its own or if the option
    `keys` is `tag`. The key of a private element is `gggg,creator,ee`, which does not depend on the block the
    file happens to use. A single value is plain, several are a list, no value is null. A person name is its
    alphabetic form, a sequence is a list of objects. Bulk data are left out. Group 0002 is an object named
    `FileMetaInformation`.
    """
    wanted = frozenset(options.include)
    row = _object(metadata.dataset, options, wanted)
    meta = _object(metadata.file_meta, options, wanted)
    if meta:
        row["FileMetaInformation"] = meta
    return orjson.dumps(row).decode()


def _object(fields: Fields, options: MetadataOptions, wanted: frozenset[str]) -> dict[str, Any]:
    """Convert a data set or item; `wanted` names the elements to keep, at the top level only."""
    row: dict[str, Any] = {}
    creators: dict[str, str] = {}
    by_tag = options.keys == "tag"
    for tag, entry in fields.items():
        if tag[3] in EVEN:
            name = _keyword(tag)
        elif not options.private:
            continue
        elif tag[4:6] == "00" and tag[6:] >= "10":
            creators[tag[:4] + tag[6:]] = str((entry.get("Value") or [""])[0])
            continue
        else:
            creator = creators.get(tag[:6])
            name = f"{tag[:4]},{creator},{tag[6:]}" if creator else tag
        if "BulkDataURI" in entry or (wanted and name not in wanted and tag not in wanted):
            continue
        row[tag if name in row or (by_tag and "," not in name) else name] = _plain(entry, options)
    return row


@lru_cache(maxsize=1 << 16)
def _keyword(tag: str) -> str:
    """Return the keyword of a public tag; in the groups 50xx and 60xx, which share keywords, the tag."""
    return tag if tag[:2] in ("50", "60") else keyword_for_tag(int(tag, 16)) or tag


def _plain(entry: Fields, options: MetadataOptions) -> Any:
    """Return the value of one element in its simplest shape."""
    values = entry.get("Value")
    if values is None:
        return [] if entry["vr"] == "SQ" else entry.get("InlineBinary")
    if entry["vr"] == "SQ":
        return [_object(item, options, frozenset()) for item in values]
    if entry["vr"] == "PN":
        values = [_name(value) for value in values]
    return values[0] if len(values) == 1 else values or None


def _name(value: Mapping[str, str] | None) -> str | None:
    """Return the alphabetic form of a name, or the first form present."""
    return next(iter(value.values())) if value else None
