"""What is fuzzed, and one mutant of it in a worker process: how it ended, and how far it came."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from importlib import import_module
from typing import Any

from app.model.errors import PermanentError, places
from tests.system.fuzz.mutate import mutant


@dataclass(frozen=True)
class Subject:
    """seeds: makes the valid inputs. run: does with one what the service does and says what came of it.

    decoders: functions as `module:name` that lie behind the checks; whatever those of others raise is
    foreseen, as are classes named in `raises`. spoil: makes the mutant of a number.
    """

    seeds: Callable[[], tuple[bytes, ...]]
    run: Callable[[bytes], str]
    decoders: tuple[str, ...]
    raises: tuple[str, ...] = ()
    spoil: Callable[[Sequence[bytes], str, int], bytes] = mutant


@dataclass(frozen=True)
class Ending:
    """code: what was made of the mutant, or the code of the error; refused: it was an error.

    reached: a decoder was called. starved: it came to the limit of memory where nothing catches that.
    unforeseen: class and place of an error that no rule foresaw and that only the net under all rules
    caught; empty if there was none.
    """

    code: str
    refused: bool = False
    reached: bool = False
    starved: bool = False
    unforeseen: str = ""
    cpu_s: float = field(default=0.0, compare=False)


@dataclass
class Calls:
    """How often functions were called while they were watched, and what those not ours raised last."""

    count: int = 0
    raised: BaseException | None = None


def trial(run: Callable[[bytes], str], decoders: Sequence[str], raises: Sequence[str], data: bytes) -> Ending:
    """Do with a mutant what the service does with such bytes; what is not a permanent error comes out."""
    code, refused, unforeseen = "", False, ""
    with watched(decoders) as calls:
        began = time.process_time()
        try:
            code = run(data)
        except PermanentError as error:
            code, refused = error.code, True
            unforeseen = _unforeseen(error, calls, raises)
        except MemoryError:
            refused = True
        cpu_s = time.process_time() - began
    return Ending(code, refused, calls.count > 0, not code, unforeseen, cpu_s)


def report(*arguments: Any) -> tuple[Any, ...]:
    """Return what `trial` does, as a worker may say it: in plain values."""
    return astuple(trial(*arguments))


def _unforeseen(error: PermanentError, calls: Calls, raises: Sequence[str]) -> str:
    """Name the error that `permanent` has translated, where it is not the decoder's own."""
    cause = error.__context__
    name = type(cause).__name__
    if cause is None or error.text != name or cause is calls.raised or name in raises:
        return ""
    return " at ".join([name, *places(cause)[-1:]])


@contextmanager
def watched(names: Sequence[str]) -> Iterator[Calls]:
    """Count the calls of functions; they are called all the same."""
    calls, originals = Calls(), []
    for name in names:
        module, _, function = name.partition(":")
        holder = import_module(module)
        originals.append((holder, function, getattr(holder, function)))
        setattr(holder, function, _counting(originals[-1][2], calls, ours=module.startswith("app.")))
    try:
        yield calls
    finally:
        for holder, function, original in originals:
            setattr(holder, function, original)


def _counting(function: Callable[..., Any], calls: Calls, *, ours: bool) -> Callable[..., Any]:
    def counting(*args: Any, **named: Any) -> Any:
        calls.count += 1
        try:
            return function(*args, **named)
        except BaseException as error:
            calls.raised = None if ours else error
            raise

    return counting
