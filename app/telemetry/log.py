"""Log lines that cannot leak and cannot be forged: JSON or text on stderr, allow-listed keys, escaped values.

A line of our own loggers has its text, the ids bound for the event, and the `extra` keys in ALLOWED. For an
exception it has the classes and the places in our code, and the text only if the error is one of ours.
A line of another library has the first line of its template, without arguments: they may quote a data set.
Equal lines are folded to one per second, so that senders cannot fill a disk.
"""

from __future__ import annotations

import json
import logging
import math
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from time import monotonic
from typing import TextIO

from app.model.errors import ConfigError, DicomlakeError, places
from app.telemetry.trace import SAMPLED, SPAN, TRACE

TRACED = frozenset({TRACE, SPAN, SAMPLED})
ALLOWED = frozenset(
    {
        # which event
        *("message_id", "correlation_id", "attempt"),
        *("event_type", "bucket", "object", "generation", "member"),
        # which request
        *TRACED,
        # who asked for what; UIDs, and no other value of a data set, in the audit log alone
        *("user", "role", "method", "route", "study", "series", "instance"),
        # how it ended
        *("status", "code", "permanent", "stage", "http_status"),
        # how much, how long: bytes, counts, seconds
        *(
            "size_bytes",
            "count",
            "objects",
            "rows",
            "stored",
            "dead_lettered",
            "depth",
            "warning",
            "took_s",
            "delay_s",
        ),
        # which part of the service
        *("seam", "backend", "table", "url", "host", "port", "pid", "worker", "version", "sandbox"),
    }
)
"""Keys of `extra` that are logged: ids, codes, sizes, times and places; nothing from a data set."""

OURS = ("dicomlake", "app")
MUTED = ("pydicom", "pynetdicom", "py.warnings", "python_multipart")
"""They quote values, or bytes of bodies, in the text itself, not only as arguments."""
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
MAX_TEXT = 2048
PERIOD_S = 1.0
MAX_REMEMBERED = 1000
"""Maximum number of different lines tracked per period; further lines are written without folding."""

HEAD = ("time", "severity", "message")
UNEQUAL = TRACED | {"time"}
"""Keys that equal lines may differ in: senders choose the trace, and could else fill a disk."""
Fields = dict[str, object]

_PLAIN = re.compile(r"[A-Za-z0-9_./:@+-]+")
_bound: ContextVar[Mapping[str, object]] = ContextVar("bound", default={})  # noqa: B039 - never changed


@contextmanager
def bind(**ids: object) -> Iterator[None]:
    """Put `ids` on every line logged inside, in this thread and in those that get a copy of its context."""
    token = _bound.set({**_bound.get(), **ids})
    try:
        yield
    finally:
        _bound.reset(token)


def bound() -> Mapping[str, object]:
    """Return what is bound in this context."""
    return _bound.get()


def configure(level: str, format: str) -> None:
    """Send all lines to stderr: ours from `level` on, other libraries' from WARNING; repeating it is safe.

    Raises ConfigError unless level is a standard one and format is `json` or `text`.
    """
    if level.upper() not in LEVELS:
        raise ConfigError(f"log.level: is none of {', '.join(LEVELS).lower()}")
    if format not in ("json", "text"):
        raise ConfigError("log.format: is neither json nor text")
    handler = _Handler(sys.stderr, _json if format == "json" else _as_text)
    root = logging.getLogger()
    for old in [one for one in root.handlers if isinstance(one, _Handler)]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for name in OURS:
        logging.getLogger(name).setLevel(level.upper())
    logging.captureWarnings(True)
    for name in MUTED:
        muted = logging.getLogger(name)
        muted.setLevel(logging.CRITICAL + 1)
        muted.addHandler(logging.NullHandler())
        muted.propagate = False


def guard() -> None:
    """Replace Python's tracebacks from now on: their last line is the text of the error."""
    configure("critical", "text")
    sys.excepthook = lambda _, error, __: _unforeseen(error)
    threading.excepthook = lambda thread: _unforeseen(thread.exc_value)
    sys.unraisablehook = lambda ignored: _unforeseen(ignored.exc_value)


def _unforeseen(error: BaseException | None) -> None:
    if not isinstance(error, SystemExit | KeyboardInterrupt):  # the user requested it
        logging.getLogger("dicomlake").critical("unforeseen", exc_info=error)


