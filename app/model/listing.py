"""What is known of an archive before any of its members is unpacked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Literal

from app.model.values import Code, Count

Setting = Annotated[str, re.compile(r"(limits|workers|archive)\.[a-z_]{1,40}").fullmatch]


class Kind(Enum):
    """How the bytes are packed, as their beginning says. OTHER: an archive of a kind that is not read."""

    ZIP = "zip"
    TAR = "tar"
    GZIP = "gzip"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file in an archive, as the archive describes it; unpacking holds it to `packed`, `size` and `crc`.

    label: its path as readable text, unique in the archive; never used as a path. offset, end: the bytes of
    the object (for gzip: of the inflated stream) that are its own. size: bytes once unpacked. packed, method,
    crc: of a zip, where `offset` is that of the local header. fault: code why it cannot be unpacked.
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
    """The files of an archive by ascending offset. `fault`: code why there may be more than these."""

    kind: Kind
    entries: tuple[Entry, ...]
    fault: Code | Literal[""] = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """A member that was not described, and the code why.

    detail: the setting that it is over, or `empty`; else nothing. is_text: it is plain text.
    """

    label: str
    code: Code
    detail: Setting | Literal["", "empty"] = ""
    is_text: bool = False
