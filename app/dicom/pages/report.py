"""Draw a structured report as a page of text: the tree of its content items (PS3.3 C.17.3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice

import numpy as np
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset
from pydicom.uid import UID

from app.dicom.pages.text import font, is_writable, wrap, writable
from app.dicom.pixels.attributes import each_item, items, readable, text
from app.dicom.pixels.preview_error import PreviewError, unrenderable

KEY_OBJECT_SELECTION = "1.2.840.10008.5.1.4.1.1.88.59"
PLAIN = {
    "TEXT": "TextValue",
    "DATETIME": "DateTime",
    "DATE": "Date",
    "TIME": "Time",
    "UIDREF": "UID",
    "SCOORD": "GraphicType",
    "SCOORD3D": "GraphicType",
    "TCOORD": "TemporalRangeType",
}
"""Value Type -> keyword of the element that holds the value."""
REFERENCES = ("IMAGE", "COMPOSITE", "WAVEFORM")
MAX_ITEMS = 1000
"""Maximum content items to read; a page holds 51 lines."""
HEIGHT, WIDTH, MARGIN = 1754, 1240, 80
"""A4 at 150 dpi, in pixels."""
TITLE_SIZE, SIZE, NOTE_SIZE, LEADING = 34, 22, 18, 1.4
INDENT, MAX_INDENTS = 36, 12
PAPER, INK, PALE = 255, 0, 110


@dataclass(frozen=True, slots=True)
class Item:
    """One content item: concept name and value. depth: 0 for the children of the root."""

    depth: int
    name: str
    value: str


def draw_report(dataset: Dataset, max_side: int) -> np.ndarray:
    """Draw the first page of a report.

    The foot states how many items do not fit. Letters missing from the font are drawn as boxes, with a note.
    The page has no patient's identity, except what the content itself contains.

    Parameters
    ----------
    dataset : holds the Content Sequence
    max_side : not used, because the page has a fixed size

    Returns
    -------
    (rows, columns) uint8

    Raises
    ------
    Unrenderable : no_pixel_data for a key object selection, which only references images

    References
    ----------
    PS3.3 C.17.3 (SR Document Content), A.35
    """
    if readable(dataset, "SOPClassUID") == KEY_OBJECT_SELECTION:
        raise unrenderable(PreviewError.NO_PIXEL_DATA, "a key object selection only references images")
    title = meaning(dataset, "ConceptNameCodeSequence") or "Structured report"
    flags = [text(dataset, "CompletionFlag"), text(dataset, "VerificationFlag")]
    date = readable(dataset, "ContentDate")
    return draw_page(title, " ".join(filter(None, [*flags, date])).lower(), content(dataset))


def content(dataset: Dataset, depth: int = 0) -> Iterator[Item]:
    """Yield the content items below a data set or item, depth first, in document order."""
    for item in each_item(dataset, "ContentSequence"):
        yield Item(depth, meaning(item, "ConceptNameCodeSequence"), value(item))
        yield from content(item, depth + 1)


def value(item: Dataset) -> str:
    """Return the value of a content item as text; empty for a container.

    References
    ----------
    PS3.3 C.17.3.2.1 (Value Type), C.18 (the macro of each value type)
    """
    kind = text(item, "ValueType")
    if kind in PLAIN:
        return readable(item, PLAIN[kind])
    if kind == "PNAME":
        return " ".join(readable(item, "PersonName").replace("^", " ").split())
    if kind == "CODE":
        return meaning(item, "ConceptCodeSequence")
    if kind == "NUM":
        measured = next(iter(items(item, "MeasuredValueSequence")), Dataset())
        unit = next((readable(u, "CodeValue") for u in items(measured, "MeasurementUnitsCodeSequence")), "")
        amount = readable(measured, "NumericValue") or meaning(item, "NumericValueQualifierCodeSequence")
        return f"{amount} {unit if unit != '1' else ''}".strip()
    if kind in REFERENCES:
        classes = [readable(ref, "ReferencedSOPClassUID") for ref in items(item, "ReferencedSOPSequence")]
        return ", ".join(UID(name).name.removesuffix(" Storage") for name in classes) or kind.lower()
    if not kind and (target := readable(item, "ReferencedContentItemIdentifier")):
        return f"see item {target.replace(', ', '.')}"
    return "" if kind == "CONTAINER" else kind.lower()


def meaning(item: Dataset, sequence: str) -> str:
    """Return the meaning of the first code of a sequence; empty if there is none."""
    return next((readable(code, "CodeMeaning") for code in items(item, sequence)), "")


def draw_page(title: str, subtitle: str, content: Iterable[Item]) -> np.ndarray:
    """Write items on one page, and at its foot how many did not fit.

    Parameters
    ----------
    title, subtitle : the title may take two lines, the subtitle one
    content : any number of items, of which 1000 are read; consecutive equal items are written once

    Returns
    -------
    (rows, columns) uint8
    """
    page = _Page()
    for line in page.broken(title, TITLE_SIZE, MARGIN)[:2]:
        page.write(line, TITLE_SIZE)
    page.write(subtitle, SIZE, ink=PALE)
    page.y += SIZE
    rest = iter(content)
    read = list(islice(rest, MAX_ITEMS))
    is_cut = next(rest, None) is not None
    entries = [(item, sum(1 for _ in equal)) for item, equal in groupby(read)]
    for number, (item, times) in enumerate(entries, 1):
        left = MARGIN + INDENT * min(item.depth, MAX_INDENTS)
        text = ": ".join(filter(None, [item.name, item.value])) or "-"
        counted = f"{times} or more" if is_cut and number == len(entries) else str(times)
        lines = page.broken(text if times == 1 else f"{text} (x {counted})", SIZE, left)
        room = page.lines_left()
        for line in lines[:room]:
            page.write(line, SIZE, left)
        if len(lines) > room:
            page.end(1 + len(entries) - number, is_cut)
            break
    else:
        page.end(0, is_cut)
    return np.asarray(page.sheet)


class _Page:
    """A page that is written from top to bottom."""

    def __init__(self) -> None:
        self.sheet = Image.new("L", (WIDTH, HEIGHT), PAPER)
        self.y, self._pen, self._all_writable = MARGIN, ImageDraw.Draw(self.sheet), True

    def broken(self, text: str, size: int, left: int) -> list[str]:
        """Break a text into lines of letters that the font has, and remember if it lacks any."""
        self._all_writable = self._all_writable and is_writable("".join(text.split()))
        return wrap(writable(text), size, WIDTH - MARGIN - left)

    def write(self, line: str, size: int, left: int = MARGIN, ink: int = INK) -> None:
        self._pen.text((left, self.y), line, ink, font(size))
        self.y += round(size * LEADING)

    def lines_left(self) -> int:
        return max(0, (HEIGHT - 2 * MARGIN - self.y) // round(SIZE * LEADING))

    def end(self, left_over: int, is_cut: bool) -> None:
        """Write the notes at the foot. is_cut: there are more items than were read."""
        self.y = HEIGHT - round(1.5 * MARGIN)
        if left_over or is_cut:
            number = f"more than {left_over}" if is_cut else str(left_over)
            self.write(f"{number} more item(s) do not fit on this page", NOTE_SIZE, ink=PALE)
        if not self._all_writable:
            note = "Letters that the font of this page lacks are boxes, or are without their accents."
            self.write(note, NOTE_SIZE, ink=PALE)
