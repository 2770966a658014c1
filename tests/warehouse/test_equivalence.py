"""Random histories show the same instances and the same studies in every engine that runs our SQL.

160 histories of objects that are stored, overwritten, copied, updated, described again and removed, and of
archives with members; rows come in any order, some of them twice. All go into one table, so that each engine
is asked once. What it has to answer is worked out here, by following the events in their order.
"""

import json
import random
import subprocess
from collections import Counter
from datetime import date, timedelta

import pytest

from app.warehouse import find, open_warehouse
from app.warehouse.search import Search
from app.warehouse.tables import TABLES
from app.warehouse.views import views
from tests.bq_emulator import HOME
from tests.googlesql import evaluate, googlesql
from tests.parts import ROOT, need
from tests.postgres import find_postgres, running_postgres
from tests.warehouse.conftest import PROJECT
from tests.warehouse.contract import NOON
from tests.warehouse.test_views import happen

HISTORIES = 160
ACTIONS = ("finalize", "overwrite", "update", "again", "again", "delete", "archive")
MEMBERS = ("1.dcm", "2.dcm", "3.dcm")
SHOWN = (
    *("study_instance_uid", "patient_id", "study_date", "modalities", "size_bytes"),
    *("number_of_series", "number_of_instances", "number_of_objects"),
)
ON_DUCKDB = """
import json, sys, duckdb
from benchmarks.pruning import TYPES, to_duckdb
given = json.load(sys.stdin)
database = duckdb.connect()
columns = {name: TYPES.get(kind, kind) for name, kind in given["columns"].items()}
made = ", ".join(f'"{name}" {kind}' for name, kind in columns.items())
database.execute(f"CREATE TABLE instances ({made})")
read = ", ".join(f"{name}: '{columns[name]}'" for name in given["filled"])
rows = f"read_json(?, columns={{{read}}})"
database.execute(f"INSERT INTO instances BY NAME SELECT * FROM {rows}", [given["rows"]])
for name, select in given["views"].items():
    database.execute(f"CREATE VIEW {name} AS {to_duckdb(select)}")
print(json.dumps([database.execute(sql).fetchall() for sql in given["asked"]], default=str))
"""


def history(number, draw):
    """Return the rows of one history, and those that are current in the end."""
    uris = (f"gs://b/{number}/x.dcm", f"gs://b/{number}/copy.dcm", f"gs://b/{number}/y.zip")
    events = [
        (draw.choice(uris), draw.choice(ACTIONS), frozenset(draw.sample(MEMBERS, draw.randrange(4))))
        for _ in range(draw.randrange(2, 14))
    ]

    def study(generation, member):
        return draw_study[generation, member]

    draw_study = {
        (generation, member): draw.choice((None, f"1.{number}.1", f"1.{number}.2"))
        for generation in range(1, 14)
        for member in (None, *MEMBERS)
    }
    rows, current = happen(events, study, removals=True)
    made = [values(number, row) for row in rows]
    return made, [row for row in made if row["row_id"] in {f"{number}/{row_id}" for row_id in current}]


def values(number, row):
    """Return a row with values of a data set: of copies and later versions the same instance, or another."""
    of = {**row, "row_id": f"{number}/{row['row_id']}"}
    study = row.get("study_instance_uid")
    if study is None:
        return of
    generation, revision = row["generation"], row["revision"] or 0
    series = f"{study}.{generation % 2}"
    of |= {
        "series_instance_uid": series,
        "sop_instance_uid": f"{series}.{len(row['member'] or '')}.{generation % 3}",
        "modality": ("CT", "MR", None)[generation % 3],
        "patient_id": f"P{revision % 10}",
        "patient_name_folded": f"p{revision % 10}",
        "study_date": date(2020, 1, 1 + generation),
        "size_bytes": 1000 + generation,
    }
    return of


def listed(rows):
    """Return the studies of some current rows: greatest values, distinct counts, each object once."""
    found = []
    for uid in {row["study_instance_uid"] for row in rows} - {None}:
        own = [row for row in rows if row["study_instance_uid"] == uid]

        def of(name, own=own):
            return {row[name] for row in own if row.get(name) is not None}

        sizes = {row["object_uri"]: row["size_bytes"] for row in own}
        counts = (len(of(name)) for name in ("series_instance_uid", "sop_instance_uid", "object_uri"))
        modalities = ",".join(sorted(of("modality"))) or None
        found.append(
            (uid, max(of("patient_id")), max(of("study_date")), modalities, sum(sizes.values()), *counts)
        )
    return sorted(found)