class Repeats:
    """Decides which equal lines are written: the first, then one a second with the number of the others."""

    def __init__(self) -> None:
        self._lines: dict[object, tuple[Fields, int]] = {}
        self._end = math.inf

    def __len__(self) -> int:
        return len(self._lines)

    def is_first(self, key: object, fields: Fields, now: float) -> bool:
        """Return whether to write a line now; otherwise count it, and `due` will return it."""
        if key in self._lines:
            self._lines[key] = fields, self._lines[key][1] + 1
            return False
        if not self._lines:
            self._end = now + PERIOD_S
        if len(self._lines) < MAX_REMEMBERED:
            self._lines[key] = fields, 0
        return True

    def due(self, now: float) -> list[tuple[Fields, int]]:
        """Return the folded lines of completed periods: the last of each kind, and their number."""
        if now < self._end:
            return []
        repeated = {key: line for key, line in self._lines.items() if line[1]}
        self._lines = {key: (fields, 0) for key, (fields, _) in repeated.items()}
        self._end = now + PERIOD_S
        return list(repeated.values())


class _Handler(logging.StreamHandler[TextIO]):
    """Writes lines and folds equal ones. Lines that cannot be written are dropped silently."""

    def __init__(self, stream: TextIO, line: Callable[[Fields], str]) -> None:
        super().__init__(stream)
        self._line, self._repeats = line, Repeats()
        self._timer: threading.Timer | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, or count it; the caller holds the lock."""
        with suppress(Exception):
            now = monotonic()
            self._write_due(now)
            fields = _fields(record)
            key = tuple((name, value) for name, value in fields.items() if name not in UNEQUAL)
            last_word = record.levelno >= logging.CRITICAL  # a process ends with it
            if last_word or "count" in fields or self._repeats.is_first(key, fields, now):
                self._write(fields)
            elif self._timer is None:
                timer = threading.Timer(PERIOD_S, self._late)
                timer.daemon = True
                timer.start()
                self._timer = timer

    def close(self) -> None:
        """Write the folded lines; the stream stays open."""
        with self.lock or nullcontext():
            self._write_due(math.inf)
        super().close()

    def _late(self) -> None:
        with self.lock or nullcontext():
            self._timer = None
            self._write_due(monotonic())

    def _write_due(self, now: float) -> None:
        for fields, count in self._repeats.due(now):
            self._write(fields | {"count": count})

    def _write(self, fields: Fields) -> None:
        with suppress(Exception):
            self.stream.write(self._line(fields) + "\n")
            self.stream.flush()


def _as_text(fields: Fields) -> str:
    """Return time, severity, message, then key=value; quote and escape special characters as in JSON."""
    head = f"{fields['time']} {fields['severity']:<8} {_json(str(fields['message']))[1:-1]}"
    rest = [f"{key}={_word(value)}" for key, value in fields.items() if key not in HEAD]
    return " ".join([head, *rest])


def _fields(record: logging.LogRecord) -> Fields:
    """Return the fields of a record that may be logged, the fixed ones first."""
    ours = record.name.split(".")[0] in OURS
    time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")
    fields: Fields = {"time": time.replace("+00:00", "Z"), "severity": record.levelname}
    fields["message"] = _text(record) if ours else _template(record.msg)
    if not ours:
        fields["logger"] = _safe(record.name)
    given = {**_bound.get(), **(record.__dict__ if ours else {})}
    fields |= {key: _safe(given[key]) for key in sorted(ALLOWED & given.keys()) if given[key] is not None}
    if record.exc_info and record.exc_info[1] is not None:
        fields |= _fault(record.exc_info[1])
    return fields


def _text(record: logging.LogRecord) -> str | int | float | bool:
    """Return the message with its arguments, unless one is an exception or they do not fit."""
    arguments = record.args.values() if isinstance(record.args, Mapping) else record.args or ()
    if isinstance(record.msg, str) and not any(isinstance(one, BaseException) for one in arguments):
        with suppress(TypeError, ValueError, KeyError):
            return _safe(record.getMessage())
    return _safe(record.msg)


def _template(message: object) -> str | int | float | bool:
    """Return the first line of another library's template; later lines may already contain values."""
    return _safe(message.partition("\n")[0] if isinstance(message, str) else message)


def _fault(error: BaseException) -> dict[str, object]:
    """Return the classes of an error, its places in our code, and its text if the error is ours."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and len(chain) < 5:
        chain.append(cause)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    fault: dict[str, object] = {"error": " < ".join(type(one).__name__ for one in chain)}
    if isinstance(error, DicomlakeError):
        fault["reason"] = _safe(error.text)
    return fault | {"at": " > ".join(places(error)[-8:])}


def _safe(value: object) -> str | int | float | bool:
    """Return a value that any reader of JSON takes; of other types only the name of the type."""
    if isinstance(value, str):
        return str(value)[:MAX_TEXT]
    whole = isinstance(value, int) and abs(value) < 2**63
    if whole or (isinstance(value, float) and math.isfinite(value)):
        return value  # type: ignore[return-value]  # narrowed by the line above
    return type(value).__name__


def _json(value: object) -> str:
    """Return one line of JSON, ASCII only; of fields, in the names of Cloud Logging."""
    return json.dumps(value).replace("\x7f", "\\u007f")


def _word(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else _json(text)
