"""What memory and concurrency an instance needs: refusals and peak memory, by size of the objects.

    python -m benchmarks.memory [--objects 24]

The service runs with the limits that tf/run.tf derives from the memory of an instance, over a stand-in of
Cloud Storage. A refusal is an answer of 429, which costs a delivery attempt. The peak is the proportional
memory (PSS) of the server, its zygote and its workers together, sampled every 20 ms; past the memory of the
instance Cloud Run kills it. One line for each combination.
"""

import argparse
import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.cost import Bench, picture
from tests.fake_gcs import FakeGcs
from tests.processes import children

MIB = 1 << 20
SERVER_MIB = 192
SIDES = {0.5: (512, 512), 8: (2048, 2048), 16: (2896, 2896), 26: (4096, 3328), 60: (5600, 5600)}
"""Object size in MiB -> rows and columns of 16 bits."""


def tree(pid: int) -> list[int]:
    """Return a process and all that are below it."""
    return [pid, *(below for child in children(pid) for below in tree(child))]


def pss_mib(pid: int) -> float:
    """Return the memory of a process and of all below it, each shared page counted once."""
    total = 0
    for one in tree(pid):
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
        except OSError:  # it ended meanwhile
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


class Peak:
    """Sample the memory of a process tree while the block runs."""

    def __init__(self, pid: int) -> None:
        self.mib = 0.0
        self._pid, self._done = pid, threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._done.wait(0.02):
            self.mib = max(self.mib, pss_mib(self._pid))


def measure(data: bytes, memory_mib: int, concurrency: int, objects: int) -> tuple[Counter[int], float]:
    """Return how many pushes were answered how, and the peak memory in MiB."""
    inflight = memory_mib // 8
    limits = {
        "workers__inflight_bytes": inflight * MIB,
        "workers__memory_bytes": (memory_mib - SERVER_MIB - inflight) * MIB,
    }
    with tempfile.TemporaryDirectory() as folder, FakeGcs() as gcs:
        bench = Bench(Path(folder) / "lake", gcs, concurrency, **limits)
        with bench.service as service, ThreadPoolExecutor(concurrency) as pool:
            assert service.process is not None
            bench.answer(data)
            with Peak(service.process.pid) as peak:
                answers = Counter(pool.map(bench.answer, [data] * objects))
    return answers, peak.mib


def main() -> None:
    """Print a line for each size, memory and concurrency."""
    parser = argparse.ArgumentParser(description="Memory and concurrency of an instance.")
    parser.add_argument("--objects", type=int, default=24)
    objects = parser.parse_args().objects
    print("| object MiB | memory MiB | concurrency | stored | refused (429) | other | peak MiB |")
    print("|---|---|---|---|---|---|---|")
    for mib, (rows, columns) in SIDES.items():
        data = picture(rows, columns, "CT_small.dcm")
        for memory in (512, 1024):
            for concurrency in (4, 8):
                answers, peak = measure(data, memory, concurrency, objects)
                other = objects - answers[204] - answers[429]
                figures = (mib, memory, concurrency, answers[204], answers[429], other, round(peak))
                print(f"| {' | '.join(map(str, figures))} |", flush=True)


if __name__ == "__main__":
    main()
