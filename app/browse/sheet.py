"""A DICOM JSON document for people: lines of a table, and what the viewer needs to draw it; pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Document = Mapping[str, Any]
"""A data set as PS3.18 Annex F writes it: eight hex digits -> vr, Value, BulkDataURI."""
MAX_LINES, MAX_DEPTH, MAX_TEXT = 5000, 5, 400
RAW_BITS = (8, 16)
TAG = re.compile(r"[0-9A-Fa-f]{8}")
RATES = ("00082144", "00180040")
"""Recommended Display Frame Rate, Cine Rate; PS3.3 C.7.6.5."""


@dataclass(frozen=True, slots=True)
class Line:
    """One element; `depth` counts the sequences around it."""

    tag: str
    vr: str
    keyword: str
    value: str
    depth: int
    warning: str


@dataclass(frozen=True, slots=True)
class Viewer:
    """How the page draws a picture: whether from raw frames, and how their values are shown.

    drawn: frames can be asked for; a document or waveform has its preview alone.
    center, width: of the first window, None without one. rate: frames a second.
    """

    drawn: bool
    frames: int
    rows: int
    columns: int
    raw: bool
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    inverted: bool
    slope: float
    intercept: float
    center: float | None
    width: float | None
    rate: float


def lines(document: Document | None, warnings: Sequence[Mapping[str, object]]) -> list[Line]:
    """Return the elements of a document in order, at most MAX_LINES."""
    warned = {str(one.get("tag")): str(one.get("code")) for one in warnings}
    found = []
    for line in _lines(document or {}, 0, warned):
        found.append(line)
        if len(found) == MAX_LINES:
            break
    return found


def uid_text(uid: object) -> str:
    """Return a UID of the standard with its name, any other as it is."""
    from app.dicom.metadata.dictionary import uid_name

    name = uid_name(str(uid or ""))
    return f"{name} ({uid})" if name else str(uid or "")


def tag_text(tag: object) -> str:
    """Return `(0010,0020) PatientID` of a tag of eight hex digits, anything else as it is."""
    from app.dicom.metadata.keywords import keyword_of

    text = str(tag or "")
    return f"({text[:4]},{text[4:]}) {keyword_of(text)}".strip() if TAG.fullmatch(text) else text


def _lines(document: Document, depth: int, warned: Mapping[str, str]) -> Iterator[Line]:
    from app.dicom.metadata.keywords import keyword_of  # loads the data dictionary only when somebody looks

    for tag in sorted(document):
        element = document[tag]
        vr, values = str(element.get("vr", "")), element.get("Value", [])
        shown = f"({tag[:4]},{tag[4:]})"
        warning = warned.get(tag, "") if depth == 0 else ""
        if vr != "SQ":
            yield Line(shown, vr, keyword_of(tag), _text(element, values), depth, warning)
            continue
        items = f"{len(values)} item{'' if len(values) == 1 else 's'}"
        yield Line(shown, vr, keyword_of(tag), items, depth, warning)
        for number, item in enumerate(values):
            if depth < MAX_DEPTH and item:
                if len(values) > 1:
                    yield Line(f"item {number + 1}", "", "", "", depth + 1, "")
                yield from _lines(item, depth + 1, {})


def _text(element: Mapping[str, Any], values: Sequence[Any]) -> str:
    if "BulkDataURI" in element:
        return "(bulk data)"
    if "InlineBinary" in element:
        return f"(binary, {len(element['InlineBinary']) * 3 // 4} bytes)"
    text = " \\ ".join(_value(value) for value in values[:64])
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):  # a person's name, by component groups
        return "=".join(
            str(value[group]) for group in ("Alphabetic", "Ideographic", "Phonetic") if group in value
        )
    return "" if value is None else str(value)


def viewer(row: Mapping[str, Any], document: Document | None) -> Viewer | None:
    """Return how to show the pixels of an instance, None if it has none that can be drawn."""
    if not row.get("preview_uri") or not document:
        return None
    drawn = bool(row.get("rows") and row.get("columns"))
    frames = max(int(row.get("number_of_frames") or 1), 1) if drawn else 1
    bits = int(_first(document, "00280100") or 0)
    stored = int(_first(document, "00280101") or bits)
    grey = str(row.get("photometric_interpretation") or "").startswith("MONOCHROME")
    shared, per_frame = _item(document, "52009229"), _item(document, "52009230")
    transform = _item(shared, "00289145") or _item(per_frame, "00289145") or document
    lut = _item(shared, "00289132") or _item(per_frame, "00289132") or document
    # Frames that are not all shown alike, and tables instead of numbers, are left to the service.
    varies = bool(_item(per_frame, "00289145") or _item(per_frame, "00289132")) and frames > 1
    tables = any(tag in document for tag in ("00283000", "00283010"))
    raw = drawn and grey and bits in RAW_BITS and row.get("samples_per_pixel") == 1 and not (varies or tables)
    center, width = _number(_first(lut, "00281050")), _number(_first(lut, "00281051"))
    has_window = center is not None and width is not None and width >= 1
    linear = str(_first(lut, "00281056") or "LINEAR") == "LINEAR"
    return Viewer(
        drawn=drawn,
        frames=frames,
        rows=int(row.get("rows") or 1),
        columns=int(row.get("columns") or 1),
        raw=bool(raw and linear),
        bits_allocated=bits,
        bits_stored=stored,
        high_bit=int(_first(document, "00280102") or stored - 1),
        signed=_first(document, "00280103") == 1,
        inverted=(row.get("photometric_interpretation") == "MONOCHROME1")
        or _first(document, "20500020") == "INVERSE",
        slope=_number(_first(transform, "00281053")) or 1.0,
        intercept=_number(_first(transform, "00281052")) or 0.0,
        center=center if has_window else None,
        width=width if has_window else None,
        rate=_rate(document),
    )


def _rate(document: Document) -> float:
    for tag in RATES:
        if rate := _number(_first(document, tag)):
            return min(max(rate, 1.0), 60.0)
    if pause_ms := _number(_first(document, "00181063")):
        return min(max(1000.0 / pause_ms, 1.0), 60.0)
    return 10.0


def _first(document: Document | None, tag: str) -> Any:
    values = (document or {}).get(tag, {}).get("Value") or [None]
    return values[0]


def _item(document: Document | None, tag: str) -> Document | None:
    found = _first(document, tag)
    return found if isinstance(found, Mapping) and found else None


def _number(value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None
