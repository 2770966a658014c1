"""The nesting of elements, items and sequences: the nodes a scan returns, and the frames open during it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from app.dicom.read.byte_reader import Source
from app.dicom.read.headers import Headers
from app.model.errors import LimitExceeded
from app.model.options import DatasetLimits


class Node(NamedTuple):
    """One element: the VR to read it by, the position of its value, the items of a sequence.

    `written` is the VR in the file, None if implicit. The length of a value of undefined length is measured
    from its first item up to the delimiter, which it excludes. `fragments` are the positions of the items of
    encapsulated data after the basic offset table, then of their end; empty if an offset table made it
    unnecessary to visit them all. `swapped`: a little endian value in a big endian data set.
    """

    tag: int
    vr: str
    offset: int
    length: int
    written: str | None
    undefined: bool = False
    items: Sequence[list[Node]] = ()
    fragments: Sequence[int] = ()
    swapped: bool = False

    def ends_by_length(self, position: int) -> bool:
        """Return whether this is a sequence of defined length that ends at a position."""
        return self.vr == "SQ" and not self.undefined and self.offset + self.length == position


@dataclass(slots=True)
class Open:
    """An open sequence, `node` with its `items`; or an open item (`node` None) with its `nodes`.

    `undefined`: it ends with a delimiter. `loose`: its length or delimiter was wrong, so it ends at the first
    element that cannot belong to it. `implicit` None: detected from the first element of each item. `item`:
    the latest item of a sequence. `complete`: number of elements up to and including the pixel data of the
    data set, 0 before them.
    """

    end: int
    undefined: bool
    implicit: bool | None
    node: Node | None = None
    items: list[list[Node]] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    creators: dict[int, str] = field(default_factory=dict)
    complete: int = 0
    loose: bool = False
    item: Open | None = None

    @property
    def bounded(self) -> bool:
        """Whether it ends by its length."""
        return not (self.undefined or self.loose)


class Nesting(Headers):
    """Enters and leaves sequences and items, within the limits.

    `warnings` holds tag and code of everything that is not read as it is written.
    """

    def __init__(self, source: Source, little: bool, limits: DatasetLimits) -> None:
        super().__init__(source, little)
        self.limits = limits
        self.elements_left, self.fragments_left = limits.elements, limits.fragments
        self.warnings: dict[tuple[int, str], None] = {}

    def tally(self) -> None:
        """Count an element, an item or a delimiter against `limits.elements`."""
        self.elements_left -= 1
        if self.elements_left < 0:
            raise LimitExceeded(f"more elements and items than limits.elements ({self.limits.elements})")

    def enter(self, stack: list[Open], frame: Open) -> None:
        """Open a sequence or an item."""
        if len(stack) > 2 * self.limits.depth:
            raise LimitExceeded(f"sequences are nested deeper than limits.depth ({self.limits.depth})")
        stack.append(frame)

    def leave(self, stack: list[Open], position: int) -> None:
        """Close an item, or a sequence, whose length is known now."""
        frame = stack.pop()
        if frame.node is not None:
            tag, vr, offset, _, written, undefined, _, _, swapped = frame.node
            length = position - offset
            stack[-1].nodes.append(
                Node(tag, vr, offset, length, written, undefined, frame.items, (), swapped)
            )
            if swapped:
                self.turn(False)

    def delimited(self, node: Node, end: int, frame: Open) -> int:
        """Keep a delimited value that is neither items nor fragments; return the next position."""
        self.warn(node.tag, "invalid_length")
        frame.nodes.append(node._replace(length=end - node.offset, undefined=False))
        return end + 8

    def warn(self, tag: int, code: str) -> None:
        """Record an element that is not read as it is written."""
        self.warnings[tag, code] = None

    def warn_of(self, sequence: Open) -> None:
        """Record a sequence with wrong items, lengths or delimiters."""
        if sequence.node is not None:
            self.warn(sequence.node.tag, "invalid_sequence")
