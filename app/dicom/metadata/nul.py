"""NUL characters in the text of a data set, which rows do not hold."""

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
    """Return a data set as its row has it: U+FFFD for each NUL in a text, and a warning for its element.

    Parameters
    ----------
    metadata : as read; NULs that pad a value are gone already (PS3.5 6.2)
    document : its JSON text, where NULs are easily seen; nearly every data set has none

    Notes
    -----
    No VR allows NUL inside a value (PS3.5 6.1.3), but files have it. The document keeps it, for JSON can hold
    it. Rows do not: PostgreSQL refuses it in text and in JSON, and SQLite's functions and readers end a text
    there. So that a value is the same in every warehouse, none gets it. It is replaced. If it were removed,
    two identifiers that differ could become one; if the text ended there, what follows would be lost.
    """
    if ESCAPED not in document and ESCAPED not in orjson.dumps(metadata.file_meta):
        return metadata
    found: dict[str, None] = {}
    dataset, file_meta = _cleaned(metadata.dataset, found), _cleaned(metadata.file_meta, found)
    warnings = (*metadata.warnings, *(DatasetWarning(tag, "nul_in_text") for tag in found))
    return replace(metadata, dataset=dataset, file_meta=file_meta, warnings=warnings)


def _cleaned(fields: Mapping[str, Any], found: dict[str, None]) -> dict[str, Any]:
    """Return a data set or item without NULs, and note the tags that had one."""
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
    """Return a text, a name by component groups or any other value without NULs."""
    if isinstance(value, str):
        return value.replace("\0", REPLACEMENT)
    return {kind: _value(group) for kind, group in value.items()} if isinstance(value, dict) else value
