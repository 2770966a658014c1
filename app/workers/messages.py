"""The protocol between the server and its workers.

A task is sent to a worker as a pickle. Its answer is MessagePack, because the server must not trust a worker:
the bytes it decoded may have taken it over. So an answer has only values, no code and no references, and
reading it costs time and memory in proportion to its size. Objects of our classes are rebuilt by names in a
table. Large objects are not sent with the task: see app/workers/remote_reads.py.
"""

from __future__ import annotations

import io
import pickle
import socket
import struct
import time as clock
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence, Sized
from dataclasses import fields, replace
from datetime import date, time
from functools import lru_cache
from types import UnionType
from typing import Annotated, Any, BinaryIO, Literal, Union, get_args, get_origin, get_type_hints

import msgpack

from app.model import errors
from app.model.errors import DicomlakeError
from app.model.listing import Entry, Kind, Listing, Refused
from app.model.values import Code, Content, Count, DatasetWarning, Instance, Span

Check = Callable[[Any], bool]
SIZE = struct.Struct("!Q")
MOST_VALUES = 1 << 23
"""Maximum values in one answer, with lists and maps: enough for a warning on every element of a data set.
A value takes one byte on the line, but up to a hundred bytes in memory."""
NAME, VALUES = "", "of"
"""Keys of the map that represents an object of a class; no column has these names."""
MOST_TEXT = 1000
"""Maximum characters in the text of an error."""
ERRORS = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, (errors.PermanentError, errors.InternalError))
}
"""Errors that a worker may report: those about bytes. It cannot know about stores or missing objects."""


class Unreadable(Exception):
    """The worker's answer is malformed; treat the worker as compromised."""


class _Chunks(list[bytes]):
    """Collects the output of a pickler without copying large bytes."""

    def write(self, chunk: bytes) -> None:
        """Keep a chunk; copy a view, because it is valid only during this call."""
        self.append(bytes(chunk))


class Line(io.RawIOBase):
    """A socket on which reads and writes end at a deadline with TimeoutError."""

    def __init__(self, line: socket.socket) -> None:
        self.socket = line
        self.deadline = 0.0

    def readable(self) -> bool:
        return True  # as the buffer around it asks

    def readinto(self, buffer: Any) -> int:
        """Read what is there into `buffer`."""
        self._limit()
        return self.socket.recv_into(buffer)

    def send(self, chunks: list[bytes]) -> None:
        """Write all of them."""
        for chunk in chunks:
            self._limit()
            self.socket.sendall(chunk)

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()
        super().close()

    def _limit(self) -> None:
        left_s = self.deadline - clock.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self.socket.settimeout(left_s)


class _Pickler(pickle.Pickler):
    """Pickles contents without their openers, and collects those contents."""

    def __init__(self, chunks: _Chunks) -> None:
        super().__init__(chunks, pickle.HIGHEST_PROTOCOL)
        self.left_out: list[Content] = []

    def persistent_id(self, value: object) -> object:
        if not isinstance(value, Content) or value.opener is None:
            return None
        self.left_out.append(value)
        return len(self.left_out) - 1, replace(value, opener=None)


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: BinaryIO, opener: Callable[[int, int], Callable[[], BinaryIO]]) -> None:
        super().__init__(stream)
        self._opener = opener

    def persistent_load(self, pid: Any) -> Content:
        number, content = pid
        opened: Content = replace(content, opener=self._opener(number, content.size))
        return opened


def pickled(value: object) -> tuple[list[bytes], list[Content]]:
    """Pickle into chunks, beside the contents in it that are read in ranges.

    Large bytes are copied neither here nor by `unpickled`.
    """
    chunks = _Chunks()
    pickler = _Pickler(chunks)
    pickler.dump(value)
    return chunks, pickler.left_out


def unpickled(stream: BinaryIO, opener: Callable[[int, int], Callable[[], BinaryIO]]) -> Any:
    """Read what was pickled; contents read in ranges get the `opener` of their number and size."""
    return _Unpickler(stream, opener).load()


def packed(value: object) -> bytes:
    """Return an answer for `read_packed`; TypeError unless it is of plain values and classes in KINDS.

    Numbers over 64 bits are refused, too: code that makes one from a file's bytes must check it there.
    """
    body: bytes = msgpack.packb(value, default=_told, strict_types=True, unicode_errors="surrogatepass")
    return SIZE.pack(len(body)) + body


def read_packed(stream: BinaryIO, most: int) -> Any:
    """Read one answer of at most `most` bytes; raises Unreadable, or EOFError if it is cut off."""
    (size,) = SIZE.unpack(exactly(stream, SIZE.size))
    if size > most:
        raise Unreadable("a worker says more than it could hold")
    body = exactly(stream, size)
    try:
        return _Reading().values(body)
    except Exception as exc:  # noqa: BLE001 - a malicious answer may fail in any way
        raise Unreadable(type(exc).__name__) from None


def exactly(stream: BinaryIO, size: int) -> bytes:
    """Return the next `size` bytes; EOFError if there are fewer."""
    found = stream.read(size)
    if len(found) < size:
        raise EOFError
    return found


