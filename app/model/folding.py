"""Pure: person names without case and accents, so that a search finds them however they are written."""

from __future__ import annotations

import unicodedata


def fold_name(text: str) -> str:
    """Return a person name, all its component groups, without case and accents.

    Empty groups and components at the end are left out, spaces around a component too (PS3.5 6.2.1).
    """
    return "=".join(_fold_group(group) for group in text.split("=")).rstrip("=")


def _fold_group(text: str) -> str:
    # Decomposed twice, since folding the case may set marks free; composed again for the syllables of Hangul.
    open_text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    bare = unicodedata.normalize("NFC", "".join(c for c in open_text if not unicodedata.combining(c)))
    return "^".join(component.strip() for component in bare.split("^")).rstrip("^")
