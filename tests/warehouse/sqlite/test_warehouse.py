"""The SQLite warehouse: the contract, and what is its own."""

import os
import signal
import sqlite3
import threading
from contextlib import closing

import pytest

from app.model.errors import BadQuery, ConfigError, RowsRejected, WarehouseUnavailable
from app.warehouse import open_warehouse
from app.warehouse.queries import described
from app.warehouse.sqlite.warehouse import SqliteWarehouse, warehouse_errors
from app.warehouse.views import VIEWS
from tests.warehouse.contract import NOON, WarehouseContract, count, failure_row, instance_row, letter_row

ERRORS = [
    kind
    for kind in vars(sqlite3).values()
    if isinstance(kind, type) and issubclass(kind, Exception) and kind.__module__ == "sqlite3"
]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lake ä?#%" / "lake.db"


@pytest.fixture
def warehouse(path):
    warehouse = open_warehouse(f"sqlite:{path}")
    warehouse.create()
    yield warehouse
    warehouse.close()


@pytest.fixture
def raw(path, warehouse):
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


class TestSqliteWarehouse(WarehouseContract):
    """The contract on a file."""


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_no_exception_of_sqlite3_leaks(kind):
    assert len(ERRORS) >= 10
    with pytest.raises(WarehouseUnavailable) as caught, warehouse_errors():
        raise kind("value of a patient")
    assert caught.value.text == f"SQLite ({kind.__name__})"


def test_every_view_has_the_columns_it_is_described_with(warehouse, raw):
    for view in VIEWS.values():
        described = [column.name for column in view.columns]
        assert [column[0] for column in raw.execute(f"SELECT * FROM {view.name}").description] == described


@pytest.mark.parametrize(
    "sql",
    [
        "ATTACH DATABASE 'other.db' AS other",
        "PRAGMA query_only = OFF",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA user_version = 9",
        "VACUUM INTO 'copy.db'",
        "BEGIN",
        "CREATE TEMP TABLE t (x)",
        "SELECT load_extension('x')",
        "SELECT readfile('/etc/hostname')",
        "SELECT 1; SELECT 2",
        "SELECT '\0'",
        "SELECT '\ud800'",
    ],
)
def test_what_is_not_plain_reading_is_a_bad_query(warehouse, tmp_path, monkeypatch, sql):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadQuery):
        warehouse.query(sql)
    assert os.listdir(tmp_path) == ["lake ä?#%"]


def test_a_stream_that_is_given_up_does_not_keep_the_log_from_being_written_back(warehouse, raw):
    warehouse.append("failures", [failure_row(), failure_row()])
    next(warehouse.stream("SELECT code FROM failures"))
    assert len(warehouse.query("SELECT code FROM failures")) == 2
    with pytest.raises(BadQuery):
        warehouse.query("SELECT json_extract(code, '$') FROM failures")
    warehouse.append("failures", [failure_row()])
    assert raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    assert len(warehouse.query("SELECT code FROM failures")) == 3


def test_table_columns_may_be_looked_up(warehouse):
    names = [row["name"] for row in warehouse.query("PRAGMA table_info(dead_letter)")]
    assert names == ["subscription_name", "message_id", "publish_time", "data", "attributes"]
    assert warehouse.query("EXPLAIN QUERY PLAN SELECT * FROM studies")


def test_a_bad_statement_is_quoted_but_never_a_value_of_a_row(warehouse):
    with pytest.raises(BadQuery, match="no such column: colour"):
        warehouse.query("SELECT colour FROM instances")
    warehouse.append("instances", [instance_row("r1", patient_name="Doe^Jane")])
    with pytest.raises(BadQuery) as caught:
        warehouse.query("SELECT json_extract('{}', patient_name) FROM instances")
    assert caught.value.text == "SQLite stopped at a row (SQLITE_ERROR)"


def test_a_statement_without_end_is_stopped(warehouse):
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT COUNT(*) FROM n"
    with pytest.raises(BadQuery, match="took too long"):
        warehouse.query(endless, time_limit_s=0.2)


@pytest.mark.parametrize("value", ["x", "zeroblob(10000000)", "printf('%1000d', x)"])
def test_a_result_that_does_not_fit_in_memory_is_stopped(warehouse, value):
    endless = f"WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT {value} FROM n"
    with pytest.raises(BadQuery) as caught:
        warehouse.query(endless)
    assert caught.value.text == "the result is over 256 MiB; add LIMIT, or ask for fewer columns"


