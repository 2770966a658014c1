"""Names of files and objects as text that is safe to keep and to print, and short enough."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import urlsplit, urlunsplit

IMPLEMENTATION_UID = "2.25.217204857296283746351902283516254790181"
"""Of the DICOM files that we write; PS3.7 D.3.3.2."""
UNSAFE = re.compile("[%\0\r\n\ud800-\udfff]")
_SUFFIX = re.compile(r"(\.[A-Za-z0-9]{1,8})?\Z")


def spelled(path: str) -> str:
    """Return a path in plain Unicode of one line: a byte that no object name can hold becomes `\\xff`."""
    return "".join(f"\\x{ord(c) & 0xFF:02x}" if UNSAFE.match(c) and c != "%" else c for c in path)


def plain(text: str) -> str:
    """Return a text with each character that UTF-8 cannot hold as its code, such as `\\udcff`."""
    return text.encode(errors="backslashreplace").decode()


def escaped(text: str, unsafe: re.Pattern[str], mark: str) -> str:
    """Return a text with each unsafe character as `mark` and its code point in two or more hex digits."""
    return unsafe.sub(lambda found: f"{mark}{ord(found.group()):02x}", text)


def shortened(text: str, head_bytes: int, mark: str, whole: str | None = None) -> str:
    """Return at most so many UTF-8 bytes of a text, `mark`, and the digest of the text or of `whole`."""
    head = text.encode()[:head_bytes].decode(errors="ignore")
    return f"{head}{mark}{digest(text if whole is None else whole)}"


def digest(name: str) -> str:
    """Return the SHA-256 of any name in 64 hex digits."""
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()


def suffix(name: str) -> str:
    """Return what a name ends in, such as `.dcm`, if that is short and ASCII; else nothing."""
    found = _SUFFIX.search(name)
    return found.group() if found else ""


def shown_url(url: str) -> str:
    """Return the URL of a target as errors and rows show it: user, password and query may be secret."""
    parts = urlsplit(url)
    if not parts.netloc:
        return url
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
