"""BigQuery: the contract, behind a strict front; then what is its own."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from google.api_core.iam import Policy
from google.cloud.bigquery import AccessEntry, Table, TimePartitioning

from app.model.errors import RowsRejected
from app.warehouse import open_warehouse
from app.warehouse.batch import BatchedWarehouse
from app.warehouse.bigquery.client import grants, layout_fault
from app.warehouse.tables import TABLES
from tests.parts import ROOT
from tests.warehouse.contract import NOON, WarehouseContract, count, instance_row

pytestmark = pytest.mark.xdist_group("cloud")
UIDS = ["study_instance_uid", "series_instance_uid", "sop_instance_uid", "modality"]
LONG_AGO = datetime(1990, 1, 1, tzinfo=UTC)  # BigQuery has no partition for it


@pytest.fixture
def warehouse(bigquery):
    return bigquery


class TestBigQuery(WarehouseContract):
    """The contract."""

    def test_what_was_just_made_is_as_the_code_has_it(self, warehouse):
        """The emulator has no text of views, so that no view is as in the code; its tables are."""
        assert warehouse.outdated() == ["instances_current", "series", "studies", "dead_letters"]


def test_who_may_write_is_the_grants_of_the_table_and_its_dataset():
    """By the client's own types; no emulator knows grants."""
    entries = [
        AccessEntry("WRITER", "userByEmail", "ingest@p.iam.gserviceaccount.com"),
        AccessEntry(None, "view", {"projectId": "p", "datasetId": "d", "tableId": "v"}),
    ]
    policy = Policy()
    policy.bindings = [{"role": "roles/bigquery.dataEditor", "members": {"serviceAccount:a@p"}}]
    assert ("WRITER", "serviceAccount:ingest@p.iam.gserviceaccount.com") in grants(entries, policy)
    assert ("roles/bigquery.dataEditor", "serviceAccount:a@p") in grants(entries, policy)
    assert len(grants(entries, policy)) == 2


@pytest.mark.parametrize(
    ("field", "unit", "clusters", "fault"),
    [
        ("ingested_at", "MONTH", UIDS, ""),
        ("ingested_at", "DAY", UIDS, ""),  # as datasets were deployed before
        (None, "", UIDS, "no partitions by ingested_at"),
        ("event_time", "MONTH", UIDS, "no partitions by ingested_at"),
        ("ingested_at", "HOUR", UIDS, "partitions of one HOUR each"),
        ("ingested_at", "MONTH", UIDS[:2], f"not clustered by {', '.join(UIDS)}"),
        ("ingested_at", "MONTH", None, f"not clustered by {', '.join(UIDS)}"),
    ],
)
def test_a_table_of_another_layout_is_outdated(field, unit, clusters, fault):
    made = Table("my-project.lake.instances")
    made.time_partitioning = TimePartitioning(type_=unit, field=field) if field else None
    made.clustering_fields = clusters
    assert layout_fault(made, TABLES["instances"]) == fault


def test_a_table_may_need_no_layout():
    made = Table("my-project.lake.dead_letter")
    assert layout_fault(made, TABLES["dead_letter"]) == ""
    made.time_partitioning = TimePartitioning(type_="DAY", field="failed_at")
    assert layout_fault(made, TABLES["dead_letter"]) == "partitions by failed_at"


def test_opening_and_create_ask_nothing(front, dataset):
    warehouse = open_warehouse(front.url(dataset))
    warehouse.create()
    warehouse.append("instances", [])
    warehouse.close()
    assert (front.asked, front.calls) == ([], 0)


