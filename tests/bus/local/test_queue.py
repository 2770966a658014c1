import base64
import os
import resource
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from app.bus.local.bus import LocalBus
from app.bus.local.queue import COUNTS, DUE, LEASE, MAIN, Queue, QueueStats
from app.model.errors import BadEvent, BusUnavailable, OutOfSpace
from app.model.values import Message, Reason
from tests.bus.conftest import NOW, QUICK, look, until
from tests.bus.contract import note
from tests.parts import need

MIB = 1 << 20


def test_message_ids_rise_even_when_the_clock_goes_back(path):
    with closing(Queue(path, 1200.0)) as queue:
        first = queue.publish(note(), NOW)
        queue.ack(MAIN, Message(b"", {}, first))
        second = queue.publish(note(), NOW - 86400)
    assert (first, second) == ("1700000000000000", "1700000000000001")


def test_clock_that_is_set_back_strands_nothing(path):
    with closing(Queue(path, 1200.0)) as queue:
        queue.publish(note(), NOW)
        assert queue.lease(MAIN, 1, NOW - 600, NOW) == []
        (leased,) = queue.lease(MAIN, 1, NOW - 86400, NOW - 86000)
        assert leased.attempt == 1


def test_lease_that_nobody_ends_is_due_again(path):
    with closing(Queue(path, 1200.0)) as queue:
        queue.publish(note(), NOW)
        assert [m.attempt for m in queue.lease(MAIN, 5, NOW, NOW + 10)] == [1]
        assert queue.lease(MAIN, 5, NOW + 9.9, NOW + 20) == []
        assert [m.attempt for m in queue.lease(MAIN, 5, NOW + 10, NOW + 20)] == [2]


def test_what_is_done_goes_in_the_commit_that_leases_the_next(path):
    statements: list[str] = []
    with closing(Queue(path, 1200.0)) as queue:
        queue._writer.set_trace_callback(statements.append)
        queue.publish_all([note(b"1"), note(b"2")], NOW)
        (first,) = queue.lease(MAIN, 1, NOW, NOW + 10)
        (second,) = queue.lease(MAIN, 1, NOW, NOW + 10, [first])
        assert statements.count("COMMIT") == 3
        assert queue.lease(MAIN, 1, NOW, NOW + 10, [second]) == []
        assert queue.stats(NOW).leased == 0


def test_late_refusal_does_not_end_the_next_lease(path):
    with closing(Queue(path, 1200.0)) as queue:
        queue.publish(note(), NOW)
        (first,) = queue.lease(MAIN, 1, NOW, NOW + 10)
        queue.lease(MAIN, 1, NOW + 10, NOW + 20)
        queue.nack(MAIN, first, NOW + 10)
        assert queue.lease(MAIN, 1, NOW + 11, NOW + 20) == []


def test_late_acknowledgement_counts(path):
    with closing(Queue(path, 1200.0)) as queue:
        queue.publish(note(), NOW)
        (first,) = queue.lease(MAIN, 1, NOW, NOW + 10)
        queue.lease(MAIN, 1, NOW + 10, NOW + 20)
        queue.ack(MAIN, first)
        assert queue.lease(MAIN, 1, NOW + 30, NOW + 40) == []


def test_stats_tell_the_age_of_the_oldest(path):
    with closing(Queue(path, 1200.0)) as queue:
        queue.publish(note(), NOW)
        queue.publish(note(), NOW + 5)
        queue.lease(MAIN, 1, NOW + 6, NOW + 60)
        assert queue.stats(NOW + 7) == QueueStats(1, 1, 0, 7.0)


@pytest.mark.parametrize("sql", [DUE, LEASE, COUNTS])
def test_no_statement_sorts_the_whole_queue(sql, path):
    names = ["topic", "count", "now", "until", "horizon"]
    with closing(Queue(path, 1200.0)), closing(sqlite3.connect(path)) as connection:
        plan = connection.execute("EXPLAIN QUERY PLAN " + sql, dict.fromkeys(names, 1)).fetchall()
    steps = [step for *_, step in plan]
    assert any("USING COVERING INDEX queue_due" in step for step in steps)
    assert not [step for step in steps if "TEMP B-TREE" in step]


