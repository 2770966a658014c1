"""Listing of an archive: what its headers say, before any member is unpacked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Literal

from app.model.values import Code, Count

Setting = Annotated[str, re.compile(r"(limits|workers|archive)\.[a-z_]{1,40}").fullmatch]


class Kind(Enum):
    """Kind of archive, detected from the first bytes. OTHER: an archive of a kind that is not supported."""

    ZIP = "zip"
    TAR = "tar"
    GZIP = "gzip"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file in an archive, as the archive declares it; unpacking enforces `packed`, `size` and `crc`.

    label: its path as readable text, unique in the archive; never used as a path. offset, end: its range of
    bytes in the object (for gzip: in the inflated stream). size: bytes after unpacking. packed, method, crc:
    for zip, where `offset` points at the local header. fault: code of why it cannot be unpacked.
    """

    label: str
    offset: Count
    end: Count
    size: Count
    packed: Count = 0
    method: Count = 0
    crc: Count | None = None
    fault: Code | Literal[""] = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of an archive by ascending offset. `fault`: code of why the listing may be incomplete."""

    kind: Kind
    entries: tuple[Entry, ...]
    fault: Code | Literal[""] = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """A member that could not be described, and the code of the reason.

    detail: the setting whose limit it exceeds, or `empty`; else "". is_text: it is plain text.
    """

    label: str
    code: Code
    detail: Setting | Literal["", "empty"] = ""
    is_text: bool = False