def _told(value: object) -> dict[str, object]:
    """Return the map that represents a value without a MessagePack type."""
    if isinstance(value, DicomlakeError):
        name = next(kind.__name__ for kind in type(value).__mro__ if kind in ERRORS.values())
        return {NAME: "error", VALUES: [name, value.text, str(value.code)]}
    if type(value) not in KINDS:
        raise TypeError(f"a worker cannot say {type(value).__name__}")
    return {NAME: type(value).__name__, VALUES: KINDS[type(value)](value)}


class _Reading:
    """Reads one answer; any exception it raises means that the answer is malformed."""

    def __init__(self) -> None:
        self._left = MOST_VALUES

    def values(self, body: bytes) -> Any:
        return msgpack.unpackb(
            body,
            list_hook=self._counted,
            object_hook=self._made,
            unicode_errors="surrogatepass",
            max_array_len=MOST_VALUES,
            max_map_len=MOST_VALUES,
        )

    def _counted(self, values: Sized) -> Sized:
        self._left -= 1 + len(values)
        if self._left < 0:
            raise Unreadable("too many values")
        return values

    def _made(self, said: dict[str, Any]) -> Any:
        self._counted(said)
        if NAME not in said:
            return said
        name, values = said[NAME], said[VALUES]
        good = len(said) == 2 and type(values) is list
        if not good or (name != "tuple" and not _all(FIELDS[name], values)):
            raise Unreadable("no object of the class is made of these")
        return MAKERS[name](*values)


def _error(name: str, text: str, code: str) -> DicomlakeError:
    """Return an error whose text is short enough for a line of the log."""
    if len(text) > MOST_TEXT:
        raise Unreadable("no error says that")
    return ERRORS[name](text, code=code)


def _values(value: Any) -> list[object]:
    return [getattr(value, field.name) for field in fields(value)]


def returned_by(function: Callable[..., object]) -> Check:
    """Return a check that a value has the type that a function is annotated to return or yield."""
    try:
        return _returned_by(function)
    except TypeError:  # it cannot be a key of the cache
        return _anything


@lru_cache(maxsize=256)
def _returned_by(function: Callable[..., object]) -> Check:
    try:
        hints = get_type_hints(function, include_extras=True)
    except (NameError, TypeError):  # a name for type checkers alone, or a callable that is no function
        return _anything
    hint = hints.get("return", Any)
    if get_origin(hint) in (Iterator, Generator):  # a task may yield several results, each an answer
        hint = get_args(hint)[0]
    return _is(hint)


def _is(hint: Any) -> Check:
    """Return a check that a value matches an annotated type; an unknown type accepts any value."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        base, (_, rule) = _is(arguments[0]), arguments
        return lambda value: base(value) and bool(rule(value))
    if origin is Literal:
        return lambda value: type(value) is str and value in arguments
    inner = [_is(one) for one in arguments if one is not ...]
    if origin in (Union, UnionType):
        return lambda value: any(check(value) for check in inner)
    if origin is list or (origin is tuple and ... in arguments):
        return lambda value: type(value) is origin and all(map(inner[0], value))
    if origin is tuple:
        return lambda value: type(value) is tuple and _all(inner, value)
    if origin in (dict, Mapping):
        key, one = inner
        return lambda value: type(value) is dict and all(map(key, value)) and all(map(one, value.values()))
    if hint is object:
        return _is_plain
    if hint is float:
        return lambda value: type(value) in (int, float)
    if isinstance(hint, type) and issubclass(hint, DicomlakeError):
        return lambda value: isinstance(value, hint)
    known = isinstance(hint, type) and hint is not Any
    return (lambda value: type(value) is hint) if known else _anything


def _all(checks: Sequence[Check], values: Sequence[object]) -> bool:
    return len(checks) == len(values) and all(map(lambda check, value: check(value), checks, values))


def _anything(_: object) -> bool:
    return True


def _is_plain(value: object) -> bool:
    """Return whether a column may hold this value."""
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return value is None or type(value) in (str, int, float, bool, bytes, date, time)


CLASSES = (DatasetWarning, Entry, Instance, Listing, Refused, Span)
KINDS: dict[type, Callable[[Any], list[object]]] = {
    date: lambda day: [day.year, day.month, day.day],
    time: lambda clock: [clock.hour, clock.minute, clock.second, clock.microsecond],
    tuple: list,
    Kind: lambda kind: [kind.value],
    **dict.fromkeys(CLASSES, _values),
}
"""Classes that an answer may contain, and the arguments that rebuild an object."""
FIELDS: dict[str, list[Check]] = {
    date.__name__: [_is(Count)] * 3,
    time.__name__: [_is(Count)] * 4,
    Kind.__name__: [_is(str)],
    "error": [ERRORS.__contains__, _is(str), _is(Code)],
    **{kind.__name__: [*map(_is, get_type_hints(kind, include_extras=True).values())] for kind in CLASSES},
}
"""Required types of those arguments; a tuple has any number of values."""
MAKERS: dict[str, Callable[..., object]] = {
    **{kind.__name__: kind for kind in KINDS},
    "tuple": lambda *values: values,
    "error": _error,
}