def test_threads_share_commits_and_lose_nothing(path):
    with closing(Queue(path, 1200.0)) as queue:
        ids: list[str] = []

        def publish() -> None:
            ids.extend([queue.publish(note(), time.time()) for _ in range(50)])

        threads = [threading.Thread(target=publish) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stored = [row[0] for row in look(path, "SELECT message_id FROM queue")]
    assert len(set(ids)) == 400
    assert sorted(stored) == sorted(ids)


PUBLISHER = """
import sys
from app.bus import DeliveryPolicy
from app.bus.local.bus import LocalBus
from app.model.values import Message
bus = LocalBus(sys.argv[1], DeliveryPolicy(), print)
for number in range(50):
    print(bus.publish(Message(b"%d" % number, {}, "")), flush=True)
bus.close()
"""


def test_processes_that_publish_beside_the_service_lose_nothing(make, path, endpoint):
    command = [sys.executable, "-c", PUBLISHER, f"local:{path}"]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    make().start(endpoint.connect)  # all four make the file at the same time
    ids = [line for child in children for line in child.communicate()[0].split()]
    assert [child.returncode for child in children] == [0, 0, 0]
    assert len(set(ids)) == 150
    pushed = {push["message"]["messageId"] for push in endpoint.wait(150)}
    assert pushed == set(ids)


def test_message_over_ten_megabytes_is_refused(bus):
    bus.publish(note(bytes(10_000_000)))
    with pytest.raises(BadEvent):
        bus.publish(note(bytes(10_000_001)))


def test_file_locked_by_another_is_unavailable_and_heals(path, make, monkeypatch):
    monkeypatch.setattr("app.plumbing.sqlite.BUSY_S", 0.1)
    bus = make()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(BusUnavailable, match="SQLITE_BUSY"):
            bus.publish(note())
        assert bus.stats().waiting == 0
    bus.publish(note())
    assert bus.stats().waiting == 1


def test_threads_that_fail_together_have_an_error_each(path, monkeypatch):
    monkeypatch.setattr("app.plumbing.sqlite.BUSY_S", 0.3)
    with (
        closing(Queue(path, 1200.0)) as queue,
        closing(sqlite3.connect(path, isolation_level=None)) as other,
        ThreadPoolExecutor(8) as pool,
    ):
        other.execute("BEGIN IMMEDIATE")
        futures = [pool.submit(queue.publish, note(), NOW) for _ in range(8)]
        errors = [future.exception(10) for future in futures]
    assert {type(error) for error in errors} == {BusUnavailable}
    assert len({id(error) for error in errors}) == 8


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_write_error_is_unavailable_and_heals(bus, endpoint):
    bus.publish(note(b"before"))
    with file_size_limit(200_000), pytest.raises(BusUnavailable, match="SQLITE_IOERR"):
        bus.publish(note(bytes(300_000)))
    assert bus.stats().waiting == 1
    bus.publish(note(b"after"))
    bus.start(endpoint.connect)
    pushed = {base64.b64decode(push["message"]["data"]) for push in endpoint.wait(2)}
    assert pushed == {b"before", b"after"}


@pytest.fixture(params=["1m"])
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={request.param}", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, check=False, capture_output=True).returncode == 0
    need("the right to mount a small disk", mounted, "run as root with the right to mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def for_ever(step: Callable[[], object]) -> None:
    while True:
        step()


def fill(disk: Path, leave: int = 0) -> Path:
    """Leave about so many bytes free; return the file that takes all others."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        for_ever(lambda: file.write(bytes(4096)))
    os.truncate(filler, filler.stat().st_size - leave)
    return filler


def test_full_disk_is_unavailable_and_heals(small_disk, sink, endpoint):
    with closing(LocalBus(f"local:{small_disk}/lake.db", QUICK, sink)) as bus:
        ids = [bus.publish(note(bytes(1000)))]
        ballast = fill(small_disk)
        with pytest.raises(BusUnavailable, match="SQLITE_FULL"):
            for_ever(lambda: ids.append(bus.publish(note(bytes(1000)))))
        with pytest.raises(BusUnavailable):
            bus.dead_letter(Message(bytes(1000), {}, "7"), Reason("c", "t"))
        assert bus.stats().waiting == len(ids)
        ballast.unlink()
        ids.append(bus.publish(note()))
        bus.start(endpoint.connect)
        assert sorted(push["message"]["messageId"] for push in endpoint.wait(len(ids))) == sorted(ids)
        until(lambda: bus.stats().waiting + bus.stats().leased == 0)


@pytest.mark.parametrize("small_disk", ["16m"], indirect=True)
def test_queue_with_a_reserve_works_on_though_the_disk_is_full(small_disk):
    with closing(Queue(small_disk / "lake.db", 1200.0)) as queue:
        queue.reserve(4 * MIB)
        for _ in range(20):
            queue.publish(note(bytes(1000)), NOW)
        fill(small_disk)
        done, refused = (queue.lease(MAIN, 10, NOW, NOW + 60) for _ in range(2))
        for message in done:
            queue.ack(MAIN, message)
        for message in refused:
            queue.nack(MAIN, message, NOW + 60)
        for _ in range(1000):  # more than fits into the log at once
            queue.publish(note(bytes(1000)), NOW)
        queue.dead_letter(note(bytes(1000)), NOW, NOW + 60)
        assert queue.stats(NOW) == QueueStats(1010, 0, 1, 0.0)


@pytest.mark.parametrize("small_disk", ["48m"], indirect=True)
def test_nothing_is_delivered_while_the_disk_is_nearly_full_and_all_afterwards(small_disk, sink, endpoint):
    policy = replace(QUICK, min_free_bytes=16 * MIB)
    with closing(LocalBus(f"local:{small_disk}/lake.db", policy, sink)) as bus:
        bus.start(endpoint.connect)
        endpoint.open.clear()
        for _ in range(60):  # more than the first reserve, and it stays in the file
            bus.publish(note(bytes(100_000)))
        endpoint.wait(4)
        filler = fill(small_disk, leave=14 * MIB)
        with pytest.raises(OutOfSpace):
            until(bus.check)
        until(lambda: bus._full)
        until(lambda: look(small_disk / "lake.db", "PRAGMA freelist_count")[0][0] > 1000)  # the second one
        fill(small_disk)
        endpoint.open.set()
        until(lambda: bus.stats().leased == 0)  # what was under way is acknowledged
        ids = [bus.publish(note()) for _ in range(100)]
        time.sleep(1.5)
        assert (len(endpoint.pushes), bus.depth()) == (4, 156)
        filler.unlink()
        pushes = [push for push in endpoint.wait(160) if push["message"]["messageId"] in ids]
        assert sorted(push["message"]["messageId"] for push in pushes) == sorted(ids)
        assert {push["deliveryAttempt"] for push in pushes} == {1}
        bus.check()
