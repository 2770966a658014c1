"""The JSON of a row's column `metadata`: keyword keys and plain values, made to be queried."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import orjson
from pydicom.datadict import keyword_for_tag

from app.dicom.metadata import Metadata
from app.types import MetadataOptions

Fields = Mapping[str, Any]


def to_row_metadata(metadata: Metadata, options: MetadataOptions) -> str:
    """Return the JSON text of a row.

    A public element is keyed by its keyword, or by its tag where it has none of its own; a private one by
    `gggg,creator,ee`, which does not depend on the block the file happened to put it in. One value stands
    plain, several in a list, none is null. A person name is its alphabetic form, a sequence a list of
    objects. Bulk data are left out. Group 0002 is the object `FileMetaInformation`.
    """
    wanted = frozenset(options.keywords)
    row = _object(metadata.dataset, options.private, wanted)
    meta = _object(metadata.file_meta, options.private, wanted)
    if meta:
        row["FileMetaInformation"] = meta
    return orjson.dumps(row).decode()


def _object(fields: Fields, private: bool, wanted: frozenset[str]) -> dict[str, Any]:
    """Return a data set or item; `wanted` names the keys to keep and counts at the top level only."""
    row: dict[str, Any] = {}
    for tag, key, entry in _keyed(fields, private):
        if "BulkDataURI" in entry or (wanted and key not in wanted and tag not in wanted):
            continue
        row[tag if key in row else key] = _plain(entry, private)
    return row


def _keyed(fields: Fields, private: bool) -> Iterator[tuple[str, str, Fields]]:
    """Yield tag, key and entry of each element but the private creators."""
    creators: dict[str, str] = {}
    for tag, entry in fields.items():
        if int(tag[3], 16) % 2 == 0:
            yield tag, _keyword(tag), entry
        elif not private:
            continue
        elif tag[4:6] == "00" and int(tag[6:], 16) >= 0x10:
            creators[tag[:4] + tag[6:]] = str((entry.get("Value") or [""])[0])
        else:
            creator = creators.get(tag[:6])
            yield tag, f"{tag[:4]},{creator},{tag[6:]}" if creator else tag, entry


@cache
def _keyword(tag: str) -> str:
    """Return the keyword of a public tag; in the groups 50xx and 60xx, which share them, the tag."""
    return tag if tag[:2] in ("50", "60") else keyword_for_tag(int(tag, 16)) or tag


def _plain(entry: Fields, private: bool) -> Any:
    """Return the value of one element in its simplest shape."""
    if "InlineBinary" in entry:
        return entry["InlineBinary"]
    values = entry.get("Value", [])
    if entry["vr"] == "SQ":
        return [_object(item, private, frozenset()) for item in values]
    if entry["vr"] == "PN":
        values = [_name(value) for value in values]
    return values[0] if len(values) == 1 else values or None


def _name(value: Mapping[str, str] | None) -> str | None:
    """Return the alphabetic form of a name, or the first it has."""
    return next(iter(value.values())) if value else None
