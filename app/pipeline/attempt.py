"""Track one delivery through the pipeline: the current step, the time of each step, the deadline."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

from app.model.errors import BadArchive, DeadlineExceeded, InternalError, LimitExceeded
from app.model.values import Message, ObjectEvent, Stage
from app.telemetry.metrics import Metrics
from app.workers.pool import NONE, Workers
from app.workers.worker import Limits

if TYPE_CHECKING:
    from app.telemetry.spans import Spans

T = TypeVar("T")

log = logging.getLogger("dicomlake")


class HasCode(Protocol):
    """An outcome or an error."""

    @property
    def code(self) -> str:
        """Stable code of the reason; empty if there is none."""
        ...


class Attempt:
    """Measures the steps of one delivery, records which step failed, and enforces the deadline.

    The sender of a push waits for the answer, so the deadline includes time spent waiting for a worker or for
    memory. A patient delivery (from `ingest`) has no sender that waits and would not be repeated, so its
    deadline counts only work.

    stored: number of members of an archive that have rows so far.
    """

    def __init__(
        self,
        message: Message,
        deadline_s: float,
        metrics: Metrics,
        patient: bool = False,
        spans: Spans | None = None,
    ) -> None:
        self.message = message
        self.event: ObjectEvent | None = None
        self.stage = Stage.EVENT
        self.took_ms: dict[str, int] = {}
        self.stored: int | None = None
        self._metrics = metrics
        self._spans = spans
        self._steps: list[tuple[Stage, float, float]] = []
        self._begin = time.monotonic()
        self._deadline_s, self._patient = deadline_s, patient
        self._end = self._begin + deadline_s
        self._worked_s = 0.0

    def run(self, workers: Workers, function: Callable[..., T], *args: object) -> T:
        """Run `function(*args)` in a worker; its running time counts as work on this object."""
        with self._working() as begun:
            return workers.run(function, *args, wait_s=self.wait_s(), begun=begun)

    def run_confined(
        self,
        workers: Workers,
        limits: Limits,
        function: Callable[..., T],
        *args: object,
        patience_s: float = math.inf,
    ) -> T:
        """Run it within tighter limits, one task of this kind at a time.

        patience_s: how long to wait for earlier tasks of this kind; a patient delivery waits without limit.
        """
        wait_s = self.wait_s()
        wait_s = None if wait_s is None else min(wait_s, patience_s)
        with self._working() as begun:
            return workers.run_confined(limits, function, *args, wait_s=wait_s, begun=begun)

    def stream(self, workers: Workers, function: Callable[..., Iterator[T]], *args: object) -> Generator[T]:
        """Yield from `function(*args)` in a worker until the deadline; close the generator to end early."""
        with self._working() as begun:
            results = workers.stream(function, *args, wait_s=self.wait_s(), begun=begun)
            result = next(results, NONE)
        with closing(results):
            while result is not NONE:
                yield cast(T, result)
                self._check_time()
                with self._working() as begun:
                    begun()
                    result = next(results, NONE)

    def wait_s(self) -> float | None:
        return None if self._patient else max(0.0, self._end - time.monotonic())

    @contextmanager
    def _working(self) -> Iterator[Callable[[], None]]:
        """Count the time from the call of the yielded function to the end of the block as work."""
        asked, begin = time.monotonic(), math.inf

        def begun() -> None:
            nonlocal begin
            begin = time.monotonic()
            self._waited(begin - asked)

        try:
            yield begun
        finally:
            self._worked_s += max(0.0, time.monotonic() - begin)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Mark a block that only waits for memory: its time does not count as work."""
        begin = time.monotonic()
        yield
        self._waited(time.monotonic() - begin)

    def _waited(self, seconds: float) -> None:
        if self._patient:
            self._end += seconds

    @contextmanager
    def step(self, stage: Stage) -> Iterator[None]:
        """Run one step, unless the deadline has passed.

        Raises DeadlineExceeded; or BadArchive (`limit_exceeded`) if an archive's members used most of the
        time, because a retry would exceed the deadline again.
        """
        self.stage = stage
        self._check_time()
        begin = time.monotonic()
        try:
            yield
        finally:
            end = time.monotonic()
            self._steps.append((stage, begin, end))
        took = end - begin
        self.took_ms[stage] = round(took * 1000)
        self._metrics.stage(stage, took)

    def _check_time(self) -> None:
        if time.monotonic() <= self._end:
            return
        if self.stored is not None and self._worked_s > self._deadline_s / 2:
            text = "describing its members took longer than delivery.deadline_s"
            raise BadArchive(text, code=LimitExceeded.code)
        raise DeadlineExceeded("the event took longer than delivery.deadline_s")

    def end(self, level: int, status: str, why: HasCode) -> None:
        """Report the outcome of this delivery in one log line and in the metrics."""
        took_s = time.monotonic() - self._begin
        facts = self.facts() | {"status": str(status), "code": why.code or None, "took_s": round(took_s, 4)}
        if level > logging.INFO:
            facts["stage"] = self.stage
        if self.event and self.event.generations_fall:
            facts["warning"] = "generations_fall"
            level = max(level, logging.WARNING)
        # For a bug in a worker only this error is available; its text has the class and the place.
        bug = why.__cause__ or why if isinstance(why, InternalError) else None
        log.log(level, "event", extra={k: v for k, v in facts.items() if v is not None}, exc_info=bug)
        self._metrics.event(self.event, str(status), why.code, took_s)
        if self._spans is not None:
            failed = why.code if level > logging.INFO else ""
            self._spans.delivery(self._steps, failed, facts)

    def facts(self) -> dict[str, object]:
        """Return the facts about this delivery that may be logged."""
        message, event = self.message, self.event
        facts: dict[str, object] = {"message_id": message.message_id, "attempt": message.attempt}
        facts["correlation_id"] = message.correlation_id
        if event:
            facts |= {"event_type": event.type.value, "bucket": event.ref.bucket, "object": event.shown.name}
            facts["generation"] = event.ref.generation
        if self.stored is not None:
            facts["stored"] = self.stored
        return facts
