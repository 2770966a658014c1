"""The JSON of a row's column `metadata`: one key an element and plain values, made to be queried."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import orjson
from pydicom.datadict import keyword_for_tag

from app.dicom.metadata.dicom_json import Metadata
from app.model.options import MetadataOptions

Fields = Mapping[str, Any]


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
    for tag, name, entry in _named(fields, options.private):
        if "BulkDataURI" in entry or (wanted and name not in wanted and tag not in wanted):
            continue
        by_tag = name in row or (options.keys == "tag" and "," not in name)
        row[tag if by_tag else name] = _plain(entry, options)
    return row


def _named(fields: Fields, private: bool) -> Iterator[tuple[str, str, Fields]]:
    """Yield tag, name and entry of each element but the private creators."""
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


@lru_cache(maxsize=1 << 16)
def _keyword(tag: str) -> str:
    """Return the keyword of a public tag; in the groups 50xx and 60xx, which share them, the tag."""
    return tag if tag[:2] in ("50", "60") else keyword_for_tag(int(tag, 16)) or tag


def _plain(entry: Fields, options: MetadataOptions) -> Any:
    """Return the value of one element in its simplest shape."""
    if "InlineBinary" in entry:
        return entry["InlineBinary"]
    values = entry.get("Value", [])
    if entry["vr"] == "SQ":
        return [_object(item, options, frozenset()) for item in values]
    if entry["vr"] == "PN":
        values = [_name(value) for value in values]
    return values[0] if len(values) == 1 else values or None


def _name(value: Mapping[str, str] | None) -> str | None:
    """Return the alphabetic form of a name, or the first it has."""
    return next(iter(value.values())) if value else None
