"""Whether what looks like text can be text: an organ looks like one large glyph."""

from __future__ import annotations

from app.dicom.deidentify.pixels.text import Line

LEAST_SCORE = 0.3
SURE, FEW = 0.7, 3
"""Score that a line of so few glyphs needs, and one of large letters: noise is read as two or three."""
LETTER = 40
"""Rows of a glyph above which a single one is a shape of the picture."""
HEADLINE = 0.1
"""Share of the shorter side of a picture above which letters are large."""
MOST_AREA = 0.25
"""Share of a picture that one line may take."""
THINNEST, WIDEST = 0.12, 3.0
"""Width of a glyph by its height."""


def plausible(line: Line, shape: tuple[int, int]) -> bool:
    """Return whether a line is text that has to be masked.

    A single glyph identifies nobody: side markers and shapes read as O or 1 are left in the picture. A wide
    and low box in which one glyph was read counts, for there stands more than was read.

    Parameters
    ----------
    line : as found
    shape : (rows, columns) of the picture
    """
    glyphs = sum(map(str.isalnum, line.text))
    long, short = max(line.box.width, line.box.height), min(line.box.width, line.box.height)
    if line.box.area > MOST_AREA * shape[0] * shape[1] or line.score < LEAST_SCORE or not glyphs:
        return False
    if glyphs == 1:
        return short <= LETTER and long >= 3 * short
    large = short > HEADLINE * min(shape)
    if (glyphs <= FEW and (large or line.score < SURE)) or (large and line.score < SURE):
        return False
    return THINNEST <= long / (len(line.text) * short) <= WIDEST
