"""A table by day becomes one by month by the statements of docs/deploy.md, while events keep arriving."""

import re
from datetime import timedelta

import pytest

from app.model.errors import WarehouseUnavailable
from app.warehouse import open_warehouse
from app.warehouse.tables import TABLES
from tests.parts import ROOT
from tests.warehouse.conftest import PROJECT
from tests.warehouse.contract import NOON, instance_row

pytestmark = pytest.mark.xdist_group("cloud")

SECTION = (ROOT / "docs/deploy.md").read_text().partition("## From days to months\n")[2].partition("\n## ")[0]
STATEMENTS = [
    text.replace("\\`", "`")
    for text in re.findall(r'^bq query --use_legacy_sql=false "(.*?)"$', SECTION, re.M | re.S)
]


def made(number, **columns):
    return instance_row(
        f"r{number}",
        f"gs://b/{number}",
        ingested_at=NOON + timedelta(days=number),
        study_instance_uid=f"1.{number % 7}",
        sop_instance_uid=f"1.2.{number}",
        metadata='{"Rows":1}',
        **columns,
    )


def removal(number):
    return instance_row(f"gone{number}", f"gs://b/{number}", event_type="OBJECT_DELETE")


def test_the_page_has_the_layout_of_the_code():
    words = SECTION.replace("\\\n", "").split()
    table = TABLES["instances"]
    assert f"--time_partitioning_field={table.partition_by}" in words
    assert f"--time_partitioning_type={table.partition_unit}" in words
    assert f"--clustering_fields={','.join(table.cluster_by)}" in words


def test_no_row_is_lost_and_none_comes_twice(front, dataset, bigquery):
    name = dataset.partition(".")[2]
    front.emulator.drop_table(PROJECT, name, "instances")
    front.emulator.create_instances(PROJECT, name, "instances", "DAY")
    copy, rest, missing, clone, drop_view, drop, rename = (
        text.replace("$LAKE", dataset) for text in STATEMENTS
    )
    before = [made(number) for number in range(40)]
    bigquery.append("instances", before)

    front.emulator.create_instances(PROJECT, name, "instances_by_month", "MONTH")
    front.emulator.run(PROJECT, copy)
    delivered_again, revised = made(7), made(3, revision=5) | {"row_id": "again"}
    bigquery.append("instances", [made(41), revised, removal(4), delivered_again])
    assert bigquery.query(missing) == [{"missing": 3}]
    expected = bigquery.query("SELECT row_id FROM instances_current ORDER BY row_id")
    front.emulator.run(PROJECT, rest)
    assert bigquery.query(missing) == [{"missing": 0}]

    front.emulator.run(PROJECT, clone)
    # Here `removed` is a plain view and follows the name; in BigQuery it goes, and Terraform makes it again.
    assert drop_view == f"DROP MATERIALIZED VIEW `{dataset}.removed`"
    front.emulator.run(PROJECT, drop)
    with pytest.raises(WarehouseUnavailable):  # a delivery in this moment fails, and comes again
        bigquery.append("instances", [made(50)])
    # The emulator renames the data without the table around it, so that is made anew and filled.
    assert rename == f"ALTER TABLE `{dataset}.instances_by_month` RENAME TO instances"
    front.emulator.create_instances(PROJECT, name, "instances", "MONTH")
    back = f"INSERT INTO `{dataset}.instances` SELECT * FROM `{dataset}.instances_by_month`"
    front.emulator.run(PROJECT, back)
    warehouse = open_warehouse(front.url(dataset))
    warehouse.append("instances", [made(50)])
    warehouse.close()
    found = bigquery.query("SELECT row_id FROM instances_current ORDER BY row_id")
    assert [row["row_id"] for row in found] == sorted([*(row["row_id"] for row in expected), "r50"])
    assert bigquery.query("SELECT COUNT(*) AS n FROM instances") == [{"n": 44}]
    assert bigquery.query("SELECT COUNT(*) AS n FROM instances_by_day") == [{"n": 44}]
