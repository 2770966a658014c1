"""Append and list in PostgreSQL: rows a second, with and without the table `study`, and the newest studies.

    python -m benchmarks.postgres [--rows 20000]

Starts a server of its own, with fsync as in production.
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import UTC, date, datetime, timedelta
from unittest import mock

from app.warehouse.postgres.warehouse import PostgresWarehouse
from tests.postgres import running_postgres

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
METADATA = json.dumps({f"Attribute{number:03}": "value " * 12 for number in range(90)})


def row(number: int) -> dict[str, object]:
    """Return a row of about 9 KB; 20 instances a study."""
    study = f"1.2.826.0.1.{number // 20}"
    return {
        "row_id": f"{number:064x}",
        "object_uri": f"gs://landing/{study}/{number}.dcm",
        "generation": 1,
        "event_type": "OBJECT_FINALIZE",
        "event_time": NOON,
        "ingested_at": NOON + timedelta(seconds=number),
        "study_instance_uid": study,
        "series_instance_uid": f"{study}.1",
        "sop_instance_uid": f"{study}.1.{number}",
        "patient_id": f"P{number // 60}",
        "study_date": date(2020, 1, 1) + timedelta(days=number // 20 % 2000),
        "modality": "CT",
        "size_bytes": 530_000,
        "metadata": METADATA,
    }


def append(warehouse: PostgresWarehouse, first: int, count: int, batch: int) -> float:
    """Return rows a second."""
    rows = [row(number) for number in range(first, first + count)]
    began = time.perf_counter()
    for start in range(0, count, batch):
        warehouse.append("instances", rows[start : start + batch])
    return count / (time.perf_counter() - began)


def timed(warehouse: PostgresWarehouse, sql: str) -> float:
    """Return the median of nine, in ms."""
    times = []
    for _ in range(9):
        began = time.perf_counter()
        warehouse.query(sql)
        times.append((time.perf_counter() - began) * 1000)
    return sorted(times)[4]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=20_000)
    total = parser.parse_args().rows
    with running_postgres(fsync=True) as cluster:
        warehouse = PostgresWarehouse(cluster.url())
        warehouse.create()
        print(f"rows of {len(METADATA) + 900} bytes, PostgreSQL on the same machine")
        done = 0
        for batch in (20, 500):
            rate = append(warehouse, done, 5000, batch)
            print(f"append, {batch} a commit, with table study   {rate:8.0f} rows/s")
            done += 5000
        with (
            mock.patch("app.warehouse.postgres.statements.UPSERT_STUDIES", "SELECT %s::text[]"),
            mock.patch("app.warehouse.postgres.statements.DROP_STUDIES", "SELECT %s::text[], %s::text[]"),
        ):
            rate = append(warehouse, done, 5000, 500)
            print(f"append, 500 a commit, without               {rate:8.0f} rows/s")
            done += 5000
        while done < total:
            append(warehouse, done, 5000, 500)
            done += 5000
        newest = "ORDER BY study_date DESC NULLS LAST, study_instance_uid LIMIT 50"
        for words, sql in {
            "newest 50 studies, table study": f"SELECT * FROM study {newest}",
            "newest 50 studies, view studies": f"SELECT * FROM studies {newest}",
            "study by patient, table study": "SELECT * FROM study WHERE patient_id = 'P7'",
            "instances of a study": "SELECT sop_instance_uid FROM instances_current"
            " WHERE study_instance_uid = '1.2.826.0.1.7'",
        }.items():
            print(f"{words:42} {timed(warehouse, sql):8.2f} ms at {done} rows")
        warehouse.close()


if __name__ == "__main__":
    main()
