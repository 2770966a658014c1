"""Counters and times for Prometheus, in a registry of their own; labels come from closed lists."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from app.model.errors import DicomlakeError
from app.model.values import ObjectEvent, Stage, Status

FAILED = "failed"
TOTAL = "total"
"""Label for the whole delivery, beside those of its steps."""
BUCKETS_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
MAX_CODES = 100

Rendered = tuple[bytes, str]
_STATUSES = (*Status, FAILED)
_CODE = re.compile(r"[a-z][a-z0-9_]{0,39}")


class Metrics:
    """The metrics of one service. Safe to call from several threads."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self._codes = {"", *_codes(DicomlakeError)}
        self._lock = threading.Lock()
        self._events = Counter(
            "dicomlake_events",
            "Deliveries that ended, by how.",
            ("type", "status", "code"),
            registry=registry,
        )
        self._dead_letters = Counter(
            "dicomlake_dead_letters", "Messages given up, by reason.", ("code",), registry=registry
        )
        self._falls = Counter(
            "dicomlake_generations_fall",
            "Events of versions with a lower generation than the version before.",
            registry=registry,
        )
        self._bytes = Counter("dicomlake_bytes", "Bytes of objects read.", registry=registry)
        self._stages = Histogram(
            "dicomlake_stage_seconds",
            "Time of one step of a delivery.",
            ("stage",),
            registry=registry,
            buckets=BUCKETS_S,
        )
        self._in_flight = Gauge("dicomlake_in_flight", "Deliveries under way.", registry=registry)
        self._queue = Gauge("dicomlake_queue", "Messages that wait in the queue.", registry=registry)

    def event(self, event: ObjectEvent | None, status: str, code: str, took_s: float) -> None:
        """Count one delivery that ended; `status` is a Status or `failed`, `event` None if it was not one."""
        kind = event.type.value if event else "unknown"
        code = self._known(code)
        self._events.labels(kind, status if status in _STATUSES else "other", code).inc()
        self._stages.labels(TOTAL).observe(took_s)
        if event and event.generations_fall:
            self._falls.inc()
        if status == Status.DEAD_LETTERED:
            self._dead_letters.labels(code).inc()

    def stage(self, stage: Stage, took_s: float) -> None:
        """Note the time of one step."""
        self._stages.labels(stage).observe(took_s)

    def bytes(self, size: int) -> None:
        """Count bytes read."""
        self._bytes.inc(size)

    def queue(self, waiting: int) -> None:
        """Note how many messages wait."""
        self._queue.set(waiting)

    @contextmanager
    def in_flight(self) -> Iterator[None]:
        """Count a delivery as under way while it is."""
        with self._in_flight.track_inprogress():
            yield

    def render(self) -> Rendered:
        """Return the text for a scrape and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def _known(self, code: str) -> str:
        """Keep labels few: our errors' codes, and up to MAX_CODES in all that look like one; else `other`."""
        with self._lock:
            if code not in self._codes and (len(self._codes) >= MAX_CODES or not _CODE.fullmatch(code)):
                return "other"
            self._codes.add(code)
        return code


def _codes(kind: type[DicomlakeError]) -> set[str]:
    """Return the codes of an error class and of all below it."""
    return {kind.code}.union(*map(_codes, kind.__subclasses__()))
