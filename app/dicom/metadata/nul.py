"""Replace NUL characters in text, which warehouses cannot store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson

from app.dicom.metadata.dicom_json import Metadata
from app.model.values import DatasetWarning

REPLACEMENT = "\ufffd"
ESCAPED = b"\\u0000"


def without_nul(metadata: Metadata, document: bytes) -> Metadata:
    """Return the data set for the row: each NUL in a text becomes U+FFFD, with a warning for its element.

    Parameters
    ----------
    metadata : as read; NULs that pad a value are gone already (PS3.5 6.2)
    document : its JSON text, in which NULs are found quickly; nearly every data set has none

    Notes
    -----
    No VR allows NUL inside a value (PS3.5 6.1.3), but files contain it. The document keeps it, because JSON
    can hold it. PostgreSQL refuses it in text and in JSON, and SQLite's functions and clients end a text
    there. To give the same value in every warehouse, none gets it. It is replaced because removing it could
    make two different identifiers equal, and ending the text there would lose the rest.
    """
    if ESCAPED not in document and ESCAPED not in orjson.dumps(metadata.file_meta):
        return metadata
    found: dict[str, None] = {}
    dataset, file_meta = _cleaned(metadata.dataset, found), _cleaned(metadata.file_meta, found)
    warnings = (*metadata.warnings, *(DatasetWarning(tag, "nul_in_text") for tag in found))
    return replace(metadata, dataset=dataset, file_meta=file_meta, warnings=warnings)


def _cleaned(fields: Mapping[str, Any], found: dict[str, None]) -> dict[str, Any]:
    """Return a data set or item without NULs, and add the tags that had one to `found`."""
    cleaned: dict[str, Any] = {}
    for tag, entry in fields.items():
        values = entry.get("Value", [])
        if entry["vr"] == "SQ":
            better = [_cleaned(item, found) for item in values]
        else:
            better = [_value(value) for value in values]
            if better != values:
                found[tag] = None
        cleaned[tag] = {**entry, "Value": better} if values else entry
    return cleaned


def _value(value: Any) -> Any:
    """Return a value without NULs: a text, a name by component groups, or any other."""
    if isinstance(value, str):
        return value.replace("\0", REPLACEMENT)
    return {kind: _value(group) for kind, group in value.items()} if isinstance(value, dict) else value
