"""What a million objects cost on Google Cloud: CPU and traffic of the real service, times list prices.

    python -m benchmarks.cost [--seconds 20]

The service runs as on Cloud Run with one CPU: its own process, one worker, eight pushes at a time, objects in
and artifacts out through Google's client. The store behind it is a stand-in in this process, which is not
counted; rows go to SQLite, so what BigQuery's client would add is not in the CPU. Prints the tables of
docs/cost.md. Operations and bytes are counted, not measured: a test counts them again.
"""

import argparse
import base64
import json
import os
import queue
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
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

from app.model.values import REVISION
from tests.archives import zipped
from tests.data import part10
from tests.fake_gcs import FakeGcs
from tests.fake_gcs.objects import Preconditions
from tests.system.e2e.service import Service

MILLION = 1_000_000
GIB, TIB = 2**30, 2**40
CONCURRENCY = 8
MEMBERS = 3
"""Of the archive that is counted."""

PRICES = {
    "Cloud Run: vCPU-second": 0.000024,
    "Cloud Run: GiB-second": 0.0000025,
    "Cloud Run: request": 0.40 / MILLION,
    "Cloud Storage: class A operation": 0.005 / 1000,
    "Cloud Storage: class B operation": 0.0004 / 1000,
    "Cloud Storage: class A operation, multi-region": 0.010 / 1000,
    "Cloud Storage: GiB-month": 0.020,
    "Cloud Storage: GiB replicated": 0.02,
    "Network: GiB between regions of a continent": 0.02,
    "Pub/Sub: TiB": 40.0,
    "Pub/Sub: GiB-month kept": 0.27,
    "BigQuery: GiB written": 0.025,
    "BigQuery: GiB-month": 0.02,
    "BigQuery: TiB read": 6.25,
    "Cloud Logging: GiB": 0.50,
    "Cloud Monitoring: condition of an alert, a month": 0.10,
    "Cloud Monitoring: million time series returned": 0.35,
    "Artifact Registry: GiB-month": 0.10,
}
"""List prices in USD, us-central1, without free tiers and discounts; as known in November 2026."""

VCPU, MEMORY_GIB = 1, 0.5
BUSY = 0.5
"""Share of the billed time in which the CPU works; the rest waits for storage and BigQuery."""
REQUEST_LOG_BYTES = 1000
"""Cloud Run's own line for a request, beside ours."""
MIN_MESSAGE_BYTES = 1000
TOPIC_DAYS, MONTH_DAYS = 7, 30
"""`delivery.retention_days`: the topic keeps every message so long, acknowledged or not."""
CONDITIONS, EVALUATIONS = 5, MONTH_DAYS * 86_400 // 30
"""Of the alerts in tf/monitoring.tf; each is evaluated every 30 s and returns one time series."""
IMAGES, IMAGE_BYTES = 10, 120_000_000
"""What tf/registry.tf keeps, compressed and with the base. Layers that images share count once: at most."""


@dataclass(frozen=True)
class Counted:
    """What one object of a kind takes beside CPU: operations of Cloud Storage as billed, and bytes."""

    kind: str
    class_a: int
    class_b: int
    object_bytes: int
    message_bytes: int
    row_bytes: int
    artifact_bytes: int
    log_bytes: int


def cost(
    c: Counted, cpu_s: float, prices: Mapping[str, float] = PRICES, busy: float = BUSY
) -> dict[str, float]:
    """Return USD for a million objects, by service; `a month` is for keeping artifacts and rows."""
    instance_s = VCPU * prices["Cloud Run: vCPU-second"] + MEMORY_GIB * prices["Cloud Run: GiB-second"]
    each = {
        "Cloud Run": cpu_s / busy * instance_s + prices["Cloud Run: request"],
        "Cloud Storage": operations_cost(c.class_a, c.class_b, prices),
        "Pub/Sub": 2 * message_size(c) / TIB * prices["Pub/Sub: TiB"],  # published, and delivered once
        "BigQuery": c.row_bytes / GIB * prices["BigQuery: GiB written"],
        "Logging": (c.log_bytes + REQUEST_LOG_BYTES) / GIB * prices["Cloud Logging: GiB"],
    }
    month = c.artifact_bytes / GIB * prices["Cloud Storage: GiB-month"]
    month += c.row_bytes / GIB * prices["BigQuery: GiB-month"]
    return {
        **{name: usd * MILLION for name, usd in each.items()},
        "total": sum(each.values()) * MILLION,
        "a month": month * MILLION,
    }


