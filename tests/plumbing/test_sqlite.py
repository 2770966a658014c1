"""One way to open a SQLite file: rooms, threads and processes that start at once wait for each other."""

import sqlite3
import subprocess
import sys
import threading
from contextlib import closing

import pytest

from app.bus.local.queue import Queue
from app.model.errors import BusUnavailable, ConfigError, StorageUnavailable, WarehouseUnavailable
from app.plumbing import sqlite
from app.storage.local.generations import Index
from app.warehouse.sqlite.warehouse import SqliteWarehouse
from tests.parts import ROOT


def open_index(path):
    return Index(path, path.parent)


def open_warehouse(path):
    warehouse = SqliteWarehouse(f"sqlite:{path}")
    warehouse.create()
    return warehouse


def open_queue(path):
    return Queue(path, 1200.0)


ROOMS = {
    "index": (open_index, StorageUnavailable),
    "warehouse": (open_warehouse, WarehouseUnavailable),
    "queue": (open_queue, BusUnavailable),
}
rooms = pytest.mark.parametrize(("opened", "unavailable"), ROOMS.values(), ids=ROOMS)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lake.db"


@pytest.fixture
def reader(path):
    """Another connection, in the middle of reading a file that is not in WAL mode: it bars the switch."""
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as reader:
        reader.execute("CREATE TABLE other (x)")
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM other")
        yield reader


@rooms
def test_the_switch_to_wal_waits_for_a_reader(path, reader, opened, unavailable):
    leaves = threading.Timer(0.3, lambda: reader.execute("COMMIT"))
    leaves.start()
    with closing(opened(path)):
        leaves.join()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@rooms
def test_a_file_that_stays_busy_is_unavailable_and_no_fault_of_the_configuration(
    path, reader, opened, unavailable, monkeypatch
):
    monkeypatch.setattr(sqlite, "BUSY_S", 0.1)
    with pytest.raises(unavailable, match="SQLITE_BUSY: another process has locked the file; end it"):
        opened(path)


@rooms
def test_a_file_that_is_no_database_is_a_fault_of_the_configuration(path, opened, unavailable):
    path.write_text("not a database" * 100)
    with pytest.raises(ConfigError, match="SQLITE_NOTADB"):
        opened(path)


ROUNDS = 30
START = """
import sys
from pathlib import Path
from tests.plumbing.test_sqlite import ROOMS
open_room, folder = ROOMS[sys.argv[1]][0], Path(sys.argv[2])
print("ready", flush=True)
for line in sys.stdin:
    open_room(folder / f"{line.strip()}.db").close()
    print("ready", flush=True)
"""


@pytest.mark.parametrize("room", ROOMS)
def test_processes_that_start_at_once_share_a_new_file(tmp_path, room):
    command, pipe = [sys.executable, "-c", START, room, str(tmp_path)], subprocess.PIPE
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(4)
    ]
    for number in range(ROUNDS):
        if [process.stdout.readline() for process in processes] != ["ready\n"] * 4:
            break
        for process in processes:
            print(number, file=process.stdin, flush=True)
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert "".join(errors) == ""


def test_a_commit_is_on_the_disk_when_it_returns(path):
    with closing(sqlite.connect(path)) as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_transaction_that_fails_leaves_nothing(path):
    with closing(sqlite.connect(path)) as connection:
        connection.execute("CREATE TABLE numbers (x)")
        with pytest.raises(sqlite3.OperationalError, match="no such table"), sqlite.transaction(connection):
            connection.executemany("INSERT INTO numbers VALUES (?)", [[1]]).execute("DELETE FROM nowhere")
        with sqlite.transaction(connection):
            connection.execute("INSERT INTO numbers VALUES (2)")
        assert connection.execute("SELECT x FROM numbers").fetchall() == [(2,)]


def test_a_connection_that_only_reads_makes_and_changes_no_file(path):
    with pytest.raises(sqlite3.OperationalError) as caught, closing(sqlite.connect(path, read_only=True)):
        pass
    assert sqlite.code(caught.value) == (14, "SQLITE_CANTOPEN")
    assert not path.exists()
    sqlite.connect(path).close()
    with closing(sqlite.connect(path, read_only=True)) as reader, pytest.raises(sqlite3.Error) as caught:
        reader.execute("CREATE TABLE numbers (x)")
    assert sqlite.code(caught.value)[1] == "SQLITE_READONLY"


@pytest.mark.parametrize(
    ("number", "name", "passes"),
    [
        (sqlite3.SQLITE_BUSY, "SQLITE_BUSY", True),
        (sqlite3.SQLITE_IOERR_READ, "SQLITE_IOERR_READ", True),
        (sqlite3.SQLITE_FULL, "SQLITE_FULL", True),
        (sqlite3.SQLITE_NOTADB, "SQLITE_NOTADB", False),
        (sqlite3.SQLITE_READONLY_DBMOVED, "SQLITE_READONLY_DBMOVED", False),
    ],
)
def test_an_error_is_told_by_its_code(number, name, passes):
    error = sqlite3.OperationalError("quotes a value")
    error.sqlite_errorcode, error.sqlite_errorname = number, name
    assert sqlite.code(error) == (number & 0xFF, name)
    assert sqlite.may_pass(error) is passes


def test_an_error_without_a_code_is_told_by_its_class():
    assert sqlite.code(sqlite3.ProgrammingError("closed")) == (1, "ProgrammingError")
