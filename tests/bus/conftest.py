"""The embedded bus on a file of the test, and what stands around it."""

import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from app.bus import DeliveryPolicy
from app.bus.local.bus import LocalBus
from app.model.values import Row
from tests.bus.contract import Endpoint
from tests.processes import PATIENCE_S

QUICK = DeliveryPolicy(
    backoff_min_s=0.05, backoff_max_s=0.2, ack_deadline_s=30, concurrency=4, min_free_bytes=0
)
NOW = 1_700_000_000.0


class Sink:
    """Stands where the warehouse is: keeps rows, or fails while told to."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.failure: Exception | None = None
        self.calls = 0

    def __call__(self, row: Row) -> None:
        self.calls += 1
        if self.failure is not None:
            raise self.failure
        self.rows.append(row)

    def wait(self, count: int) -> list[Row]:
        until(lambda: len(self.rows) >= count)
        return self.rows


class Clock:
    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def until(fact: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def unreachable() -> socket.socket:
    """Connect where nobody listens."""
    raise ConnectionRefusedError


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    yield endpoint
    endpoint.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lake" / "lake.db"


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def make(path: Path, sink: Sink) -> Iterator[Callable[..., LocalBus]]:
    """A function that opens a bus on the test's file; all are closed at the end."""
    opened: list[LocalBus] = []

    def make(policy: DeliveryPolicy = QUICK, clock: Callable[[], float] = time.time) -> LocalBus:
        opened.append(LocalBus(f"local:{path}", policy, sink, clock=clock))
        return opened[-1]

    yield make
    for bus in opened:
        bus.close()


@pytest.fixture
def bus(make: Callable[..., LocalBus]) -> LocalBus:
    return make()


def look(path: Path, sql: str) -> list[tuple]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()
