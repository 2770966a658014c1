"""Where the elements of a data set lie: one pass over the headers, every length checked, no recursion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from struct import Struct
from typing import BinaryIO, NamedTuple

from pydicom import datadict

from app.errors import BadDataset, LimitExceeded

MAX_DEPTH = 64
MAX_ELEMENTS = 1_000_000
UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
PIXEL_DATA = (0x7FE00008, 0x7FE00009, 0x7FE00010)

LONG = {"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"}
SHORT = {"AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "PN", "SH", "SL", "SS"}
SHORT |= {"ST", "TM", "UI", "UL", "US"}
UNKNOWN = "??"
VRS = {vr.encode(): vr for vr in LONG | SHORT}


class Node(NamedTuple):
    """One element: the VR to read it by, where its value lies, the items of a sequence.

    `written` is the VR in the file, None where it is implicit. A value of undefined length is measured from
    its first item to the delimiter, which is not part of it.
    """

    tag: int
    vr: str
    offset: int
    length: int
    written: str | None
    undefined: bool = False
    items: Sequence[list[Node]] = ()


@dataclass(slots=True)
class Source:
    """The bytes of an object: `data` is a piece of them, from `base` on; the stream has the others."""

    stream: BinaryIO
    size: int
    data: bytes = b""
    base: int = 0

    def need(self, position: int, count: int) -> int:
        """Have as many of `count` bytes at hand as there are, and return where in `data` they begin."""
        at = position - self.base
        if at < 0 or min(position + count, self.size) > self.base + len(self.data):
            self.stream.seek(position)
            self.base, self.data = position, self.stream.read(min(max(count, 1 << 18), self.size - position))
            at = 0
        return at

    def value(self, position: int, count: int) -> bytes:
        """Return `count` bytes from `position`."""
        at = position - self.base
        if at < 0 or at + count > len(self.data):
            at = self.need(position, count)
        return self.data[at : at + count]


@cache
def public_vr(tag: int) -> str:
    """Return the VR of a public tag by the data dictionary, `UN` where it is not there."""
    try:
        return datadict.dictionary_VR(tag)
    except KeyError:
        return "UN" if tag & 0xFFFF else "UL"


@cache
def private_vr(tag: int, creator: str) -> str:
    """Return the VR of a private tag under its creator, `UN` where it is not known."""
    try:
        return datadict.private_dictionary_VR(tag, creator)
    except KeyError:
        return "UN"


@dataclass(slots=True)
class _Frame:
    """An open sequence, `node` with its `items`; or an open item (`node` None) with its `nodes`.

    `implicit` None: each item of the sequence tells by its first element.
    """

    end: int
    undefined: bool
    implicit: bool | None
    node: Node | None = None
    items: list[list[Node]] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    creators: dict[int, str] = field(default_factory=dict)


def _pixels(root: _Frame) -> int:
    """Return how many elements there are up to and with the pixel data, 0 without pixel data."""
    return next((count for count, node in enumerate(root.nodes, 1) if node.tag in PIXEL_DATA), 0)


class Scanner:
    """Walks the headers of a data set; positions are offsets in the object.

    Raises BadDataset, with code `truncated` where the object ends too early, and LimitExceeded.
    """

    def __init__(self, source: Source, little: bool) -> None:
        order = "<" if little else ">"
        self.source, self.count = source, 0
        self.explicit = Struct(f"{order}HH2sH").unpack_from
        self.long = Struct(f"{order}L").unpack_from

    def scan(self, start: int, end: int, implicit: bool, only_group: int | None = None) -> list[Node]:
        """Return the elements from `start` to `end`; with `only_group` up to the first of another group."""
        root = _Frame(end, False, implicit)
        stack, position = [root], start
        while stack:
            frame = stack[-1]
            if position >= frame.end:
                if frame.undefined:
                    raise self.broken("a sequence has no end", frame.end)
                self.leave(stack, position)
            elif frame.node is not None:
                position = self.in_sequence(position, frame, stack)
            elif len(stack) > 1:
                position = self.in_item(position, frame, stack)
            elif only_group is not None and self.header(position, implicit)[0] >> 16 != only_group:
                break
            else:
                position = self.at_root(position, frame, stack)
        return root.nodes

    def at_root(self, position: int, root: _Frame, stack: list[_Frame]) -> int:
        """Read one element of the data set itself; what is no element after the pixel data is padding."""
        if self.source.value(position, 2) == b"\0\0" and (_pixels(root) or self.is_zero(position, root.end)):
            return root.end
        try:
            return self.in_item(position, root, stack)
        except BadDataset:
            complete = _pixels(root)
            if not complete:
                raise
            del root.nodes[complete:]
            return root.end

    def in_item(self, position: int, frame: _Frame, stack: list[_Frame]) -> int:
        """Read one element of an item, open its sequence if it is one, and return where to go on."""
        tag, written, length, offset = self.header(position, bool(frame.implicit))
        if offset > frame.end:
            raise self.broken("an element ends inside its header", frame.end)
        if tag in (ITEM_END, SEQUENCE_END):
            return self.delimiter(tag, position, frame, stack)
        self.count += 1
        if self.count > MAX_ELEMENTS:
            raise LimitExceeded(f"more than {MAX_ELEMENTS} elements")
        undefined = length == UNDEFINED
        if not undefined and offset + length > frame.end:
            raise self.broken(f"the value of {tag:08X} is cut off", frame.end)
        vr = written
        if vr is None or vr == "UN" or vr == "SQ":
            vr = self.settle(tag, written, length, offset, frame)
        if vr == "SQ":
            node = Node(tag, vr, offset, length, written, undefined)
            end = frame.end if undefined else offset + length
            self.enter(stack, _Frame(end, undefined, None if written == "UN" else frame.implicit, node))
            return offset
        end, after = self.fragments(offset, frame.end) if undefined else (offset + length, offset + length)
        frame.nodes.append(Node(tag, vr, offset, end - offset, written, undefined))
        if tag >> 16 & 1 and 0x10 <= tag & 0xFFFF <= 0xFF:
            frame.creators[tag & 0xFFFF0000 | (tag & 0xFF) << 8] = self.text(offset, end)
        return after

    def delimiter(self, tag: int, position: int, frame: _Frame, stack: list[_Frame]) -> int:
        """Take a delimiter: it ends the item, or is a stray one and skipped."""
        if frame.undefined:
            self.leave(stack, position)
        return position if frame.undefined and tag == SEQUENCE_END else position + 8

    def in_sequence(self, position: int, frame: _Frame, stack: list[_Frame]) -> int:
        """Read the header of the next item, or the end of the sequence, and return where to go on."""
        tag, _, length, offset = self.header(position, True)
        if tag == SEQUENCE_END:
            if frame.undefined:
                self.leave(stack, position)
            return offset
        if tag != ITEM or frame.node is None or offset > frame.end:
            raise self.broken("no item where an item must be", frame.end)
        end = frame.end if length == UNDEFINED else offset + length
        if end > frame.end == self.source.size:
            raise self.broken("an item is cut off", frame.end)
        implicit = frame.implicit
        if implicit is None:
            implicit = self.source.value(offset + 4, 2) not in VRS
        item = _Frame(min(end, frame.end), length == UNDEFINED, implicit)
        frame.items.append(item.nodes)
        self.enter(stack, item)
        return offset

    def enter(self, stack: list[_Frame], frame: _Frame) -> None:
        """Go into a sequence or an item."""
        if len(stack) > 2 * MAX_DEPTH:
            raise LimitExceeded(f"sequences are nested deeper than {MAX_DEPTH}")
        stack.append(frame)

    def leave(self, stack: list[_Frame], position: int) -> None:
        """Come out of an item, or of a sequence whose length is known now."""
        frame = stack.pop()
        if frame.node is not None:
            length = position - frame.node.offset
            stack[-1].nodes.append(frame.node._replace(length=length, items=frame.items))

    def header(self, position: int, implicit: bool) -> tuple[int, str | None, int, int]:
        """Return tag, VR as written (None if implicit), length and offset of the value."""
        source = self.source
        at = position - source.base
        if at < 0 or at + 12 > len(source.data):
            at = source.need(position, 12)
            if at + 8 > len(source.data):
                raise self.broken("an element ends inside its header", source.size)
        group, number, code, length = self.explicit(source.data, at)
        if implicit or group == 0xFFFE:
            return group << 16 | number, None, self.long(source.data, at + 4)[0], position + 8
        vr = VRS.get(code)
        if vr is None:
            known = code.isalpha() and code.isupper()
            if not known and position + self.long(source.data, at + 4)[0] <= source.size:
                return group << 16 | number, None, self.long(source.data, at + 4)[0], position + 8
            # PS3.5 7.1.2: a VR that is not known yet has the long form, whose reserved bytes are zero
            vr = "UN" if known and length == 0 else UNKNOWN
        if vr not in LONG:
            return group << 16 | number, "UN" if vr is UNKNOWN else vr, length, position + 8
        if at + 12 > len(source.data):
            raise self.broken("an element ends inside its header", source.size)
        return group << 16 | number, vr, self.long(source.data, at + 8)[0], position + 12

    def settle(self, tag: int, written: str | None, length: int, offset: int, frame: _Frame) -> str:
        """Return the VR to read a value by, where the file says none, UN, or a sequence that is none."""
        if written == "SQ":
            vr = "SQ"
        elif not tag >> 16 & 1:
            vr = public_vr(tag)
        elif 0x10 <= tag & 0xFFFF <= 0xFF:
            vr = "LO"
        else:
            vr = private_vr(tag, frame.creators.get(tag & 0xFFFFFF00, ""))
        if length == UNDEFINED and vr != "SQ" and written == "UN":
            return "SQ"  # PS3.5 6.2.2 note 3: UN of undefined length is a sequence
        if vr == "SQ" and length not in (0, UNDEFINED) and not self.begins_item(offset):
            return "UN"
        return "SQ" if vr == "UN" and length == UNDEFINED else vr

    def begins_item(self, offset: int) -> bool:
        """Say whether the value at `offset` can be the items of a sequence."""
        return self.header(offset, True)[0] in (ITEM, SEQUENCE_END)

    def fragments(self, position: int, end: int) -> tuple[int, int]:
        """Return where the fragments of an encapsulated value end, and where the next element begins."""
        while position + 8 <= end:
            tag, _, length, offset = self.header(position, True)
            if tag == SEQUENCE_END:
                return position, offset
            if tag != ITEM or length == UNDEFINED:
                raise BadDataset("a value of undefined length is not made of fragments")
            position = offset + length
        raise self.broken("encapsulated data has no end", end)

    def text(self, offset: int, end: int) -> str:
        """Return the name of a private creator."""
        return self.source.value(offset, min(end - offset, 64)).decode("latin-1").strip(" \0")

    def is_zero(self, position: int, end: int) -> bool:
        """Say whether nothing but zero bytes follows."""
        while position < end:
            chunk = self.source.value(position, min(end - position, 1 << 18))
            if chunk.strip(b"\0") or not chunk:
                return False
            position += len(chunk)
        return True

    def broken(self, text: str, end: int) -> BadDataset:
        """Return the error: the object ended, or only the sequence around it."""
        return BadDataset(text, code="truncated" if end >= self.source.size else None)
