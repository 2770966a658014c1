"""The typed columns of the table `instances` that come from the data set."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import time
from typing import Any

from app.dicom.metadata.dicom_json import Metadata
from app.dicom.metadata.values import DECIMAL, to_date
from app.model.folding import fold_name
from app.model.values import DatasetWarning, Row

TEXTS = {
    "study_instance_uid": "0020000D",
    "series_instance_uid": "0020000E",
    "sop_instance_uid": "00080018",
    "sop_class_uid": "00080016",
    "patient_id": "00100020",
    "issuer_of_patient_id": "00100021",
    "patient_name": "00100010",
    "patient_sex": "00100040",
    "accession_number": "00080050",
    "study_id": "00200010",
    "study_description": "00081030",
    "series_description": "0008103E",
    "modality": "00080060",
    "body_part_examined": "00180015",
    "manufacturer": "00080070",
    "manufacturer_model_name": "00081090",
    "station_name": "00081010",
    "institution_name": "00080080",
    "referring_physician_name": "00080090",
    "protocol_name": "00181030",
    "photometric_interpretation": "00280004",
}
DATES = {"patient_birth_date": "00100030", "study_date": "00080020", "series_date": "00080021"}
TIMES = {"study_time": "00080030"}
INTEGERS = {
    "series_number": "00200011",
    "instance_number": "00200013",
    "rows": "00280010",
    "columns": "00280011",
    "number_of_frames": "00280008",
    "samples_per_pixel": "00280002",
    "bits_allocated": "00280100",
    "bits_stored": "00280101",
}
PIXEL_SPACING, SLICE_THICKNESS, IMAGE_TYPE, TRANSFER_SYNTAX = "00280030", "00180050", "00080008", "00020010"
PATIENT_NAME, NAME_GROUPS = "00100010", ("Alphabetic", "Ideographic", "Phonetic")
FUNCTIONAL_GROUPS, PIXEL_MEASURES = ("52009229", "52009230"), "00289110"
PADDED = ("AE", "CS", "DS", "IS", "LO", "PN", "SH")
"""VRs whose leading spaces are padding too (PS3.5 Table 6.2-1): dropped here, kept in the document."""
TIME = re.compile(r"(\d\d)(?::?(\d\d)(?::?(\d\d)(?:\.(\d{1,6}))?)?)?", re.ASCII)

Fields = Mapping[str, Any]


def columns(metadata: Metadata) -> tuple[Row, tuple[DatasetWarning, ...]]:
    """Return the columns, and a warning for each value that does not fit its column and has no warning yet.

    A missing or invalid value is None. Enhanced images hold their geometry in functional groups: if the top
    level has none, the shared group is used, then that of the first frame (PS3.3 C.7.6.16).
    """
    reader = _Reader(metadata)
    row: dict[str, object] = {name: _joined(metadata.dataset, tag) for name, tag in TEXTS.items()}
    names = _names(metadata.dataset, PATIENT_NAME)
    row["patient_name_folded"] = "\\".join(map(fold_name, names)).strip("\\") or None
    row["patient_name_groups"] = "\\".join(names) if any("=" in name for name in names) else None
    row["transfer_syntax_uid"] = _joined(metadata.file_meta, TRANSFER_SYNTAX)
    row |= {name: reader.first(tag, _date) for name, tag in DATES.items()}
    row |= {name: reader.first(tag, _time) for name, tag in TIMES.items()}
    row |= {name: reader.first(tag, _integer) for name, tag in INTEGERS.items()}
    row["pixel_spacing"] = reader.spacing()
    row["slice_thickness"] = reader.first(SLICE_THICKNESS, _float)
    row["image_type"] = _texts(metadata.dataset, IMAGE_TYPE)
    return row, tuple(reader.warnings)


class _Reader:
    """Reads values of one data set for columns and records those that do not fit."""

    def __init__(self, metadata: Metadata) -> None:
        self.fields = metadata.dataset
        self.warned = {warning.tag for warning in metadata.warnings}
        self.warnings: list[DatasetWarning] = []

    def values(self, tag: str) -> list[Any]:
        """Return the values of an element; pixel measures may come from the functional groups."""
        found = _values(self.fields, tag)
        if not found and tag in (PIXEL_SPACING, SLICE_THICKNESS):
            for groups in FUNCTIONAL_GROUPS:
                for item in _items(_first_item(self.fields, groups), PIXEL_MEASURES):
                    found = found or _values(item, tag)
        return found

    def first(self, tag: str, convert: Callable[[Any], Any]) -> Any:
        """Return the first value, converted; None if there is none or it does not fit."""
        values = self.values(tag)
        if not values or values[0] is None:
            return None
        converted = convert(values[0])
        if converted is None or len(values) > 1:
            self.warn(tag)
        return converted

    def spacing(self) -> list[float]:
        """Return row and column spacing in mm, empty unless both are numbers."""
        values = [_float(value) for value in self.values(PIXEL_SPACING)]
        if not values:
            return []
        if len(values) != 2 or None in values:
            self.warn(PIXEL_SPACING)
            return []
        return [value for value in values if value is not None]

    def warn(self, tag: str) -> None:
        """Record a value that does not fit its column."""
        if tag not in self.warned:
            self.warnings.append(DatasetWarning(tag, "not_for_column"))


def _first_item(fields: Fields, tag: str) -> Fields:
    return next(iter(_items(fields, tag)), {})


def _values(fields: Fields, tag: str) -> list[Any]:
    entry = fields.get(tag, {})
    values: list[Any] = entry.get("Value", []) if entry.get("vr") != "SQ" else []
    return values


def _items(fields: Fields, tag: str) -> list[Fields]:
    entry = fields.get(tag, {})
    items: list[Fields] = entry.get("Value", []) if entry.get("vr") == "SQ" else []
    return items


def _joined(fields: Fields, tag: str) -> str | None:
    """Return an element as text, several values separated by backslashes as in DICOM."""
    return "\\".join(_texts(fields, tag)) or None


def _texts(fields: Fields, tag: str) -> list[str]:
    texts = [
        next(iter(value.values()), "") if isinstance(value, dict) else "" if value is None else str(value)
        for value in _values(fields, tag)
    ]
    return [text.lstrip(" ") for text in texts] if fields.get(tag, {}).get("vr") in PADDED else texts


def _names(fields: Fields, tag: str) -> list[str]:
    """Return person names with all their component groups."""
    return [
        "=".join(name.get(group, "") for group in NAME_GROUPS).rstrip("=")
        for name in _values(fields, tag)
        if isinstance(name, dict)
    ]


def _integer(value: Any) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and -(1 << 63) <= value < 1 << 63 else None


def _float(value: Any) -> float | None:
    # float() alone would accept what DICOM does not allow: underscores and digits of other scripts.
    if not (DECIMAL.fullmatch(value) if isinstance(value, str) else isinstance(value, int | float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _date(value: Any) -> object:
    return to_date(value) if isinstance(value, str) else None


def _time(value: Any) -> time | None:
    match = TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    hour, minute, second, fraction = match.groups("0")
    try:
        return time(int(hour), int(minute), int(second), int(fraction.ljust(6, "0")))
    except ValueError:
        return None
