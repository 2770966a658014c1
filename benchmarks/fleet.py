"""A lake as a whole at size: how fast it is compared with its rows, and a backlog under kills.

    python -m benchmarks.fleet [--names 1000000] [--objects 100000] [--kills 5]

`merge`: two streams of that many names are compared in this process, without a store. `hashed_names`: the
same where rows show hashes of names, so that the listing is sorted first. `reconcile`: the job of that
command on a bucket of that many objects, whose pages a stand-in in another process answers, and on SQLite
with a row for all but every thousandth. `backlog`: tests/system/faults/backlog.py. Prints JSON; exit 1 if
the backlog lost or doubled anything. CPU seconds are those of this process, so that others on the machine
hardly change them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from app import config
from app.jobs.compare import Comparison, Rows, Shown, in_order, places
from app.jobs.reconcile import Wanted, reconcile
from app.model.values import ObjectRef
from app.services import open_services
from app.storage import Listed
from tests.system.faults.backlog import Backlog, faults

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MISSING_EVERY = 1000
GENERATION = 1_700_000_000_000_000
PAGE = 1000
"""Objects of a page of Cloud Storage."""


def name(number: int) -> str:
    return f"study-{number // 500:06}/series/{number:09}.dcm"


def listing(count: int) -> Iterator[Shown]:
    for number in range(count):
        one = name(number)
        yield f"gs://landing/{one}", Listed(ObjectRef("landing", one, GENERATION), 530_724, 1.7e9)


def rows(count: int) -> Iterator[dict[str, object]]:
    for number in range(count):
        if number % MISSING_EVERY:
            uri = f"gs://landing/{name(number)}"
            yield {"object_uri": uri, "generation": GENERATION, "ingested_at": NOON}


def memory_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(work: Callable[[], tuple[int, int]]) -> dict[str, float]:
    """Run something that returns how many objects there were and how many had no row."""
    before, began, cpu = memory_mib(), time.perf_counter(), time.process_time()
    objects, missing = work()
    wall, used = time.perf_counter() - began, time.process_time() - cpu
    return {
        "objects": objects,
        "missing": missing,
        "seconds": round(wall, 2),
        "cpu_seconds": round(used, 2),
        "objects_per_cpu_second": round(objects / used),
        "added_mib": round(memory_mib() - before, 1),
    }


def merged(objects: Iterable[Shown], of_warehouse: Rows) -> tuple[int, int]:
    comparison = Comparison(objects, of_warehouse)
    missing = sum(1 for _ in comparison)
    return comparison.objects, missing


def merge(count: int) -> dict[str, float]:
    """Compare two streams; `without_streams` leaves out the time that making them takes."""
    found = timed(lambda: merged(listing(count), rows(count)))
    making = timed(lambda: (sum(1 for _ in listing(count)), sum(1 for _ in rows(count))))
    left_s = max(found["cpu_seconds"] - making["cpu_seconds"], 0.01)
    return found | {"objects_per_cpu_second_without_streams": round(count / left_s)}


def page(count: int, token: str) -> bytes:
    """Return a page of the listing as Cloud Storage answers it."""
    first = int(token or 0)
    items = [
        {
            "name": name(number),
            "generation": str(GENERATION),
            "metageneration": "1",
            "size": "530724",
            "crc32c": "AAAAAA==",
            "storageClass": "STANDARD",
        }
        for number in range(first, min(first + PAGE, count))
    ]
    answer: dict[str, object] = {"kind": "storage#objects", "items": items}
    if first + PAGE < count:
        answer["nextPageToken"] = str(first + PAGE)
    return json.dumps(answer).encode()


def serve(count: int, port: Any, pages: Any) -> None:
    """Answer listings of a bucket of so many objects, and count their pages."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked = parse_qs(urlsplit(self.path).query)
            body = page(count, asked.get("pageToken", [""])[0])
            pages.value += 1
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port.put(server.server_port)
    server.serve_forever()


@contextmanager
def bucket(count: int) -> Iterator[Any]:
    """Run the stand-in for Cloud Storage; yields the number of pages that were asked for."""
    context = multiprocessing.get_context("fork")
    port, pages = context.Queue(), context.Value("i", 0)
    process = context.Process(target=serve, args=(count, port, pages), daemon=True)
    process.start()
    os.environ["STORAGE_EMULATOR_HOST"] = f"http://127.0.0.1:{port.get()}"
    try:
        yield pages
    finally:
        process.kill()


def reconciled(folder: Path, count: int) -> dict[str, float]:
    """Run the job of `dicomlake reconcile`."""
    places_of_lake = {
        "source.url": "gs://landing",
        "artifacts.url": f"file:{folder / 'output'}",
        "warehouse.url": f"sqlite:{folder / 'lake.db'}",
        "bus.url": f"local:{folder / 'queue.db'}",
    }
    settings = config.load({}, places_of_lake).settings
    with bucket(count) as pages, closing(open_services(settings)) as lake:
        columns = {"event_type": "OBJECT_FINALIZE", "event_time": NOON}
        made = ({**row, **columns, "row_id": str(row["object_uri"])} for row in rows(count))
        while some := list(islice(made, 5000)):
            lake.warehouse.append("instances", some)

        def work() -> tuple[int, int]:
            found: Any = reconcile(lake, lake.bus.backlog(), Wanted(tuple(places(lake))), lambda line: None)
            return found["objects"], found["missing"]

        return timed(work) | {"pages": pages.value}


def main() -> None:
    parser = argparse.ArgumentParser(description="a lake as a whole at size")
    parser.add_argument("--names", type=int, default=1_000_000)
    parser.add_argument("--objects", type=int, default=100_000, help="of the backlog; 0 leaves it out")
    parser.add_argument("--kills", type=int, default=5)
    asked = parser.parse_args()
    found: dict[str, Any] = {"merge": merge(asked.names)}
    with tempfile.TemporaryDirectory() as folder:
        found["reconcile"] = reconciled(Path(folder), asked.names)
        # Last of the three: what it adds to the memory would hide what the others do.
        found["hashed_names"] = timed(lambda: merged(in_order(listing(asked.names)), rows(asked.names)))
        if asked.objects:
            found["backlog"] = Backlog(Path(folder) / "backlog", asked.objects, asked.kills).run()
    print(json.dumps(found, indent=2))
    sys.exit(any(faults(found.get("backlog", {}))))


if __name__ == "__main__":
    main()
