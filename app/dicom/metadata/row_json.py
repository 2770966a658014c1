"""The JSON of a row's column `metadata`: one key an element and plain values, made to be queried."""

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
"""Last digits of the groups of public elements."""


def to_row_metadata(metadata: Metadata, options: MetadataOptions) -> str:
    """Return the JSON text of a row.

    A public element is keyed by its keyword; by its tag where it has none of its own, or where `options.keys`
    says so. A private one is keyed by `gggg,creator,ee`, which does not depend on the block the file happened
    to put it in. One value stands plain, several in a list, none is null. A person name is its alphabetic
    form, a sequence a list of objects. Bulk data are left out. `FileMetaInformation` is group 0002.
    """
    wanted = frozenset(options.include)
    row = _object(metadata.dataset, options, wanted)
    meta = _object(metadata.file_meta, options, wanted)
    if meta:
        row["FileMetaInformation"] = meta
    return orjson.dumps(row).decode()


def _object(fields: Fields, options: MetadataOptions, wanted: frozenset[str]) -> dict[str, Any]:
    """Return a data set or item; `wanted` names the elements to keep and counts at the top level only."""
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
    """Return the keyword of a public tag; in the groups 50xx and 60xx, which share them, the tag."""
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
    """Return the alphabetic form of a name, or the first it has."""
    return next(iter(value.values())) if value else None
