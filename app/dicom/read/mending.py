"""Recover from wrong headers, lengths and delimiters: one broken optional value must not lose the object.

Three strategies, all off the fast path and linear in the size of the object:

form: an element may be encoded in another form than its neighbours. Choose the form that fits what follows.
ends: contents show more reliably than lengths and delimiters where items and sequences end. Extend one whose
length is too short; end one without a delimiter at the first element that cannot belong to it.
loss: skip what cannot be read, at most the innermost item or sequence whose end is known.

Each recovery gives a warning. A truncated object is not recovered; it stays an error.
"""

from __future__ import annotations

from app.dicom.read.byte_reader import MAX_READ
from app.dicom.read.headers import Header
from app.dicom.read.nesting import Nesting, Node, Open
from app.dicom.read.vr import ITEM, ITEM_END, PIXELS, SEQUENCE_END, VRS, known_name, public_vr


class Mending(Nesting):
    """Reads malformed elements; the methods return the position to continue at."""

    def delimiter(self, tag: int, position: int, frame: Open, stack: list[Open]) -> int:
        """Handle the end of an item, or an item or delimiter where an element is expected."""
        if tag == ITEM_END and not frame.bounded:
            self.leave(stack, position)
            return position + 8
        last = frame.nodes[-1] if frame.nodes else None
        outer = stack[-2] if len(stack) > 1 else None
        if last is not None and last.ends_by_length(position):
            self.warn(last.tag, "invalid_sequence")
            if tag == ITEM:
                self.open_again(frame, stack)
                return position
            return position + 8
        if outer is None:
            if tag == ITEM:
                raise self.broken("an item outside a sequence", frame.end)
            return position + 8
        self.warn_of(outer)
        if tag == ITEM or (tag == SEQUENCE_END and not (frame.bounded and outer.bounded)):
            self.leave(stack, position)  # the item has no delimiter, or its length is too long
            return position
        return position + 8

    def open_again(self, frame: Open, stack: list[Open]) -> None:
        """Reopen the previous sequence: an item follows its end, so its length is too short."""
        node = frame.nodes.pop()
        if node.swapped:
            self.turn(True)
        self.enter(stack, Open(frame.end, False, None, node, list(node.items), loose=True))

    def no_item(self, node: Node, tag: int, position: int, stack: list[Open]) -> int:
        """Handle a sequence with neither an item nor a delimiter next.

        Either its last item continues, or the sequence has ended.
        """
        frame = stack[-1]
        unsure = frame.undefined and not frame.items and node.written != "SQ"
        if unsure and (end := self.find_end(position, frame.end)) is not None:
            stack.pop()
            return self.delimited(node._replace(vr="UN"), end, stack[-1])
        self.warn_of(frame)
        item = frame.item
        last = item.nodes[-1] if item is not None and item.nodes else None
        # The delimiter just read may belong to a nested sequence that ended by its length, not to the item.
        early = last is not None and last.ends_by_length(position - 8)
        if tag == ITEM_END:
            if frame.bounded or early or (item is not None and not item.undefined):
                return position + 8
            self.leave(stack, position)
            return position
        outside = not frame.bounded and self.goes_on(position, frame.end, node.tag)
        inside = item is not None and self.goes_on(position, frame.end, 0 if last is None else last.tag)
        if inside and outside and last is not None and item is not None and not early:
            inside = not item.undefined and tag >> 16 == last.tag >> 16
        if inside and item is not None:
            item.end, item.undefined, item.loose = frame.end, False, True
            self.enter(stack, item)
        elif outside:
            self.leave(stack, position)
        else:
            raise self.broken("no item where an item must be", frame.end)
        return position

    def end_of_long_item(self, offset: int, end: int, frame: Open, stack: list[Open]) -> tuple[int, bool]:
        """Return the end of an item longer than its sequence, and whether that end is only an upper bound."""
        self.warn_of(frame)
        tag, outer = frame.node.tag if frame.node is not None else 0, stack[-2].end
        likely = offset < frame.end and self.is_end(frame.end, outer, tag)
        if frame.bounded and not likely and self.is_end(end, outer, tag):
            frame.end, frame.loose = outer, True
            return end, False
        return frame.end, not frame.bounded

    def mend(self, position: int, frame: Open, stack: list[Open]) -> tuple[Header, bool]:
        """Return the header as it was meant, and whether its form differs from that of the item around it."""
        implicit, odd = bool(frame.implicit), self.odd == position
        forms = self.forms(position, implicit)
        form, code = forms[0], VRS.get(self.source.value(position + 4, 2))
        chosen = form if self.is_inside(form, frame.end) else None
        if odd or (code and (implicit or form.tag not in PIXELS)):
            within = (one for one in forms if self.is_inside(one, frame.end)) if odd else ()
            fitting = (one for one in forms if self.fits(one, frame.end))
            chosen = next(fitting, None) or chosen or next(iter(within), None)
        if chosen is None:
            self.lengthen(form, frame, stack)
            chosen = form
        foreign = chosen.implicit != implicit
        if chosen != form or foreign or (odd and code is None):
            self.warn(form.tag, "invalid_vr")
        if foreign and not frame.nodes:
            frame.implicit = chosen.implicit
        return chosen, foreign

    def mend_last(self, position: int, frame: Open) -> int | None:
        """Return the end of the previous value if it only seemed empty: its length has four bytes."""
        last = frame.nodes[-1] if frame.nodes else None
        if last is None or last.length or last.offset != position or last.written is None:
            return None
        form = self.written_long(position, last.tag, last.written, frame.end)
        if form is None:
            return None
        frame.nodes[-1] = last._replace(offset=form.offset, length=form.length)
        self.warn(last.tag, "invalid_vr")
        return form.offset + form.length

    def lengthen(self, form: Header, frame: Open, stack: list[Open]) -> None:
        """Extend an item that ends inside an element; raise BadDataset if the element is truncated."""
        outer = stack[-2] if len(stack) > 1 else frame
        if outer.end > frame.end and self.fits(form, outer.end):
            self.warn_of(outer)
            frame.end, frame.undefined, frame.loose = outer.end, False, True
            return
        if form.offset > frame.end:
            raise self.broken("an element ends inside its header", frame.end)
        raise self.broken(f"the value of {known_name(form.tag)} is cut off", frame.end)

    def give_up(self, position: int, stack: list[Open]) -> int | None:
        """Skip what cannot be read and return the position to continue at, None if it is unknown.

        That is the end of the innermost item or sequence with a plausible end. It is the end of the object if
        the pixel data are complete or if only padding is left: neither is part of the data set.
        """
        for depth in range(len(stack) - 1, 0, -1):
            frame, outer = stack[depth], stack[depth - 1]
            tag = frame.node.tag if frame.node is not None else 0
            if frame.bounded and position <= frame.end and self.is_end(frame.end, outer.end, tag):
                return self.leave_all(depth, frame.end, stack)
        root, top = stack[0], stack[1].node if len(stack) > 1 else None
        if root.complete and (top is None or public_vr(top.tag) != "SQ"):
            del root.nodes[root.complete :], stack[1:]
            return root.end
        if self.is_padding(position if top is None else top.offset - 8, root):
            del stack[1:]
            return root.end
        if top is None:
            return None
        depth = len(stack) - 1 if stack[-1].node is not None else len(stack) - 2
        node, outer = stack[depth].node, stack[depth - 1]
        end = self.find_end(position, stack[depth].end)
        if end is None or node is None or not self.is_end(end + 8, outer.end, node.tag):
            return None
        self.leave_all(depth, end, stack)
        return end + 8

    def leave_all(self, depth: int, position: int, stack: list[Open]) -> int:
        """Close the item or sequence at this depth, and everything in it, at a position."""
        if depth < len(stack):
            self.warn_of(stack[depth] if stack[depth].node is not None else stack[depth - 1])
        while len(stack) > depth:
            self.leave(stack, position)
        return position

    def is_end(self, position: int, outer: int, tag: int) -> bool:
        """Return whether the element `tag` can end here: at its parent's end or before another element."""
        return position == outer or (position < outer and self.goes_on(position, outer, tag))

    def is_padding(self, position: int, root: Open) -> bool:
        """Return whether the rest is padding: one repeated byte, or the end of an HTTP multipart body."""
        begin = self.source.value(position, 8)
        if not root.nodes or len(begin) < 8:
            return False
        if begin[:4] != b"\r\n--" and self.last_filled(position, root.end, begin[:1]) < root.end:
            return False
        self.warn(root.nodes[-1].tag, "trailing_bytes")
        return True

    def last_filled(self, position: int, end: int, byte: bytes) -> int:
        """Return the end of the run of one repeated byte."""
        size = 16
        while position < end:
            chunk = self.source.value(position, min(end - position, size))
            rest = chunk.lstrip(byte)
            position += len(chunk) - len(rest)
            if rest or not chunk:
                break
            size = min(2 * size, MAX_READ)
        return position