def test_each_use_loads_only_the_sdk_it_needs():
    code = """
import sys
from app.model.errors import WarehouseUnavailable
from app.warehouse import open_warehouse

def loaded():
    sdks = ("google.cloud.bigquery", "google.cloud.bigquery_storage_v1", "grpc")
    print([name in sys.modules for name in sdks], "app.warehouse.bigquery.write_api" in sys.modules)

def use(call):
    try:
        call()
    except WarehouseUnavailable:
        loaded()

def opened():
    return open_warehouse(
        "bigquery:demo-project.lake?endpoint=http://127.0.0.1:1&write_endpoint=http://127.0.0.1:1"
    )

opened().create()
loaded()
use(lambda: opened().append("failures", [{"code": "x", "failed_at": __import__("datetime").datetime.now(
    __import__("datetime").timezone.utc)}]))
del sys.modules["app.warehouse.bigquery.write_api"]
use(opened().check)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines() == [
        "[False, False, False] False",
        "[False, True, True] True",
        "[True, True, True] False",
    ]


def test_without_the_packages_the_door_says_what_to_install():
    code = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == "google.cloud.bigquery":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from app.model.errors import ConfigError
from app.warehouse import open_warehouse
try:
    open_warehouse("bigquery:demo-project.lake")
except ConfigError as exc:
    print(exc)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == (
        "warehouse.url bigquery: needs dicomlake[gcp]; google.cloud.bigquery is not installed"
    )


class TestBadRows:
    """Rows that only BigQuery refuses."""

    def test_a_row_that_only_bigquery_refuses_is_refused_alone_and_no_value_is_told(self, warehouse):
        rows = [instance_row("r0"), instance_row("r1", ingested_at=LONG_AGO), instance_row("r2")]
        with pytest.raises(RowsRejected) as caught:
            warehouse.append("instances", rows)
        assert caught.value.rejected.keys() == {1}
        assert caught.value.rejected[1] == "FIELDS_ERROR"
        assert count(warehouse, "instances") == 2

    def test_a_document_that_is_no_json_is_refused_alone(self, warehouse):
        with pytest.raises(RowsRejected) as caught:
            warehouse.append("instances", [instance_row("r0"), instance_row("r1", metadata='{"a":')])
        assert caught.value.rejected.keys() == {1}
        assert count(warehouse, "instances") == 1

    def test_the_bad_row_is_found_when_bigquery_does_not_say_which(self, front, warehouse):
        front.names_rows = False
        rows = [instance_row(f"r{i}", ingested_at=LONG_AGO if i in (3, 8) else NOON) for i in range(10)]
        with pytest.raises(RowsRejected) as caught:
            warehouse.append("instances", rows)
        assert caught.value.rejected == dict.fromkeys((3, 8), "BigQuery refuses the row")
        assert count(warehouse, "instances") == 8

    def test_a_bad_row_fails_only_the_caller_that_brought_it(self, front, warehouse):
        batched = BatchedWarehouse(warehouse, 500, 9_000_000)
        rows = [instance_row(f"r{i}", ingested_at=LONG_AGO if i == 7 else NOON) for i in range(16)]

        def append(row):
            try:
                batched.append("instances", [row])
            except RowsRejected as exc:
                return exc.rejected
            return None

        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(append, rows))
        assert found == [{0: "FIELDS_ERROR"} if i == 7 else None for i in range(16)]
        assert count(warehouse, "instances") == 15


class TestSizes:
    """BigQuery takes ten million bytes a request."""

    def test_rows_go_in_requests_under_the_limit(self, front, warehouse):
        warehouse.append(
            "instances", [instance_row(f"r{i}", metadata=f'"{"x" * 3_500_000}"') for i in range(3)]
        )
        assert len([line for line in front.asked if "AppendRows" in line]) == 2
        assert count(warehouse, "instances", "metadata IS NOT NULL") == 3

    def test_the_metadata_of_a_row_over_the_limit_stays_in_its_artifact(self, warehouse):
        earlier = [{"tag": "00100030", "code": "not_a_date"}]
        row = instance_row(
            "r1", metadata=json.dumps("x" * 9_100_000), warnings=earlier, metadata_uri="gs://m"
        )
        warehouse.append("instances", [row, instance_row("r2", "gs://b/2", metadata='"y"')])
        one, two = warehouse.query("SELECT metadata, metadata_uri, warnings FROM instances ORDER BY row_id")
        assert (one["metadata"], one["metadata_uri"]) == (None, "gs://m")
        assert one["warnings"] == [*earlier, {"tag": "", "code": "metadata_spilled"}]
        assert (two["metadata"], two["warnings"]) == ("y", [])
        assert row["warnings"] == earlier

    def test_a_row_over_the_limit_without_its_metadata_is_refused(self, warehouse):
        rows = [instance_row("r0", metadata="1", patient_name="x" * 9_100_000), instance_row("r1")]
        with pytest.raises(RowsRejected) as caught:
            warehouse.append("instances", rows)
        assert caught.value.rejected == {0: "the row is over the size limit"}
        assert count(warehouse, "instances") == 1
