"""What queries cost in BigQuery on a billion rows: the columns they read, times list price.

    python -m benchmarks.query_cost

The row is that of a CT, made by the pipeline; its columns have the sizes that BigQuery counts: a STRING its
UTF-8 and 2 bytes, JSON its text, numbers and times 8 bytes, a null nothing. Prints the table of docs/cost.md.
"""

import json
import tempfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from app import pipeline
from app.model.values import EventType, GiveUp
from app.services import open_services
from app.sources.notifications import notification
from app.warehouse.study_current import SEARCHED
from app.warehouse.tables import TABLES, Column
from app.warehouse.views import VIEWS
from benchmarks.cost import PRICES, TIB, picture, table
from tests.conftest import lake_settings

ROWS = 1_000_000_000
REMOVED = 0.01
"""Share of the objects that were removed or overwritten."""
MONTHS = 36
BLOCK_BYTES = 256_000_000
"""Assumed: the rows, with all columns, that BigQuery looks at in each partition to find a study."""
STUDY_INSTANCES = 200
HOURS = 730
"""Of a month."""
PLACE = "gs://my-project-dicomlake-landing/acme/1.3.6.1.4.1.5962.1.1.1.1.1.20040119072730.12322.dcm"

BY_OBJECT = ("event_type", "object_uri", "generation", "member", "metageneration", "revision", "row_id")
"""Columns that `instances_current` always reads; where removals are announced also the study."""
ALL = tuple(column.name for column in TABLES["instances"].columns)
STUDIES = tuple(c.name for c in VIEWS["studies"].columns if c.name in ALL)


def usd(read_bytes: float) -> float:
    """Return the list price of a query that reads so much."""
    return read_bytes / TIB * PRICES["BigQuery: TiB read"]


def ct_row() -> dict[str, object]:
    """Return the row of a CT as SQLite has it, with the places it would have in the cloud."""
    with tempfile.TemporaryDirectory() as folder:
        services = open_services(lake_settings(Path(folder)))
        try:
            services.source.root.joinpath("ct.dcm").write_bytes(picture(512, 512, "CT_small.dcm"))
            ref = services.source.find("ct.dcm")
            event = notification(EventType.FINALIZE, ref, services.source.uri(ref.name), datetime.now(UTC))
            pipeline.handle(event, services, GiveUp.NOW)
            (row,) = services.warehouse.query("SELECT * FROM instances")
        finally:
            services.close()
    artifact = f"{PLACE.replace('landing', 'artifacts')}.1760000000000000"
    places = {"object_uri": PLACE, "metadata_uri": f"{artifact}.json", "preview_uri": f"{artifact}.png"}
    return row | places | {"collection": "acme"}


def size(column: Column, value: object) -> int:
    """Return the bytes that BigQuery counts for a value."""
    if value is None:
        return 0
    if column.mode == "REPEATED" or column.type == "RECORD":
        parts = json.loads(value) if isinstance(value, str) else value
        if column.mode == "REPEATED":
            one = Column(column.name, column.type, "NULLABLE", "", column.fields)
            return sum(size(one, part) for part in parts)
        return sum(size(field, parts.get(field.name)) for field in column.fields)
    text = len(str(value).encode())
    return {"STRING": 2 + text, "JSON": text, "BOOL": 1, "BYTES": 2 + text}.get(column.type, 8)


def costs(sizes: Mapping[str, int]) -> dict[str, tuple[float, float]]:
    """Return for each query how many bytes it reads where removals are not announced, and where they are.

    Where they are, a query of one study reads its columns in a block of each month, and all of `removed`.
    """

    def scan(*columns: str) -> int:
        return ROWS * sum(sizes[name] for name in {*BY_OBJECT, *columns})

    removed = ROWS * REMOVED * (sizes["object_uri"] + sizes["generation"])
    blocks = MONTHS * BLOCK_BYTES / (ROWS * sum(sizes.values()))
    study = "study_instance_uid"
    queries: dict[str, Iterable[str]] = {
        "`*` of one study": ALL,
        "the same without `metadata`": set(ALL) - {"metadata"},
        "its SOP Instance UIDs": {study, "sop_instance_uid"},
        "its row of `studies`": {*STUDIES, "series_instance_uid", "sop_instance_uid", "ingested_at"},
    }
    found = {
        name: (float(scan(*columns)), scan(study, *columns) * blocks + removed)
        for name, columns in queries.items()
    }
    found["all instances by modality"] = (scan("modality"), scan("modality", study) + removed)
    written = ROWS * sum(sizes[name] for name in ("event_type", "object_uri", "generation"))
    found["keeping `removed` up to date, once for all rows"] = (0, written)
    return found


def list_costs(sizes: Mapping[str, int]) -> dict[str, float]:
    """Return how many bytes lists of studies read, and the merges of the table that they are read from.

    Assumed: rows come at a steady rate, the studies that are touched are new ones, and a study has one
    combination of searched values. A list reads studies touched for an hour and a half, a merge for two.
    """
    studies, month = ROWS / STUDY_INSTANCES, ROWS / MONTHS
    shown = sum(sizes[name] for name in STUDIES) + sizes["modality"] + 5 * sizes["generation"]
    searched = sum(sizes[name] for name in SEARCHED)
    keys = STUDY_INSTANCES * sizes["generation"]
    uid, time = sizes["study_instance_uid"], sizes["ingested_at"]
    removed = ROWS * REMOVED * (sizes["object_uri"] + sizes["generation"])
    columns = {*BY_OBJECT, *STUDIES, *SEARCHED, "series_instance_uid", "sop_instance_uid", "ingested_at"}
    read = sum(sizes[name] for name in columns)

    def touched(hours: float) -> float:
        """Return what is read to know which studies were touched, and to aggregate these."""
        number = month / HOURS * hours / STUDY_INSTANCES
        blocks = min(month * read, number * BLOCK_BYTES * read / sum(sizes.values()))
        return month * (uid + time + sizes["object_uri"]) + studies * (uid + time + keys) + blocks + removed

    merge = touched(2) + studies * (shown + searched + keys + time)
    return {
        "a list from all rows": ROWS * read + removed,
        "a list from `study_current`": studies * (shown + searched) + touched(1.5),
        "a merge": merge,
        "the merges of a month": merge * HOURS,
    }


def main() -> None:
    """Print the tables."""
    row = ct_row()
    sizes = {column.name: size(column, row[column.name]) for column in TABLES["instances"].columns}
    print(f"a row has {sum(sizes.values())} bytes, {sizes['metadata']} of them metadata")
    lines = [
        f"| {name} | " + " | ".join(f"{read / 1e9:.1f} | {usd(read):.3f}" for read in both) + " |"
        for name, both in costs(sizes).items()
    ]
    print("\n".join(table(["query", "GB", "USD", "GB, removals announced", "USD"], lines)))
    lists = [f"| {name} | {read / 1e9:.1f} | {usd(read):.3f} |" for name, read in list_costs(sizes).items()]
    print("\n".join(table(["lists of studies", "GB", "USD"], lists)))


if __name__ == "__main__":
    main()
