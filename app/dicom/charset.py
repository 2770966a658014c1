"""Text of a data set, decoded by its Specific Character Set; no byte is ever dropped or replaced."""

from __future__ import annotations

import re
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
KEPT_ESCAPES = {"iso2022_jp", "iso2022_jp_2"}
"""Codecs that read the escape sequences themselves."""


@dataclass(frozen=True, slots=True)
class Charset:
    """The codecs of (0008,0005) in their order. `known` is False where a term is none of the standard's."""

    codecs: tuple[str, ...] = (ASCII,)
    known: bool = True

    def decode(self, raw: bytes, delimiters: bytes = b"\\\r\n\f\t") -> tuple[str, bool]:
        """Return the text, and whether it was valid in this character set.

        What is not valid is read as UTF-8 or, failing that, as Latin-1, which gives every byte a character.
        `delimiters` are the characters after which the first character set holds again.

        References
        ----------
        PS3.5 6.1.2.4, 6.1.2.5.3 (code extensions)
        """
        try:
            if b"\x1b" not in raw:
                return raw.decode(self.codecs[0]), True
            return "".join(self._fragment(part, delimiters) for part in ESCAPED.findall(raw)), True
        except ValueError:
            pass
        try:
            return raw.decode("utf-8"), False
        except ValueError:
            return raw.decode("latin-1"), False

    def _fragment(self, raw: bytes, delimiters: bytes) -> str:
        """Return the text from one escape sequence up to the next."""
        if not raw.startswith(b"\x1b"):
            return raw.decode(self.codecs[0])
        size = 4 if raw[:3] in (b"\x1b$(", b"\x1b$)") else 3
        codec, text = ESCAPES.get(raw[:size]), raw[size:]
        if codec is None:
            raise ValueError("unknown escape sequence")
        if raw[:size] == b"\x1b(B":
            return text.decode(self.codecs[0])
        if codec in KEPT_ESCAPES:
            return raw.decode(codec)
        end = next((at for at, code in enumerate(text) if code in delimiters), len(text))
        return text[:end].decode(codec) + self._after(text[end:], codec)

    def _after(self, text: bytes, codec: str) -> str:
        """Return what follows a delimiter, by the first character set or, as some write, by `codec`."""
        try:
            return text.decode(self.codecs[0])
        except ValueError:
            return text.decode(codec)


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
