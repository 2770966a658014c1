"""Decode text by Specific Character Set (0008,0005). Only incomplete characters are replaced."""

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
"""Escape sequence -> codec. Latin-9 joined the standard in 2023 and pydicom does not know it yet."""
REPLACEMENT = "\ufffd"
"""Replaces bytes that are not a complete character."""
STATEFUL_CODECS = {"iso2022_jp", "iso2022_jp_2"}
"""Codecs that interpret the escape sequence themselves, so it must be passed to them."""


@dataclass(frozen=True, slots=True)
class Charset:
    """The codecs of (0008,0005), in order. `known` is False if any term is not defined by the standard."""

    codecs: tuple[str, ...] = (ASCII,)
    known: bool = True

    def decode(self, raw: bytes, delimiters: bytes = b"\\\r\n\f\t") -> tuple[str, bool]:
        """Return the text, and whether it was valid in this character set.

        Text truncated at a byte limit may end inside a multi-byte character: the complete characters are kept
        and U+FFFD replaces the rest. Text that is invalid in another way is decoded as UTF-8 or, failing
        that, as Latin-1, which maps every byte. `delimiters` are the characters that reset the text to the
        first character set.

        References
        ----------
        PS3.5 6.1.2.4, 6.1.2.5.3 (code extensions)
        """
        try:
            return self._text(raw, delimiters, "strict"), True
        except ValueError:
            pass
        if not raw.isascii():  # ISO 2022 text may be all ASCII bytes, so ASCII does not prove UTF-8
            with suppress(ValueError):
                return raw.decode("utf-8"), False
        return self._whole_characters(raw, delimiters) or raw.decode("latin-1"), False

    def _whole_characters(self, raw: bytes, delimiters: bytes) -> str:
        """Decode text with incomplete characters; return an empty string if another encoding is more likely.

        A lead byte alone is also a Latin-1 letter, so at least half of the non-ASCII characters must be
        complete. UTF-8 is tried too: it is common in files that declare no character set.
        """
        kept = raw.rstrip(b" \0")  # padding is never part of a multi-byte character
        for charset in (self, Charset(("utf-8",))):
            with suppress(ValueError):
                text = charset._text(kept, delimiters, "replace")
                if 2 * text.count(REPLACEMENT) <= sum(not letter.isascii() for letter in text):
                    return text
        return ""

    def _text(self, raw: bytes, delimiters: bytes, errors: str) -> str:
        """Decode by the codecs; `errors` as for `bytes.decode`."""
        if b"\x1b" not in raw:
            return raw.decode(self.codecs[0], errors)
        return "".join(self._fragment(part, delimiters, errors) for part in ESCAPED.findall(raw))

    def _fragment(self, raw: bytes, delimiters: bytes, errors: str) -> str:
        """Decode from one escape sequence up to the next."""
        if not raw.startswith(b"\x1b"):
            return raw.decode(self.codecs[0], errors)
        size = 4 if raw[:3] in (b"\x1b$(", b"\x1b$)") else 3
        codec, text = ESCAPES.get(raw[:size]), raw[size:]
        if codec is None:
            if errors == "replace" and any(escape.startswith(raw) for escape in ESCAPES):
                return REPLACEMENT
            raise ValueError("unknown escape sequence")
        if raw[:size] == b"\x1b(B":
            return text.decode(self.codecs[0], errors)
        if codec in STATEFUL_CODECS:
            return raw.decode(codec, errors)
        end = next((at for at, code in enumerate(text) if code in delimiters), len(text))
        return text[:end].decode(codec, errors) + self._after(text[end:], codec, errors)

    def _after(self, text: bytes, codec: str, errors: str) -> str:
        """Decode text after a delimiter: by the first character set, or by `codec` if that is impossible."""
        try:
            return text.decode(self.codecs[0])
        except ValueError:
            return text.decode(codec, errors)


def charset(value: bytes) -> Charset:
    """Return the character set for the raw value of (0008,0005); common misspellings are accepted."""
    terms = [term.strip(b" \0").decode("latin-1") for term in value.split(b"\\")]
    codecs = [CODECS.get(term) or _respelled(term) if term else ASCII for term in terms]
    return Charset(tuple(codec or ASCII for codec in codecs), None not in codecs)


def _respelled(term: str) -> str | None:
    """Return the codec of a term such as `ISO-IR 100`, `ISO2022IR87` or `utf-8`."""
    upper = term.upper()
    if match := re.fullmatch(r"ISO[-_ ]?(2022)?[-_ ]?IR[-_ ]?(\d+)", upper):
        return CODECS.get(f"{'ISO 2022 IR' if match[1] else 'ISO_IR'} {match[2]}")
    return "utf-8" if upper in ("UTF-8", "UTF8") else None
