"""Group commit: who shares an append, who fails with whom, and that nobody waits for ever."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from app.model.errors import RowRejected, RowsRejected, WarehouseUnavailable
from app.warehouse.batch import BatchedWarehouse
from app.warehouse.sqlite.warehouse import SqliteWarehouse
from tests.processes import PATIENCE_S
from tests.warehouse.contract import WarehouseContract, count, failure_row, instance_row

MB = 1 << 20


class GatedWarehouse(SqliteWarehouse):
    """The SQLite warehouse, whose appends wait at a gate and fail where the test says so."""

    def __init__(self, url):
        super().__init__(url)
        self.batches = []
        self.gates = {"instances": threading.Event(), "failures": threading.Event()}
        self.faults = []

    def append(self, table, rows):
        self.batches.append([str(row.get("row_id", "")) for row in rows])
        assert self.gates[table].wait(PATIENCE_S)
        if self.faults and (fault := self.faults.pop(0)):
            raise fault
        super().append(table, rows)


@pytest.fixture
def inner(tmp_path):
    inner = GatedWarehouse(f"sqlite:{tmp_path}/lake.db")
    inner.create()
    return inner


@pytest.fixture
def pool():
    with ThreadPoolExecutor(32) as pool:
        yield pool


def queue_up(pool, inner, batched, appends):
    """Send appends so that the first is in flight while all others wait; then open the gate."""
    futures = [pool.submit(batched.append, "instances", rows) for rows in appends[:1]]
    until(lambda: len(inner.batches) == 1)
    for waiting, rows in enumerate(appends[1:], 1):
        futures.append(pool.submit(batched.append, "instances", rows))
        until(lambda waiting=waiting: len(batched._commits["instances"]._waiting) == waiting)
    inner.gates["instances"].set()
    wait(futures, 10)
    return futures


def until(condition):
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def one(row_id, **columns):
    return [instance_row(row_id, f"gs://b/{row_id}", **columns)]


class TestBatchedWarehouse(WarehouseContract):
    """The contract, through group commit."""

    @pytest.fixture
    def warehouse(self, tmp_path):
        warehouse = BatchedWarehouse(SqliteWarehouse(f"sqlite:{tmp_path}/lake.db"), 500, 8 * MB)
        warehouse.create()
        yield warehouse
        warehouse.close()


def test_appends_that_wait_share_the_next_commit_in_order(pool, inner):
    batched = BatchedWarehouse(inner, 500, 8 * MB)
    futures = queue_up(pool, inner, batched, [one("a"), one("b"), one("c") + one("d"), one("e")])
    assert [future.result(0) for future in futures] == [None] * 4
    assert inner.batches == [["a"], ["b", "c", "d", "e"]]
    assert count(batched, "instances") == 5


def test_a_batch_is_bounded_by_rows(pool, inner):
    batched = BatchedWarehouse(inner, 2, 8 * MB)
    queue_up(pool, inner, batched, [one("a"), one("b"), one("c"), one("d"), one("e") + one("f") + one("g")])
    assert inner.batches == [["a"], ["b", "c"], ["d"], ["e", "f", "g"]]


def test_a_batch_is_bounded_by_bytes(pool, inner):
    batched = BatchedWarehouse(inner, 500, 100_000)
    text = '"' + "x" * 40_000 + '"'
    # Sixteen thousand letters of two bytes might be sixty-four thousand bytes.
    wide = '"' + "\xe4" * 16_000 + '"'
    appends = [one("a"), one("b", metadata=text), one("c", metadata=text), one("d", metadata=wide), one("e")]
    queue_up(pool, inner, batched, appends)
    assert inner.batches == [["a"], ["b", "c"], ["d", "e"]]


def test_a_refused_row_fails_only_the_caller_that_brought_it(pool, inner):
    batched = BatchedWarehouse(inner, 500, 8 * MB)
    bad = {**one("bad")[0], "generation": "1"}
    futures = queue_up(pool, inner, batched, [one("a"), one("b"), [*one("c"), bad], one("d"), [bad]])
    for future in futures[0], futures[1], futures[3]:
        assert future.result(0) is None
    for future, index in (futures[2], 1), (futures[4], 0):
        assert isinstance(future.exception(0), RowsRejected)
        assert future.exception(0).rejected == {index: "column generation is no INT64"}
    assert count(batched, "instances") == 4


def test_an_unavailable_warehouse_fails_all_of_the_batch_and_none_after_it(pool, inner):
    batched = BatchedWarehouse(inner, 500, 8 * MB)
    inner.faults = [None, WarehouseUnavailable("down")]
    futures = queue_up(pool, inner, batched, [one("a"), one("b"), one("c")])
    assert futures[0].exception(0) is None
    faults = [future.exception(0) for future in futures[1:]]
    assert [(type(fault), fault.text) for fault in faults] == [(WarehouseUnavailable, "down")] * 2
    assert faults[0] is not faults[1]
    batched.append("instances", one("d"))
    assert count(batched, "instances") == 2


def test_a_refusal_that_names_no_row_falls_on_the_caller_at_fault(pool, inner):
    batched = BatchedWarehouse(inner, 500, 8 * MB)
    inner.faults = [None, RowRejected("too large"), None, RowRejected("too large"), None]
    futures = queue_up(pool, inner, batched, [one("a"), one("b"), one("c"), one("d")])
    assert [type(future.exception(0)) for future in futures] == [
        type(None),
        type(None),
        RowRejected,
        type(None),
    ]
    assert inner.batches == [["a"], ["b", "c", "d"], ["b"], ["c"], ["d"]]


def test_a_caller_torn_out_while_it_leads_leaves_nobody_waiting(pool, inner):
    batched = BatchedWarehouse(inner, 500, 8 * MB)
    inner.faults = [None, KeyboardInterrupt()]
    futures = queue_up(pool, inner, batched, [one("a"), one("b"), one("c")])
    assert [type(future.exception(0)) for future in futures] == [
        type(None),
        KeyboardInterrupt,
        WarehouseUnavailable,
    ]
    batched.append("instances", one("d"))
    batched.close()


def test_one_table_does_not_wait_for_another(pool, inner):
    batched = BatchedWarehouse(inner, 500, 8 * MB)
    slow = pool.submit(batched.append, "instances", one("a"))
    until(lambda: inner.batches)
    inner.gates["failures"].set()
    batched.append("failures", [failure_row()])
    assert not slow.done()
    inner.gates["instances"].set()
    slow.result(PATIENCE_S)


def test_close_waits_for_rows_that_were_taken_and_takes_no_more(pool, inner):
    batched = BatchedWarehouse(inner, 500, 8 * MB)
    taken = pool.submit(batched.append, "instances", one("a"))
    until(lambda: inner.batches)
    closing = pool.submit(batched.close)
    until(lambda: batched._commits["instances"]._closed)
    with pytest.raises(WarehouseUnavailable):
        batched.append("instances", one("b"))
    assert not closing.done()
    inner.gates["instances"].set()
    assert taken.result(PATIENCE_S) is None
    closing.result(PATIENCE_S)
    with pytest.raises(WarehouseUnavailable):
        inner.query("SELECT 1")


def test_many_callers_all_get_their_rows_in_once(pool, tmp_path):
    batched = BatchedWarehouse(SqliteWarehouse(f"sqlite:{tmp_path}/lake.db"), 7, 8 * MB)
    batched.create()
    list(pool.map(lambda i: batched.append("failures", [failure_row(generation=i)]), range(500)))
    found = batched.query("SELECT generation FROM failures")
    assert sorted(row["generation"] for row in found) == list(range(500))
    batched.close()
