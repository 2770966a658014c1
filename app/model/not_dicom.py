"""Decide whether bytes that are not DICOM are a failure or can be ignored."""

from __future__ import annotations

import codecs
import re

from app.model.errors import NotDicom, PlainText

HEAD_BYTES = 4096
"""Number of leading bytes that are examined."""
CONTROL = re.compile(rb"[\0-\x06\x0e-\x1a\x1c-\x1f\x7f]")
"""Bytes that plain text does not contain: as in file(1), control characters except BEL to CR and ESC."""


def not_dicom(head: bytes) -> NotDicom:
    """Return the error for an object, or a member of an archive, that is not DICOM.

    Parameters
    ----------
    head : its first HEAD_BYTES, or all if there are fewer

    Returns
    -------
    PlainText for UTF-8 without control characters that does not begin like DICOM (a full head may end inside
    a character). Otherwise NotDicom, also for an empty object, which is a failed upload
    """
    if not head:
        return NotDicom("the object is empty (0 bytes)")
    if _is_plain_text(head):
        return PlainText("the bytes are plain text")
    return NotDicom("the bytes do not begin as a data set")


def is_expected(name: str, pattern: str, is_text: bool) -> bool:
    """Return whether a name promises DICOM; for plain text it needs an extension, so `README` does not.

    Parameters
    ----------
    name : of an object, or the label of a member
    pattern : `source.expect`
    """
    has_extension = "." in name.rpartition("/")[2]
    return bool(re.search(pattern, name)) and (has_extension or not is_text)


def _is_plain_text(head: bytes) -> bool:
    if CONTROL.search(head) or b"DICM" in (head[:4], head[128:132]):  # PS3.10 7.1, and without a preamble
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head, final=len(head) < HEAD_BYTES)
    except UnicodeDecodeError:
        return False
    return True
