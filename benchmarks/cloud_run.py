"""Many objects through the whole cloud: as many rows as objects, no dead letter, and what one costs in CPU.

    python -m benchmarks.cloud_run [--objects 1000]

Objects appear in the fake Cloud Storage, their notifications go through Google's Pub/Sub emulator and are
pushed to `dicomlake serve`, which writes artifacts to Cloud Storage and rows to the BigQuery emulator by the
Storage Write API. CPU is that of the service and its workers alone. The emulator has about two pushes in
flight, so the time says nothing.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.cost import cpu_s, picture
from tests.data import apply, parse, part10
from tests.emulators import pubsub_emulator
from tests.system.e2e.cloud import Cloud, running_cloud

WARM = 10
"""The first objects start workers and load decoders; they count as rows, but not as CPU."""


@dataclass(frozen=True)
class Run:
    """What came of it; `cpu_s` of the service for one object."""

    objects: int
    rows: int
    previews: int
    dead_letters: int
    cpu_s: float
    wall_s: float

    def __str__(self) -> str:
        return (
            f"{self.objects} objects, {self.rows} rows, {self.previews} previews, {self.dead_letters} dead"
            f" letters, {1000 * self.cpu_s:.1f} ms of CPU an object, {self.wall_s:.0f} s"
        )


def put(cloud: Cloud, numbers: range) -> None:
    """Put MR slices of 256 x 256 into the landing bucket, and wait until all are acknowledged."""
    dataset = parse(picture(256, 256, "MR_small.dcm"))
    for number in numbers:
        data = part10(apply(dataset, SOPInstanceUID=f"1.2.826.0.1.3680043.8.498.{number + 1}"))
        cloud.gcs.put("landing", f"run/{number:05}.dcm", data)
    cloud.settle(seconds=60 + len(numbers))


def run(cloud: Cloud, objects: int) -> Run:
    """Put so many objects and count what came of them."""
    assert cloud.service.process is not None
    begin = time.monotonic()
    put(cloud, range(WARM))
    spent_s = -cpu_s(cloud.service.process.pid)
    put(cloud, range(WARM, objects))
    spent_s += cpu_s(cloud.service.process.pid)
    (found,) = cloud.warehouse.query(
        "SELECT COUNT(*) AS n, COUNT(preview_uri) AS previews FROM instances_current"
        " WHERE object_uri LIKE 'gs://landing/run/%'"
    )
    (letters,) = cloud.warehouse.query(
        "SELECT COUNT(*) AS n FROM dead_letter WHERE attributes LIKE '%\"run/%'"
    )
    return Run(
        objects=objects,
        rows=int(str(found["n"])),
        previews=int(str(found["previews"])),
        dead_letters=int(str(letters["n"])),
        cpu_s=spent_s / (objects - WARM),
        wall_s=time.monotonic() - begin,
    )


def main() -> None:
    """Run once and print it; exit 1 when a row is missing or a dead letter is there."""
    from tests.bq_emulator import running_emulator
    from tests.bq_front import running_front

    parser = argparse.ArgumentParser(description="Many objects through the whole cloud.")
    parser.add_argument("--objects", type=int, default=1000)
    objects = parser.parse_args().objects
    with (
        tempfile.TemporaryDirectory() as folder,
        pubsub_emulator() as pubsub,
        running_emulator() as emulator,
        running_front(emulator) as front,
        running_cloud(Path(folder), pubsub, front) as cloud,
    ):
        found = run(cloud, objects)
    print(found)
    sys.exit(0 if (found.rows, found.dead_letters) == (objects, 0) else 1)


if __name__ == "__main__":
    try:
        main()
    except pytest.skip.Exception as missing:
        sys.exit(str(missing))
