"""The list of tables, the check of rows, and the documents made from them."""

import json
from datetime import UTC, date, datetime, time, timedelta, timezone

import pytest

from app.model.errors import BadQuery
from app.warehouse.dialects import DIALECTS
from app.warehouse.tables import TABLES, check_delete, check_row, type_of
from app.warehouse.views import VIEWS, ddl, views
from tests.parts import ROOT
from tests.warehouse.contract import instance_row
from tools.table_files import files


@pytest.mark.parametrize("path", sorted(files()))
def test_generated_file_is_up_to_date(path):
    assert (ROOT / path).read_text(encoding="utf-8") == files()[path], "run `make schemas`"


def test_dead_letter_has_exactly_what_a_bigquery_subscription_writes():
    found = [(column.name, column.type, column.mode) for column in TABLES["dead_letter"].columns]
    assert found == [
        ("subscription_name", "STRING", "NULLABLE"),
        ("message_id", "STRING", "NULLABLE"),
        ("publish_time", "TIMESTAMP", "NULLABLE"),
        ("data", "BYTES", "NULLABLE"),
        ("attributes", "STRING", "NULLABLE"),
    ]


def test_required_columns_are_those_of_the_contract():
    required = {c.name for c in TABLES["instances"].columns if c.mode == "REQUIRED"}
    assert required == {"row_id", "object_uri", "generation", "event_type", "event_time", "ingested_at"}


@pytest.mark.parametrize("table", [*TABLES.values(), *VIEWS.values()], ids=lambda table: table.name)
def test_columns_are_unique_described_and_of_a_known_type(table):
    names = [column.name.lower() for column in table.columns]
    assert len(set(names)) == len(names)
    for column in table.columns:
        assert column.description
        assert column.mode in {"NULLABLE", "REQUIRED", "REPEATED"}
        assert column.type in DIALECTS["sqlite"].types
        assert bool(column.fields) == (column.type == "RECORD")


def test_a_full_row_passes():
    row = instance_row(
        "r1",
        member=None,
        rows=512,
        slice_thickness=1,
        pixel_spacing=(0.5, 0.5),
        study_date=date(2026, 1, 1),
        study_time=time(1, 2, 3),
        warnings=[{"tag": "00100030", "code": "not_a_date"}],
        took_ms={"read": 1},
        metadata="{}",
    )
    assert check_row("instances", row) is None


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"colour": 1, "size": 2}, "unknown column colour, size"),
        ({"object_uri": None}, "column object_uri is required"),
        ({"rows": True}, "column rows is no INT64"),
        ({"rows": 512.0}, "column rows is no INT64"),
        ({"rows": -(2**63) - 1}, "column rows is no INT64"),
        ({"slice_thickness": float("-inf")}, "column slice_thickness is no FLOAT64"),
        ({"slice_thickness": 10**400}, "column slice_thickness is no FLOAT64"),
        ({"study_date": datetime(2026, 1, 1, tzinfo=UTC)}, "column study_date is no DATE"),
        ({"study_time": time(1, tzinfo=UTC)}, "column study_time is no TIME"),
        ({"patient_name": b"Doe"}, "column patient_name is no STRING"),
        ({"metadata": {}}, "column metadata is no JSON"),
        ({"image_type": ["ORIGINAL", None]}, "column image_type is no STRING"),
        ({"warnings": [{"tag": 1}]}, "column warnings.tag is no STRING"),
        ({"warnings": ["00100030"]}, "column warnings is no RECORD"),
        ({"took_ms": [1]}, "column took_ms is no RECORD"),
        (
            {"event_time": datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))},
            "column event_time is no TIMESTAMP",
        ),
    ],
)
def test_a_bad_row_is_told_by_its_column_without_its_value(changes, why):
    assert check_row("instances", {**instance_row("r1"), **changes}) == why


def test_every_required_column_is_asked_for():
    assert check_row("failures", {}) == "column code is required"
    assert check_row("failures", {"code": "x"}) == "column failed_at is required"


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (True, "BOOL"),
        (1, "INT64"),
        (1.5, "FLOAT64"),
        ("a", "STRING"),
        (b"a", "BYTES"),
        (datetime(2026, 1, 1, tzinfo=UTC), "TIMESTAMP"),
        (date(2026, 1, 1), "DATE"),
        (time(1), "TIME"),
        (datetime(2026, 1, 1), None),
        (2**63, None),
        ([], None),
    ],
)
def test_type_of_a_parameter(value, word):
    assert type_of(value) == word


def test_only_dead_letters_and_failures_may_be_removed():
    check_delete("dead_letter", "message_id")
    check_delete("failures", "object_uri")
    for table, column in [("instances", "row_id"), ("dead_letter", "colour")]:
        with pytest.raises(BadQuery):
            check_delete(table, column)


def test_bigquery_ddl_partitions_clusters_and_nests():
    (statement,) = ddl("instances", "bigquery", "project.dataset.")
    assert statement.startswith(
        "CREATE TABLE IF NOT EXISTS `project.dataset.instances` (\n  `row_id` STRING NOT NULL"
    )
    assert "`pixel_spacing` ARRAY<FLOAT64>" in statement
    assert "`warnings` ARRAY<STRUCT<tag STRING, code STRING>>" in statement
    assert statement.endswith(
        "PARTITION BY TIMESTAMP_TRUNC(ingested_at, MONTH)\n"
        "CLUSTER BY study_instance_uid, series_instance_uid, sop_instance_uid, modality"
    )
    assert ddl("failures", "bigquery")[0].endswith("PARTITION BY DATE(failed_at)")
    assert "PARTITION" not in ddl("dead_letter", "bigquery")[0]


def test_bigquery_views_name_their_tables_in_full():
    for name, select in views("bigquery", "project.dataset.").items():
        assert "`project.dataset.inst" in select, name
        assert "{" not in select, name


def test_columns_of_later_versions_are_at_the_end_and_may_be_null():
    added = [(c.name, c.type, c.mode) for c in TABLES["instances"].columns[-6:]]
    assert added == [
        ("collection", "STRING", "NULLABLE"),
        ("revision", "INT64", "NULLABLE"),
        ("describe_key", "STRING", "NULLABLE"),
        ("dicom_uri", "STRING", "NULLABLE"),
        ("patient_name_folded", "STRING", "NULLABLE"),
        ("patient_name_groups", "STRING", "NULLABLE"),
    ]


def test_a_row_store_keeps_the_document_behind_all_other_columns():
    assert ddl("instances", "sqlite")[0].endswith('"patient_name_groups" TEXT,\n  "metadata" TEXT\n)')


def test_terraform_schema_nests_records():
    (warnings,) = [c for c in json.loads(files()["tf/schemas/instances.json"]) if c["name"] == "warnings"]
    assert (warnings["type"], warnings["mode"]) == ("RECORD", "REPEATED")
    assert [field["name"] for field in warnings["fields"]] == ["tag", "code"]
