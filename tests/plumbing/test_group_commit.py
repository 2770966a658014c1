"""Group commit: who goes with whom, who fails with whom, and that nobody waits for ever."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.model.errors import BusUnavailable, RowRejected
from app.plumbing.group_commit import GroupCommit
from tests.processes import PATIENCE_S


def until(condition):
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


class Gated:
    """A commit that waits until the test lets it pass, and answers each number with its double."""

    def __init__(self, limit=100):
        self.groups, self.faults, self.passes = [], [], threading.Semaphore(0)
        self.together = GroupCommit(self.commit, BusUnavailable, lambda parts: min(limit, len(parts)))

    def commit(self, parts):
        self.groups.append(parts)
        assert self.passes.acquire(timeout=PATIENCE_S)
        if self.faults and (fault := self.faults.pop(0)):
            raise fault
        return [RowRejected("seven") if part == 7 else 2 * part for part in parts]

    def queue_up(self, pool, *parts):
        """Send parts so that the first is being committed while all others wait."""
        futures = []
        for number, part in enumerate(parts):
            futures.append(pool.submit(self.together.add, part))
            until(lambda number=number: len(self.together._waiting) == number and self.groups)
        return futures


@pytest.fixture
def pool():
    with ThreadPoolExecutor(16) as pool:
        yield pool


def test_parts_that_come_during_a_commit_share_the_next_in_order(pool):
    gated = Gated()
    futures = gated.queue_up(pool, 1, 2, 3, 4)
    gated.passes.release(2)
    assert [future.result(PATIENCE_S) for future in futures] == [2, 4, 6, 8]
    assert gated.groups == [[1], [2, 3, 4]]


def test_what_does_not_fit_goes_next(pool):
    gated = Gated(limit=2)
    futures = gated.queue_up(pool, 1, 2, 3, 4, 5, 6)
    gated.passes.release(4)
    assert [future.result(PATIENCE_S) for future in futures] == [2, 4, 6, 8, 10, 12]
    assert gated.groups == [[1], [2, 3], [4, 5], [6]]


def test_an_error_of_one_part_is_not_that_of_the_others(pool):
    gated = Gated()
    futures = gated.queue_up(pool, 1, 7, 3)
    gated.passes.release(2)
    assert (futures[0].result(PATIENCE_S), futures[2].result(PATIENCE_S)) == (2, 6)
    with pytest.raises(RowRejected, match="seven"):
        futures[1].result(PATIENCE_S)


def test_an_error_of_the_commit_is_everybodys_but_each_has_an_object_of_its_own(pool):
    gated = Gated()
    gated.faults = [None, BusUnavailable("down")]
    futures = gated.queue_up(pool, 1, 2, 3, 4)
    gated.passes.release(2)
    assert futures[0].result(PATIENCE_S) == 2
    faults = [future.exception(10) for future in futures[1:]]
    assert [(type(fault), fault.text) for fault in faults] == [(BusUnavailable, "down")] * 3
    assert len({id(fault) for fault in faults}) == 3


def test_who_is_done_does_not_wait_for_the_next_commit(pool):
    gated = Gated(limit=2)
    futures = gated.queue_up(pool, 1, 2, 3, 4)
    gated.passes.release(2)
    assert [future.result(PATIENCE_S) for future in futures[:3]] == [2, 4, 6]
    assert not futures[3].done()
    gated.passes.release()
    assert futures[3].result(PATIENCE_S) == 8


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), TypeError()], ids=["torn out", "a bug"])
def test_who_is_torn_out_while_it_leads_leaves_nobody_waiting(pool, fault):
    gated = Gated()
    gated.faults = [None, fault]
    futures = gated.queue_up(pool, 1, 2, 3)
    gated.passes.release(3)
    assert futures[0].result(PATIENCE_S) == 2
    assert type(futures[1].exception(10)) is type(fault)
    with pytest.raises(BusUnavailable):
        futures[2].result(PATIENCE_S)
    assert gated.together.add(5) == 10


def test_close_waits_for_what_was_taken_and_takes_no_more(pool):
    gated = Gated()
    first, second = gated.queue_up(pool, 1, 2)
    closing = pool.submit(gated.together.close)
    until(lambda: gated.together._closed)
    with pytest.raises(BusUnavailable):
        gated.together.add(3)
    assert not closing.done()
    gated.passes.release(2)
    closing.result(PATIENCE_S)
    assert (first.result(0), second.result(0)) == (2, 4)


def test_many_callers_get_their_own_results(pool):
    gated = Gated(limit=3)
    gated.passes.release(1000)
    assert list(pool.map(gated.together.add, range(8, 500))) == list(range(16, 1000, 2))
    assert [part for group in gated.groups for part in group] != []
