"""What can go wrong, and what becomes of the message then.

    DicomlakeError
      ConfigError               start-up only: what is wrong, where, what to do; exit code 2
      PermanentError            the same bytes fail the same way: nack, then dead letter with the reason
        BadEvent                  not an event, or not for us
        BadName                   no object can have this name
        NotDicom                  not DICOM although its name says so
        PlainText                 one of these: it is text
        BadDataset                DICOM, but broken
        ObjectTooLarge            over `source.max_object_bytes`
        BadArchive                an archive, or members of it, that cannot be read
        LimitExceeded             memory, time, pixels, depth
        WorkerCrashed             the worker process died on these bytes
        RowRejected               the warehouse refuses this row
        RowsRejected              the warehouse refused some rows of an append; the others are stored
        Unrenderable              no preview; caught where the data set is described, never loses the row
        CannotDeidentify          refuse, write nothing
      TransientError            a failing step of input or output may heal: nack, retried
        StorageUnavailable (RemovalsHeld) WarehouseUnavailable BusUnavailable ShortRead Overloaded OutOfSpace
        DeadlineExceeded
      InternalError             our bug: nack, retried as if transient
      ObjectGone                neither: this object version is no more, so the event is superseded
        NotAFile                  what has its name is a pipe, a device, a link or a folder

Pure steps raise permanent errors, input and output raises transient ones unless the vendor's class says
otherwise; nobody decides by the text of a message.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_APP = Path(__file__).resolve().parents[1]


class DicomlakeError(Exception):
    """Root of the tree. `code` is stable and part of the contract; the text never holds a value.

    stage: step of the pipeline that failed, where it was one.
    """

    code = "error"
    stage = ""

    def __init__(self, text: str = "", *, code: str | None = None) -> None:
        super().__init__(text)
        self.text = text
        if code is not None:
            self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        # Errors are copied for all who wait for one commit; the default forgets keyword arguments.
        return _rebuild, (type(self), self.text, self.code)


def _rebuild(kind: type[DicomlakeError], text: str, code: str) -> DicomlakeError:
    return kind(text, code=code)


class ConfigError(DicomlakeError):
    """The configuration, or the machine it names, does not allow to start."""

    code = "config"


class PermanentError(DicomlakeError):
    """The same bytes will fail again."""

    code = "permanent"


class BadEvent(PermanentError):
    """The body is no event, or an event that is not for this service."""

    code = "bad_event"


class BadName(PermanentError):
    """No object can have this name."""

    code = "bad_name"


class NotDicom(PermanentError):
    """The bytes are not DICOM."""

    code = "not_dicom"


class PlainText(NotDicom):
    """The bytes are plain text: under a name without an extension nobody expects an image."""


class BadDataset(PermanentError):
    """The bytes are DICOM but cannot be read to the end."""

    code = "bad_dataset"


class ObjectTooLarge(PermanentError):
    """The object is over the configured size."""

    code = "object_too_large"


class BadArchive(PermanentError):
    """The archive, or some member, cannot be processed."""

    code = "bad_archive"


class LimitExceeded(PermanentError):
    """A limit on memory, time, pixels or nesting was hit."""

    code = "limit_exceeded"


class WorkerCrashed(PermanentError):
    """The worker process died while it held this object."""

    code = "worker_crashed"


class RowRejected(PermanentError):
    """The warehouse refuses this row, and would again."""

    code = "row_rejected"


class RowsRejected(RowRejected):
    """Some rows of an append were refused, all others are stored; `rejected` maps row index to reason."""

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
    """There is no preview; `code` becomes `preview_error`."""

    code = "unrenderable"


class CannotDeidentify(PermanentError):
    """The object cannot be de-identified safely."""

    code = "cannot_deidentify"


class TransientError(DicomlakeError):
    """May heal by itself: try again later."""

    code = "transient"


class StorageUnavailable(TransientError):
    """The object store does not answer as it should."""

    code = "storage_unavailable"


class RemovalsHeld(StorageUnavailable):
    """All known files of a folder are gone, and it looks as if a disk were."""

    code = "removals_held"


class WarehouseUnavailable(TransientError):
    """The warehouse does not take rows now."""

    code = "warehouse_unavailable"


class BusUnavailable(TransientError):
    """The queue does not take messages now."""

    code = "bus_unavailable"


class ShortRead(TransientError):
    """Fewer or other bytes came than the store announced."""

    code = "short_read"


class Overloaded(TransientError):
    """No room for this event now."""

    code = "overloaded"


class OutOfSpace(TransientError):
    """A disk that is written to is nearly full."""

    code = "out_of_space"


class DeadlineExceeded(TransientError):
    """The event took longer than its deadline."""

    code = "deadline_exceeded"


class InternalError(DicomlakeError):
    """An error nobody foresaw; the text is its class and the line of ours where it came from."""

    code = "internal_error"


class ObjectGone(DicomlakeError):
    """This version of the object was deleted or overwritten."""

    code = "object_gone"


class NotAFile(ObjectGone):
    """What has this name is no regular file, so there is no version to read."""

    code = "not_a_file"


@contextmanager
def internal() -> Iterator[None]:
    """Turn an error that is not in the tree into InternalError: a nack, with a reason to look up."""
    try:
        yield
    except DicomlakeError:
        raise
    except Exception as exc:
        raise internal_error(exc) from exc


def internal_error(error: Exception) -> InternalError:
    """Return what an error that is not in the tree becomes: its class and its place, never its text."""
    return InternalError(" at ".join([type(error).__name__, *places(error)[-1:]]))


def places(error: BaseException) -> list[str]:
    """Return where an error passed in our code, each as `app/FILE:line`, the innermost last."""
    frames = [
        (Path(frame.f_code.co_filename), line) for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    return [f"app/{path.relative_to(_APP)}:{line}" for path, line in frames if path.is_relative_to(_APP)]


@contextmanager
def permanent(kind: type[PermanentError]) -> Iterator[None]:
    """Turn whatever a pure step raises into `kind`, keeping the class name and dropping the text.

    Texts of parsers quote values of the data set, so they never travel further.
    """
    try:
        yield
    except DicomlakeError:
        raise
    except MemoryError:
        raise LimitExceeded("out of memory") from None
    except Exception as exc:  # noqa: BLE001 - the one place where any error of a pure step gets its kind
        raise kind(type(exc).__name__) from None
