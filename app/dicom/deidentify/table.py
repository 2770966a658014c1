"""The standard's rules for each attribute: PS3.15 tables E.1-1 and E.3.10-1, and the types in PS3.3.

The tables are text files beside this module, one row per line, so that a diff compares two editions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files

EDITION = "2024e"
STORAGE = "1.2.840.10008.5.1.4."
EVERY = "*"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of table E.1-1: the action of the Basic Profile, and option -> action."""

    action: str
    options: Mapping[str, str]
    name: str


def _lines(name: str) -> Iterator[list[str]]:
    for line in files(__package__).joinpath("tables", name).read_text("utf-8").splitlines():
        if not line.startswith("#"):
            yield line.split("\t")


def _rows() -> dict[int, Row]:
    rows = {}
    for tag, action, options, name in _lines("confidentiality.tsv"):
        if tag != "private" and "x" not in tag:
            pairs = (pair.split("=") for pair in options.split(",") if pair != "-")
            rows[int(tag, 16)] = Row(action, dict(pairs), name)
    return rows


def _types() -> tuple[frozenset[str], dict[tuple[int, int], dict[str, str]]]:
    classes: list[str] = []
    types: dict[tuple[int, int], dict[str, str]] = {}
    for path, kind, where in _lines("attribute_types.tsv"):
        if path == "classes":
            classes = [uid if uid.startswith("1.2.") else STORAGE + uid for uid in where.split()]
            continue
        parent, _, tag = path.rpartition("/")
        known = types.setdefault((int(parent or "0", 16), int(tag, 16)), {})
        if where == EVERY:
            known[EVERY] = kind
            continue
        for span in where.split():
            first, _, last = span.partition("-")
            known |= dict.fromkeys(classes[int(first) : int(last or first) + 1], kind)
    return frozenset(classes), types


def _safe_private() -> frozenset[tuple[str, int, int]]:
    return frozenset(
        (creator, int(group, 16), int(element, 16))
        for creator, group, elements in _lines("safe_private.tsv")
        for element in elements.split()
    )


def _vocabulary() -> frozenset[str]:
    return frozenset(word for (line,) in _lines("vocabulary.txt") for word in line.split())


BEYOND = {0x00700006: Row("D", {"descriptors": "C"}, "Unformatted Text Value")}
"""Free text that table E.1-1 forgets: annotations of waveforms hold it too."""
ROWS = _rows() | BEYOND
"""Tag -> row. Not here, because whole groups go: private attributes, curves (50xx) and overlays (60xx)."""
SOP_CLASSES, TYPES = _types()
"""The storage classes of PS3.3 that are known here; (sequence or 0, tag) -> SOP class -> type."""
SAFE_PRIVATE = _safe_private()
"""(creator, group, last byte of the element) of table E.3.10-1."""
VOCABULARY = _vocabulary()
"""Lower-case words that a cleaned description may keep."""


def is_plane(tag: int) -> bool:
    """Return whether a tag is of a curve or an overlay, whose groups repeat (PS3.5 7.6)."""
    return 0x5000 <= tag >> 16 <= 0x501F or 0x6000 <= tag >> 16 <= 0x60FF


def attribute_type(sop_class: str, parent: int, tag: int) -> str:
    """Return the type of an attribute, `3` if the IOD lacks it, empty if it is unknown.

    Parameters
    ----------
    parent : tag of the sequence around it, 0 for the data set itself
    """
    known = TYPES.get((parent, tag), {})
    return known.get(sop_class) or known.get(EVERY) or ("" if parent else "3")


def resolved(action: str, kind: str) -> str:
    """Return the one action that leaves a valid object, out of the conditional ones (PS3.15 E.3, note 2).

    Parameters
    ----------
    action : as in the table, such as `X/Z/D`
    kind : type of the attribute, as `attribute_type` gives it

    Returns
    -------
    X, Z, D, U, K or C; where the type is unknown the one that fits all types, since none of them leaks
    """
    if action == "X/Z/U*":
        return "U"
    mildest, strictest = action[0], action[-1]
    if strictest not in "XZD":
        return strictest
    if kind == "1" or (kind == "1C" and action != "X"):
        return "D"
    if kind == "2" or (kind == "2C" and action != "X"):
        return "D" if action == "D" else "Z"
    return mildest if kind == "3" else strictest