def elsewhere(c: Counted, prices: Mapping[str, float] = PRICES) -> dict[str, float]:
    """Return USD for a million objects on top of `cost`, where buckets or service are elsewhere.

    `kept by the topic` is in every deployment of our Terraform. The others are for buckets in a multi-region,
    and for a service in another region of the continent than its buckets.
    """
    moved = prices["Network: GiB between regions of a continent"]
    dearer = (
        prices["Cloud Storage: class A operation, multi-region"] - prices["Cloud Storage: class A operation"]
    )
    kept = message_size(c) / GIB * TOPIC_DAYS / MONTH_DAYS * prices["Pub/Sub: GiB-month kept"]
    replicated = c.artifact_bytes / GIB * prices["Cloud Storage: GiB replicated"]
    each = {
        "kept by the topic": kept,
        "multi-region": c.class_a * dearer + c.object_bytes / GIB * moved + replicated,
        "another region": (c.object_bytes + c.artifact_bytes) / GIB * moved,
    }
    return {name: usd * MILLION for name, usd in each.items()}


def standing(prices: Mapping[str, float] = PRICES) -> dict[str, float]:
    """Return USD a month for what does not depend on the number of objects."""
    alert = prices["Cloud Monitoring: condition of an alert, a month"]
    alert += EVALUATIONS / MILLION * prices["Cloud Monitoring: million time series returned"]
    return {
        f"alerts: {CONDITIONS} conditions": CONDITIONS * alert,
        f"{IMAGES} images": IMAGES * IMAGE_BYTES / GIB * prices["Artifact Registry: GiB-month"],
    }


def operations_cost(class_a: int, class_b: int, prices: Mapping[str, float] = PRICES) -> float:
    """Return USD for operations of Cloud Storage in a region."""
    return (
        class_a * prices["Cloud Storage: class A operation"]
        + class_b * prices["Cloud Storage: class B operation"]
    )


def message_size(c: Counted) -> int:
    """Return the bytes that Pub/Sub bills for one message."""
    return max(c.message_bytes, MIN_MESSAGE_BYTES)


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
        "SR": Path(get_testdata_file("test-SR.dcm")).read_bytes(),
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

    def operations(self, change: Callable[[], object]) -> tuple[int, int]:
        """Change the bucket, push what it announces, and return the operations of class A and of class B."""
        self.gcs.billed.clear()
        change()
        while not self.messages.empty():
            answer = self.post(self.messages.get_nowait())
            assert answer.status_code == 204, answer.text
        return self.gcs.billed["A"], self.gcs.billed["B"]

    def count(self, kind: str, data: bytes) -> Counted:
        """Push one object and count what it takes."""
        rows, log_bytes = len(self.rows()), self.service.log.stat().st_size
        artifacts = self.artifact_bytes()
        self.gcs.billed.clear()
        message_bytes = self.push(data)
        (row,) = self.rows()[rows:]
        return Counted(
            kind=kind,
            class_a=self.gcs.billed["A"],
            class_b=self.gcs.billed["B"],
            object_bytes=len(data),
            message_bytes=message_bytes,
            row_bytes=sum(len(str(value).encode()) for value in row if value is not None),
            artifact_bytes=self.artifact_bytes() - artifacts,
            log_bytes=self.service.log.stat().st_size - log_bytes,
        )

    def artifact_bytes(self) -> int:
        return sum(len(version.data) for version in self.gcs.buckets["artifacts"].live.values())

    def cpu_s(self, data: bytes, seconds: float) -> float:
        """Push the same bytes for a while, CONCURRENCY at a time, after some that do not count."""
        assert self.service.process is not None
        with ThreadPoolExecutor(CONCURRENCY) as pool:
            list(pool.map(self.push, [data] * 2 * CONCURRENCY))
            spent, end, pushes = -cpu_s(self.service.process.pid), time.monotonic() + seconds, 0
            while time.monotonic() < end:
                pushes += len(list(pool.map(self.push, [data] * CONCURRENCY)))
        return (spent + cpu_s(self.service.process.pid)) / pushes


