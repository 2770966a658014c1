"""Pure: one key of a search becomes a condition on a row of `instances` (PS3.4 C.2.2.2)."""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date, time
from itertools import product

from app.model.errors import BadSearch
from app.model.folding import fold_name
from app.model.values import Attribute
from app.warehouse.dialects import Dialect
from app.warehouse.tables import TABLES, Column

COLUMN_OF: dict[str, Column] = {
    "".join(found.groups()): column
    for column in TABLES["instances"].columns
    if (found := re.search(r"\(([0-9A-F]{4}),([0-9A-F]{4})\)", column.description))
}
"""Tag -> the typed column that holds it."""

MAX_WILDCARDS = 8
MAX_VALUES = 1000
PADDED = frozenset(("AE", "AS", "CS", "DS", "IS", "LO", "PN", "SH", "UI", "DA", "TM", "DT"))
WILD = frozenset(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UN", "UR", "UT"))
NUMBERS = frozenset(("DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV"))
LISTED = NUMBERS | {"CS", "UI"}
"""VRs whose values contain neither comma nor backslash, so that one key may list several."""
_CONTROL = re.compile(r"[\0-\x1f\x7f]")
_SEPARATOR = re.compile(r"[,\\]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_DAY = re.compile(r"(\d{4})(\d\d)(\d\d)", re.ASCII)
_CLOCK = re.compile(r"(\d\d)(?::?(\d\d)(?::?(\d\d)(?:\.(\d{1,6}))?)?)?", re.ASCII)
_MOMENT = re.compile(r"\d{4}(?:\d\d){0,5}(?:\.\d{1,6})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Match:
    """One key: the path through sequences to an attribute, and its value as DICOM writes it.

    An empty value, and `*` alone, match everything. Person names match whatever their case is, other text if
    `ignore_case` says so.
    """

    path: tuple[Attribute, ...]
    value: str
    ignore_case: bool = False

    @property
    def name(self) -> str:
        """The attribute as the error texts name it."""
        return ".".join(one.keyword or one.row_keys[0] for one in self.path)

    @property
    def is_universal(self) -> bool:
        """Whether it matches everything, also where there is no value (PS3.4 C.2.2.2.3)."""
        return not self.value.strip(" *")

    @property
    def tag(self) -> str:
        """The tag, empty in a sequence and for a private element."""
        return self.path[0].tag if len(self.path) == 1 and not self.path[0].creator else ""


@dataclass(slots=True)
class Parameters:
    """Values of a statement, each under a name of its own."""

    values: dict[str, object] = field(default_factory=dict)

    def bind(self, value: object) -> str:
        """Return how the statement writes a value: null as NULL, any other as a parameter."""
        if value is None:
            return "NULL"
        name = f"p{len(self.values)}"
        self.values[name] = value
        return f"@{name}"

    def bind_all(self, values: Sequence[object]) -> str:
        """Return what stands in the brackets of `IN (...)`."""
        return ", ".join(self.bind(value) for value in values)


Test = Callable[[str], str]
"""Expression -> condition on it."""


def conditions(matches: Sequence[Match], words: Dialect, bound: Parameters) -> list[str]:
    """Return conditions that all have to hold, in which `{i}` stands for the alias of the row.

    Parameters
    ----------
    matches : none of them universal

    Raises
    ------
    BadSearch : a value cannot be one of its attribute, or the attribute cannot be searched by
    """
    span = _span(matches, bound)
    rest = [match for match in matches if not (span and match.tag in ("00080020", "00080030"))]
    return [*span, *(condition(match, words, bound) for match in rest)]


def condition(match: Match, words: Dialect, bound: Parameters) -> str:
    """Return the condition of one key; see `conditions`."""
    vr, text = match.path[-1].vr, match.value
    if _CONTROL.search(text):
        raise BadSearch(f"{match.name}: the value holds a control character")
    text = text.strip(" ") if vr in PADDED else text.rstrip(" ")
    if len(match.path) > 1 and any(one.vr not in ("SQ", "UN") for one in match.path[:-1]):
        raise BadSearch(f"{match.name}: only sequences have attributes inside")
    column = COLUMN_OF.get(match.tag)
    if column is None:
        return _in_document(match, words, bound, _test(match, text, words, bound))
    row = f"{{i}}.{words.quote}{column.name}{words.quote}"
    if column.name == "patient_name":
        folded = fold_name(text)
        pattern = bound.bind(words.pattern(_name_pattern(match.name, folded), False))
        grouped = f"({{i}}.{words.quote}patient_name_folded{words.quote} || '=')"
        return words.matches.format(grouped, pattern) if folded else "1 = 0"
    if column.type == "DATE":
        return _between(row, day_range(match.name, text), bound)
    if column.type == "TIME":
        return _between(row, clock_range(match.name, text), bound)
    if column.type == "INT64":
        whole = [int(n) for n in _numbers(match.name, text) if n.is_integer() and abs(n) < 1 << 63]
        return f"{row} IN ({bound.bind_all(whole)})" if whole else "1 = 0"
    if column.mode != "REPEATED":
        return _test(match, text, words, bound)(row)
    one = words.element.format("v")
    if column.type == "FLOAT64":
        wanted = f"{words.number.format(one)} IN ({bound.bind_all(_numbers(match.name, text))})"
    else:
        wanted = _test(match, text, words, bound)(one)
    return f"EXISTS (SELECT 1 FROM {words.elements.format(row)} AS v WHERE {wanted})"


def has_creator(group: str, creator: str, words: Dialect, bound: Parameters) -> str:
    """Return the condition that a row has private elements of a creator; see `conditions`."""
    prefix = f"{group},{creator},"
    row = f"{{i}}.{words.quote}metadata{words.quote}"
    begins = f"SUBSTR({words.key.format('k')}, 1, {len(prefix)}) = {bound.bind(prefix)}"
    return f"EXISTS (SELECT 1 FROM {words.keys.format(row)} AS k WHERE {begins})"


def json_paths(path: Sequence[Attribute]) -> list[tuple[str, ...]]:
    """Return the ways of a path into sequences through the column `metadata`: one JSON path for each step.

    There are several ways because rows may be keyed by keyword or by tag; each row uses one of them.
    """
    if all(len(one.row_keys) == len(path[0].row_keys) for one in path):
        keys = zip(*(one.row_keys for one in path), strict=True)
    else:
        keys = product(*(one.row_keys for one in path))  # type: ignore[assignment]
    return [tuple(f'$."{key}"' for key in steps) for steps in keys]


def _in_document(match: Match, words: Dialect, bound: Parameters, test: Test) -> str:
    """Return the condition that one of the values at a path in `metadata` passes a test."""
    ways = []
    for steps in json_paths(match.path):
        row, tables = f"{{i}}.{words.quote}metadata{words.quote}", []
        for number, step in enumerate(steps[:-1]):
            tables.append(f"{words.items.format(row, bound.bind(step))} AS j{number}")
            row = words.item.format(f"j{number}")
        tables.append(f"{words.values.format(row, bound.bind(steps[-1]))} AS v")
        ways.append(f"EXISTS (SELECT 1 FROM {', '.join(tables)} WHERE {test(words.value.format('v'))})")
    return f"({' OR '.join(ways)})"


def _test(match: Match, text: str, words: Dialect, bound: Parameters) -> Test:
    """Return the test of a text, or of a scalar out of JSON."""
    name, vr, ignore_case = match.name, match.path[-1].vr, match.ignore_case
    if vr in NUMBERS:
        wanted = bound.bind_all(_numbers(name, text))
        return lambda value: f"{words.number.format(value)} IN ({wanted})"
    if vr == "DA":
        return _prefix_between("REPLACE({0}, '.', '')", _ends(name, text, _DAY), bound)
    if vr == "TM":
        return _prefix_between("REPLACE({0}, ':', '')", _ends(name, text.replace(":", ""), _CLOCK), bound)
    if vr == "DT":
        return _prefix_between("{0}", _ends(name, text, _MOMENT), bound)
    if vr == "PN":
        given = "=".join(group.rstrip("^ ") for group in text.split("=")).rstrip("=")
        pattern = bound.bind(words.pattern(_name_pattern(name, given), True))
        return lambda value: words.matches.format(f"({value} || '=')", pattern) if given else "1 = 0"
    if vr not in WILD and vr not in ("AS", "AT", "UI"):
        raise BadSearch(f"{name}: values of VR {vr} cannot be searched by")
    texts = _list(name, text) if vr in LISTED else [text]
    wild = [one for one in texts if vr in WILD and (ignore_case or {"*", "?"} & set(one))]
    plain = bound.bind_all([one for one in texts if one not in wild])
    patterns = [bound.bind(words.pattern(_wildcards(name, one), ignore_case)) for one in wild]
    return lambda value: _any(
        [f"{value} IN ({plain})"] * bool(plain) + [words.matches.format(value, one) for one in patterns]
    )


def _any(terms: Sequence[str]) -> str:
    return f"({' OR '.join(terms)})" if len(terms) > 1 else next(iter(terms), "1 = 0")


def _list(name: str, text: str) -> list[str]:
    values = [value for one in _SEPARATOR.split(text) if (value := one.strip(" "))]
    if len(values) > MAX_VALUES:
        raise BadSearch(f"{name}: more than {MAX_VALUES} values")
    return values


def _numbers(name: str, text: str) -> list[float]:
    values = _list(name, text)
    if not values or not all(_NUMBER.fullmatch(value) for value in values):
        raise BadSearch(f"{name}: the value is no number")
    return [float(value) for value in values]


def _wildcards(name: str, text: str) -> str:
    """Return a pattern without needless wildcards; many would take a warehouse long."""
    text = re.sub(r"\*+", "*", text)
    if text.count("*") > MAX_WILDCARDS:
        raise BadSearch(f"{name}: more than {MAX_WILDCARDS} wildcards *")
    return text


def _name_pattern(name: str, text: str) -> str:
    """Return the pattern of a name that ends with `=`: its first groups; an empty group matches any."""
    return f"{_wildcards(name, '='.join(group or '*' for group in text.split('=')))}=*"


Range = tuple[date | time | None, date | time | None]


def day_range(name: str, text: str) -> tuple[date | None, date | None]:
    """Return the first and last day that a value of VR DA matches, None where it is open.

    Raises
    ------
    BadSearch : it is neither `YYYYMMDD` nor a range of these
    """
    first, last = _ends(name, text, _DAY)
    return _day(first), _day(last)


def _day(text: str) -> date | None:
    return date(int(text[:4]), int(text[4:6]), int(text[6:])) if text else None


def clock_range(name: str, text: str) -> tuple[time | None, time | None]:
    """Return the first and last moment of the day that a value of VR TM matches; `1015` is a whole minute.

    Raises
    ------
    BadSearch : it is neither `HHMMSS.FFFFFF`, whose end may be missing, nor a range of these
    """
    first, last = _ends(name, text.replace(":", ""), _CLOCK)
    return _moment(first, "000000.000000"), _moment(last, "235959.999999")


def _moment(text: str, fill: str) -> time | None:
    if not text:
        return None
    whole = text + fill[len(text) :]
    return time(int(whole[:2]), int(whole[2:4]), min(int(whole[4:6]), 59), int(whole[7:13]))


def _ends(name: str, text: str, pattern: re.Pattern[str]) -> tuple[str, str]:
    """Return both ends of a range as given, equal for a single value and empty where it is open."""
    first, dash, last = text.partition("-")
    if not dash:
        last = first
    if not (first or last) or not all(_is_valid(end.strip(), pattern) for end in (first, last) if end):
        what = {_DAY: "date YYYYMMDD", _CLOCK: "time HHMMSS"}.get(pattern, "date and time YYYYMMDDHHMMSS")
        raise BadSearch(f"{name}: the value is no {what}, nor a range of two as in a-b, a- or -b")
    return first.strip(), last.strip()


def _is_valid(text: str, pattern: re.Pattern[str]) -> bool:
    found = pattern.fullmatch(text)
    if found is None:
        return False
    if pattern is _DAY:
        year, month, day = map(int, found.groups())
        return year > 0 and 1 <= month <= 12 and 1 <= day <= monthrange(year, month)[1]
    if pattern is _CLOCK:
        hour, minute, second, _ = (int(part) for part in found.groups("0"))
        return hour < 24 and minute < 60 and second <= 60
    return True


def _between(
    value: str, ends: tuple[date | None, date | None] | tuple[time | None, time | None], bound: Parameters
) -> str:
    first, last = ends
    terms = [f"{value} >= {bound.bind(first)}"] * (first is not None)
    return " AND ".join([*terms, *[f"{value} <= {bound.bind(last)}"] * (last is not None)])


def _prefix_between(clean: str, ends: tuple[str, str], bound: Parameters) -> Test:
    """Return the test that a text lies between two, each compared with as much of it as the end is long.

    An open end still wants a digit: a text that is no date, as anonymizers leave it, is in no range.
    """
    first, last = ends
    compared = [
        (sign, len(end), bound.bind(end)) for sign, end in ((">=", first or "0"), ("<=", last or "9"))
    ]
    return lambda value: " AND ".join(
        f"SUBSTR({clean.format(value)}, 1, {length}) {sign} {name}" for sign, length, name in compared
    )


def _span(matches: Sequence[Match], bound: Parameters) -> list[str]:
    """Return the condition of ranges of StudyDate and StudyTime together: one span (PS3.4 C.2.2.2.5.4)."""
    given = {match.tag: match for match in matches if "-" in match.value}
    if "00080020" not in given or "00080030" not in given:
        return []
    days = day_range("StudyDate", given["00080020"].value.strip())
    clocks = clock_range("StudyTime", given["00080030"].value.strip())
    terms = []
    for sign, day, clock in zip("><", days, clocks, strict=True):
        if day is not None:
            named, same = bound.bind(day), ""
            if clock is not None:
                same = f" AND {{i}}.study_time {sign}= {bound.bind(clock)}"
            terms.append(f"({{i}}.study_date {sign} {named} OR ({{i}}.study_date = {named}{same}))")
    return terms
