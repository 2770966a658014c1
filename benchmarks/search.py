"""What searches cost in SQLite: CPU of the statement alone, and CPU and wall time of a request.

    python -m benchmarks.search [INSTANCES ...]

Makes a lake of each size (1,000 and 100,000 instances, 20 a study) in a scratch folder, or one of 500 a study
where a size is written as `100000/500`, and serves it by the real command. Each line: CPU milliseconds of the
statement in this process, then CPU of the server and median wall milliseconds a request, bytes of an answer.
"""

from __future__ import annotations

import http.client
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock
from pathlib import Path

from app.api.dicomweb.query import read_query
from app.api.dicomweb.results import columns_of, more_of
from app.api.search import search_of
from app.model.values import Row
from app.warehouse import Warehouse, find, open_warehouse
from app.warehouse.search import Search
from benchmarks.browse import cpu_s, served

SIZES = ("1000", "100000")
ROUNDS = 40
ROOT = "1.2.826.0.1.3680043.10.9"
START = datetime(2026, 3, 1, tzinfo=UTC)
DOCUMENT = {f"Attribute{number}": "x" * 40 for number in range(60)}
"""About as long as the attributes of an ordinary slice."""


def study_uid(number: int) -> str:
    """Return the UID of a study; those of one day do not follow each other."""
    return f"{ROOT}.{number * 7919 % 1_000_003}"


def instance(number: int, per_study: int) -> Row:
    """Return the row of an instance, two series a study and two studies a patient."""
    study, index = divmod(number, per_study)
    series = index * 2 // per_study
    uid, modality = study_uid(study), ("CT", "MR", "US", "CR", "MG")[study % 5]
    patient = study // 2
    return {
        "row_id": f"{number:064x}",
        "object_uri": f"file:///lake/landing/site{study % 7}/{study}/IM{index:06}.dcm",
        "generation": 1_772_366_400_123_456_789 + number,
        "event_type": "OBJECT_FINALIZE",
        "event_time": START,
        "ingested_at": START + timedelta(seconds=number),
        "size_bytes": 525_000,
        "study_instance_uid": uid,
        "series_instance_uid": f"{uid}.{series}",
        "sop_instance_uid": f"{uid}.{series}.{index}",
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "patient_id": f"P{patient:06}",
        "patient_name": f"Doe{patient}^Jane",
        "patient_name_folded": f"doe{patient}^jane",
        "patient_birth_date": date(1970, 1, 1) + timedelta(days=patient % 20_000),
        "patient_sex": "F",
        "accession_number": f"A{study:07}",
        "study_id": str(study),
        "study_description": "CT Thorax",
        "study_date": date(2015, 1, 1) + timedelta(days=study * 7919 % 3650),
        "study_time": clock(12),
        "series_description": "axial",
        "series_number": series + 1,
        "modality": modality,
        "institution_name": "General Hospital",
        "instance_number": index + 1,
        "rows": 512,
        "columns": 512,
        "bits_allocated": 16,
        "metadata_uri": f"file:///lake/output/metadata/{study}/{index}.json",
        "preview_uri": f"file:///lake/output/images/{study}/{index}.png",
        "collection": f"site{study % 7}",
        "metadata": json.dumps({"Modality": modality, **DOCUMENT}),
    }


def fill(warehouse: Warehouse, count: int, per_study: int) -> None:
    """Store the rows."""
    warehouse.create()
    for first in range(0, count, 1000):
        last = min(first + 1000, count)
        warehouse.append("instances", [instance(number, per_study) for number in range(first, last)])


def requests() -> Iterator[tuple[str, str, Search]]:
    """Yield what each search is called, its request and the search that the route makes of it."""
    uid = study_uid(7)
    for name, level, path, below in (
        ("studies", "study", "/studies?limit=50", {}),
        ("studies, of a patient", "study", "/studies?limit=50&PatientID=P000003", {}),
        ("studies, by UID", "study", f"/studies?limit=50&StudyInstanceUID={uid}", {}),
        ("studies, by accession number", "study", "/studies?limit=50&AccessionNumber=A0000007", {}),
        ("studies, by name", "study", "/studies?limit=50&PatientName=doe3%5E*", {}),
        ("studies, of five days", "study", "/studies?limit=50&StudyDate=20200101-20200105", {}),
        ("studies, CT", "study", "/studies?limit=50&ModalitiesInStudy=CT", {}),
        ("series of a study", "series", f"/studies/{uid}/series", {"study": (uid,)}),
        (
            "instances of a series",
            "instance",
            f"/studies/{uid}/series/{uid}.0/instances",
            {"study": (uid,), "series": (f"{uid}.0",)},
        ),
        ("instances", "instance", "/instances?limit=50", {}),
    ):
        pairs = [pair.split("=") for pair in path.partition("?")[2].replace("%5E", "^").split("&") if pair]
        query = read_query((name, value) for name, value in pairs)
        search = Search(
            level,
            matches=tuple(query.matches),
            columns=columns_of(level, ()),
            more=more_of(level, ()),
            limit=query.limit or 1000,
        )
        yield name, f"/dicomweb{path}", replace(search, **below)
    of_patient = search_of({"patient_id": "P000003"})
    yield "REST, of a patient", "/search?patient_id=P000003", of_patient


def measure(size: str) -> None:
    """Print a line for each kind of search in a lake of one size."""
    count, _, per_study = size.partition("/")
    lake = Path(tempfile.mkdtemp(prefix="search-"))
    try:
        (lake / "landing").mkdir()
        warehouse = open_warehouse(f"sqlite:{lake / 'lake.db'}")
        fill(warehouse, int(count), int(per_study or 20))
        print(f"{int(count):,} instances, {per_study or 20} a study")
        with served(lake) as (pid, port):
            time.sleep(2)  # for the watcher to have looked at what is there
            connection = http.client.HTTPConnection("127.0.0.1", port)
            for name, path, search in requests():
                print(f"  {name:30}", *_statement(warehouse, search), *_request(connection, pid, path))
        warehouse.close()
    finally:
        shutil.rmtree(lake)


def _statement(warehouse: Warehouse, search: Search) -> Iterator[str]:
    took = []
    for _ in range(ROUNDS):
        began = time.process_time()
        find(warehouse, search)
        took.append(time.process_time() - began)
    yield f"{1000 * statistics.median(took):7.2f} ms"


def _request(connection: http.client.HTTPConnection, pid: int, path: str) -> Iterator[str]:
    body, walls, before = b"", [], 0.0
    for number in range(ROUNDS + 5):
        if number == 5:
            before = cpu_s(pid)
        began = time.perf_counter()
        connection.request("GET", path, headers={"Accept-Encoding": "identity"})
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status in (200, 204), (answer.status, path, body[:200])
        walls.append(time.perf_counter() - began)
    yield f"{1000 * (cpu_s(pid) - before) / ROUNDS:7.2f} ms CPU"
    yield f"{1000 * statistics.median(walls[5:]):7.2f} ms {len(body):7} bytes"


def main() -> None:
    """Measure each size."""
    for size in sys.argv[1:] or SIZES:
        measure(size)


if __name__ == "__main__":
    main()
