"""How fast instances come in from other systems: from a real Orthanc, and from dcmtk's storescu.

    python -m benchmarks.neighbours [--instances 600]

CT slices of 0.53 MB. Each object is durable in the landing folder when it counts; no pipeline runs beside it.
Needs Orthanc and dcmtk. Prints instances a second, and the pace of the disk for the same files.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from app.model.options import DimseOptions, OrthancOptions
from app.plumbing.admission import Space
from app.sources.dimse.receiver import Receiver
from app.sources.landing import Landing
from app.sources.orthanc.poller import OrthancPoller
from app.storage import open_storage
from tests import data
from tests.orthanc import USER, Orthanc

SIDE = 512


def slices(count: int) -> list[bytes]:
    """Return CT slices that differ in their UID; 0.53 MB each."""
    pixels = data.pixels(SIDE, SIDE)
    return [
        data.ct(SOPInstanceUID=f"{data.SERIES}.{number}", Rows=SIDE, Columns=SIDE, PixelData=pixels)
        for number in range(1, count + 1)
    ]


def landing(folder: Path) -> Landing:
    return Landing(open_storage("source", f"file:{folder}"), "", Space([folder], 0))


def per_second(count: int, work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)


def disk(files: list[bytes], folder: Path, threads: int) -> float:
    """Return the pace of landing the files: what the disk takes with everything synchronized."""
    place = landing(folder)
    with ThreadPoolExecutor(threads) as pool:
        jobs = range(len(files))
        return per_second(
            len(files), lambda: list(pool.map(lambda n: place.land(f"{n}.dcm", io.BytesIO(files[n])), jobs))
        )


def polled(files: list[bytes], folder: Path) -> tuple[float, float]:
    """Return the pace of the poller, and before it that of one client that only reads the same files."""
    with Orthanc(folder / "orthanc") as orthanc:
        for one in files:
            orthanc.upload(one)
        artifacts = open_storage("artifacts", f"file:{folder / 'output'}")
        ids = orthanc.client.get(f"/instances?limit={len(files)}&since=0").json()
        headers = {"Accept-Encoding": "identity"}
        read = per_second(
            len(ids), lambda: [orthanc.client.get(f"/instances/{one}/file", headers=headers) for one in ids]
        )
        options = OrthancOptions(orthanc.url, *USER)
        poller = OrthancPoller(options, landing(folder / "landing"), artifacts, lambda: datetime.now(UTC))
        pace = per_second(len(files), poller.pull)
        assert len(list((folder / "landing/orthanc").iterdir())) == len(files)
        poller.close()
    return pace, read


def received(files: list[bytes], folder: Path, senders: int = 1) -> float:
    """Return the pace of the C-STORE SCP, in so many associations of storescu at a time."""
    options = DimseOptions("127.0.0.1", 0, "LAKE", (), senders, 60)
    receiver = Receiver(options, landing(folder / "landing"), 0)
    receiver.start()
    parts = [files[number::senders] for number in range(senders)]
    commands = []
    for number, part in enumerate(parts):
        (folder / f"{number}").mkdir(parents=True)
        for index, one in enumerate(part):
            (folder / f"{number}/{index}.dcm").write_bytes(one)
        called = ["storescu", "-aec", "LAKE", "-pdu", "131072", "--max-send-pdu", "131072", "+sd"]
        commands.append([*called, "127.0.0.1", str(receiver.port), str(folder / f"{number}")])

    def send() -> None:
        running = [subprocess.Popen(command) for command in commands]
        assert [one.wait() for one in running] == [0] * senders

    pace = per_second(len(files), send)
    assert len(list((folder / "landing/dimse/STORESCU").iterdir())) == len(files)
    receiver.close()
    return pace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=600)
    files = slices(parser.parse_args().instances)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"{len(files)} instances of {len(files[0]) / 1e6:.2f} MB")
        print(f"disk alone, one thread      {disk(files, folder / 'disk', 1):6.0f}/s")
        print(f"disk alone, four threads    {disk(files, folder / 'disks', 4):6.0f}/s")
        pace, read = polled(files, folder)
        print(f"reading Orthanc alone       {read:6.0f}/s")
        print(f"Orthanc poller              {pace:6.0f}/s")
        print(f"C-STORE, one association    {received(files, folder / 'one'):6.0f}/s")
        print(f"C-STORE, four associations  {received(files, folder / 'four', 4):6.0f}/s")


if __name__ == "__main__":
    main()
