"""A worker reads a big object through the server: the right bytes, only its own, and it knows of no store."""

import io
import os
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from app.model.errors import DeadlineExceeded, LimitExceeded, ObjectGone, StorageUnavailable, WorkerCrashed
from app.model.values import Content, ObjectRef
from app.workers.messages import Unreadable, packed
from app.workers.pool import Workers
from app.workers.remote_reads import BUFFER_BYTES, MOST_BYTES, Served
from tests.streams import Log
from tests.workers import tasks as tasks

DATA = bytes(range(256)) * 81_920  # 20 MiB


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with closing(Workers(1, 1 << 30, 2.0, preload=("tests.workers.tasks",))) as pool:
        yield pool


class Failing(io.BytesIO):
    def __init__(self, error: Exception) -> None:
        super().__init__(b"abc")
        self.error = error

    def read(self, size: int | None = -1, /) -> bytes:
        raise self.error


class Slow(io.BytesIO):
    def read(self, size: int | None = -1, /) -> bytes:
        time.sleep(0.6)
        return super().read(size)


def content(stream: io.BytesIO, size: int = len(DATA)) -> Content:
    return Content(ObjectRef("b", "n", 1), "gs://b/n", size, opener=lambda: stream)


def test_ranges_come_as_they_stand_and_little_more_is_read(workers):
    stream = Log(DATA)
    places = [(0, 4), (10_000_001, 3), (2, 1), (len(DATA) - 1, 9), (len(DATA) + 5, 1)]
    found = workers.run(tasks.read_ranges, content(stream), places)
    assert found == [b"\0\1\2\3", b"\x81\x82\x83", b"\2", b"\xff", b"", b"20971520"]
    assert sum(count for _, count in stream.reads) <= 4 * BUFFER_BYTES
    assert stream.closed


@pytest.mark.parametrize(
    ("task", "found"),
    [((tasks.read_ranges, [(0, len(DATA))]), [DATA, b"20971520"]), ((tasks.read_all,), DATA)],
)
def test_a_whole_object_comes_in_few_answers(workers, task, found):
    stream = Log(DATA)
    function, *places = task
    assert workers.run(function, content(stream), *places) == found
    assert len(stream.reads) <= 2 + len(DATA) // MOST_BYTES
    assert max(count for _, count in stream.reads) <= MOST_BYTES


def test_the_store_is_opened_here_and_what_is_encoded_is_decoded_there(workers):
    encoded = Content(ObjectRef("b", "n", 1), "gs://b/n", 3, data=b"abc", decode=tasks.upper_and_pid)
    assert encoded.at_hand is None
    found, pid = workers.run(tasks.read_ranges, encoded, [(0, 3)])[0].split()
    assert (found, int(pid) != os.getpid()) == (b"ABC", True)


@pytest.mark.parametrize("error", [ObjectGone("gone"), StorageUnavailable("down")])
def test_a_fault_of_the_store_is_told_as_it_is_and_the_next_task_works(workers, error):
    with pytest.raises(type(error)) as caught:
        workers.run(tasks.read_ranges, content(Failing(error)), [(0, 3)])
    assert caught.value is error
    assert workers.run(tasks.double, 4) == 8


def test_the_time_of_a_slow_store_is_not_that_of_the_task(workers):
    places = [(number << 20, 1) for number in range(6)]
    assert len(workers.run(tasks.read_ranges, content(Slow(DATA)), places)) == 7
    with pytest.raises(LimitExceeded, match="took longer than 2 s"):
        workers.run(tasks.nap, 30.0)


def test_a_store_that_is_too_slow_for_the_event_is_a_fault_that_may_heal(workers):
    places = [(number << 20, 1) for number in range(6)]
    with pytest.raises(DeadlineExceeded):
        workers.run(tasks.read_ranges, content(Slow(DATA)), places, wait_s=1.0)


@pytest.mark.parametrize(
    "asked",
    [
        [1, 0, 1],
        [-1, 0, 1],
        [0, -1, 1],
        [0, 1 << 63, 1],
        [0, len(DATA), 1],  # a place that a file may not even be asked for, or a store may charge for
        [0, 0, MOST_BYTES + 1],
        [0, 0, -1],
    ],
)
def test_a_worker_gets_nothing_but_ranges_of_its_own_object(workers, asked):
    with Served([content(Log(DATA))], time.monotonic() + 9) as served, pytest.raises(Unreadable):
        served.read(*asked)
    with pytest.raises(WorkerCrashed):
        workers.run(tasks.say_beside, packed(asked), content(Log(DATA)))
    assert workers.run(tasks.double, 4) == 8


def test_an_object_is_read_while_results_come(workers):
    stream = Log(DATA)
    assert sum(workers.stream(tasks.read_in_pieces, content(stream), 1 << 20)) == len(DATA)
    assert sum(count for _, count in stream.reads) == len(DATA)
    assert stream.closed


def test_an_object_is_not_read_for_ever(workers):
    mebibyte = content(Log(bytes(1 << 20)), 1 << 20)
    assert workers.run(tasks.read_again, mebibyte, 1 << 20, 79) == 79 << 20
    with pytest.raises(WorkerCrashed):
        workers.run(tasks.read_again, content(Log(bytes(1 << 20)), 1 << 20), 1 << 20, 81)
    with Served([content(Log(DATA), 1)], time.monotonic() + 60) as served:
        for _ in range((64 << 20) // 65):
            served.read(0, 0, 1)
        with pytest.raises(Unreadable):
            served.read(0, 0, 1)


def test_no_worker_can_say_that_an_object_is_gone(workers):
    with pytest.raises(WorkerCrashed):
        workers.run(tasks.say_gone)
