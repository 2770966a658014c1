"""How elements lie in items and items in sequences: what a scan returns, and what is open during one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from app.dicom.read.byte_reader import Source
from app.dicom.read.headers import Headers
from app.model.errors import LimitExceeded
from app.model.options import DatasetLimits


class Node(NamedTuple):
    """One element: the VR to read it by, where its value lies, the items of a sequence.

    `written` is the VR in the file, None where it is implicit. A value of undefined length is measured from
    its first item to the delimiter, which is not part of it. `fragments` are the positions of the items of an
    encapsulated value after its offset table, and of their end; empty where a table made it needless to visit
    them all. `swapped`: a little endian value in a big endian data set.
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
        """Say whether this is a sequence that has a length and ends at a position."""
        return self.vr == "SQ" and not self.undefined and self.offset + self.length == position


@dataclass(slots=True)
class Open:
    """An open sequence, `node` with its `items`; or an open item (`node` None) with its `nodes`.

    `undefined`: it ends with a delimiter. `loose`: its length or delimiter was wrong, it ends at what does
    not belong to it. `implicit` None: each item of the sequence tells by its first element. `item`: the
    newest of a sequence. `complete`: how many elements there are up to and with the pixel data of the data
    set, 0 while there are none.
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
        """Whether its length says where it ends."""
        return not (self.undefined or self.loose)


class Nesting(Headers):
    """Goes into sequences and items and out of them, within the limits.

    `warnings` holds tag and code of what had to be read otherwise than it is written.
    """

    def __init__(self, source: Source, little: bool, limits: DatasetLimits) -> None:
        super().__init__(source, little)
        self.limits = limits
        self.elements_left, self.fragments_left = limits.elements, limits.fragments
        self.warnings: dict[tuple[int, str], None] = {}

    def tally(self) -> None:
        """Count an element, an item or a delimiter."""
        self.elements_left -= 1
        if self.elements_left < 0:
            raise LimitExceeded(f"more elements and items than limits.elements ({self.limits.elements})")

    def enter(self, stack: list[Open], frame: Open) -> None:
        """Go into a sequence or an item."""
        if len(stack) > 2 * self.limits.depth:
            raise LimitExceeded(f"sequences are nested deeper than limits.depth ({self.limits.depth})")
        stack.append(frame)

    def leave(self, stack: list[Open], position: int) -> None:
        """Come out of an item, or of a sequence whose length is known now."""
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
        """Keep a value that is neither items nor fragments but has a delimiter, and return where to go on."""
        self.warn(node.tag, "invalid_length")
        frame.nodes.append(node._replace(length=end - node.offset, undefined=False))
        return end + 8

    def warn(self, tag: int, code: str) -> None:
        """Note an element that is not read as it is written."""
        self.warnings[tag, code] = None

    def warn_of(self, sequence: Open) -> None:
        """Note a sequence whose items, lengths or delimiters are wrong."""
        if sequence.node is not None:
            self.warn(sequence.node.tag, "invalid_sequence")
