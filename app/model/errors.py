"""The error classes, and what happens to a message that fails with each.

    DicomlakeError
      ConfigError               start-up only: what is wrong, where, what to do; exit code 2
      PermanentError            the same bytes fail the same way: nack, then dead letter with the reason
        BadEvent                  not an event, or not for us
        BadName                   no object can have this name
        NotDicom                  not DICOM although its name says so
        PlainText                 the same, for plain text
        BadDataset                DICOM, but broken
        ObjectTooLarge            over `source.max_object_bytes`
        BadArchive                an archive, or members of it, that cannot be read
        LimitExceeded             memory, time, pixels, depth
        WorkerCrashed             the worker process died on these bytes
        RowRejected               the warehouse refuses this row
        RowsRejected              the warehouse refused some rows of an append; the others are stored
        Unrenderable              no preview; caught in `dicom.describe`, the row is stored without a preview
        CannotDeidentify          refuse, write nothing
        ForwardRefused            a receiver of pictures refuses one for good
      TransientError            a failing input or output may recover: nack, retried
        StorageUnavailable (RemovalsHeld) WarehouseUnavailable BusUnavailable AnnounceUnavailable ShortRead
        ForwardUnavailable Overloaded OutOfSpace DeadlineExceeded
      InternalError             our bug: nack, retried as if transient
      ObjectGone                neither: this object version no longer exists, so the event is superseded
        NotAFile                  the name is that of a pipe, a device, a link or a folder
        ObjectReleased            retention has deleted the original; its row stays

Pure steps raise permanent errors. Input and output raise transient errors, unless the class of the vendor's
error shows that it is permanent. Never classify an error by its text.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_APP = Path(__file__).resolve().parents[1]


class DicomlakeError(Exception):
    """Base class. `code` is stable and part of the contract; the text never contains a value of a data set.

    stage: the step of the pipeline that failed, if any.
    """

    code = "error"
    stage = ""

    def __init__(self, text: str = "", *, code: str | None = None) -> None:
        super().__init__(text)
        self.text = text
        if code is not None:
            self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        # Errors are copied for all callers of a group commit; the default loses keyword arguments.
        return _rebuild, (type(self), self.text, self.code)


def _rebuild(kind: type[DicomlakeError], text: str, code: str) -> DicomlakeError:
    return kind(text, code=code)


class ConfigError(DicomlakeError):
    """The service cannot start with this configuration on this machine."""

    code = "config"


class PermanentError(DicomlakeError):
    """The same bytes will fail again."""

    code = "permanent"


class BadEvent(PermanentError):
    """The body is not an event, or an event for another service."""

    code = "bad_event"


class BadName(PermanentError):
    """This cannot be the name of an object."""

    code = "bad_name"


class NotDicom(PermanentError):
    """The bytes are not DICOM."""

    code = "not_dicom"


class PlainText(NotDicom):
    """The bytes are plain text, which is no failure under a name without an extension."""


class BadDataset(PermanentError):
    """The bytes are DICOM but malformed or truncated."""

    code = "bad_dataset"


class ObjectTooLarge(PermanentError):
    """The object exceeds `source.max_object_bytes`."""

    code = "object_too_large"


class BadArchive(PermanentError):
    """The archive, or some member, cannot be processed."""

    code = "bad_archive"


class LimitExceeded(PermanentError):
    """A limit on memory, time, pixels or nesting was exceeded."""

    code = "limit_exceeded"


class WorkerCrashed(PermanentError):
    """The worker process died while it processed this object."""

    code = "worker_crashed"


class RowRejected(PermanentError):
    """The warehouse refuses this row, and a retry would not help."""

    code = "row_rejected"


class RowsRejected(RowRejected):
    """Some rows of an append were refused, the others are stored; `rejected` maps row index to reason."""

    def __init__(self, rejected: Mapping[int, str]) -> None:
        super().__init__(f"{len(rejected)} row(s) refused: {next(iter(rejected.values()), '')}")
        self.rejected = dict(rejected)

    def __reduce__(self) -> tuple[object, ...]:
        return RowsRejected, (self.rejected,)


class BadQuery(PermanentError):
    """The SQL statement is wrong, or not read-only."""

    code = "bad_query"


class BadSearch(DicomlakeError):
    """A search names an attribute that is not there, or a value that its attribute cannot have."""

    code = "bad_search"


class Unrenderable(PermanentError):
    """The preview cannot be made; `code` becomes `preview_error`."""

    code = "unrenderable"


class CannotDeidentify(PermanentError):
    """The object cannot be de-identified safely."""

    code = "cannot_deidentify"


class ForwardRefused(PermanentError):
    """A receiver refuses a picture, or has not accepted it in all its deliveries."""

    code = "forward_refused"


class TransientError(DicomlakeError):
    """May succeed later without any change."""

    code = "transient"


class StorageUnavailable(TransientError):
    """The object store fails or does not answer."""

    code = "storage_unavailable"


class RemovalsHeld(StorageUnavailable):
    """All known files of a folder have disappeared, as if its disk were unmounted."""

    code = "removals_held"


class WarehouseUnavailable(TransientError):
    """The warehouse does not accept rows now."""

    code = "warehouse_unavailable"


class BusUnavailable(TransientError):
    """The bus does not accept messages now."""

    code = "bus_unavailable"


class AnnounceUnavailable(TransientError):
    """A target of announcements does not accept them now."""

    code = "announce_unavailable"


class ForwardUnavailable(TransientError):
    """A receiver does not accept pictures now.

    retry_after: what it has answered in the header of that name, seconds or a date; empty if nothing.
    retry_after_s: the same in seconds, once it is known what time it is.
    """

    code = "forward_unavailable"
    retry_after = ""
    retry_after_s = 0.0


class ShortRead(TransientError):
    """The bytes differ in number or checksum from what the store announced."""

    code = "short_read"


class Overloaded(TransientError):
    """There is no memory for this event now."""

    code = "overloaded"


class OutOfSpace(TransientError):
    """A disk that is written to is nearly full."""

    code = "out_of_space"


class DeadlineExceeded(TransientError):
    """The event took longer than its deadline."""

    code = "deadline_exceeded"


class InternalError(DicomlakeError):
    """A bug: an unexpected error. The text is its class and the line of our code that it came from."""

    code = "internal_error"


class ObjectGone(DicomlakeError):
    """This version of the object was deleted or overwritten."""

    code = "object_gone"


class ObjectReleased(ObjectGone):
    """Retention has deleted the original of this version; its row and artifacts stay."""

    code = "object_released"


class NotAFile(ObjectGone):
    """The name is not that of a regular file, so there is no version to read."""

    code = "not_a_file"


@contextmanager
def internal() -> Iterator[None]:
    """Convert an unexpected error into InternalError: a nack, with a reason to look up."""
    try:
        yield
    except DicomlakeError:
        raise
    except Exception as exc:
        raise internal_error(exc) from exc


def internal_error(error: Exception) -> InternalError:
    """Return the InternalError for an unexpected error: its class and place, never its text."""
    return InternalError(" at ".join([type(error).__name__, *places(error)[-1:]]))


def places(error: BaseException) -> list[str]:
    """Return the lines of our code in an error's traceback as `app/FILE:line`, the innermost last."""
    frames = [
        (Path(frame.f_code.co_filename), line) for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    return [f"app/{path.relative_to(_APP)}:{line}" for path, line in frames if path.is_relative_to(_APP)]


@contextmanager
def permanent(kind: type[PermanentError]) -> Iterator[None]:
    """Convert any error of a pure step into `kind`, keeping the class name and dropping the text.

    The texts of parser errors quote values of the data set, so they must not go any further.
    """
    try:
        yield
    except DicomlakeError:
        raise
    except MemoryError:
        raise LimitExceeded("out of memory") from None
    except Exception as exc:  # noqa: BLE001 - the one place where any error of a pure step gets its kind
        raise kind(type(exc).__name__) from None
