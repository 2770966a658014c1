"""Headers of elements, items and delimiters (PS3.5 7.1, 7.5), also those written in a wrong form.

An explicit element among implicit ones, an implicit one among explicit ones, two bytes of length where the VR
has four or the other way round, a VR that is none: the form that fits what follows the value is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Any, NamedTuple

from app.dicom.read.byte_reader import MOST, Source
from app.dicom.read.vr import ITEM, ITEM_END, SEQUENCE_END, SHORT, UNDEFINED, VRS, public_vr
from app.model.errors import BadDataset

LEAST_VR = 0x4141
"""The least length that two capital letters make where a length should be."""
MAX_SEARCHED = 16 << 20
"""Bytes in which the end of a value of unknown length is looked for."""


Unpack = Callable[[bytes, int], tuple[Any, ...]]


class Order(NamedTuple):
    """How headers are read in one byte order, and how items and the end of a sequence begin."""

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
    """The header of an element: the VR as written, None if there is none, and where the value lies."""

    tag: int
    written: str | None
    length: int
    offset: int
    implicit: bool = False


class Headers:
    """Reads headers; positions are offsets in the object.

    `odd` is the position of the last header whose VR is none, or whose reserved bytes are not zero.
    """

    def __init__(self, source: Source, little: bool) -> None:
        self.source, self.odd, self.searched = source, -1, (0, 0)
        self.turn(little)

    def turn(self, little: bool) -> None:
        """Read in this byte order from now on."""
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
        """Return what a header can mean, the likeliest first."""
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
        # A VR of the long form that had the short one would be empty: a cut value must not look like that.
        explicit = [short, *long] if vr in SHORT else [*long, short] if size or vr is None else long
        # No length is odd, and where two letters stand for one it nearly always would be.
        return [plain, *explicit] if implicit and not plain.length & 1 else [*explicit, plain]

    def is_inside(self, form: Header, end: int) -> bool:
        """Say whether a value ends before what it is in does; one without a length must begin as an item."""
        if form.length == UNDEFINED:
            return form.offset < end and self.begins_item(form.offset)
        return form.offset + form.length <= end

    def fits(self, form: Header, end: int) -> bool:
        """Say whether another element, item or delimiter follows a value, or the `end` of what it is in."""
        if form.length == UNDEFINED:
            return self.is_inside(form, end)
        after = form.offset + form.length
        return after == end or (after < end and self.goes_on(after, end, form.tag))

    def goes_on(self, position: int, end: int, tag: int) -> bool:
        """Say whether what begins at a position can follow the element `tag`."""
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
        """Return the header of the empty element before, if its length has four bytes where two should be."""
        if vr not in SHORT or self.source.value(position - 2, 2) != b"\0\0":
            return None
        data = self.source.value(position, 4)
        form = Header(tag, vr, self.long(data, 0)[0], position + 4) if len(data) == 4 else None
        return form if form is not None and form.length and self.fits(form, end) else None

    def begins_item(self, offset: int) -> bool:
        """Say whether the value at `offset` can be the items of a sequence."""
        begin = self.source.value(offset, 4)
        return begin in self.starts or (not self.little and begin in LITTLE_STARTS)

    def find_end(self, position: int, end: int) -> int | None:
        """Return where the next delimiter of a sequence begins, None if it is not near.

        Where there is none is kept: nobody looks twice.
        """
        delimiter, start = self.starts[1] + bytes(4), position
        end = min(end, position + MAX_SEARCHED)
        if self.searched[0] <= position:
            position = max(position, self.searched[1] - 7)
        while position + 8 <= end:
            piece = self.source.value(position, min(end - position, MOST))
            if (found := piece.find(delimiter)) >= 0:
                return position + found
            position += max(1, len(piece) - 7)
        if not self.searched[0] <= start <= self.searched[1]:
            self.searched = start, end
        self.searched = min(start, self.searched[0]), max(end, self.searched[1])
        return None

    def broken(self, text: str, end: int) -> BadDataset:
        """Return the error: the object ended, or only the sequence around it."""
        return BadDataset(text, code="truncated" if end >= self.source.size else None)
