"""A site without a cloud: Orthanc, PostgreSQL, a broker of Kafka and the service, all on this machine.

    python -m tests.system.onprem [--kills 25] [--corpus FOLDER]

Sends DICOM files to Orthanc by REST and C-STORE, and every third to the service by C-STORE; drops into the
landing folder what Orthanc refuses. Then counts what each way in has seen, the objects in landing, the rows
in PostgreSQL, and the announcements and dead letters on their topics. With `--kills` the service is killed
again and again meanwhile, Orthanc is restarted and loses its database, PostgreSQL crashes, and the broker
comes back empty.

Exit code 1 if something was lost, or is there without an object.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from pydicom.data import get_testdata_file

from tests import data
from tests.orthanc import USER, Orthanc
from tests.parts import SHARED, need
from tests.postgres import find_postgres, running_postgres
from tests.system.e2e.service import Service, free_port, until
from tests.tansu import running_broker

HERE, LAKE = "127.0.0.1", "DICOMLAKE"
TOPIC, LETTERS = "dicom.metadata.v1", "dicom.metadata.dlq"
STORED, DEAD_LETTERED = "dicomlake.instance.stored.v1", "dicomlake.message.dead_lettered.v1"
PATIENCE_S = 90
WAYS = ("orthanc", "dimse", "folder")
"""Ways in, which are also the first segments of the names of their objects."""


@dataclass
class Counts:
    """What there is of one way in; `lost` and `phantom` name what should be there, and what should not."""

    seen: int = 0
    landed: int = 0
    current: int = 0
    announced: int = 0
    dead_letters: int = 0
    dead_letters_announced: int = 0
    lost: list[str] = field(default_factory=list)
    phantom: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Message:
    """One message of a topic."""

    headers: dict[str, str]
    key: str
    value: dict[str, Any]


class LakeInPostgres(Service):
    """The service with its rows in PostgreSQL, read by psycopg alone."""

    def __init__(self, lake: Path, database: str, **settings: object) -> None:
        super().__init__(lake, warehouse__url=database, **settings)
        self._database = database

    def rows(self, sql: str) -> list[dict[str, object]]:
        import psycopg
        from psycopg.rows import dict_row

        with psycopg.connect(self._database, row_factory=dict_row) as connection:
            return connection.execute(sql).fetchall()

    def queued(self) -> bool:
        """Whether the embedded queue holds an event that may still be delivered."""
        import sqlite3
        from contextlib import closing

        with closing(sqlite3.connect(f"file:{self.lake / 'lake.db'}?mode=ro", uri=True, timeout=30)) as queue:
            return bool(queue.execute("SELECT count(*) FROM queue").fetchone()[0])


class Site:
    """All parts, started on entry and ended on exit."""

    def __init__(self, folder: Path) -> None:
        import importlib.util

        need("PostgreSQL", find_postgres() is not None, "apt-get install postgresql")
        need("psycopg", importlib.util.find_spec("psycopg") is not None, "make .venv/.test")
        need("pynetdicom", importlib.util.find_spec("pynetdicom") is not None, "make .venv/.test")
        need("dcmsend", shutil.which("dcmsend") is not None, "apt-get install dcmtk")
        self._parts = ExitStack()
        self._folder = folder
        self._earlier: dict[str, list[Message]] = {TOPIC: [], LETTERS: []}
        self._earlier_instances: set[str] = set()

    def __enter__(self) -> Site:
        with ExitStack() as parts:
            self.postgres = parts.enter_context(running_postgres())
            self.broker = parts.enter_context(running_broker())
            self.orthanc_dicom = free_port()
            self.orthanc = parts.enter_context(
                Orthanc(
                    self._folder / "orthanc",
                    DicomServerEnabled=True,
                    DicomPort=self.orthanc_dicom,
                    DicomAet="ORTHANC",
                    DicomModalities={"here": ["MODALITY", HERE, 104]},
                    DicomCheckModalityHost=True,  # it listens on every address
                    DicomAlwaysAllowStore=False,
                    UnknownSopClassAccepted=True,
                )
            )
            self.dimse = free_port()
            self.service = parts.enter_context(LakeInPostgres(self._folder / "lake", **self._settings()))
            self._parts = parts.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._parts.close()

    def _settings(self) -> dict[str, object]:
        return {
            "database": self.postgres.url(),
            "announce__urls": json.dumps([self.broker.url(TOPIC)]),
            "announce__dead_letter_urls": json.dumps([self.broker.url(LETTERS)]),
            "announce__kafka": json.dumps({"message.timeout.ms": 1500}),
            "orthanc__url": self.orthanc.url,
            "orthanc__user": USER[0],
            "orthanc__password": USER[1],
            "orthanc__poll_s": 0.2,
            "dimse__port": self.dimse,
            "dimse__peers": json.dumps([f"MODALITY@{HERE}"]),
            "delivery__permanent_attempts": 2,
            "delivery__backoff_min_s": 0.2,
            "delivery__backoff_max_s": 5,
        }

    def messages(self, topic: str) -> list[Message]:
        """Return what was ever on the topic, also on a broker that has forgotten it since."""
        read = [
            Message(
                {name: value.decode() for name, value in one.headers()},
                one.key().decode(),
                json.loads(one.value()),
            )
            for one in self.broker.read(topic)
        ]
        return self._earlier[topic] + read

    def instances(self) -> set[str]:
        """Return the IDs of what Orthanc ever had, also of what it has forgotten since."""
        return self._earlier_instances | set(self.orthanc.client.get("/instances").raise_for_status().json())

    def landed(self) -> set[str]:
        """Return the names of the objects in the landing folder."""
        root = self.service.landing
        return {str(path.relative_to(root)) for path in root.glob("*/**/*.dcm")}

    def kill(self, wait: bool) -> None:
        assert self.service.stop(signal.SIGKILL) == -signal.SIGKILL
        self.service.start(wait=wait)

    def restart_orthanc(self) -> None:
        self.orthanc.stop()
        self.orthanc.start()

    def lose_orthanc(self) -> None:
        """Let Orthanc forget all that it has, once the lake has it."""
        seen = self.instances()
        assert until(lambda: named(self.landed(), "orthanc") >= seen, PATIENCE_S), (
            self.service.log.read_text()
        )
        self._earlier_instances = seen
        self.orthanc.stop()
        self.orthanc.drop_database()
        self.orthanc.start()

    def crash_postgres(self) -> None:
        self.postgres.stop("immediate")
        self.postgres.start()

    def lose_broker(self) -> None:
        """Take the broker away for some seconds, and give it back empty.

        Its topics are read while the service is dead: what is between row and acknowledgement then has to be
        announced to the new one.
        """
        self.service.stop(signal.SIGKILL)
        for topic in (TOPIC, LETTERS):
            self._earlier[topic] = self.messages(topic)
        self.broker.stop()
        self.service.start()
        time.sleep(4)
        self.broker.start()


class Sender:
    """Sends files to the site one after the other, until `close`; `refused` are those not taken."""

    def __init__(self, site: Site, files: list[Path], folder: Path, endless: bool) -> None:
        self._site, self._folder = site, folder
        self._files = self._endless(files) if endless else iter(enumerate(files))
        self.refused: list[str] = []
        self.unsent: dict[str, str] = {}
        self.received: set[str] = set()
        self.dropped: set[str] = set()
        self.again: list[bytes] = []
        self.turn, self._end = threading.Lock(), threading.Event()
        self._thread = ThreadPoolExecutor(1)
        self._sent = self._thread.submit(self._run)

    def close(self) -> None:
        """End once the files that were given are sent."""
        self._end.set()
        self._sent.result()
        self._thread.shutdown()

    def _endless(self, files: list[Path]) -> Iterator[tuple[int, Path]]:
        yield from enumerate(files)
        for number in count(len(files)):
            if self._end.wait(0.02):
                return
            path = self._folder / f"{number}.dcm"
            path.write_bytes(data.ct(SOPInstanceUID=f"{data.SERIES}.{number}", InstanceNumber=str(number)))
            yield number, path

    def _run(self) -> None:
        for number, path in self._files:
            with self.turn:
                self._send(number, path)

    def _send(self, number: int, path: Path) -> None:
        stored = number % 2 == 1 and self._store(self._site.orthanc_dicom, "ORTHANC", path)
        if not stored and self._upload(path) and len(self.again) < 5:
            self.again.append(path.read_bytes())
        if number % 3 == 0 and (uid := self._store(self._site.dimse, LAKE, path)):
            self.received.add(uid)
        if number % 20 == 0:
            self._drop(f"text-{number}.dcm", b"just a text, no DICOM\n" * (number + 1))

    def _upload(self, path: Path) -> bool:
        answer = self._site.orthanc.client.post("/instances", content=path.read_bytes())
        if refused := answer.status_code != 200:
            self.refused.append(path.name)
            self._drop(path.name, path.read_bytes())
        return not refused

    def _store(self, port: int, title: str, path: Path) -> str | None:
        """Send a file by C-STORE as a modality does: thrice to a receiver that is there. None if in vain.

        Return the UID by which it was sent: not all files declare the one that their data set has.
        """
        peer = ["-aet", "MODALITY", "-aec", title, HERE, str(port)]
        left = 3
        while left:
            said = dcmtk("dcmsend", "-d", "-dn", "-nuc", *peer, str(path)).stdout
            status = re.search(r"DIMSE Status +: 0x(\w{4})", said)
            if status and (title != LAKE or status[1] != "a700"):
                uid = re.search(r"Affected SOP Instance UID +: (\S+)", said)
                return uid[1] if uid and status[1] == "0000" else None
            left -= status is None  # else it asks to send it again later
            assert until(lambda: dcmtk("echoscu", *peer).returncode == 0, PATIENCE_S), f"{title} is away"
        self.unsent[f"{path.name} to {title}"] = " / ".join(re.findall(r"^[EF]: (.*)", said, re.M))
        return None

    def _drop(self, name: str, content: bytes) -> None:
        """Copy a file into the landing folder, as a whole."""
        part = self._site.service.landing / f".{name}"
        part.write_bytes(content)
        target = self._site.service.landing / "folder" / name
        target.parent.mkdir(exist_ok=True)
        part.rename(target)
        self.dropped.add(name)


def dcmtk(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a program of dcmtk, with all that it prints in `stdout`."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.run(command, **streams, encoding="utf-8", errors="replace", timeout=120, check=False)


def named(names: Iterable[str], way: str) -> set[str]:
    """Return the last segments, without their ending, of the names of one way in."""
    return {name.rpartition("/")[2].removesuffix(".dcm") for name in names if name.startswith(f"{way}/")}


def disturb(site: Site, sender: Sender, kills: int) -> None:
    """Kill the service again and again, and each of the other parts once."""
    moments = random.Random(7)
    upsets = [site.restart_orthanc, site.crash_postgres, site.lose_broker, site.lose_orthanc]
    at = {(place + 1) * kills // (len(upsets) + 1): [] for place in range(len(upsets))}
    for place, upset in enumerate(upsets):
        at[(place + 1) * kills // (len(upsets) + 1)].append(upset)
    for number in range(kills):
        time.sleep(moments.uniform(0.3, 2))
        site.kill(wait=number % 3 != 2)
        for upset in at.get(number, []):
            print(f"kill {number + 1}: {upset.__name__}", file=sys.stderr)
            with sender.turn:
                upset()
                if upset == site.lose_orthanc:
                    for content in sender.again:
                        site.orthanc.upload(content)


def settle(site: Site) -> None:
    """Wait until all that Orthanc had has landed, and each object has its row or its dead letter."""
    log = site.service.log

    def ended() -> bool:
        rows = site.service.rows("SELECT object_uri FROM instances_current")
        letters = site.service.rows("SELECT object_uri FROM dead_letters")
        return len({row["object_uri"] for row in rows + letters}) >= len(site.landed())

    assert until(site.service.healthy, PATIENCE_S), log.read_text()
    assert until(lambda: named(site.landed(), "orthanc") >= site.instances(), PATIENCE_S), log.read_text()
    until(ended, PATIENCE_S)  # what is missing is counted
    until(lambda: not site.service.queued(), PATIENCE_S)


def tally(site: Site, sender: Sender) -> dict[str, Counts]:
    """Compare what was sent, what landed, the rows, and what is on the topics."""
    prefix = f"file://{site.service.landing}/"

    def by_name(uris: Iterable[object]) -> set[str]:
        return {str(uri).removeprefix(prefix) for uri in uris}

    landed = site.landed()
    rows = site.service.rows("SELECT row_id, object_uri FROM instances_current")
    history = site.service.rows("SELECT row_id FROM instances WHERE event_type = 'OBJECT_FINALIZE'")
    letters = by_name(row["object_uri"] for row in site.service.rows("SELECT object_uri FROM dead_letters"))
    events = [one for one in site.messages(TOPIC) if one.headers["ce_type"] == STORED]
    announced = {one.headers["ce_id"]: one.key for one in events}
    given_up = by_name(
        one.value["object_uri"]
        for one in site.messages(LETTERS)
        if one.value["reason"] and one.value["correlation_id"]
    )
    current = by_name(row["object_uri"] for row in rows)
    with_event = by_name(row["object_uri"] for row in rows if row["row_id"] in announced)
    strange = by_name(announced[key] for key in announced.keys() - {row["row_id"] for row in history})
    seen = {
        "orthanc": site.instances(),
        "dimse": sender.received,
        "folder": {name.removesuffix(".dcm") for name in sender.dropped},
    }
    found = {}
    for way in WAYS:
        names, good, bad = named(landed, way), named(current, way), named(letters, way)
        told, told_bad = named(with_event, way), named(given_up, way)
        lost = (seen[way] - names) | (names - good - bad) | (good - told) | (bad - told_bad)
        phantom = (names - seen[way]) | ((good | bad | told_bad) - names) | (good & bad) | named(strange, way)
        sizes = map(len, (seen[way], names, good, told, bad, told_bad))
        found[way] = Counts(*sizes, sorted(lost), sorted(phantom))
    assert len(rows) == len(current), "one row for each object"
    return found


def follow(site: Site, topic: str, part: str) -> list[str]:
    """Return the line of the log, the row and the message of the first object whose name has that part."""
    message = next(
        one
        for one in site.messages(topic)
        if part in one.key and one.headers["ce_type"] in (STORED, DEAD_LETTERED)
    )
    given = message.value["correlation_id"]
    assert message.headers["ce_correlationid"] == given
    ends = [line for line in site.service.lines() if line.get("correlation_id") == given and "status" in line]
    table = "instances" if topic == TOPIC else "failures"
    which = "correlation_id" if topic == TOPIC else "message_id"
    columns = (
        "row_id, object_uri, modality, correlation_id"
        if topic == TOPIC
        else "message_id, object_uri, code, message"
    )
    (row, *_) = site.service.rows(f"SELECT {columns} FROM {table} WHERE {which} = '{given}'")
    shown = ("ce_id", "ce_type", "ce_correlationid")
    value = {name: message.value[name] for name in ("object_uri", "code", "reason") if name in message.value}
    return [
        f"log   {json.dumps(ends[-1])}",
        f"row   {json.dumps(row)}",
        f"event {json.dumps({name: message.headers[name] for name in shown} | value)}",
    ]


def run(folder: Path, files: list[Path], kills: int) -> dict[str, Any]:
    """Send the files, disturb the site, and return the counts and what followed two correlation ids."""
    made = folder / "made"
    made.mkdir()
    with Site(folder) as site:
        sender = Sender(site, files, made, endless=kills > 0)
        try:
            disturb(site, sender, kills)
        finally:
            sender.close()
        settle(site)
        counts = tally(site, sender)
        topics = {name: len(site.messages(name)) for name in (TOPIC, LETTERS)}
        followed = follow(site, TOPIC, "/orthanc/"), follow(site, LETTERS, "/folder/text-")
    return {
        "counts": counts,
        "topics": topics,
        "refused": sender.refused,
        "unsent": sender.unsent,
        "followed": followed,
    }


def corpus(folder: Path | None = None) -> list[Path]:
    """Return the files of a folder, without one those of pydicom."""
    return sorted((folder or Path(get_testdata_file("CT_small.dcm", download=False)).parent).glob("*.dcm"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=0)
    developed = SHARED / "corpus"
    parser.add_argument("--corpus", type=Path, default=developed if developed.exists() else None)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = run(Path(folder), corpus(given.corpus), given.kills)
    heads = (
        "seen",
        "landed",
        "current",
        "announced",
        "dead_letters",
        "dead_letters_announced",
        "lost",
        "phantom",
    )
    print(f"{'':8}" + "".join(f"{head.replace('dead_letters', 'letters'):>19}" for head in heads))
    for way, counts in report["counts"].items():
        values = [len(value) if isinstance(value, list) else value for value in asdict(counts).values()]
        print(f"{way:8}" + "".join(f"{value:19}" for value in values))
    print(f"messages on the topics, repetitions and study events included: {report['topics']}")
    print(f"refused by Orthanc, so dropped into the folder: {', '.join(report['refused'])}")
    for what, why in report["unsent"].items():
        print(f"not sent by C-STORE: {what}: {why}")
    for lines in report["followed"]:
        print("", *lines, sep="\n")
    wrong = {way: asdict(one) for way, one in report["counts"].items() if one.lost or one.phantom}
    if wrong:
        print(json.dumps(wrong), file=sys.stderr)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
