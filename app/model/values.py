"""The values that travel between rooms. All are frozen; nothing else crosses a room but JSON and rows."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, StrEnum
from typing import Annotated, BinaryIO

Row = Mapping[str, object]
"""One row of a table: column -> str, int, float, bool, bytes, datetime (aware), date, time, list, dict."""


Code = Annotated[str, re.compile(r"[a-z][a-z0-9_]{0,39}").fullmatch]
"""A stable word for a fault."""
Count = Annotated[int, range(1 << 64).__contains__]
OWN_QUEUE = "own_queue"
"""In the state of a request: whether the embedded queue sent it, from within this process."""


class EventType(StrEnum):
    """What happened to an object, in the words of Cloud Storage notifications."""

    FINALIZE = "OBJECT_FINALIZE"
    DELETE = "OBJECT_DELETE"
    ARCHIVE = "OBJECT_ARCHIVE"
    METADATA_UPDATE = "OBJECT_METADATA_UPDATE"


REVISION = "dicomlakeRevision"
"""Attribute of a notification whose object version is to be described again: the number of the revision."""


@dataclass(frozen=True, slots=True)
class Message:
    """One delivery of a published message; `attempt` counts from 1, None if the bus does not say."""

    data: bytes
    attributes: Mapping[str, str]
    message_id: str
    publish_time: datetime | None = None
    attempt: int | None = None
    subscription: str = ""
    correlation_id: str = ""


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute that is searched by or asked for; `vr` by the dictionary.

    tag: eight hex digits in upper case; for a private one `gggg00ee`, since `creator` may reserve any block.
    """

    tag: str
    vr: str
    keyword: str = ""
    creator: str = ""

    @property
    def row_keys(self) -> tuple[str, ...]:
        """What it may be called in the column `metadata`, depending on `metadata.keys`."""
        if self.creator:
            return (f"{self.tag[:4]},{self.creator},{self.tag[6:]}",)
        return (self.keyword, self.tag) if self.keyword else (self.tag,)


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """One version of one stored object. `generation` pins the version, a late read cannot see newer bytes."""

    bucket: str
    name: str
    generation: int


@dataclass(frozen=True, slots=True)
class ObjectEvent:
    """A change of one object version. Sizes in bytes; `crc32c` in base64 as Cloud Storage writes it.

    revision: set where nothing changed and the version is described again; the seconds since 1970 at which
    that was decided, so that a later one has a higher number.
    overwritten_by: generation that replaced this version. overwrote: generation that this version replaced.
    """

    type: EventType
    ref: ObjectRef
    time: datetime
    metageneration: int | None = None
    size: int | None = None
    crc32c: str | None = None
    storage_class: str | None = None
    overwritten_by: int | None = None
    revision: int | None = None
    overwrote: int | None = None

    @property
    def generations_fall(self) -> bool:
        """Whether this version has a lower generation than one it replaced: views would show the wrong one.

        Cloud Storage does not promise that generations of successive versions rise; nobody saw them fall.
        """
        generation = self.ref.generation
        return (self.overwrote or 0) > generation or (self.overwritten_by or generation) < generation


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of one object version, checked; or, for a big one, a way to read it in ranges.

    Exactly one of `data` and `opener` is set; `size` is of what is stored. `opener` is called where the store
    is: a worker gets another one, which asks the server. decode: makes the object's bytes of those stored,
    where they are encoded (Content-Encoding); picklable, for it is called in a worker alone. member: the path
    of these bytes inside the archive that the object is.
    """

    ref: ObjectRef
    uri: str
    size: int
    crc32c: str | None = None
    data: bytes | None = None
    opener: Callable[[], BinaryIO] | None = None
    decode: Callable[[BinaryIO], BinaryIO] | None = None
    member: str | None = None

    @property
    def at_hand(self) -> bytes | None:
        """The object's bytes where they are here as they are; None where they have to be read or decoded."""
        return None if self.decode else self.data

    def open(self) -> BinaryIO:
        """Return a new seekable stream over the bytes."""
        stream = self.opener() if self.opener else io.BytesIO(self.data or b"")
        return self.decode(stream) if self.decode else stream


@dataclass(frozen=True, slots=True)
class DatasetWarning:
    """One element that is not valid, or not written as it should be. `tag` is eight hex digits.

    Its value is kept verbatim in the document, and but for NUL characters in the row.
    """

    tag: Annotated[str, re.compile("[0-9A-F]{8}").fullmatch]
    code: Code


@dataclass(frozen=True, slots=True)
class Instance:
    """What one DICOM data set was found to be; the pure result of its bytes.

    columns: the typed columns of the table `instances` that come from the data set.
    metadata: JSON text for the column `metadata`. document: the PS3.18 Annex F JSON, UTF-8.
    preview: PNG bytes, or None with `preview_error` saying why. took_ms: milliseconds for `parse`, `render`.
    pdf: a document whose first page is still to be drawn, where the options leave that to another process.
    """

    columns: Row
    metadata: str
    document: bytes
    preview: bytes | None = None
    preview_error: Code | None = None
    warnings: tuple[DatasetWarning, ...] = ()
    took_ms: Mapping[str, Count] = field(default_factory=dict)
    member: str | None = None
    pdf: bytes | None = None

    @property
    def decoder_failed(self) -> bool:
        """Whether a decoder refused a frame: some leak what they had allocated, so their process must go."""
        return self.preview_error in ("decode_failed", "out_of_memory")


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a message was given up: a stable code and one sentence without any value of a data set."""

    code: str
    text: str
    object_uri: str = ""


class GiveUp(Enum):
    """What becomes of a permanent failure: a nack until the settings' last delivery, then a dead letter;
    a dead letter at once; or nothing that is told, for it is an open dead letter already. The last two are
    for deliveries that do not come again, and whose sender therefore waits as long as they take."""

    WHEN_DUE = "when_due"
    NOW = "now"
    SILENTLY = "silently"


class Stage(StrEnum):
    """The steps of a delivery, in order."""

    EVENT = "event"
    READ = "read"
    DESCRIBE = "describe"
    WRITE = "write"
    APPEND = "append"


class Status(StrEnum):
    """How an event ended when it did not fail."""

    STORED = "stored"
    DELETED = "deleted"
    SUPERSEDED = "superseded"
    IGNORED = "ignored"
    DEAD_LETTERED = "dead_lettered"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one event. `code` says why an event was ignored, superseded or dead-lettered.

    stored: of an archive, how many of its members have rows; these are too many to be in `instances`. reason:
    of a dead letter, its sentence.
    """

    status: Status
    code: str = ""
    instances: tuple[Row, ...] = ()
    stored: int | None = None
    reason: str = ""
