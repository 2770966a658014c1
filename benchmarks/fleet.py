"""How fast a listing is compared with rows, and in how much memory.

    python -m benchmarks.fleet [--names 1000000] [--rows 200000]

Two streams of a million names each are compared in this process, without a store. Then a SQLite warehouse is
filled and its rows are streamed into the same comparison. Prints JSON: objects a second, and the memory that
was added meanwhile.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from app.jobs.compare import Comparison, Rows, Shown, in_order
from app.model.values import ObjectRef
from app.storage import Listed
from app.warehouse import open_warehouse
from app.warehouse.queries import versions_below

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MISSING_EVERY = 1000


def uri(number: int) -> str:
    return f"gs://landing/study-{number // 500:06}/series/{number:09}.dcm"


def listing(count: int) -> Iterator[Shown]:
    for number in range(count):
        address = uri(number)
        yield address, Listed(ObjectRef("landing", address[13:], 1_700_000_000_000_000), 530_724, 1.7e9)


def rows(count: int) -> Iterator[dict[str, object]]:
    for number in range(count):
        if number % MISSING_EVERY:
            yield {"object_uri": uri(number), "generation": 1_700_000_000_000_000, "ingested_at": NOON}


def memory_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(objects: Iterable[Shown], of_warehouse: Rows) -> dict[str, float]:
    """Compare two streams; the least memory and time are those of making them."""
    before, began, cpu = memory_mib(), time.perf_counter(), time.process_time()
    comparison = Comparison(objects, of_warehouse)
    missing = sum(1 for _ in comparison)
    wall, used = time.perf_counter() - began, time.process_time() - cpu
    return {
        "objects": comparison.objects,
        "missing": missing,
        "seconds": round(wall, 2),
        "cpu_seconds": round(used, 2),
        "objects_per_cpu_second": round(comparison.objects / used),
        "added_mib": round(memory_mib() - before, 1),
    }


def of_sqlite(folder: Path, count: int) -> dict[str, float]:
    with closing(open_warehouse(f"sqlite:{folder / 'lake.db'}")) as warehouse:
        warehouse.create()
        columns = {"event_type": "OBJECT_FINALIZE", "event_time": NOON}
        made = [{**row, **columns, "row_id": str(row["object_uri"])} for row in rows(count)]
        for start in range(0, len(made), 5000):
            warehouse.append("instances", made[start : start + 5000])
        made.clear()
        return timed(listing(count), warehouse.stream(*versions_below("gs://landing/")))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--names", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=200_000)
    asked = parser.parse_args()
    found = {"merge": timed(listing(asked.names), rows(asked.names))}
    began = time.process_time()
    for _ in listing(asked.names):
        pass
    for _ in rows(asked.names):
        pass
    streams_s = time.process_time() - began
    merge_s = found["merge"]["cpu_seconds"] - streams_s
    found["merge"]["objects_per_cpu_second_without_streams"] = round(asked.names / max(merge_s, 0.01))
    found["hashed_names"] = timed(in_order(listing(asked.names)), rows(asked.names))
    with tempfile.TemporaryDirectory() as folder:
        found["sqlite"] = of_sqlite(Path(folder), asked.rows)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