@pytest.fixture(scope="module")
def lake():
    """Rows as they arrive, in any order, a tenth of them twice; and those that are current."""
    draw = random.Random(20261130)
    rows, current = [], []
    for number in range(HISTORIES):
        made, there = history(number, draw)
        rows += made
        current += there
    rows += draw.sample(rows, len(rows) // 10)
    draw.shuffle(rows)
    arrived = [{**row, "ingested_at": NOON + timedelta(minutes=n)} for n, row in enumerate(rows)]
    return arrived, current


def test_histories_are_of_every_kind(lake):
    rows, current = lake
    kinds = Counter(row["event_type"] for row in rows)
    kinds["revision"] = len([row for row in rows if row.get("revision")])
    kinds["member"] = len([row for row in rows if row.get("member")])
    assert len(kinds) == 6
    assert min(kinds.values()) > HISTORIES / 4
    assert len(current) > HISTORIES
    assert len(listed(current)) > HISTORIES / 2


def ids(rows):
    return sorted(str(row["row_id"]) for row in rows)


def check(warehouse, lake, table="studies"):
    """Compare what a warehouse shows with what is there."""
    assert ids(warehouse.query("SELECT row_id FROM instances_current")) == ids(lake[1])
    found = find(warehouse, Search(columns=frozenset(SHOWN))).rows
    shown = warehouse.query(f"SELECT {', '.join(SHOWN)} FROM {table}")
    for rows in (found, shown):
        assert sorted(tuple(row[name] for name in SHOWN) for row in rows) == listed(lake[1])


def test_sqlite(lake, tmp_path):
    warehouse = open_warehouse(f"sqlite:{tmp_path}/lake.db")
    warehouse.create()
    warehouse.append("instances", lake[0])
    check(warehouse, lake)
    warehouse.close()


@pytest.mark.skipif(find_postgres() is None, reason="PostgreSQL is not installed")
def test_postgresql(lake):
    """Appended in parts, for the table `study` follows each of them."""
    with running_postgres() as cluster:
        warehouse = open_warehouse(cluster.url())
        warehouse.create()
        for start in range(0, len(lake[0]), 300):
            warehouse.append("instances", lake[0][start : start + 300])
        check(warehouse, lake, "study")
        warehouse.close()


@pytest.mark.xdist_group("cloud")
def test_the_bigquery_emulator(lake, front, dataset, bigquery):
    """Some rows are merged into the table of studies, the others come after that, and are merged too."""
    rows, name = lake[0], dataset.partition(".")[2]
    cut = len(rows) * 4 // 5
    bigquery.append("instances", rows[:cut])
    front.emulator.merge_studies(PROJECT, name, rows[cut]["ingested_at"])
    assert bigquery.query("SELECT COUNT(*) AS n FROM study_current")[0]["n"] > 0
    bigquery.append("instances", rows[cut:])
    check(bigquery, lake)
    front.emulator.merge_studies(PROJECT, name, rows[-1]["ingested_at"] + timedelta(hours=1))
    check(bigquery, lake, "study_current")


def test_duckdb(lake, tmp_path):
    need("the BigQuery emulator, for its DuckDB", (HOME / "bin/python").exists(), "make emulators")
    filled = sorted({name for row in lake[0] for name in row})
    (tmp_path / "rows.json").write_text("\n".join(json.dumps(row, default=str) for row in lake[0]))
    kinds = {c.name: c.type if c.mode != "REPEATED" else "STRING" for c in TABLES["instances"].columns}
    given = {
        "columns": kinds,
        "filled": filled,
        "rows": str(tmp_path / "rows.json"),
        "views": {name: views("bigquery")[name] for name in ("removed", "instances_current", "studies")},
        "asked": ["SELECT row_id FROM instances_current", f"SELECT {', '.join(SHOWN)} FROM studies"],
    }
    command = [HOME / "bin/python", "-c", ON_DUCKDB]
    ran = subprocess.run(
        command, cwd=ROOT, input=json.dumps(given), capture_output=True, text=True, check=True
    )
    current, studies = json.loads(ran.stdout)
    assert sorted(row_id for (row_id,) in current) == ids(lake[1])
    assert sorted((*row[:2], date.fromisoformat(row[2]), *row[3:]) for row in studies) == listed(lake[1])


@googlesql
def test_googlesql(lake):
    made = views("bigquery")
    found = evaluate("SELECT row_id FROM instances_current", made, {"instances": lake[0]})
    assert ids(found) == ids(lake[1])
    rows = evaluate(f"SELECT {', '.join(SHOWN)} FROM studies", made, {"instances": lake[0]})
    expected = [(uid, patient, day.isoformat(), *rest) for uid, patient, day, *rest in listed(lake[1])]
    assert sorted(tuple(row[name] for name in SHOWN) for row in rows) == expected
