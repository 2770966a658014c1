"""Where the elements of a data set lie: one pass over the headers, every length checked, no recursion."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from struct import Struct
from typing import NamedTuple

from app.dicom.encoding import (
    EXTENDED_OFFSET_TABLE,
    ITEM,
    ITEM_END,
    PIXEL_DATA,
    PIXELS,
    SEQUENCE_END,
    SHORT,
    UNDEFINED,
    UNSETTLED,
    VRS,
    known_name,
    private_vr,
    public_vr,
)
from app.dicom.source import MOST, Source
from app.errors import BadDataset, LimitExceeded
from app.types import DatasetLimits


class Node(NamedTuple):
    """One element: the VR to read it by, where its value lies, the items of a sequence.

    `written` is the VR in the file, None where it is implicit. A value of undefined length is measured from
    its first item to the delimiter, which is not part of it. `fragments` are the positions of the items of an
    encapsulated value after its offset table, and of their end; empty where a table made it needless to visit
    them all.
    """

    tag: int
    vr: str
    offset: int
    length: int
    written: str | None
    undefined: bool = False
    items: Sequence[list[Node]] = ()
    fragments: Sequence[int] = ()


@dataclass(slots=True)
class _Frame:
    """An open sequence, `node` with its `items`; or an open item (`node` None) with its `nodes`.

    `implicit` None: each item of the sequence tells by its first element. `complete`: how many elements
    there are up to and with the pixel data of the data set, 0 while there are none.
    """

    end: int
    undefined: bool
    implicit: bool | None
    node: Node | None = None
    items: list[list[Node]] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    creators: dict[int, str] = field(default_factory=dict)
    complete: int = 0


class Scanner:
    """Walks the headers of a data set; positions are offsets in the object.

    Raises BadDataset, with code `truncated` where the object ends too early, and LimitExceeded.
    """

    def __init__(self, source: Source, little: bool, limits: DatasetLimits) -> None:
        order = "<" if little else ">"
        self.source, self.limits, self.nonzero = source, limits, 0
        self.elements_left, self.fragments_left = limits.elements, limits.fragments
        self.implicit = Struct(f"{order}HHL").unpack_from
        self.explicit = Struct(f"{order}HH2sH").unpack_from
        self.long = Struct(f"{order}L").unpack_from
        item, end = (Struct(f"{order}HH").pack(tag >> 16, tag & 0xFFFF) for tag in (ITEM, SEQUENCE_END))
        self.item_starts = (item, end)

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
        if not root.complete and root.nodes and root.nodes[-1].tag in PIXELS:
            root.complete = len(root.nodes)
        if self.source.value(position, 2) == b"\0\0" and (root.complete or self.is_zero(position, root.end)):
            return root.end
        try:
            return self.in_item(position, root, stack)
        except BadDataset:
            if not root.complete:
                raise
            del root.nodes[root.complete :]
            return root.end

    def in_item(self, position: int, frame: _Frame, stack: list[_Frame]) -> int:
        """Read one element of an item, open its sequence if it is one, and return where to go on."""
        tag, written, length, offset = self.header(position, bool(frame.implicit))
        if offset > frame.end:
            raise self.broken("an element ends inside its header", frame.end)
        self.tally()
        if tag in (ITEM_END, SEQUENCE_END):
            return self.delimiter(tag, position, frame, stack)
        undefined = length == UNDEFINED
        if not undefined and offset + length > frame.end:
            raise self.broken(f"the value of {known_name(tag)} is cut off", frame.end)
        vr = written
        if vr is None or vr in UNSETTLED:
            vr = self.settle(tag, written, length, offset, frame)
        if vr == "SQ":
            node = Node(tag, vr, offset, length, written, undefined)
            end = frame.end if undefined else offset + length
            self.enter(stack, _Frame(end, undefined, None if written == "UN" else frame.implicit, node))
            return offset
        if undefined:
            return self.encapsulated(Node(tag, vr, offset, length, written, undefined), frame)
        end = offset + length
        frame.nodes.append(Node(tag, vr, offset, length, written))
        if tag >> 16 & 1 and 0x10 <= tag & 0xFFFF <= 0xFF:
            frame.creators[tag & 0xFFFF0000 | (tag & 0xFF) << 8] = self.text(offset, end)
        return end

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
        self.tally()
        frame.items.append(item.nodes)
        self.enter(stack, item)
        return offset

    def tally(self) -> None:
        """Count an element, an item or a delimiter."""
        self.elements_left -= 1
        if self.elements_left < 0:
            raise LimitExceeded(f"more elements and items than limits.elements ({self.limits.elements})")

    def enter(self, stack: list[_Frame], frame: _Frame) -> None:
        """Go into a sequence or an item."""
        if len(stack) > 2 * self.limits.depth:
            raise LimitExceeded(f"sequences are nested deeper than limits.depth ({self.limits.depth})")
        stack.append(frame)

    def leave(self, stack: list[_Frame], position: int) -> None:
        """Come out of an item, or of a sequence whose length is known now."""
        frame = stack.pop()
        if frame.node is not None:
            tag, vr, offset, _, written, undefined, *_ = frame.node
            stack[-1].nodes.append(Node(tag, vr, offset, position - offset, written, undefined, frame.items))

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
        if vr is None:
            known = code.isalpha() and code.isupper()
            if not known and position + self.long(source.data, at + 4)[0] <= source.size:
                return group << 16 | number, None, self.long(source.data, at + 4)[0], position + 8
            # PS3.5 7.1.2: a VR that is not known yet has the long form, whose reserved bytes are zero
            vr = "UN"
            if not known or length != 0:
                return group << 16 | number, vr, length, position + 8
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
        return self.source.value(offset, 4) in self.item_starts

    def encapsulated(self, node: Node, frame: _Frame) -> int:
        """Keep a value made of fragments, whose length is known then, and return where to go on."""
        tag, _, length, offset = self.header(node.offset, True)
        if tag != ITEM or length == UNDEFINED:
            offset, length = node.offset, 0
        start = offset + length
        last = self.last_frame(node, offset, length, frame) if node.tag == PIXEL_DATA else start
        items, after = self.fragments(last, frame.end)
        skipped = last != start
        frame.nodes.append(node._replace(length=items[-1] - node.offset, fragments=() if skipped else items))
        return after

    def last_frame(self, node: Node, offset: int, length: int, frame: _Frame) -> int:
        """Return where the last frame begins by an offset table that holds good, else where the first does.

        So the frames between are passed over; who wants one of them checks its fragments.
        """
        start = offset + length
        table = next((other for other in frame.nodes[-4:] if other.tag == EXTENDED_OFFSET_TABLE), None)
        if table is not None and table.length >= 8:
            entry = self.source.value(table.offset + table.length - 8, 8)
        else:
            entry = self.source.value(start - 4, 4) if length >= 4 else b""
        last = start + int.from_bytes(entry, "little")
        return last if last + 8 <= frame.end and self.header(last, True)[0] == ITEM else start

    def fragments(self, position: int, end: int) -> tuple[array[int], int]:
        """Return where the fragments begin and the last one ends, and where the next element begins."""
        found = array("Q")
        while position + 8 <= end:
            tag, _, length, offset = self.header(position, True)
            found.append(position)
            if tag == SEQUENCE_END:
                return found, offset
            if tag != ITEM or length == UNDEFINED:
                raise BadDataset("a value of undefined length is not made of fragments")
            self.fragments_left -= 1
            if self.fragments_left < 0:
                raise LimitExceeded(f"more fragments than limits.fragments ({self.limits.fragments})")
            position = offset + length
        raise self.broken("encapsulated data has no end", end)

    def text(self, offset: int, end: int) -> str:
        """Return the name of a private creator."""
        return self.source.value(offset, min(end - offset, 64)).decode("latin-1").strip(" \0")

    def is_zero(self, position: int, end: int) -> bool:
        """Say whether nothing but zero bytes follows; where they end is kept for who asks again before."""
        size = 16
        while self.nonzero <= position < end:
            chunk = self.source.value(position, min(end - position, size))
            rest = chunk.lstrip(b"\0")
            position += len(chunk) - len(rest)
            if rest or not chunk:
                self.nonzero = position + 1
            size = min(2 * size, MOST)
        return position >= end

    def broken(self, text: str, end: int) -> BadDataset:
        """Return the error: the object ended, or only the sequence around it."""
        return BadDataset(text, code="truncated" if end >= self.source.size else None)