def count_changes(bench: Bench) -> dict[str, tuple[int, int]]:
    """Return the operations of class A and of class B that each change of an object takes, in this order."""
    gcs, landing, data = bench.gcs, bench.gcs.buckets["landing"], kinds()["CT 512 x 512"]
    packed = zipped([(f"{number}.dcm", data) for number in range(MEMBERS)])
    gcs.put("landing", "a", data)
    told = bench.messages.get_nowait()
    again = json.loads(told)
    again["message"]["attributes"][REVISION] = "1700000000"

    def keep_versions() -> None:
        landing.versioning = True
        gcs.put("landing", "b", data)

    def expire() -> None:
        (kept,) = landing.noncurrent.values()
        gcs.delete("landing", kept.name, kept.generation)
        landing.versioning = False

    changes: list[tuple[str, Callable[[], object]]] = [
        ("stored", lambda: bench.messages.put(told)),
        ("delivered again", lambda: bench.messages.put(told)),
        ("described again", lambda: bench.messages.put(json.dumps(again).encode())),
        ("overwritten", lambda: gcs.put("landing", "a", data)),
        ("its metadata changed", lambda: landing.patch("a", None, Preconditions(), {"metadata": {"a": "b"}})),
        ("removed", lambda: gcs.delete("landing", "a")),
        ("stored in a bucket that keeps versions", keep_versions),
        ("removed there", lambda: gcs.delete("landing", "b")),
        ("its kept version expired", expire),
        (f"archive of {MEMBERS} stored", lambda: gcs.put("landing", "a.zip", packed)),
        (f"archive of {MEMBERS} removed", lambda: gcs.delete("landing", "a.zip")),
    ]
    return {name: bench.operations(change) for name, change in changes}


def counted_line(c: Counted, cpu_s: float) -> str:
    """Return a line of the first table."""
    kind, *numbers = astuple(c)
    return "| " + " | ".join(map(str, (kind, f"{cpu_s * 1000:.1f}", *numbers))) + " |"


def change_line(change: str, operations: tuple[int, int]) -> str:
    """Return a line of the table of changes."""
    class_a, class_b = operations
    usd = MILLION * operations_cost(class_a, class_b)
    return f"| {change} | {class_a} | {class_b} | {usd:.2f} |"


def cost_line(kind: str, costs: Mapping[str, float]) -> str:
    """Return a line of a table of costs."""
    return f"| {kind} | " + " | ".join(f"{usd:.2f}" for usd in costs.values()) + " |"


def decimal(usd: float) -> str:
    """Return a price as it is written: no exponent, no zeros at its end."""
    return f"{usd:.9f}".rstrip("0").rstrip(".")


def table(heads: list[str], lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    yield "| " + " | ".join(heads) + " |"
    yield "|---" + "|---:" * (len(heads) - 1) + "|"
    yield from lines


def count_all(folder: Path) -> tuple[list[Counted], dict[str, tuple[int, int]]]:
    """Return what one object of each kind takes, and each change of one: the same on every machine."""
    with FakeGcs() as gcs:
        bench = Bench(folder, gcs)
        with bench.service:
            return [bench.count(kind, data) for kind, data in kinds().items()], count_changes(bench)


def measure_cpu(data: bytes, seconds: float) -> float:
    """Return the seconds of CPU for one object, of a service that has nothing else to do."""
    with tempfile.TemporaryDirectory() as folder, FakeGcs() as gcs:
        bench = Bench(Path(folder), gcs)
        with bench.service:
            return bench.cpu_s(data, seconds)


def main() -> None:
    """Count, measure the CPU of every kind, and print the tables."""
    parser = argparse.ArgumentParser(description="What a million objects cost on Google Cloud.")
    parser.add_argument("--seconds", type=float, default=20, help="how long each kind is pushed")
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as folder:
        counted, changes = count_all(Path(folder))
    cpu = [measure_cpu(data, seconds) for data in kinds().values()]
    names = [
        field.name.replace("_bytes", ", bytes").replace("class_a", "class A").replace("class_b", "class B")
        for field in fields(Counted)[1:]
    ]
    costs = {c.kind: cost(c, cpu_s) for c, cpu_s in zip(counted, cpu, strict=True)}
    further = {c.kind: elsewhere(c) for c in counted}
    tables = {
        "measured": table(["object", "CPU ms", *names], map(counted_line, counted, cpu)),
        "changes": table(
            ["change", "class A", "class B", "USD"], map(change_line, changes, changes.values())
        ),
        "prices": table(["what", "USD"], (f"| {name} | {decimal(usd)} |" for name, usd in PRICES.items())),
        "cost": table(["object", *costs["SR"]], map(cost_line, costs, costs.values())),
        "elsewhere": table(["object", *further["SR"]], map(cost_line, further, further.values())),
        "standing": table(["what", "USD a month"], (f"| {k} | {v:.2f} |" for k, v in standing().items())),
    }
    for name, lines in tables.items():
        print(f"<!-- {name} -->", *lines, f"<!-- /{name} -->", "", sep="\n")


if __name__ == "__main__":
    main()
