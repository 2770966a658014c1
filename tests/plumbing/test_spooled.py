"""Rows for a slow caller: all of them, in order, and the statement is not held open."""

import sqlite3
import tempfile
from contextlib import closing

import pytest

from app.model.errors import WarehouseUnavailable
from app.plumbing.spooled import spooled


@pytest.mark.parametrize("count", [0, 1, 1000, 2501])
def test_all_rows_come_in_order(count):
    assert list(spooled({"place": place} for place in range(count))) == [{"place": n} for n in range(count)]


def test_the_log_of_sqlite_can_be_reused_while_a_caller_is_slow(tmp_path):
    def busy(rows):
        """Take one of the rows, append others, and return whether the log is still needed."""
        next(rows)
        writer.execute("INSERT INTO numbers SELECT n + 10000 FROM numbers LIMIT 5000")
        return writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]

    path = tmp_path / "lake.db"
    with (
        closing(sqlite3.connect(path, isolation_level=None)) as writer,
        closing(sqlite3.connect(path)) as reader,
    ):
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("CREATE TABLE numbers (n INTEGER)")
        writer.executemany("INSERT INTO numbers VALUES (?)", [(n,) for n in range(5000)])
        assert busy(iter(spooled(reader.execute("SELECT n FROM numbers")))) == 0
        assert busy(reader.execute("SELECT n FROM numbers")) == 1


def test_rows_that_do_not_fit_are_an_error_in_one_sentence(monkeypatch):
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: open("/dev/full", "r+b", buffering=0))  # noqa: SIM115
    with pytest.raises(WarehouseUnavailable, match=r"ENOSPC.*; make room, or set TMPDIR"):
        next(spooled([{"place": 1}]))
