"""Mutants go one by one to the worker processes of the service; what a worker does not survive is counted."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from app.model.errors import InternalError, LimitExceeded, TransientError, WorkerCrashed
from app.workers.pool import PRELOAD, Workers
from tests.system.fuzz.subject import Ending, Subject, report

CHUNK = 500
MEMORY_BYTES, TIMEOUT_S = 1610612736, 60.0
"""Limits of a worker, as the service has them unless it is told otherwise."""
SLOW_CPU_S = 15.0
"""CPU seconds that one file may cost in the service."""
KINDS = ("service", "crash", "timeout", "memory", "slow", "unforeseen")
"""What may be found: the pool of workers does not answer, a worker dies, hits the wall limit or the memory
limit, takes more than SLOW_CPU_S, or comes to an error that is not foreseen."""

LOST = {
    TransientError: "service",
    WorkerCrashed: "crash",
    LimitExceeded: "timeout",
    InternalError: "unforeseen",
}
"""What is raised where a worker was lost with its mutant -> what that is."""


@dataclass
class Result:
    """reached: mutants that came to a decoder. made: of which a picture, a description, an event was made.

    refused: the others, by the code of the error. found: number of a mutant, a kind of KINDS, what it was.
    """

    mutants: int = 0
    reached: int = 0
    made: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    found: list[tuple[int, str, str]] = field(default_factory=list)
    most_cpu_s: float = 0.0
    took_s: float = 0.0

    def count(self, kind: str) -> int:
        """Return how many mutants were found to be of a kind."""
        return sum(found == kind for _, found, _ in self.found)

    def add(self, other: Result) -> None:
        """Take in the result of other mutants."""
        self.mutants += other.mutants
        self.reached += other.reached
        self.made += other.made
        self.refused += other.refused
        self.found += other.found
        self.most_cpu_s = max(self.most_cpu_s, other.most_cpu_s)


@contextmanager
def pool(count: int = os.cpu_count() or 1, timeout_s: float = TIMEOUT_S) -> Iterator[Workers]:
    """Open workers as the service's own, that know how to try a mutant; one a core."""
    # Not replaced after a decoder's error, as the service does: what one mutant spoils harms the next.
    workers = Workers(count, MEMORY_BYTES, timeout_s, preload=(*PRELOAD, "tests.system.fuzz.mishaps"))
    try:
        yield workers
    finally:
        workers.close()


def fuzz(
    workers: Workers,
    name: str,
    subject: Subject,
    numbers: range,
    progress: Callable[[int], None] = lambda _: None,
) -> Result:
    """Try mutants of one subject by their numbers; `progress` is told how many are done."""
    result = Result()
    began = time.perf_counter()
    chunks = [numbers[at : at + CHUNK] for at in range(0, len(numbers), CHUNK)]
    with ThreadPoolExecutor(max_workers=workers.count) as threads:
        for part in threads.map(partial(_chunk, workers, name, subject), chunks):
            result.add(part)
            progress(result.mutants)
    result.took_s = time.perf_counter() - began
    return result


def _chunk(workers: Workers, name: str, subject: Subject, numbers: range) -> Result:
    result = Result(len(numbers))
    for number in numbers:
        _try(workers, subject, number, subject.spoil(subject.seeds(), name, number), result)
    return result


def _try(workers: Workers, subject: Subject, number: int, mutant: bytes, result: Result) -> None:
    try:
        said = workers.run(report, subject.run, subject.decoders, subject.raises, mutant)
    except (TransientError, WorkerCrashed, LimitExceeded, InternalError) as error:
        kind = next(kind for of, kind in LOST.items() if isinstance(error, of))
        result.found.append((number, kind, f"{type(error).__name__}: {error}"))
        return
    ending = Ending(*said)
    result.reached += ending.reached
    result.made += not ending.refused
    result.refused += Counter([ending.code] if ending.refused else [])
    result.most_cpu_s = max(result.most_cpu_s, ending.cpu_s)
    if ending.starved:
        result.found.append((number, "memory", f"over {workers.memory_bytes} bytes"))
    if ending.unforeseen:
        result.found.append((number, "unforeseen", ending.unforeseen))
    if ending.cpu_s > SLOW_CPU_S:
        result.found.append((number, "slow", f"{ending.cpu_s:.1f} CPU s"))
