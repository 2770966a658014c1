"""Pure: rows of a search as DICOM JSON (PS3.18 F.2), with the attributes that QIDO-RS returns (10.6.3.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import date, time
from typing import Any

from app.dicom.metadata.dictionary import attribute, level_of
from app.model.values import Attribute
from app.warehouse.matching import COLUMN_OF
from app.warehouse.search import COLUMNS, Level

Fields = dict[str, dict[str, Any]]

LEVELS: tuple[Level, ...] = ("study", "series", "instance")
REQUIRED: dict[Level, tuple[str, ...]] = {
    "study": (
        *("00080020", "00080030", "00080050", "00080061", "00080090", "00100010", "00100020", "00100030"),
        *("00100040", "0020000D", "00200010", "00201206", "00201208"),
    ),
    "series": ("00080060", "0020000E", "00200011", "00201209"),
    "instance": ("00080016", "00080018", "00200013"),
}
"""PS3.18 Tables 10.6.3-3 to 10.6.3-5: returned always, also without a value."""
IF_KNOWN: dict[Level, tuple[str, ...]] = {
    "study": (),
    "series": ("0008103E", "00080201", "00400244", "00400245", "00400275"),
    "instance": ("00280008", "00280010", "00280011", "00280100"),
}
"""The same tables: returned if there is a value."""
AT_HAND: dict[Level, tuple[str, ...]] = {
    "study": ("00081030", "00100021"),
    "series": (*("00080021", "00080070", "00080080", "00081010", "00081090", "00180015", "00181030"),),
    "instance": ("00080008", "00083002", "00180050", "00280002", "00280004", "00280030", "00280101"),
}
"""What `includefield=all` adds: it has a column, so it costs nothing."""
COUNTS = {
    "00080061": "modalities",
    "00201206": "number_of_series",
    "00201208": "number_of_instances",
    "00201209": "number_of_instances",
}
MADE = frozenset(("00080005", "00081190", *COUNTS))
"""Attributes that are computed for the answer and not read from a data set."""
_COLUMNS = (
    {tag: column.name for tag, column in COLUMN_OF.items()} | COUNTS | {"00083002": "transfer_syntax_uid"}
)
_NAME_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")
_BINARY = ("OB", "OD", "OF", "OL", "OV", "OW", "UN")


def more_of(level: Level, include: Iterable[Attribute]) -> tuple[Attribute, ...]:
    """Return the attributes that a search of this level must return besides the columns."""
    wanted = [one for tag in IF_KNOWN[level] if (one := attribute(tag))]
    allowed = LEVELS[: LEVELS.index(level) + 1]
    wanted += [one for one in include if one.creator or level_of(one.tag) in allowed]
    by_key = {
        one.row_keys[-1]: one
        for one in wanted
        if (level == "instance" if one.creator else _COLUMNS.get(one.tag) not in COLUMNS[level])
        and one.tag not in MADE
    }
    return tuple(by_key.values())


def columns_of(level: Level, include: Iterable[Attribute], everything: bool = False) -> frozenset[str]:
    """Return the columns of a search for this level that `fields_of` reads."""
    tags = [*REQUIRED[level], *IF_KNOWN[level], *(AT_HAND[level] if everything else ())]
    tags += [one.tag for one in include if not one.creator]
    names = {_COLUMNS[tag] for tag in tags if tag in _COLUMNS} & COLUMNS[level].keys()
    return frozenset(names | {"patient_name_groups"} if "patient_name" in names else names)


def fields_of(
    row: Mapping[str, Any], level: Level, include: Mapping[str, Attribute], everything: bool = False
) -> Fields:
    """Return the attributes of one result that belong to its level, in no order.

    Parameters
    ----------
    row : as `app.warehouse.search.Found` has them
    level : of the row
    include : tag in the answer -> attribute that was asked for; those of lower levels are left out
    everything : return what has a column, too
    """
    fields = {tag: _element(row, tag) for tag in REQUIRED[level]}
    for tag in (*IF_KNOWN[level], *(AT_HAND[level] if everything else ())):
        element = _element(row, tag)
        if len(element) > 1:
            fields[tag] = element
    allowed = LEVELS[: LEVELS.index(level) + 1]
    for tag, one in include.items():
        if tag in ("00080005", "00081190"):  # of the answer itself
            continue
        if one.creator:
            if level == "instance" and one.row_keys[0] in row.get("more", {}):
                fields[tag] = _of_document(_private_vr(one, row), row["more"][one.row_keys[0]])
        elif level_of(tag) in allowed and tag not in fields and (tag not in COUNTS or level == "study"):
            fields[tag] = _element(row, tag)
    return fields


def url_of(row: Mapping[str, Any], level: Level, base: str) -> dict[str, Any]:
    """Return the element Retrieve URL (0008,1190) of a result."""
    url = f"{base}/studies/{row['study_instance_uid']}"
    if level != "study":
        url += f"/series/{row['series_instance_uid']}"
    if level == "instance":
        url += f"/instances/{row['sop_instance_uid']}"
    return {"vr": "UR", "Value": [url]}


def _element(row: Mapping[str, Any], tag: str) -> dict[str, Any]:
    one = attribute(tag)
    vr = one.vr if one else "UN"
    column = _COLUMNS.get(tag)
    if column is None or column not in row:
        return _of_document(vr, row.get("more", {}).get(tag))
    value = row[column]
    if value is None or value == []:
        return {"vr": vr}
    if vr == "PN":
        groups = row.get("patient_name_groups") if column == "patient_name" else None
        return {"vr": vr, "Value": [_name(name) for name in (groups or value).split("\\")]}
    if isinstance(value, list):
        return {"vr": vr, "Value": value}
    if column == "modalities":
        return {"vr": vr, "Value": [modality for modality in value.split(",") if modality]}
    convert = _CONVERT.get(type(value))
    if convert is not None:
        return {"vr": vr, "Value": [convert(value)]}
    values = value.split("\\") if isinstance(value, str) else [value]
    return {"vr": vr, "Value": [one or None for one in values] if isinstance(value, str) else values}


def _name(text: str) -> dict[str, str] | None:
    return {group: part for group, part in zip(_NAME_GROUPS, text.split("="), strict=False) if part} or None


def _clock(value: time) -> str:
    return (
        value.strftime("%H%M%S.%f").rstrip("0").rstrip(".") if value.microsecond else value.strftime("%H%M%S")
    )


def _day(value: date) -> str:
    return value.isoformat().replace("-", "")


_CONVERT: dict[type, Callable[[Any], Any]] = {date: _day, time: _clock}


def _private_vr(one: Attribute, row: Mapping[str, Any]) -> str:
    """Return the VR of a private element; if no dictionary knows it, one that its values fit."""
    if one.vr != "UN":
        return one.vr
    value = row["more"][one.row_keys[0]]
    first = next(iter(value), "") if isinstance(value, list) else value
    return "SQ" if isinstance(first, dict) else "UT" if isinstance(first, str) else "FD"


def _of_document(vr: str, value: Any) -> dict[str, Any]:
    """Return an element from the plain JSON of a row, where one value stands alone and a name is text."""
    if value is None or value == []:
        return {"vr": vr}
    if vr in _BINARY:
        return {"vr": vr, "InlineBinary": value} if isinstance(value, str) else {"vr": vr}
    values = value if isinstance(value, list) else [value]
    if vr == "US" and any(isinstance(one, int) and one < 0 for one in values):
        vr = "SS"  # the dictionary has both for some attributes, and names the first
    if vr == "SQ":
        return {"vr": vr, "Value": [_item(item) for item in values if isinstance(item, dict)]}
    if vr == "PN":
        values = [one and {"Alphabetic": one} for one in values]
    return {"vr": vr, "Value": values}


def _item(item: Mapping[str, Any]) -> Fields:
    known = {
        one.tag: _of_document(one.vr, item[name])
        for name in item
        if (one := attribute(name)) and not one.creator
    }
    return dict(sorted(known.items()))
