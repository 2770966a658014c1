"""From upload to row with no code of ours before the push: a run over fake-gcs-server and Pub/Sub's emulator.

    python -m tests.system.e2e.announced [--objects 500]

Google's client uploads and deletes. fake-gcs-server announces each change to the topic, and Google's emulator
pushes it to `dicomlake serve`. Unlike Pub/Sub, the emulator has no BigQuery subscription and does not count
attempts: a subscription of the test moves what it gives up into `dead_letter`; reasons come from `failures`.
"""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.warehouse import open_warehouse
from tests.archives import zipped
from tests.data import ct
from tests.emulators import GcsServer, PubSubEmulator, gcs_server, pubsub_emulator
from tests.system.e2e.deadletter_subscription import DeadLetterSubscription
from tests.system.e2e.service import Service, until

DONE = {"stored", "deleted", "superseded"}
REMOVED = 10
"""One object in so many is deleted as soon as it is there."""
ATTEMPTS = 5
"""After so many deliveries the emulator gives a message up."""
BROKEN = [
    ("dcm", ct()[:-40], "truncated: describe: the value of 7FE00010 is cut off"),
    ("dcm", bytes(range(256)) * 4, "not_dicom: describe: the bytes do not begin as a data set"),
    ("zip", zipped([("1.dcm", ct())])[:-30], "archive_truncated: describe: the zip has no end record"),
    ("dcm", b"", "not_dicom: describe: the object is empty (0 bytes)"),
]
"""Suffix and bytes of an object, and why it is given up."""


@dataclass(frozen=True)
class Run:
    """What came of it: rows and artifacts of what is there, tombstones, and dead letters by their reasons."""

    rows: int
    previews: int
    tombstones: int
    artifacts: int
    reasons: Counter[str]

    def __str__(self) -> str:
        reasons = [f"\n  {count} {reason}" for reason, count in sorted(self.reasons.items())]
        return (
            f"{self.rows} current rows, {self.previews} previews, {self.tombstones} tombstones,"
            f" {self.artifacts} artifacts, {self.reasons.total()} dead letters:{''.join(reasons)}"
        )


class Announced:
    """A service that Pub/Sub's emulator pushes to, and the buckets of fake-gcs-server."""

    def __init__(self, server: GcsServer, service: Service) -> None:
        self.server, self.service = server, service

    def run(self, objects: int, broken: int) -> Run:
        """Upload objects and delete some of them at once, then upload broken ones; count what came of it."""
        removed = set(range(0, objects, REMOVED))
        for number in range(objects):
            name = f"run/{number:04}.dcm"
            self.server.upload("landing", name, ct(SOPInstanceUID=f"1.2.3.{number + 1}"))
            if number in removed:
                self.server.delete("landing", name)
        until(lambda: len(self.done()) == objects + len(removed), seconds=60 + objects)
        for number in range(broken):
            suffix, data, _ = BROKEN[number % len(BROKEN)]
            self.server.upload("landing", f"broken/{number}.{suffix}", data)
            self.wait_for_letters(number + 1)  # one by one: see PubSubEmulator
        (current,) = self.service.rows(
            "SELECT COUNT(*) AS n, COUNT(preview_uri) AS seen FROM instances_current"
        )
        tombstones = self.service.rows(
            "SELECT DISTINCT row_id FROM instances WHERE event_type = 'OBJECT_DELETE'"
        )
        return Run(
            rows=int(str(current["n"])),
            previews=int(str(current["seen"])),
            tombstones=len(tombstones),
            artifacts=len(self.server.names("artifacts")),
            reasons=Counter(f"{letter['code']}: {letter['reason']}" for letter in self.letters()),
        )

    def done(self) -> set[object]:
        """Return the ids of the messages that were acknowledged."""
        return {line["message_id"] for line in self.service.lines() if line.get("status") in DONE}

    def wait_for_letters(self, count: int) -> None:
        until(lambda: len(self.letters()) >= count, seconds=120)

    def letters(self) -> list[dict[str, object]]:
        """Return the open dead letters."""
        return self.service.rows("SELECT * FROM dead_letters")


def expected(objects: int, broken: int) -> Run:
    """Return what must come of a run."""
    removed = len(range(0, objects, REMOVED))
    kept = objects - removed
    reasons = Counter(BROKEN[number % len(BROKEN)][2] for number in range(broken))
    return Run(rows=kept, previews=kept, tombstones=removed, artifacts=2 * kept, reasons=reasons)


@contextmanager
def announced(folder: Path, pubsub: PubSubEmulator) -> Iterator[Announced]:
    """Run all of it."""
    topic, letters = pubsub.topic("changes"), pubsub.topic("letters")
    with gcs_server(announce="landing", topic=topic, pubsub=pubsub.host) as server:
        for bucket in ("landing", "artifacts"):
            server.make_bucket(bucket)
        service = Service(
            folder,
            source__url="gs://landing",
            artifacts__url="gs://artifacts",
            bus__url=f"pubsub:{topic}",
            bus__dead_letter_topic=letters,
        )
        service.env |= {"STORAGE_EMULATOR_HOST": server.url, "PUBSUB_EMULATOR_HOST": pubsub.host}
        subscription = pubsub.push(topic, f"{service.url}/", letters, ATTEMPTS)
        with (
            service,
            closing(open_warehouse(service.env["DICOMLAKE__WAREHOUSE__URL"])) as warehouse,
            DeadLetterSubscription(pubsub, letters, lambda row: warehouse.append("dead_letter", [row])),
        ):
            try:
                yield Announced(server, service)
            finally:
                pubsub.unsubscribe(subscription)


def main() -> None:
    """Run once and print it; exit 1 when a row, a tombstone or a letter is missing or too many."""
    parser = argparse.ArgumentParser(description="Uploads through fake-gcs-server and Pub/Sub's emulator.")
    parser.add_argument("--objects", type=int, default=500)
    parser.add_argument("--broken", type=int, default=10)
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        pubsub_emulator() as pubsub,
        announced(Path(folder), pubsub) as cloud,
    ):
        found = cloud.run(given.objects, given.broken)
    print(found)
    sys.exit(0 if found == expected(given.objects, given.broken) else 1)


if __name__ == "__main__":
    try:
        main()
    except pytest.skip.Exception as missing:
        sys.exit(str(missing))
