"""Mount points below a folder, as Linux lists them; elsewhere none are known."""

from __future__ import annotations

import os
import re
from pathlib import Path

LIST = "/proc/self/mountinfo"
ESCAPE = re.compile(rb"\\([0-7]{3})")


def mount_points(root: Path) -> frozenset[str]:
    """Return the names of all mount points below a folder, each with a slash at its end; "" for its own."""
    try:
        lines = Path(LIST).read_bytes().splitlines()
    except OSError:
        return frozenset()
    top = os.fsencode(root) + b"/"
    # proc(5): the fifth field is the mount point; blanks, line ends and backslashes in it are octal.
    fields = (line.split(b" ", 5)[4] for line in lines)
    places = [ESCAPE.sub(lambda octal: bytes([int(octal[1], 8)]), field) + b"/" for field in fields]
    return frozenset(p[len(top) :].decode(errors="replace") for p in places if p.startswith(top))
