"""Names of files and objects as text that is safe to keep and to print."""

from __future__ import annotations

import re

IMPLEMENTATION_UID = "2.25.217204857296283746351902283516254790181"
"""Of the DICOM files that we write; PS3.7 D.3.3.2."""
UNSAFE = re.compile("[%\0\r\n\ud800-\udfff]")


def spelled(path: str) -> str:
    """Return a path in plain Unicode of one line: a byte that no object name can hold becomes `\\xff`."""
    return "".join(f"\\x{ord(c) & 0xFF:02x}" if UNSAFE.match(c) and c != "%" else c for c in path)
