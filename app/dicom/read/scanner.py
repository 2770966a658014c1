"""Locate the elements of a data set in one pass over the headers: every length checked, no recursion."""

from __future__ import annotations

from array import array

from app.dicom.read.byte_reader import Source
from app.dicom.read.headers import LITTLE_STARTS, MIN_VR_AS_LENGTH
from app.dicom.read.mending import Mending
from app.dicom.read.nesting import Node, Open
from app.dicom.read.vr import (
    EXTENDED_OFFSET_TABLE,
    ITEM,
    ITEM_END,
    PIXEL_DATA,
    PIXELS,
    SEQUENCE_END,
    SHORT_VRS,
    UNDEFINED,
    UNRELIABLE,
    VRS,
    private_vr,
    public_vr,
)
from app.model.errors import BadDataset, LimitExceeded, PermanentError
from app.model.options import DatasetLimits


class Scanner(Mending):
    """Walks the headers of a data set; positions are offsets in the object.

    frame_offsets: an Extended Offset Table for the pixel data, if the caller knows one that the file lacks.
    `nonzero` is the position up to which `is_zero` knows the answer: a byte other than zero follows.
    """

    def __init__(
        self, source: Source, little: bool, limits: DatasetLimits, frame_offsets: bytes = b""
    ) -> None:
        super().__init__(source, little, limits)
        self.nonzero = 0
        self.frame_offsets = frame_offsets

    def scan(self, start: int, end: int, implicit: bool, only_group: int | None = None) -> list[Node]:
        """Return the elements from `start` to `end`; with `only_group`, stop at the first of another group.

        Raises BadDataset, with code `truncated` if the object ends too early, and LimitExceeded.
        """
        nodes, fault = self.scan_head(start, end, implicit, only_group)
        if fault is not None:
            raise fault
        return nodes

    def scan_head(
        self, start: int, end: int, implicit: bool, only_group: int | None = None
    ) -> tuple[list[Node], PermanentError | None]:
        """As `scan`, but return the elements up to the first fault, and that fault instead of raising it."""
        root = Open(end, False, implicit)
        stack, position = [root], start
        fault: PermanentError | None = None
        while stack:
            frame = stack[-1]
            try:
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
                if only_group is None and stack and stack[-1].node is None:
                    position = self.plain(position, stack[-1])
            except BadDataset as error:
                after = self.give_up(position, stack)
                if after is None:
                    fault = error
                    break
                position = after
            except LimitExceeded as error:
                fault = error
                break
        while fault is not None and len(stack) > 1:
            self.leave(stack, position)
        return root.nodes, fault

    def plain(self, position: int, frame: Open) -> int:
        """Read explicit elements with a two-byte length in a tight loop, up to the first special one.

        Most elements of most files are plain, and `in_item` takes four times as long. It handles the others:
        long VRs, private creators, delimiters, lengths past the end, elements over the limit.
        """
        if frame.implicit or frame.complete:
            return position
        data, base, explicit, nodes = self.source.data, self.source.base, self.explicit, frame.nodes
        at, end, odd, before = position - base, frame.end - base, self.odd - base, len(nodes)
        last = min(len(data) - 12, end - 1)
        for _ in range(self.elements_left if at >= 0 else 0):
            if at > last or at == odd:
                break
            group, number, code, length = explicit(data, at)
            vr, after = SHORT_VRS.get(code), at + 8 + length
            if vr is None or after > end or group in (0, 0xFFFE) or (group & 1 and number <= 0xFF):
                break
            nodes.append(Node(group << 16 | number, vr, base + at + 8, length, vr))
            at = after
        self.elements_left -= len(nodes) - before
        return base + at

    def at_root(self, position: int, root: Open, stack: list[Open]) -> int:
        """Read one element at the top level; zero bytes after the pixel data, or to the end, are padding."""
        if not root.complete and root.nodes and root.nodes[-1].tag in PIXELS:
            root.complete = len(root.nodes)
        if self.source.value(position, 2) == b"\0\0" and (root.complete or self.is_zero(position, root.end)):
            return root.end
        return self.in_item(position, root, stack)

    def in_item(self, position: int, frame: Open, stack: list[Open]) -> int:
        """Read one element of an item, entering it if it is a sequence; return the next position."""
        tag, written, length, offset = self.header(position, bool(frame.implicit))
        self.tally()
        if tag >= ITEM and tag in (ITEM, ITEM_END, SEQUENCE_END):
            return self.delimiter(tag, position, frame, stack)
        foreign = swapped = False
        end, vr = offset + length, written
        if end > frame.end or (written is None and length >= MIN_VR_AS_LENGTH) or self.odd == position:
            if length != UNDEFINED or self.odd == position:
                if (after := self.mend_last(position, frame)) is not None:
                    return after
                (tag, written, length, offset, _), foreign = self.mend(position, frame, stack)
            end, vr = offset + length, written
        undefined = length == UNDEFINED
        if vr is None or vr in UNRELIABLE:
            vr = self.settle(tag, written, length, offset, frame)
            swapped = written == "UN" and not self.little
        if undefined and vr != "SQ" and not self.holds_fragments(tag, vr, offset):
            vr, foreign = "SQ", True
        if vr == "SQ":
            if not self.little and (swapped := self.source.value(offset, 4) in LITTLE_STARTS):
                self.turn(True)
            node = Node(tag, vr, offset, length, written, undefined, (), (), swapped)
            inner = None if written == "UN" or foreign else frame.implicit
            self.enter(stack, Open(frame.end if undefined else end, undefined, inner, node))
            return offset
        if undefined:
            return self.encapsulated(Node(tag, vr, offset, length, written, undefined), frame)
        node = Node(tag, vr, offset, length, written)
        frame.nodes.append(node._replace(swapped=True) if swapped else node)
        if tag >> 16 & 1 and 0x10 <= tag & 0xFFFF <= 0xFF:
            frame.creators[tag & 0xFFFF0000 | (tag & 0xFF) << 8] = self.text(offset, end)
        return end

    def in_sequence(self, position: int, frame: Open, stack: list[Open]) -> int:
        """Read the header of the next item, or the end of the sequence; return the next position."""
        tag, _, length, offset = self.header(position, True)
        if tag == SEQUENCE_END:
            if not frame.bounded:
                self.leave(stack, position)
            return offset
        if offset > frame.end and tag == ITEM and frame.bounded:
            self.warn_of(frame)
            frame.end, frame.loose = stack[-2].end, True
        if offset > frame.end or frame.node is None:
            raise self.broken("no item where an item must be", frame.end)
        if tag != ITEM:
            return self.no_item(frame.node, tag, position, stack)
        end, loose = frame.end if length == UNDEFINED else offset + length, False
        if end > frame.end:
            end, loose = self.end_of_long_item(offset, end, frame, stack)
        implicit = frame.implicit
        if implicit is None:
            implicit = self.source.value(offset + 4, 2) not in VRS
        item = Open(end, length == UNDEFINED, implicit)
        item.loose = loose
        self.tally()
        frame.items.append(item.nodes)
        frame.item = item
        self.enter(stack, item)
        return offset

    def settle(self, tag: int, written: str | None, length: int, offset: int, frame: Open) -> str:
        """Return the VR to read a value by if the file has none, has UN, or has SQ for something else."""
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

    def holds_fragments(self, tag: int, vr: str, offset: int) -> bool:
        """Return whether a value of undefined length holds fragments, not items as a sequence does."""
        if tag in PIXELS or not self.begins_item(offset):
            return True
        return (vr[0] == "O" or "OW" in vr) and self.header(offset, True)[2] != UNDEFINED

    def encapsulated(self, node: Node, frame: Open) -> int:
        """Read a value made of fragments up to its end; return the next position."""
        tag, _, length, offset = self.header(node.offset, True)
        if tag not in (ITEM, SEQUENCE_END) and (end := self.find_end(node.offset, frame.end)) is not None:
            return self.delimited(node, end, frame)
        if tag != ITEM or length == UNDEFINED:
            offset, length = node.offset, 0
        start = offset + length
        last = self.last_frame(node, offset, length, frame) if node.tag == PIXEL_DATA else start
        items, after = self.fragments(node.tag, last, frame.end)
        skipped = last != start
        frame.nodes.append(node._replace(length=items[-1] - node.offset, fragments=() if skipped else items))
        return after

    def last_frame(self, node: Node, offset: int, length: int, frame: Open) -> int:
        """Return the position of the last frame by a valid offset table, otherwise that of the first frame.

        The frames before are skipped, which keeps the scan short; the fragments of a frame are checked when
        it is read.
        """
        start = offset + length
        table = next((other for other in frame.nodes[-4:] if other.tag == EXTENDED_OFFSET_TABLE), None)
        if self.frame_offsets:
            entry = self.frame_offsets[-8:]
        elif table is not None and table.length >= 8:
            entry = self.source.value(table.offset + table.length - 8, 8)
        else:
            entry = self.source.value(start - 4, 4) if length >= 4 else b""
        last = start + int.from_bytes(entry, "little")
        return last if last + 8 <= frame.end and self.header(last, True)[0] == ITEM else start

    def fragments(self, of: int, position: int, end: int) -> tuple[array[int], int]:
        """Return the positions of the fragments and of their end, and the position of the next element."""
        found = array("Q")
        while position + 8 <= end:
            tag, _, length, offset = self.header(position, True)
            found.append(position)
            if tag == SEQUENCE_END:
                return found, offset
            if tag != ITEM or length == UNDEFINED:
                if (found_end := self.find_end(position, end)) is None:
                    raise BadDataset("a value of undefined length is not made of fragments")
                self.warn(of, "invalid_length")
                return found, found_end + 8
            self.fragments_left -= 1
            if self.fragments_left < 0:
                raise LimitExceeded(f"more fragments than limits.fragments ({self.limits.fragments})")
            position = offset + length
        raise self.broken("encapsulated data has no end", end)

    def text(self, offset: int, end: int) -> str:
        """Return the name of a private creator."""
        return self.source.value(offset, min(end - offset, 64)).decode("latin-1").strip(" \0")

    def is_zero(self, position: int, end: int) -> bool:
        """Return whether only zero bytes follow; the end of the run is remembered for the next call."""
        if not self.nonzero <= position:
            return False
        last = self.last_filled(position, end, b"\0")
        if last < end:
            self.nonzero = last + 1
        return last >= end
