"""What DICOMweb costs: CPU of the server with its workers, and wall time, a request.

    python -m benchmarks.browse [SLICES]

A lake of one CT series of 512 x 512 slices (300 of them) in a scratch folder is served by the real command.
Each line: CPU milliseconds of all its processes, median wall milliseconds, bytes of an answer. `first` is
before anything is kept.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.data import get_testdata_file

from benchmarks import previews
from tests.data import part10

STUDY = "1.2.826.0.1.3680043.10.9.77"
SERIES, OTHER = f"{STUDY}.1", f"{STUDY}.2"
"""Of the other series the answers that warm the server up are, so that no import is measured."""
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
JSON, GZIP = {"Accept": "application/dicom+json"}, {"Accept-Encoding": "gzip"}
FRAME = {"Accept": 'multipart/related; type="application/octet-stream"; transfer-syntax="*"'}
FILE = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
JPEG = {"Accept": "image/jpeg"}


@dataclass(frozen=True)
class Taken:
    """What some requests took: milliseconds of CPU each, median of wall, bytes of the last answer."""

    cpu_ms: float
    wall_ms: float
    size: int


def slices(folder: Path, count: int, series: str = SERIES) -> None:
    """Write a series: pydicom's own CT with the elements of a scanner, and a bigger frame."""
    dataset = dcmread(str(get_testdata_file("CT_small.dcm", download=False)))
    dataset.Rows, dataset.Columns = previews.CT
    dataset.PixelData = previews.pixels(previews.Case("CT", previews.CT)).tobytes()
    dataset.WindowCenter, dataset.WindowWidth = "40", "400"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = STUDY, series
    for number in range(1, count + 1):
        dataset.SOPInstanceUID, dataset.InstanceNumber = f"{series}.{number}", str(number)
        (folder / f"{series}.{number:04}.dcm").write_bytes(part10(dataset))


@contextmanager
def served(lake: Path) -> Iterator[tuple[int, int]]:
    """Serve what lies in a lake; yields process id and port."""
    environment = {**os.environ, "DICOMLAKE_CONFIG": json.dumps(settings(lake))}
    command = [sys.executable, "-m", "app", "serve", "--port", "0"]
    log = lake / "service.log"  # a pipe that nobody reads would fill up with lines of the audit log
    with log.open("wb") as stream:
        process = subprocess.Popen(command, env=environment, stderr=stream)
    try:
        while not (found := re.search(r"127\.0\.0\.1:(\d+)", log.read_text())):
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        yield process.pid, int(found[1])
    finally:
        process.terminate()
        process.wait()


def settings(lake: Path) -> dict[str, dict[str, str]]:
    """Return the settings of a lake in a folder."""
    return {
        "source": {"url": f"file:{lake / 'landing'}"},
        "artifacts": {"url": f"file:{lake / 'output'}"},
        "warehouse": {"url": f"sqlite:{lake / 'lake.db'}"},
        "bus": {"url": f"local:{lake / 'lake.db'}"},
    }


def cpu_s(pid: int) -> float:
    """Return the CPU of a process, its living descendants and the dead ones that were waited for."""
    parents, took = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
            took[int(entry.name)] = sum(map(int, fields[11:15])) * TICK_S
    family = {pid}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(took.get(member, 0.0) for member in family)


class Client:
    """Sends requests on one connection and measures them."""

    def __init__(self, pid: int, port: int) -> None:
        self._pid, self._connection = pid, http.client.HTTPConnection("127.0.0.1", port)

    def get(self, path: str, headers: dict[str, str]) -> bytes:
        self._connection.request("GET", f"/dicomweb/studies/{STUDY}{path}", headers=headers)
        answer = self._connection.getresponse()
        body = answer.read()
        assert answer.status in (200, 304), (answer.status, path, body[:200])
        return body

    def measure(self, paths: Sequence[str], headers: dict[str, str]) -> Taken:
        """Return what these requests took, one after the other."""
        before, walls, size = cpu_s(self._pid), [], 0
        for path in paths:
            began = time.perf_counter()
            size = len(self.get(path, headers))
            walls.append(time.perf_counter() - began)
        cpu = (cpu_s(self._pid) - before) / len(paths)
        return Taken(1000 * cpu, 1000 * statistics.median(walls), size)


def report(client: Client, count: int) -> Iterator[tuple[str, Taken]]:
    """Yield what each kind of request took."""
    series = f"/series/{SERIES}"
    instances = [f"{series}/instances/{SERIES}.{number}" for number in range(1, count + 1)]
    warm = f"/series/{OTHER}"
    client.measure([f"{warm}/metadata"], JSON | GZIP)
    client.measure([f"{warm}/thumbnail", *[f"{warm}/instances/{OTHER}.1/rendered"] * 40], JPEG)
    yield "thumbnail, first", client.measure([f"{one}/thumbnail" for one in instances[1:]], JPEG)
    yield "thumbnail, kept", client.measure([f"{one}/thumbnail" for one in instances[1:]], JPEG)
    metadata = f"{series}/metadata"
    yield f"series metadata of {count}, first, gzip", client.measure([metadata], JSON | GZIP)
    yield f"series metadata of {count}, kept, gzip", client.measure([metadata] * 50, JSON | GZIP)
    yield f"series metadata of {count}, kept", client.measure([metadata] * 50, JSON)
    yield "instance metadata", client.measure([f"{one}/metadata" for one in instances], JSON)
    yield "frame", client.measure([f"{one}/frames/1" for one in instances], FRAME)
    yield "file", client.measure(instances, FILE)
    yield "rendered 512 x 512", client.measure([f"{one}/rendered" for one in instances], JPEG)


def main() -> None:
    """Print one line a kind of request."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    lake = Path(tempfile.mkdtemp(prefix="browse-"))
    try:
        (lake / "landing").mkdir()
        slices(lake / "landing", count)
        slices(lake / "landing", 2, OTHER)
        environment = {**os.environ, "DICOMLAKE_CONFIG": json.dumps(settings(lake))}
        command = [sys.executable, "-m", "app", "ingest", str(lake / "landing")]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        with served(lake) as (pid, port):
            time.sleep(2)  # for the watcher to have looked at what is there
            client = Client(pid, port)
            for name, taken in report(client, count):
                print(f"{name:42} {taken.cpu_ms:7.2f} ms CPU {taken.wall_ms:7.2f} ms {taken.size:9} bytes")
    finally:
        shutil.rmtree(lake)


if __name__ == "__main__":
    main()
