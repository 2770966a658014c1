"""The PostgreSQL warehouse: the contract, and what is its own."""

import contextlib
import itertools
import json
import random
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.model.errors import BadQuery, ConfigError, RowsRejected, WarehouseUnavailable
from app.warehouse import open_warehouse
from app.warehouse.postgres.warehouse import postgres_errors
from tests.postgres import find_postgres, running_postgres
from tests.warehouse.contract import WarehouseContract, count, instance_row
from tests.warehouse.search_contract import SearchContract
from tests.warehouse.test_views import EVENTS, happen

pytestmark = pytest.mark.skipif(find_postgres() is None, reason="PostgreSQL is not installed")
NUMBERS = itertools.count()
ERRORS = [
    kind for kind in vars(psycopg).values() if isinstance(kind, type) and issubclass(kind, psycopg.Error)
]


@pytest.fixture(scope="module")
def cluster():
    with running_postgres() as cluster:
        yield cluster


@pytest.fixture
def url(cluster):
    name = f"lake{next(NUMBERS)}"
    with psycopg.connect(cluster.url(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return cluster.url(name)


@pytest.fixture
def warehouse(url):
    warehouse = open_warehouse(url)
    warehouse.create()
    yield warehouse
    warehouse.close()


class TestPostgresWarehouse(WarehouseContract):
    """The contract on a server."""


class TestPostgresSearch(SearchContract):
    """The contract of searches on a server."""


def study_row(row_id, uri, study, **columns):
    return instance_row(
        row_id,
        uri,
        study_instance_uid=study,
        series_instance_uid=f"{study}.1",
        sop_instance_uid=f"{study}.1.{row_id}",
        modality="CT",
        size_bytes=10,
        **columns,
    )


def gone(row_id, uri, generation=1):
    return instance_row(row_id, uri, generation, event_type="OBJECT_DELETE")


def studies(warehouse):
    """Return the rows of the table and of the view, which must agree."""
    found = [
        warehouse.query(f"SELECT * FROM {name} ORDER BY study_instance_uid") for name in ("study", "studies")
    ]
    assert found[0] == found[1]
    return {row["study_instance_uid"]: row["number_of_instances"] for row in found[0]}


class TestStudyTable:
    """`study` shows what the view `studies` does, after each append."""

    def test_it_follows_what_arrives_and_goes(self, warehouse):
        warehouse.append("instances", [study_row("a", "gs://b/1", "1.2"), study_row("b", "gs://b/2", "1.2")])
        assert studies(warehouse) == {"1.2": 2}
        warehouse.append("instances", [study_row("c", "gs://b/3", "1.3"), gone("d", "gs://b/1")])
        assert studies(warehouse) == {"1.2": 1, "1.3": 1}
        warehouse.append("instances", [gone("e", "gs://b/2")])
        assert studies(warehouse) == {"1.3": 1}

    def test_an_object_that_becomes_one_of_another_study_leaves_the_first(self, warehouse):
        warehouse.append("instances", [study_row("a", "gs://b/1", "1.2")])
        warehouse.append("instances", [study_row("b", "gs://b/1", "1.3", generation=2)])
        assert studies(warehouse) == {"1.3": 1}

    def test_a_removal_that_came_first_counts(self, warehouse):
        warehouse.append("instances", [gone("d", "gs://b/1")])
        warehouse.append("instances", [study_row("a", "gs://b/1", "1.2")])
        assert studies(warehouse) == {}

    def test_writers_at_once_count_all(self, url, warehouse):
        """Without locks two transactions into one study left a count of one of the two."""
        writers = [open_warehouse(url) for _ in range(4)]
        rows = [study_row(f"r{n}", f"gs://b/{n}", f"1.{n % 3}") for n in range(60)]
        removals = [gone(f"g{n}", f"gs://b/{n}") for n in range(0, 60, 4)]
        with ThreadPoolExecutor(4) as pool:
            everything = rows + removals
            random.Random(7).shuffle(everything)
            list(
                pool.map(
                    lambda pair: writers[pair[0] % 4].append("instances", [pair[1]]), enumerate(everything)
                )
            )
        for writer in writers:
            writer.close()
        assert sum(studies(warehouse).values()) == 45

    def test_a_lake_of_before_gets_it_filled(self, url, warehouse):
        warehouse.append("instances", [study_row("a", "gs://b/1", "1.2")])
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("DROP TABLE study")
        warehouse.create()
        assert studies(warehouse) == {"1.2": 1}


def test_a_table_of_an_older_version_gets_its_columns_and_views(url, warehouse):
    warehouse.append("instances", [study_row("a", "gs://b/1", "1.2")])
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP VIEW instances_current CASCADE")
        connection.execute("ALTER TABLE instances DROP COLUMN patient_name_folded")
    warehouse.create()
    assert warehouse.query("SELECT patient_name_folded FROM instances_current") == [
        {"patient_name_folded": None}
    ]
    assert studies(warehouse) == {"1.2": 1}


def test_a_table_of_another_program_is_refused(url):
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE failures (id integer)")
    other = open_warehouse(url)
    with pytest.raises(ConfigError, match="another program"):
        other.create()
    other.close()


@pytest.mark.parametrize("text", ["nul \0 inside", "half \\ud800 pair"])
def test_what_postgresql_cannot_hold_costs_neither_the_row_nor_the_others(warehouse, text):
    escaped = json.dumps({"PatientComments": text.replace("\\ud800", "\ud800")})
    warehouse.append("instances", [instance_row("a", metadata=escaped), instance_row("b", "gs://b/2")])
    assert count(warehouse, "instances") == 2
    (row,) = warehouse.query("SELECT metadata FROM instances WHERE row_id = 'a'")
    assert "\N{REPLACEMENT CHARACTER}" in row["metadata"]["PatientComments"]


def test_a_bad_row_fails_alone_and_is_found_by_halves(warehouse):
    rows = [instance_row(f"r{n}", f"gs://b/{n}") for n in range(9)]
    rows[4]["metadata"] = "{no json"
    with pytest.raises(RowsRejected) as caught:
        warehouse.append("instances", rows)
    assert set(caught.value.rejected) == {4}
    assert "no json" not in caught.value.rejected[4]
    assert count(warehouse, "instances") == 8


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE instances",
        "DELETE FROM instances",
        "SELECT 1; DROP TABLE instances",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
        "COMMIT",
    ],
)
def test_a_query_changes_nothing(warehouse, sql):
    with contextlib.suppress(BadQuery):
        warehouse.query(sql)
    with contextlib.suppress(BadQuery):
        warehouse.query("INSERT INTO failures (code, failed_at) VALUES ('x', now())")
    assert count(warehouse, "failures") == 0
    assert count(warehouse, "instances") == 0