@pytest.mark.parametrize("value", ["zeroblob(1000000000)", "hex(zeroblob(200000000))"])
def test_a_value_that_does_not_fit_in_memory_is_a_bad_query(warehouse, value):
    with pytest.raises(BadQuery) as caught:
        warehouse.query(f"SELECT {value}")
    assert caught.value.text == "a value is over 256 MiB"


def test_columns_of_the_same_name_are_all_there(warehouse):
    (row,) = warehouse.query("SELECT 1 AS a, 2 AS a, 3 AS a_2, 4 AS a, 5 AS b")
    assert row == {"a": 1, "a_2": 2, "a_2_2": 3, "a_3": 4, "b": 5}


def test_ctrl_c_ends_a_statement_as_what_it_is(warehouse):
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT COUNT(*) FROM n"
    timer = threading.Timer(0.3, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        warehouse.query(endless, time_limit_s=20)
    timer.join()


def test_a_row_that_only_the_database_refuses_is_refused_alone(warehouse, raw):
    raw.execute(
        "CREATE TRIGGER picky BEFORE INSERT ON failures WHEN NEW.code = 'odd'"
        " BEGIN SELECT RAISE(ABORT, 'no'); END"
    )
    with pytest.raises(RowsRejected) as caught:
        warehouse.append("failures", [failure_row(code="odd"), failure_row()])
    assert caught.value.rejected == {0: "SQLITE_CONSTRAINT_TRIGGER"}
    assert count(warehouse, "failures") == 1


def test_an_append_that_fails_stores_none_of_its_rows_and_the_next_one_passes(warehouse, raw):
    raw.execute(
        "CREATE TRIGGER broken BEFORE INSERT ON failures WHEN NEW.code = 'odd'"
        " BEGIN SELECT abs(-9223372036854775808); END"
    )
    with pytest.raises(WarehouseUnavailable):
        warehouse.append("failures", [failure_row(), failure_row(code="odd")])
    warehouse.append("failures", [failure_row()])
    assert count(warehouse, "failures") == 1


def test_times_are_text_that_sqlite_reads(warehouse):
    warehouse.append("instances", [instance_row("r1", event_time=NOON)])
    (row,) = warehouse.query(
        "SELECT event_time || '' AS text, strftime('%s', event_time) AS unix, typeof(slice_thickness) AS t"
        " FROM instances"
    )
    assert row == {"text": "2026-03-01T12:00:00.250000Z", "unix": "1772366400", "t": "null"}


def test_a_value_that_only_has_the_name_of_a_column_stays_as_it_is(warehouse):
    (row,) = warehouse.query("SELECT 'CT' AS metadata, 'soon' AS event_time, 2 AS rows, NULL AS permanent")
    assert row == {"metadata": "CT", "event_time": "soon", "rows": 2, "permanent": None}


def test_the_same_row_is_stored_once(warehouse):
    for attempt in (1, 2):
        warehouse.append("instances", [instance_row("r1", delivery_attempt=attempt)])
    assert warehouse.query("SELECT delivery_attempt FROM instances") == [{"delivery_attempt": 1}]


def test_a_database_of_an_older_version_is_brought_up_to_date(warehouse, raw, path):
    warehouse.append("instances", [instance_row("r1", patient_id="P", image_type=["ORIGINAL"])])
    for view in VIEWS:
        raw.execute(f"DROP VIEW {view}")
    raw.execute("CREATE VIEW studies AS SELECT 1 AS old")
    raw.execute("ALTER TABLE instances DROP COLUMN image_type")
    raw.execute("ALTER TABLE instances DROP COLUMN metadata")
    warehouse.create()
    (row,) = warehouse.query("SELECT patient_id, image_type, metadata FROM instances_current")
    assert row == {"patient_id": "P", "image_type": [], "metadata": None}
    assert warehouse.query("SELECT * FROM studies") == []


def test_an_index_of_an_older_version_is_made_anew(warehouse, raw):
    raw.execute("DROP INDEX instances_by_object_uri")
    raw.execute("CREATE INDEX instances_by_object_uri ON instances (object_uri, generation)")
    warehouse.create()
    columns = [row[2] for row in raw.execute("PRAGMA index_info(instances_by_object_uri)")]
    assert columns[:2] == ["object_uri", "generation"]
    assert {"revision", "describe_key"} <= set(columns)


def test_what_is_described_is_found_without_reading_a_row(raw):
    sql, parameters = described(["gs://b/ct.dcm", "gs://b/mr.dcm"])
    plan = [row[3] for row in raw.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)]
    of_tables = [step for step in plan if " instances" in step or " i " in step or " j " in step]
    assert len(of_tables) == 4
    assert all("COVERING INDEX instances_by_object_uri (object_uri=?" in step for step in of_tables)


