"""Labels: the path of a member as text that is safe to store and print. A label is never used as a path."""

from __future__ import annotations

import posixpath
import re

from app.model.names import escaped, shortened, suffix

MAX_LABEL = 500
"""Maximum bytes of a label in UTF-8, so that names made from it stay below the limits of object stores."""

_UNPRINTABLE = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Labels:
    """Assigns the labels of one archive; the same names in the same order always get the same labels."""

    def __init__(self) -> None:
        self._used: dict[str, int] = {}

    def add(self, name: bytes, encoding: str = "utf-8") -> str:
        """Return the label of the next file; a repeated name gets a number: a.dcm, a~2.dcm."""
        wanted = unused = label(name.decode(encoding, "backslashreplace"))
        stem, suffix = posixpath.splitext(wanted)
        while unused in self._used:
            self._used[wanted] += 1
            unused = f"{stem}~{self._used[wanted]}{suffix}"
        self._used[unused] = 1
        return unused


def label(name: str) -> str:
    """Return a name without leading `./`, with control characters as `\\x0a`, shortened if it is too long.

    A digest of the whole name replaces the part that is cut, so different names keep different labels.
    """
    text = escaped(name, _UNPRINTABLE, "\\x")
    while text.startswith("./"):
        text = text[2:]
    if len(text.encode()) <= MAX_LABEL:
        return text or "unnamed"
    return shortened(text, MAX_LABEL - 80, "~") + suffix(text)
