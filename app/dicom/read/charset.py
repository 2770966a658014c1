"""Text of a data set, decoded by its Specific Character Set; only parts of characters are ever replaced."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass

from pydicom.charset import CODES_TO_ENCODINGS, python_encoding

ESCAPED = re.compile(rb"\x1b[^\x1b]*|[^\x1b]+")
ASCII = "ascii"
LATIN_9 = "iso8859_15"
CODECS = {term: codec for term, codec in python_encoding.items() if term} | {
    "ISO_IR 6": ASCII,
    "ISO 2022 IR 6": ASCII,
    "ISO_IR 203": LATIN_9,
    "ISO 2022 IR 203": LATIN_9,
}
ESCAPES = CODES_TO_ENCODINGS | {b"\x1b-b": LATIN_9}
"""Escape sequence -> codec. Latin-9 came into the standard in 2023, pydicom has it not yet."""
LOST = "\ufffd"
"""Stands for bytes that are no whole character."""
KEPT_ESCAPES = {"iso2022_jp", "iso2022_jp_2"}
"""Codecs that read the escape sequences themselves."""


@dataclass(frozen=True, slots=True)
class Charset:
    """The codecs of (0008,0005) in their order. `known` is False where a term is none of the standard's."""

    codecs: tuple[str, ...] = (ASCII,)
    known: bool = True

    def decode(self, raw: bytes, delimiters: bytes = b"\\\r\n\f\t") -> tuple[str, bool]:
        """Return the text, and whether it was valid in this character set.

        A text that was cut at a number of bytes may end inside a character of several bytes: its whole
        characters are kept, and U+FFFD stands for the rest. What is not valid otherwise is read as UTF-8 or,
        failing that, as Latin-1, which gives every byte a character. `delimiters` are the characters after
        which the first character set holds again.

        References
        ----------
        PS3.5 6.1.2.4, 6.1.2.5.3 (code extensions)
        """
        try:
            return self._text(raw, delimiters, "strict"), True
        except ValueError:
            pass
        if not raw.isascii():  # the escape sequences and all letters of Japanese may be ASCII
            with suppress(ValueError):
                return raw.decode("utf-8"), False
        return self._whole_characters(raw, delimiters) or raw.decode("latin-1"), False

    def _whole_characters(self, raw: bytes, delimiters: bytes) -> str:
        """Return a text that lacks parts of characters, empty where it is more likely in no such encoding.

        A single byte that is the beginning of a character is also a letter of Latin-1. So as many characters
        of several bytes must be whole as are not. Where no character set is named UTF-8 may be meant.
        """
        kept = raw.rstrip(b" \0")  # of which no such character is made
        for charset in (self, Charset(("utf-8",))):
            with suppress(ValueError):
                text = charset._text(kept, delimiters, "replace")
                if 2 * text.count(LOST) <= sum(not letter.isascii() for letter in text):
                    return text
        return ""

    def _text(self, raw: bytes, delimiters: bytes, errors: str) -> str:
        """Return a text as the codecs have it, `errors` as for them."""
        if b"\x1b" not in raw:
            return raw.decode(self.codecs[0], errors)
        return "".join(self._fragment(part, delimiters, errors) for part in ESCAPED.findall(raw))

    def _fragment(self, raw: bytes, delimiters: bytes, errors: str) -> str:
        """Return the text from one escape sequence up to the next."""
        if not raw.startswith(b"\x1b"):
            return raw.decode(self.codecs[0], errors)
        size = 4 if raw[:3] in (b"\x1b$(", b"\x1b$)") else 3
        codec, text = ESCAPES.get(raw[:size]), raw[size:]
        if codec is None:
            if errors == "replace" and any(escape.startswith(raw) for escape in ESCAPES):
                return LOST
            raise ValueError("unknown escape sequence")
        if raw[:size] == b"\x1b(B":
            return text.decode(self.codecs[0], errors)
        if codec in KEPT_ESCAPES:
            return raw.decode(codec, errors)
        end = next((at for at, code in enumerate(text) if code in delimiters), len(text))
        return text[:end].decode(codec, errors) + self._after(text[end:], codec, errors)

    def _after(self, text: bytes, codec: str, errors: str) -> str:
        """Return what follows a delimiter, by the first character set or, as some write, by `codec`."""
        try:
            return text.decode(self.codecs[0])
        except ValueError:
            return text.decode(codec, errors)


def charset(value: bytes) -> Charset:
    """Return the character set that the bytes of (0008,0005) name; usual misspellings are understood."""
    terms = [term.strip(b" \0").decode("latin-1") for term in value.split(b"\\")]
    codecs = [CODECS.get(term) or _respelled(term) if term else ASCII for term in terms]
    return Charset(tuple(codec or ASCII for codec in codecs), None not in codecs)


def _respelled(term: str) -> str | None:
    """Return the codec of a term such as `ISO-IR 100`, `ISO2022IR87` or `utf-8`."""
    upper = term.upper()
    if match := re.fullmatch(r"ISO[-_ ]?(2022)?[-_ ]?IR[-_ ]?(\d+)", upper):
        return CODECS.get(f"{'ISO 2022 IR' if match[1] else 'ISO_IR'} {match[2]}")
    return "utf-8" if upper in ("UTF-8", "UTF8") else None