def test_a_value_is_quoted_in_no_error(warehouse):
    warehouse.append("instances", [instance_row("a", patient_id="Secret^Patient")])
    with pytest.raises(BadQuery) as caught:
        warehouse.query("SELECT CAST(patient_id AS BIGINT) FROM instances")
    assert "Secret" not in caught.value.text


def test_a_server_that_comes_back_is_found_again(cluster, warehouse):
    warehouse.append("instances", [instance_row("a")])
    list(warehouse.query("SELECT 1 AS one"))
    cluster.stop()
    for call in (
        lambda: warehouse.append("instances", [instance_row("b")]),
        lambda: warehouse.query("SELECT 1"),
        warehouse.check,
    ):
        with pytest.raises(WarehouseUnavailable):
            call()
    cluster.start()
    warehouse.append("instances", [instance_row("b", "gs://b/2")])
    assert count(warehouse, "instances") == 2


def test_a_connection_that_the_server_ended_is_replaced(url, warehouse):
    warehouse.append("instances", [instance_row("a")])
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'dicomlake' AND pid <> pg_backend_pid()"
        )
    with contextlib.suppress(WarehouseUnavailable):  # an append is repeated by the bus
        warehouse.append("instances", [instance_row("b", "gs://b/2")])
    warehouse.append("instances", [instance_row("b", "gs://b/2")])
    assert count(warehouse, "instances") == 2


def test_the_errors_of_psycopg_are_those_of_the_python_database_api():
    assert {kind.__name__ for kind in ERRORS} == {
        "Error",
        "InterfaceError",
        "DatabaseError",
        "DataError",
        "OperationalError",
        "IntegrityError",
        "InternalError",
        "ProgrammingError",
        "NotSupportedError",
    }  # PEP 249


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_no_exception_of_psycopg_leaks(kind):
    with pytest.raises(WarehouseUnavailable) as caught, postgres_errors():
        raise kind("value of a patient")
    assert caught.value.text == f"PostgreSQL ({kind.__name__})"


@pytest.mark.parametrize("url", ["postgresql://%zz", "postgresql://h:port/x y?what=1"])
def test_an_address_that_is_none_is_a_sentence_without_its_password(url):
    with pytest.raises(ConfigError) as caught:
        open_warehouse(url)
    assert url not in caught.value.text


@given(events=EVENTS, data=st.data())
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_history_shows_what_is_there_now(warehouse, events, data):
    rows, expected = happen(events)
    number = next(NUMBERS)  # histories share the tables, so that each need not make them
    of_history = [
        {**row, "row_id": f"{number}:{row['row_id']}", "object_uri": f"{row['object_uri']}#{number}"}
        for row in data.draw(st.permutations(rows))
    ]
    for row in of_history:
        warehouse.append("instances", [row])
    shown = warehouse.query(
        "SELECT row_id FROM instances_current WHERE row_id LIKE @of ORDER BY row_id", {"of": f"{number}:%"}
    )
    assert sorted(str(row["row_id"]).partition(":")[2] for row in shown) == expected
