"""What a million objects cost on Google Cloud: CPU and traffic of the real service, times list prices.

    python -m benchmarks.cost [--seconds 20]

The service runs as on Cloud Run with one CPU: its own process, one worker, eight pushes at a time, objects in
and artifacts out through Google's client. The store behind it is a stand-in in this process, which is not
counted; rows go to SQLite, so what BigQuery's client would add is not in the CPU. Prints the two tables of
docs/cost.md.
"""

import argparse
import base64
import json
import os
import queue
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, fields
from itertools import count
from pathlib import Path

import httpx
import imagecodecs
import numpy as np
from pydicom.data import get_testdata_file
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate
from pydicom.filereader import dcmread
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless

from tests.data import part10
from tests.e2e.service import Service
from tests.fake_gcs import FakeGcs

MILLION = 1_000_000
GIB, TIB = 2**30, 2**40
CONCURRENCY = 8

PRICES = {
    "Cloud Run: vCPU-second": 0.000024,
    "Cloud Run: GiB-second": 0.0000025,
    "Cloud Run: request": 0.40 / MILLION,
    "Cloud Storage: class A operation": 0.005 / 1000,
    "Cloud Storage: class B operation": 0.0004 / 1000,
    "Cloud Storage: GiB-month": 0.020,
    "Pub/Sub: TiB": 40.0,
    "BigQuery: GiB written": 0.025,
    "BigQuery: GiB-month": 0.02,
    "Cloud Logging: GiB": 0.50,
}
"""List prices in USD, us-central1, without free tiers and discounts; as known in November 2026."""

VCPU, MEMORY_GIB = 1, 0.5
BUSY = 0.5
"""Share of the billed time in which the CPU works; the rest waits for storage and BigQuery."""
REQUEST_LOG_BYTES = 1000
"""Cloud Run's own line for a request, beside ours."""
MIN_MESSAGE_BYTES = 1000


@dataclass(frozen=True)
class Measured:
    """What one object of a kind takes; operations, bytes, and seconds of CPU."""

    kind: str
    object_bytes: int
    cpu_s: float
    writes: float
    reads: float
    message_bytes: int
    row_bytes: int
    artifact_bytes: int
    log_bytes: int


def cost(m: Measured, prices: Mapping[str, float] = PRICES, busy: float = BUSY) -> dict[str, float]:
    """Return USD for a million objects, by service; `a month` is for keeping artifacts and rows."""
    billed_s = m.cpu_s / busy
    instance_s = VCPU * prices["Cloud Run: vCPU-second"] + MEMORY_GIB * prices["Cloud Run: GiB-second"]
    operations = m.writes * prices["Cloud Storage: class A operation"]
    operations += m.reads * prices["Cloud Storage: class B operation"]
    message = max(m.message_bytes, MIN_MESSAGE_BYTES)
    each = {
        "Cloud Run": billed_s * instance_s + prices["Cloud Run: request"],
        "Cloud Storage": operations,
        "Pub/Sub": 2 * message / TIB * prices["Pub/Sub: TiB"],  # published, and delivered once
        "BigQuery": m.row_bytes / GIB * prices["BigQuery: GiB written"],
        "Logging": (m.log_bytes + REQUEST_LOG_BYTES) / GIB * prices["Cloud Logging: GiB"],
    }
    month = m.artifact_bytes / GIB * prices["Cloud Storage: GiB-month"]
    month += m.row_bytes / GIB * prices["BigQuery: GiB-month"]
    return {
        **{name: usd * MILLION for name, usd in each.items()},
        "total": sum(each.values()) * MILLION,
        "a month": month * MILLION,
    }


def picture(rows: int, columns: int, name: str, j2k: bool = False) -> bytes:
    """Return a file with the header of one of pydicom's samples and pixels of our own: a slope and noise."""
    random = np.random.default_rng(rows)
    slope = np.linspace(200, 1800, columns, dtype=np.float32)
    samples = (slope + random.normal(0, 20, (rows, columns))).astype("<u2")
    dataset: FileDataset = dcmread(get_testdata_file(name))
    dataset.Rows, dataset.Columns = rows, columns
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, 0
    dataset.PixelData = samples.tobytes()
    syntax = ExplicitVRLittleEndian
    if j2k:
        frame = imagecodecs.jpeg2k_encode(samples, codecformat="J2K", reversible=True, level=0)
        dataset.PixelData = encapsulate([frame])
        dataset["PixelData"].VR = "OB"
        syntax = JPEG2000Lossless
    return part10(dataset, syntax)


def kinds() -> dict[str, bytes]:
    """Return what is measured, small to large."""
    return {
        "SR, no picture": Path(get_testdata_file("test-SR.dcm")).read_bytes(),
        "MR 256 x 256": picture(256, 256, "MR_small.dcm"),
        "CT 512 x 512": picture(512, 512, "CT_small.dcm"),
        "CT 512 x 512, JPEG 2000": picture(512, 512, "CT_small.dcm", j2k=True),
        "CR 2000 x 2500": picture(2500, 2000, "CT_small.dcm"),
        "MG 3328 x 4096": picture(4096, 3328, "CT_small.dcm"),
    }


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process and of all below it, with those that have ended and were reaped."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = sum(map(int, words[11:15])) / os.sysconf("SC_CLK_TCK")
    lists = Path(f"/proc/{pid}/task").glob("*/children")  # one a thread
    return own + sum(cpu_s(int(word)) for each in lists for word in each.read_text().split())


