"""Headers of elements, items and delimiters (PS3.5 7.1, 7.5), including malformed ones.

Malformed: an explicit element among implicit ones or the reverse, a length of two bytes where the VR has four
or the reverse, an unknown VR. Every interpretation is tried; the one whose value is followed by a plausible
element is chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Any, NamedTuple

from app.dicom.read.byte_reader import MAX_READ, Source
from app.dicom.read.vr import ITEM, ITEM_END, SEQUENCE_END, SHORT, UNDEFINED, VRS, public_vr
from app.model.errors import BadDataset

MIN_VR_AS_LENGTH = 0x4141
"""The smallest length that is a VR in disguise: "AA", two capital letters read as a number."""
MAX_SEARCHED = 16 << 20
"""Bytes to search for the end of a value of undefined length."""


Unpack = Callable[[bytes, int], tuple[Any, ...]]


class Order(NamedTuple):
    """Unpackers for headers in one byte order, and the first bytes of an item and of a sequence end."""

    implicit: Unpack
    explicit: Unpack
    long: Unpack
    item: bytes
    sequence_end: bytes


def _order(sign: str) -> Order:
    item, end = (Struct(f"{sign}HH").pack(tag >> 16, tag & 0xFFFF) for tag in (ITEM, SEQUENCE_END))
    implicit, explicit, long = (Struct(sign + form).unpack_from for form in ("HHL", "HH2sH", "L"))
    return Order(implicit, explicit, long, item, end)


LITTLE, BIG = _order("<"), _order(">")
LITTLE_STARTS = (LITTLE.item, LITTLE.sequence_end)


class Header(NamedTuple):
    """The header of an element: the VR as written (None if implicit), and the position of the value."""

    tag: int
    written: str | None
    length: int
    offset: int
    implicit: bool = False


class Headers:
    """Reads headers; positions are offsets in the object.

    `odd` is the position of the last header with an unknown VR or with reserved bytes other than zero.
    `searched` is the range in which `find_end` found no delimiter.
    """

    def __init__(self, source: Source, little: bool) -> None:
        self.source, self.odd, self.searched = source, -1, (0, 0)
        self.turn(little)

    def turn(self, little: bool) -> None:
        """Switch the byte order."""
        self.little = little
        self.implicit, self.explicit, self.long, *self.starts = LITTLE if little else BIG

    def header(self, position: int, implicit: bool) -> tuple[int, str | None, int, int]:
        """Return tag, VR as written (None if implicit), length and offset of the value."""
        source = self.source
        at = position - source.base
        if at < 0 or at + 12 > len(source.data):
            at = source.need(position, 12)
            if at + 8 > len(source.data):
                raise self.broken("an element ends inside its header", source.size)
        if implicit:
            group, number, length = self.implicit(source.data, at)
            return group << 16 | number, None, length, position + 8
        group, number, code, length = self.explicit(source.data, at)
        vr = VRS.get(code)
        if vr in SHORT:
            return group << 16 | number, vr, length, position + 8
        if group == 0xFFFE:
            return group << 16 | number, None, self.long(source.data, at + 4)[0], position + 8
        if vr is None or length:
            self.odd = position
            return self.forms(position, implicit)[0][:4]
        if at + 12 > len(source.data):
            raise self.broken("an element ends inside its header", source.size)
        return group << 16 | number, vr, self.long(source.data, at + 8)[0], position + 12

    def forms(self, position: int, implicit: bool) -> list[Header]:
        """Return every interpretation of a header, the most likely first."""
        at = self.source.need(position, 12)
        data = self.source.data[at : at + 12]
        group, number, code, size = self.explicit(data, 0)
        tag, vr = group << 16 | number, VRS.get(code)
        plain = Header(tag, None, self.long(data, 4)[0], position + 8, True)
        short = Header(tag, vr, size, position + 8)
        long = [Header(tag, vr, self.long(data, 8)[0], position + 12)] if len(data) == 12 else []
        if vr is None and implicit:
            return [plain]
        if vr is None and not (code.isalpha() and code.isupper()):
            return [plain, short, *long]
        if vr is None and size:
            return [short, *long, plain]
        # A VR of the long form read in the short form has the length 0 (the reserved bytes). That is not
        # offered, because a truncated value would then pass for an empty one.
        explicit = [short, *long] if vr in SHORT else [*long, short] if size or vr is None else long
        # Lengths are even; a VR that is read as part of a length mostly makes it odd.
        return [plain, *explicit] if implicit and not plain.length & 1 else [*explicit, plain]

    def is_inside(self, form: Header, end: int) -> bool:
        """Return whether a value ends inside its parent; one of undefined length must start with an item."""
        if form.length == UNDEFINED:
            return form.offset < end and self.begins_item(form.offset)
        return form.offset + form.length <= end

    def fits(self, form: Header, end: int) -> bool:
        """Return whether the value is followed by an element, an item, a delimiter or the parent's `end`."""
        if form.length == UNDEFINED:
            return self.is_inside(form, end)
        after = form.offset + form.length
        return after == end or (after < end and self.goes_on(after, end, form.tag))

    def goes_on(self, position: int, end: int, tag: int) -> bool:
        """Return whether the bytes at a position can be an element or delimiter after the element `tag`."""
        data = self.source.value(position, 8)
        if position + 8 > end or len(data) < 8:
            return False
        group, number, length = self.implicit(data, 0)
        following = group << 16 | number
        if group == 0xFFFE:
            return following in (ITEM, ITEM_END, SEQUENCE_END)
        if following <= tag:
            return False
        if data[4:6] in VRS:
            return True
        known = number >= 0x10 if group & 1 else public_vr(following) != "UN" and (number or length == 4)
        inside = self.begins_item(position + 8) if length == UNDEFINED else position + 8 + length <= end
        return bool(known and inside)

    def written_long(self, position: int, tag: int, vr: str, end: int) -> Header | None:
        """Reread the header of an empty element: its length may have four bytes where two are right."""
        if vr not in SHORT or self.source.value(position - 2, 2) != b"\0\0":
            return None
        data = self.source.value(position, 4)
        form = Header(tag, vr, self.long(data, 0)[0], position + 4) if len(data) == 4 else None
        return form if form is not None and form.length and self.fits(form, end) else None

    def begins_item(self, offset: int) -> bool:
        """Return whether the value at `offset` can be a sequence of items."""
        begin = self.source.value(offset, 4)
        return begin in self.starts or (not self.little and begin in LITTLE_STARTS)

    def find_end(self, position: int, end: int) -> int | None:
        """Return the position of the next sequence delimiter, None if there is none within 16 MiB.

        The range searched in vain is remembered, so repeated calls stay linear in the size of the object.
        """
        delimiter, start = self.starts[1] + bytes(4), position
        end = min(end, position + MAX_SEARCHED)
        if self.searched[0] <= position:
            position = max(position, self.searched[1] - 7)
        while position + 8 <= end:
            piece = self.source.value(position, min(end - position, MAX_READ))
            if (found := piece.find(delimiter)) >= 0:
                return position + found
            position += max(1, len(piece) - 7)
        if not self.searched[0] <= start <= self.searched[1]:
            self.searched = start, end
        self.searched = min(start, self.searched[0]), max(end, self.searched[1])
        return None

    def broken(self, text: str, end: int) -> BadDataset:
        """Return the error; its code is `truncated` if the whole object ends there, not just a sequence."""
        return BadDataset(text, code="truncated" if end >= self.source.size else None)
