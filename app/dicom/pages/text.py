"""Text and lines on paper: what pictures of reports and waveforms are written with."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from PIL import ImageFont

INSTEAD = str.maketrans(
    {
        "ß": "ss", "Æ": "AE", "æ": "ae", "Ø": "O", "ø": "o", "Œ": "OE", "œ": "oe", "Ł": "L", "ł": "l",
        "Đ": "D", "đ": "d", "ı": "i", "µ": "u", "μ": "u", "×": "x", "÷": "/", "≤": "<=", "≥": ">=",
        "–": "-", "—": "-", "−": "-", "•": "*", "€": "EUR", "→": "->", "←": "<-",
    }
)  # fmt: skip
"""What the one font that comes with Pillow lacks, in what it has."""
PROBE = "\uffff"


@lru_cache(maxsize=16)
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return Pillow's own font, Aileron: the same on every machine, but little more than ASCII."""
    found = ImageFont.load_default(size)
    assert isinstance(found, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return found


def writable(text: str) -> str:
    """Return the text in letters that the font has.

    Accents are left out and some signs spelled out; every other letter stays, and is drawn as a box.
    """
    kept = "".join(letter if _has(letter) else letter.translate(INSTEAD) for letter in text)
    bare = (letter if _has(letter) else _without_accent(letter) for letter in kept)
    return "".join(bare)


def is_writable(text: str) -> bool:
    """Say whether the font has every letter."""
    return all(map(_has, text))


def width_of(text: str, size: int) -> float:
    """Return about how many pixels a text takes; letters are measured one by one."""
    return sum(_width(letter, size) for letter in text)


def wrap(text: str, size: int, width: float) -> list[str]:
    """Break a text into lines.

    Parameters
    ----------
    text : line breaks in it are kept
    size : of the font, in pixels
    width : of a line, in pixels; a word that is wider is broken anywhere

    Returns
    -------
    at least one line
    """
    lines = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split():
            joined = f"{line} {word}" if line else word
            if width_of(joined, size) <= width:
                line = joined
                continue
            lines += [line] if line else []
            *full, line = _pieces(word, size, width)
            lines += full
        lines.append(line)
    return lines


def _pieces(word: str, size: int, width: float) -> list[str]:
    pieces, piece, taken = [], "", 0.0
    for letter in word:
        if piece and taken + _width(letter, size) > width:
            pieces.append(piece)
            piece, taken = "", 0.0
        piece, taken = piece + letter, taken + _width(letter, size)
    return [*pieces, piece]


@lru_cache(maxsize=1 << 12)
def _has(letter: str) -> bool:
    shape = font(16).getmask(letter)
    return letter == " " or bytes(shape) != bytes(font(16).getmask(PROBE))


@lru_cache(maxsize=1 << 12)
def _width(letter: str, size: int) -> float:
    return font(size).getlength(letter)


def _without_accent(letter: str) -> str:
    plain = "".join(c for c in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(c))
    return plain if plain and all(map(_has, plain)) else letter