class Bench:
    """The service between a stand-in of Cloud Storage and pushes made of its notifications."""

    def __init__(self, lake: Path, gcs: FakeGcs, concurrency: int = CONCURRENCY, **limits: object) -> None:
        self.gcs = gcs
        self.messages: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.numbers = count(1)
        for bucket in ("landing", "artifacts"):
            gcs.make_bucket(bucket)
        gcs.subscribe(self._notified, bucket="landing")
        os.environ["STORAGE_EMULATOR_HOST"] = gcs.url
        places = {"source__url": "gs://landing", "artifacts__url": "gs://artifacts"}
        self.service = Service(lake, workers__count=VCPU, **places, **limits)
        self.client = httpx.Client(timeout=300, limits=httpx.Limits(max_connections=concurrency))

    def _notified(self, attributes: dict[str, str], data: bytes) -> None:
        number = str(next(self.numbers))
        message = {"attributes": attributes, "data": base64.b64encode(data).decode(), "messageId": number}
        body = {"message": message, "subscription": "projects/p/subscriptions/s", "deliveryAttempt": 1}
        self.messages.put(json.dumps(body).encode())

    def push(self, data: bytes) -> int:
        """Store an object, push its notification, and return the size of that."""
        message = self.store(data)
        answer = self.post(message)
        assert answer.status_code == 204, answer.text
        return len(message)

    def answer(self, data: bytes) -> int:
        """Store an object, push its notification, and return the status of the answer."""
        return self.post(self.store(data)).status_code

    def store(self, data: bytes) -> bytes:
        """Store an object and return a notification as a push: its own, or that of a concurrent call."""
        self.gcs.put("landing", f"{next(self.numbers)}.dcm", data)
        return self.messages.get_nowait()

    def post(self, push: bytes) -> httpx.Response:
        headers = {"content-type": "application/json"}
        return self.client.post(self.service.url, content=push, headers=headers)

    def rows(self) -> list[tuple[object, ...]]:
        with sqlite3.connect(self.service.lake / "lake.db", timeout=30) as database:
            return database.execute("SELECT * FROM instances").fetchall()

    def measure(self, kind: str, data: bytes, seconds: float) -> Measured:
        """Push objects of one kind for a while, CONCURRENCY at a time, after some that do not count."""
        assert self.service.process is not None
        with ThreadPoolExecutor(CONCURRENCY) as pool:
            list(pool.map(self.push, [data] * 2 * CONCURRENCY))
            self.gcs.requests.clear()
            earlier, log_bytes = len(self.rows()), self.service.log.stat().st_size
            spent, end = -cpu_s(self.service.process.pid), time.monotonic() + seconds
            sizes: list[int] = []
            while time.monotonic() < end:
                sizes += pool.map(self.push, [data] * CONCURRENCY)
        spent += cpu_s(self.service.process.pid)
        rows, pushes = self.rows()[earlier:], len(sizes)
        assert len(rows) == pushes
        reads = [request.method for request in self.gcs.requests].count("GET")
        values = [str(value).encode() for row in rows for value in row if value is not None]
        return Measured(
            kind=kind,
            object_bytes=len(data),
            cpu_s=spent / pushes,
            writes=(len(self.gcs.requests) - reads) / pushes,
            reads=reads / pushes,
            message_bytes=sum(sizes) // pushes,
            row_bytes=sum(map(len, values)) // pushes,
            artifact_bytes=sum(len(request.body) for request in self.gcs.requests) // pushes,
            log_bytes=(self.service.log.stat().st_size - log_bytes) // pushes,
        )


def measured_line(m: Measured) -> str:
    """Return a line of the first table."""
    size, cpu_ms = f"{m.object_bytes / 1e6:.2f}", f"{m.cpu_s * 1000:.1f}"
    numbers = (size, cpu_ms, f"{m.writes:g}", f"{m.reads:g}", *astuple(m)[5:])
    return "| " + " | ".join(map(str, (m.kind, *numbers))) + " |"


def cost_line(m: Measured) -> str:
    """Return a line of the second table."""
    return f"| {m.kind} | " + " | ".join(f"{usd:.2f}" for usd in cost(m).values()) + " |"


def table(heads: list[str], lines: list[str]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    yield "| " + " | ".join(heads) + " |"
    yield "|---" + "|---:" * (len(heads) - 1) + "|"
    yield from lines


def main() -> None:
    """Measure every kind and print both tables."""
    parser = argparse.ArgumentParser(description="What a million objects cost on Google Cloud.")
    parser.add_argument("--seconds", type=float, default=20, help="how long each kind is pushed")
    seconds = parser.parse_args().seconds
    found = []
    for kind, data in kinds().items():
        with tempfile.TemporaryDirectory() as folder, FakeGcs() as gcs:
            bench = Bench(Path(folder), gcs)
            with bench.service:
                found.append(bench.measure(kind, data, seconds))
    sizes = [field.name.replace("_bytes", ", bytes") for field in fields(Measured)[5:]]
    print(
        "\n".join(
            table(["object", "MB", "CPU ms", "writes", "reads", *sizes], [measured_line(m) for m in found])
        ),
        end="\n\n",
    )
    print("\n".join(table(["object", *cost(found[0])], [cost_line(m) for m in found])))


if __name__ == "__main__":
    main()
