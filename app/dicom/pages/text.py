"""Font, substitutes for missing letters, and line breaks, for pictures of reports and waveforms."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from PIL import ImageFont

SUBSTITUTES = str.maketrans(
    {
        "ß": "ss", "Æ": "AE", "æ": "ae", "Ø": "O", "ø": "o", "Œ": "OE", "œ": "oe", "Ł": "L", "ł": "l",
        "Đ": "D", "đ": "d", "ı": "i", "µ": "u", "μ": "u", "×": "x", "÷": "/", "≤": "<=", "≥": ">=",
        "–": "-", "—": "-", "−": "-", "•": "*", "€": "EUR", "→": "->", "←": "<-",
    }
)  # fmt: skip
"""Substitutes for letters that Pillow's own font lacks."""
NO_LETTER = "\uffff"
"""Not a character, so every font draws it as a missing letter."""


@lru_cache(maxsize=16)
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return Pillow's own font, Aileron: identical on every machine, but it has little more than ASCII."""
    found = ImageFont.load_default(size)
    assert isinstance(found, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return found


def writable(text: str) -> str:
    """Replace letters that the font lacks.

    Accents are dropped and some signs are spelled out; every other letter stays and is drawn as a box.
    """
    kept = "".join(letter if _has(letter) else letter.translate(SUBSTITUTES) for letter in text)
    bare = (letter if _has(letter) else _without_accent(letter) for letter in kept)
    return "".join(bare)


def is_writable(text: str) -> bool:
    """Return whether the font has every letter."""
    return all(map(_has, text))


def width_of(text: str, size: int) -> float:
    """Return the approximate width in pixels; letters are measured one by one, without kerning."""
    return sum(_width(letter, size) for letter in text)


def wrap(text: str, size: int, width: float) -> list[str]:
    """Break a text into lines.

    Parameters
    ----------
    text : its line breaks are kept
    size : font size in pixels
    width : line width in pixels; a word that is wider is broken anywhere

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
    return letter == " " or bytes(shape) != bytes(font(16).getmask(NO_LETTER))


@lru_cache(maxsize=1 << 12)
def _width(letter: str, size: int) -> float:
    return font(size).getlength(letter)


def _without_accent(letter: str) -> str:
    plain = "".join(c for c in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(c))
    return plain if plain and all(map(_has, plain)) else letter