def test_create_again_writes_nothing(warehouse, raw):
    before = raw.execute("PRAGMA data_version").fetchone()
    warehouse.create()
    assert raw.execute("PRAGMA data_version").fetchone() == before


def test_other_tables_in_the_file_are_left_alone(path):
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("CREATE TABLE queue (x)")
        other.execute("INSERT INTO queue VALUES (1)")
    with closing(SqliteWarehouse(f"sqlite:{path}")) as warehouse:
        warehouse.create()
        assert warehouse.query("SELECT x FROM queue") == [{"x": 1}]


@pytest.mark.parametrize(
    "content", [b"this is no database, but it is long enough to be one" * 100, b"SQLite"]
)
def test_a_file_that_is_no_database_is_a_configuration_error(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    with closing(SqliteWarehouse(f"sqlite:{path}")) as warehouse, pytest.raises(ConfigError):
        warehouse.create()
    assert path.read_bytes() == content


def test_a_database_of_another_program_is_a_configuration_error(path):
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE instances (host TEXT)")
    with closing(SqliteWarehouse(f"sqlite:{path}")) as warehouse, pytest.raises(ConfigError):
        warehouse.create()
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("instances",)]


@pytest.mark.parametrize("place", ["lake.db/under/a/file.db", "", "\0/lake.db", "x" * 300])
def test_a_place_where_no_file_can_be_is_a_configuration_error(tmp_path, place):
    (tmp_path / "lake.db").write_text("")
    with closing(SqliteWarehouse(f"sqlite:{tmp_path}/{place}")) as warehouse, pytest.raises(ConfigError):
        warehouse.create()


def test_a_file_removed_under_the_service_takes_no_more_rows(warehouse, path):
    path.unlink()
    for call in (
        lambda: warehouse.append("instances", [instance_row("r1")]),
        lambda: warehouse.query("SELECT 1"),
        warehouse.check,
    ):
        with pytest.raises(WarehouseUnavailable):
            call()
    assert not path.exists()


def test_without_a_file_nothing_is_read_and_none_is_made(path):
    with closing(SqliteWarehouse(f"sqlite:{path}")) as warehouse:
        for call in (lambda: warehouse.query("SELECT 1"), warehouse.check):
            with pytest.raises(ConfigError) as caught:
                call()
            assert caught.value.text == (
                f"there is no warehouse yet at {path}; run `dicomlake serve` or `dicomlake ingest` first"
            )
    assert not path.exists()


def test_after_close_every_call_is_refused(warehouse):
    warehouse.close()
    with pytest.raises(WarehouseUnavailable):
        warehouse.append("instances", [instance_row("r1")])
    with pytest.raises(WarehouseUnavailable):
        warehouse.query("SELECT 1")
    warehouse.close()


def test_rows_are_read_by_others_while_the_service_runs_and_after_it_closed(warehouse, path):
    warehouse.append("dead_letter", [letter_row("m1", "{}")])
    with closing(SqliteWarehouse(f"sqlite:{path}")) as other:
        assert count(other, "dead_letter") == 1
    warehouse.close()
    with closing(SqliteWarehouse(f"sqlite:{path}")) as other:
        assert count(other, "dead_letter") == 1


TAGS = '{"00100010": {"vr": "PN"}, "00400275": {"Value": [{"00400007": {"vr": "LO"}}]}}'


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ("SELECT key FROM json_each(@tags)", ["00100010", "00400275"]),
        ("SELECT value FROM json_tree(@tags) WHERE key = 'vr'", ["PN", "LO"]),
        ("SELECT name FROM pragma_table_info('failures') LIMIT 1", ["message_id"]),
    ],
)
def test_functions_that_are_tables_are_read_at_their_first_use(tmp_path, sql, found):
    warehouse = SqliteWarehouse(f"sqlite:{tmp_path / 'lake.db'}")
    warehouse.create()
    rows = warehouse.query(sql, {"tags": TAGS} if "@tags" in sql else {})
    assert [value for row in rows for value in row.values()] == found
    warehouse.close()


@pytest.mark.parametrize(
    "sql", ["CREATE VIRTUAL TABLE t USING fts5(a)", "SELECT * FROM pragma_database_list"]
)
def test_what_is_declared_lets_nothing_else_in(tmp_path, sql):
    warehouse = SqliteWarehouse(f"sqlite:{tmp_path / 'lake.db'}")
    warehouse.create()
    with pytest.raises(BadQuery):
        warehouse.query(sql)
    warehouse.close()
