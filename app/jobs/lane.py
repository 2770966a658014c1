"""The lane of long jobs: events to publish, at a rate that a bucket bears, with a cursor to go on from.

    events ─▶ batches, at 500 a second first ─▶ the bus ─▶ every 10,000: a row of `jobs` with the cursor

The cursor is only written once the events before it are durable. Rows are made idempotently, so events that
are published again after a crash change nothing.
"""

from __future__ import annotations

import os
import pwd
import secrets
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

from app.model.errors import ConfigError
from app.model.times import rfc3339
from app.model.values import EventType, Message, Row
from app.services import Services
from app.sources.notifications import notification
from app.storage import Listed
from app.warehouse import Warehouse
from app.warehouse.queries import last_jobs, last_of_job

if TYPE_CHECKING:
    from app.bus import Publisher

FIRST_RATE, DOUBLE_S = 500.0, 1200.0
"""First rate in events a second, and seconds until it doubles: a new bucket takes 1,000 writes a second."""
RATE = 4000.0
"""Events a second at most, unless the caller wants another rate."""
BATCH = 200
"""Events that are published together."""
RECORD_EVERY = 10_000
"""Objects between two rows in `jobs`."""
SHOWN_JOBS = 20


@dataclass(frozen=True, slots=True)
class Pacing:
    """How fast to publish. rate: events a second at most. clock, sleep: seconds, for tests."""

    rate: float = RATE
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class Pace:
    """Holds events back so that they never exceed the current rate."""

    def __init__(self, pacing: Pacing) -> None:
        self._pacing = pacing
        self._began = self._due = pacing.clock()

    def wait(self, count: int) -> None:
        """Return when this many more events may be published."""
        now = self._pacing.clock()
        if self._due > now:
            self._pacing.sleep(self._due - now)
        self._due = max(self._due, now) + count / self.rate()

    def rate(self) -> float:
        """Return the current rate in events a second."""
        doublings = min((self._pacing.clock() - self._began) // DOUBLE_S, 60)
        return min(self._pacing.rate, FIRST_RATE * 2**doublings)


def seconds_for(count: int, rate: float = RATE) -> float:
    """Return how long it takes to publish this many events."""
    left, took, allowed = float(count), 0.0, min(rate, FIRST_RATE)
    while allowed < rate and left > allowed * DOUBLE_S:
        left, took, allowed = left - allowed * DOUBLE_S, took + DOUBLE_S, min(rate, 2 * allowed)
    return took + left / allowed


@dataclass(slots=True)
class Job:
    """One run of a command that can be continued.

    counts: objects by what became of them. settled: the same up to the cursor, from where it would go on.
    """

    id: str
    command: str
    arguments: Mapping[str, object]
    started_at: datetime
    counts: Counter[str] = field(default_factory=Counter)
    settled: Counter[str] = field(default_factory=Counter)
    cursor: str = ""
    ended_at: datetime | None = None

    def row(self, now: datetime) -> dict[str, object]:
        """Return the row of the table `jobs` for its current state."""
        return {
            "id": self.id,
            "recorded_at": now,
            "command": self.command,
            "arguments": orjson.dumps(dict(self.arguments)).decode(),
            "counts": orjson.dumps(dict(self.settled)).decode(),
            "cursor": self.cursor or None,
            "started_at": self.started_at,
            "ended_at": self.ended_at,
            "who": _who(),
        }


def begin(services: Services, command: str, arguments: Mapping[str, object]) -> Job:
    """Return a new job; its first row is written with its first progress."""
    now = services.now()
    return Job(f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}", command, arguments, now)


def resume(services: Services, command: str, job_id: str) -> Job:
    """Return a job in the state of its last row.

    Raises
    ------
    ConfigError : there is no such job of this command, or it is complete
    """
    row = job_row(services.warehouse, job_id)
    if row["command"] != command:
        raise ConfigError(f"job {job_id} is of `dicomlake {row['command']}`; resume it with that")
    if row["ended_at"]:
        raise ConfigError(f"job {job_id} is complete; there is nothing to resume")
    counts: Any = row["counts"]
    arguments: Any = row["arguments"]
    cursor = str(row["cursor"] or "")
    return Job(job_id, command, arguments, _time(row["started_at"]), Counter(counts), Counter(counts), cursor)


def job_row(warehouse: Warehouse, job_id: str) -> dict[str, object]:
    """Return the last row of a job; raises ConfigError if there is none."""
    rows = warehouse.query(*last_of_job(job_id))
    if not rows:
        raise ConfigError(f"there is no job {job_id}; `dicomlake status` lists the last ones")
    return _readable(rows[0])


def job_rows(warehouse: Warehouse) -> list[dict[str, object]]:
    """Return the last row of each of the last jobs, the latest first."""
    return [_readable(row) for row in warehouse.query(*last_jobs(SHOWN_JOBS))]


class Lane:
    """Publishes the events of one job and records how far it is; a context manager.

    On the way out, also after Ctrl-C, it records where to go on. Only `finish` makes the job complete.
    """

    def __init__(self, services: Services, bus: Publisher, job: Job, pacing: Pacing) -> None:
        self.job = job
        self._services, self._bus, self._pace = services, bus, Pace(pacing)
        self._waiting: list[Message] = []
        self._since = 0

    def add(self, message: Message) -> None:
        """Publish an event, some time before the next `passed` or `finish` records it."""
        self._waiting.append(message)
        if len(self._waiting) >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Publish the pending events."""
        if self._waiting:
            self._pace.wait(len(self._waiting))
            self._bus.publish_all(self._waiting)
            self.job.counts["published"] += len(self._waiting)
            self._waiting = []

    def passed(self, position: str, objects: int = 1) -> None:
        """Note that everything up to this address was added; record it from time to time."""
        self._since += objects
        self.job.counts["objects"] += objects
        if self._since >= RECORD_EVERY:
            self.flush()
            self.job.cursor, self.job.settled = position, Counter(self.job.counts)
            self.record()

    def record(self) -> None:
        """Write a row of `jobs`."""
        self._since = 0
        self._services.warehouse.append("jobs", [self.job.row(self._services.now())])

    def finish(self) -> None:
        """Publish what is left and record that the job is complete."""
        self.flush()
        self.job.ended_at, self.job.settled = self._services.now(), self.job.counts


@contextmanager
def recorded(lane: Lane) -> Iterator[Lane]:
    """Record the job at the beginning, so that its id can be resumed, and at its end, however it ends."""
    lane.record()
    try:
        yield lane
    finally:
        lane.record()


def event_of(listed: Listed, uri: str, now: datetime) -> Message:
    """Return the notification of a listed object as the store would send it."""
    content = {"size": str(listed.size)}
    facts = {"crc32c": listed.crc32c, "storageClass": listed.storage_class}
    content |= {name: value for name, value in facts.items() if value}
    if listed.metageneration is not None:
        content["metageneration"] = str(listed.metageneration)
    written = rfc3339(datetime.fromtimestamp(listed.written_s, UTC))
    content |= {"timeCreated": written, "updated": written}
    return notification(EventType.FINALIZE, listed.ref, uri, now, content)


def _readable(row: Row) -> dict[str, object]:
    found = dict(row)
    found.pop("place", None)
    for name in ("arguments", "counts"):
        value = found[name]
        found[name] = orjson.loads(value) if isinstance(value, str) else value or {}
    return found


def _time(value: object) -> datetime:
    return value if isinstance(value, datetime) else datetime.fromisoformat(str(value))


def _who() -> str:
    name = str(os.getuid())
    with suppress(KeyError):  # no account has this number, as in a container
        name = pwd.getpwuid(os.getuid()).pw_name
    return f"{name}@{socket.gethostname()}"
