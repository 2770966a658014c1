"""Convert the bytes of one element to the values of DICOM JSON (PS3.18 F.2.3).

A value that breaks the rules of its VR is kept unchanged and gives a warning; none is lost or rounded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal, InvalidOperation
from struct import Struct, unpack
from typing import Any, cast

import orjson

from app.dicom.read.charset import Charset
from app.model.values import DatasetWarning

DEFAULT_CHARSET = Charset()
MAX_EXACT_INTEGER = 1 << 53
"""Larger integers lose precision in some JSON readers, so they are written as strings."""

SIZES = {"US": 2, "SS": 2, "UL": 4, "SL": 4, "UV": 8, "SV": 8, "FL": 4, "FD": 8, "AT": 4}
FORMATS = {"US": "H", "SS": "h", "UL": "L", "SL": "l", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}
STRUCTS = [{vr: Struct(order + FORMATS[vr]) for vr in FORMATS} for order in "><"]
"""For big endian and little endian: VR -> struct of one value."""
WORDS = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}
BINARY = {"OB", "UN", *WORDS}
LENGTHS = {"AE": 16, "AS": 4, "CS": 16, "DA": 10, "DS": 16, "IS": 12, "LO": 64, "LT": 10240}
LENGTHS |= {"SH": 16, "ST": 1024, "TM": 16, "UI": 64}
PATTERNS = {
    "AE": re.compile(r"[ -~]*"),
    "AS": re.compile(r"\d{3}[DWMY]"),
    "CS": re.compile(r"[A-Z0-9_ ]*"),
    "DT": re.compile(r"\d{4}(\d\d){0,5}(\.\d{1,6})?([+-]\d{4})?"),
    "TM": re.compile(r"([01]\d|2[0-3])(:?[0-5]\d(:?([0-5]\d|60)(\.\d{1,6})?)?)?"),
    "UI": re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))*"),
}
CERTAINLY_VALID = {
    "CS": re.compile(rb"[A-Z0-9_]+(?: [A-Z0-9_]+)*(?:\\[A-Z0-9_]+(?: [A-Z0-9_]+)*)* ?"),
    "DA": re.compile(rb"\d{4}(?:0[1-9]|1[0-2])(?:0[1-9]|1\d|2[0-8])"),
    "TM": re.compile(rb"(?:[01]\d|2[0-3])[0-5]\d[0-5]\d(?:\.\d{1,6})? ?"),
    "UI": re.compile(rb"(?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*))*\0?"),
}
"""Fast path for the most frequent VRs: bytes that are certainly valid. Others are checked value by value."""
DAY = re.compile(r"(\d{4})(\.?)(\d\d)\2(\d\d)", re.ASCII)
FRACTION = re.compile(rb"-?\d+\.\d+")
WHOLE = re.compile(r"[+-]?\d+")
DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
DIGITS = b"0123456789.-+eE \\"
MAX_EXACT_DIGITS, MIN_EXACT = 15, 1e-300
"""A decimal of this many digits survives a double, unless it is so small that the double is subnormal."""


@dataclass(slots=True)
class Reading:
    """The state of the conversion: byte order, character set, current tag, and the warnings so far."""

    little: bool
    charset: Charset = DEFAULT_CHARSET
    tag: int = 0
    warnings: dict[tuple[int, str], None] = field(default_factory=dict)

    def warn(self, code: str) -> None:
        """Record a fault of the current element; repeated faults of one tag count once."""
        self.warnings[self.tag, code] = None

    def warn_of(self, tag: int, code: str) -> None:
        """Record a fault of another element than the current one."""
        self.warnings[tag, code] = None

    def found(self) -> tuple[DatasetWarning, ...]:
        """Return the warnings in the order in which they were recorded."""
        return tuple(DatasetWarning(f"{tag:08X}", code) for tag, code in self.warnings)


def text_values(vr: str, raw: bytes, reading: Reading) -> list[Any]:
    """Return the values of a text VR to which the Specific Character Set applies."""
    text, valid = reading.charset.decode(raw)
    if not valid:
        reading.warn("invalid_text")
    if "\\" in text and vr not in ("ST", "LT", "UT"):
        values = [value.rstrip(" \0") or None for value in text.split("\\")]
    else:
        values = [text.rstrip(" \0") or None]
    if len(raw) > LENGTHS.get(vr, len(raw)) and any(value and len(value) > LENGTHS[vr] for value in values):
        reading.warn("too_long")
    return values


def name_values(vr: str, raw: bytes, reading: Reading) -> list[Any]:
    """Return person names by component group (PS3.18 F.2.2)."""
    text, valid = reading.charset.decode(raw, b"\\^=\r\n\f\t")
    if not valid:
        reading.warn("invalid_text")
    return [_name(value, reading) for value in text.split("\\")]


def _name(text: str, reading: Reading) -> dict[str, str] | None:
    groups = [group.rstrip(" \0") for group in text.split("=", 2)]
    if any(len(group) > 64 for group in groups):
        reading.warn("too_long")
    if "=" in groups[-1]:
        reading.warn("invalid_pn")
    kinds = ("Alphabetic", "Ideographic", "Phonetic")
    return {kind: group for kind, group in zip(kinds, groups, strict=False) if group} or None


def code_values(vr: str, raw: bytes, reading: Reading) -> list[Any]:
    """Return the values of an ASCII VR with a format of its own."""
    clean = CERTAINLY_VALID.get(vr)
    if clean is not None and clean.fullmatch(raw) and len(raw) <= LENGTHS[vr]:
        return raw.rstrip(b" \0").decode("ascii").split("\\")
    if not raw.isascii():
        return _beyond_ascii(vr, raw, reading)
    texts = raw.decode("ascii").split("\\")
    values = [text.strip(" \0") if vr in ("AE", "CS") else text.rstrip(" \0") for text in texts]
    for value in values:
        if value:
            _check(vr, value, reading)
    return [value or None for value in values]


def uri_values(vr: str, raw: bytes, reading: Reading) -> list[Any]:
    """Return the value of a UR: always a single one, because a backslash does not separate (PS3.5 6.4)."""
    if not raw.isascii():
        reading.warn("invalid_ur")
    return [reading.charset.decode(raw)[0].rstrip(" \0") or None]


def _beyond_ascii(vr: str, raw: bytes, reading: Reading) -> list[Any]:
    text, _ = reading.charset.decode(raw)
    reading.warn(f"invalid_{vr.lower()}")
    return [value.rstrip(" \0") or None for value in text.split("\\")]


def _check(vr: str, value: str, reading: Reading) -> None:
    """Warn if a value does not have the format of its VR (PS3.5 6.2)."""
    if len(value) > LENGTHS.get(vr, len(value)):
        reading.warn("too_long")
    if to_date(value) is None if vr == "DA" else not PATTERNS[vr].fullmatch(value):
        reading.warn(f"invalid_{vr.lower()}")


def to_date(text: str) -> date | None:
    """Parse a DA value, also in the old form YYYY.MM.DD; return None if it is not a date."""
    match = DAY.fullmatch(text)
    try:
        return date(int(match[1]), int(match[3]), int(match[4])) if match else None
    except ValueError:
        return None


def whole_values(vr: str, raw: bytes, reading: Reading) -> list[Any]:
    """Return IS values: integers, or the text if it is not an integer of at most 12 characters."""
    digits = raw.rstrip(b" \0")
    if len(digits) < 10 and digits.isdigit():
        return [int(digits)]
    return [_whole(text.strip(" \0"), reading) for text in raw.decode("latin-1").split("\\")]


def _whole(text: str, reading: Reading) -> int | str | None:
    if not text:
        return None
    if not (text.isascii() and WHOLE.fullmatch(text)):
        reading.warn("invalid_is")
        return text
    if len(text) > LENGTHS["IS"]:
        reading.warn("too_long")
        return text
    value = int(text)
    if not -(1 << 31) <= value < 1 << 31:
        reading.warn("invalid_is")
    return value


def decimal_values(vr: str, raw: bytes, reading: Reading) -> list[Any]:
    """Return DS values: numbers if a double represents the decimal exactly, otherwise the text."""
    raw = raw.rstrip(b" \0")
    if len(raw) <= MAX_EXACT_DIGITS:
        if raw.isdigit():
            return [int(raw)]
        if FRACTION.fullmatch(raw):
            return [float(raw)]
    return _json_numbers(raw) or [
        _decimal(text.strip(" \0"), reading) for text in raw.decode("latin-1").split("\\")
    ]


def _json_numbers(raw: bytes) -> list[Any]:
    """Parse a value as JSON numbers; return an empty list if it is not JSON or a double might round.

    A fast path: contours have hundreds of thousands of numbers, nearly all of which are valid JSON.
    """
    long = len(raw) > MAX_EXACT_DIGITS and max(map(len, raw.split(b"\\"))) > MAX_EXACT_DIGITS
    if long or raw.translate(None, DIGITS):
        return []
    try:
        values = cast(list[Any], orjson.loads(b"[" + raw.replace(b"\\", b",") + b"]"))
    except orjson.JSONDecodeError:
        return []
    if b"e" in raw or b"E" in raw:
        return values if all(MIN_EXACT < abs(value) < 1 / MIN_EXACT for value in values) else []
    return values


def _decimal(text: str, reading: Reading) -> int | float | str | None:
    if not text:
        return None
    if not (text.isascii() and DECIMAL.fullmatch(text)):
        reading.warn("invalid_ds")
        return text
    if len(text) > LENGTHS["DS"]:
        reading.warn("too_long")
    number = int(text) if len(text) <= MAX_EXACT_DIGITS and WHOLE.fullmatch(text) else float(text)
    return number if repr(number) == text or (math.isfinite(number) and _is_exact(text, number)) else text


def _is_exact(text: str, number: float) -> bool:
    """Return whether the shortest representation of `number` equals the decimal `text`."""
    if len(text) > 64:
        return False
    try:
        return Decimal(text) == Decimal(repr(number))
    except InvalidOperation:
        return False


def binary_numbers(vr: str, raw: bytes, reading: Reading) -> list[Any]:
    """Return the numbers of a binary VR; those that JSON cannot represent become text."""
    one = STRUCTS[reading.little][vr]
    alone = len(raw) == one.size
    values = list(one.unpack(raw)) if alone else [number for (number,) in one.iter_unpack(raw)]
    if vr in ("FL", "FD") and not all(map(math.isfinite, values)):
        reading.warn("not_finite")
        return [value if math.isfinite(value) else _not_finite(value) for value in values]
    if vr in ("UV", "SV"):
        return [value if -MAX_EXACT_INTEGER <= value <= MAX_EXACT_INTEGER else str(value) for value in values]
    return values


def _not_finite(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def tag_values(vr: str, raw: bytes, reading: Reading) -> list[Any]:
    """Return AT values as eight hex digits."""
    order = "<" if reading.little else ">"
    halves = unpack(f"{order}{len(raw) // 2}H", raw)
    return [f"{group:04X}{number:04X}" for group, number in zip(halves[::2], halves[1::2], strict=True)]


def to_little(vr: str, raw: bytes, reading: Reading) -> bytes:
    """Return binary data in little endian, as DICOM JSON requires (PS3.18 F.2.7)."""
    size = WORDS.get(vr, 1)
    return raw if reading.little else turned(raw, size)


def turned(raw: bytes, size: int) -> bytes:
    """Swap the bytes of every word of `size` bytes; return the input if its length is not a multiple."""
    if size == 1 or len(raw) % size:
        return raw
    swapped = bytearray(len(raw))
    for at in range(size):
        swapped[at::size] = raw[size - 1 - at :: size]
    return bytes(swapped)


Converter = Callable[[str, bytes, Reading], list[Any]]

CONVERTERS: dict[str, Converter] = {
    **dict.fromkeys(("SH", "LO", "ST", "LT", "UC", "UT"), text_values),
    **dict.fromkeys(("AE", "AS", "CS", "DA", "DT", "TM", "UI"), code_values),
    **dict.fromkeys(FORMATS, binary_numbers),
    "PN": name_values,
    "UR": uri_values,
    "IS": whole_values,
    "DS": decimal_values,
    "AT": tag_values,
}
