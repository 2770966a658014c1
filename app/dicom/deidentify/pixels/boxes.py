"""Rectangles of a picture."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np


@dataclass(frozen=True, slots=True, order=True)
class Box:
    """Columns from `left` to `right` and rows from `top` to `bottom`, both ends exclusive; 0-based."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def area(self) -> int:
        return self.width * self.height

    def grown(self, across: int, down: int) -> Box:
        """Return the box with a margin of so many columns and rows on each side."""
        return Box(self.left - across, self.top - down, self.right + across, self.bottom + down)

    def moved(self, columns: int, rows: int) -> Box:
        """Return the box moved right and down."""
        return Box(self.left + columns, self.top + rows, self.right + columns, self.bottom + rows)

    def within(self, shape: tuple[int, int]) -> Box | None:
        """Return what lies inside a picture of (rows, columns), None if nothing does."""
        rows, columns = shape
        inside = Box(max(0, self.left), max(0, self.top), min(columns, self.right), min(rows, self.bottom))
        return inside if inside.width > 0 and inside.height > 0 else None

    def touches(self, other: Box) -> bool:
        """Return whether two boxes share a pixel or an edge."""
        return (
            self.left <= other.right
            and other.left <= self.right
            and self.top <= other.bottom
            and other.top <= self.bottom
        )


def of_one_line(one: Box, other: Box) -> bool:
    """Return whether two boxes touch and share half of a height, as parts of one line do."""
    shared = min(one.bottom, other.bottom) - max(one.top, other.top)
    return one.touches(other) and 2 * shared >= min(one.height, other.height)


def joined(boxes: Iterable[Box]) -> tuple[Box, ...]:
    """Join boxes that are parts of one line, as two overlapping tiles find them.

    Returns
    -------
    boxes in ascending order; the same set of boxes gives the same result in whatever order they come
    """
    left = sorted(set(boxes))
    lines: list[Box] = []
    while left:
        box = left.pop(0)
        for other in left:
            if of_one_line(box, other):
                left.remove(other)
                left.append(around(box, other))
                left.sort()
                break
        else:
            lines.append(box)
    return tuple(sorted(lines))


def around(one: Box, other: Box) -> Box:
    """Return the smallest box that holds both."""
    return Box(
        min(one.left, other.left),
        min(one.top, other.top),
        max(one.right, other.right),
        max(one.bottom, other.bottom),
    )


def outside(kept: Iterable[Box], shape: tuple[int, int]) -> tuple[Box, ...]:
    """Return boxes that cover what lies in none of the kept ones, without overlap.

    Parameters
    ----------
    kept : boxes inside the picture, which may overlap
    shape : (rows, columns) of the picture
    """
    rows, columns = shape
    boxes = list(kept)
    edges = sorted({0, rows, *(box.top for box in boxes), *(box.bottom for box in boxes)})
    rest: list[Box] = []
    for top, bottom in pairwise(edges):
        column = 0
        for box in sorted(box for box in boxes if box.top <= top and bottom <= box.bottom):
            if box.left > column:
                rest.append(Box(column, top, box.left, bottom))
            column = max(column, box.right)
        if column < columns:
            rest.append(Box(column, top, columns, bottom))
    return tuple(rest)


def cover(boxes: Iterable[Box], shape: tuple[int, int]) -> np.ndarray:
    """Return where boxes lie, (rows, columns) bool."""
    mask = np.zeros(shape, bool)
    for box in boxes:
        mask[max(0, box.top) : max(0, box.bottom), max(0, box.left) : max(0, box.right)] = True
    return mask
