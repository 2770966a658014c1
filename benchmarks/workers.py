"""What isolation costs: a task in a warm worker against the same call here and in a ProcessPoolExecutor.

    python -m benchmarks.workers [preload ...]

The first task reads the size of a Content, so what is measured is the way there and back; the second
describes and draws a CT, so its answer is a document and a picture. Times in milliseconds.
"""

import multiprocessing
import operator
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing, suppress

import numpy as np

from app.dicom import describe
from app.model.errors import WorkerCrashed
from app.model.options import DescribeOptions
from app.model.values import Content, ObjectRef
from app.workers.pool import PRELOAD, Workers
from tests.data import ct

TASK = operator.attrgetter("size")
CRASHES = 30


def took_ms(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1000


def line(name: str, times: list[float]) -> str:
    p50, p95 = statistics.median(times), statistics.quantiles(times, n=20)[-1]
    return f"{name:<36} p50 {p50:8.3f}   p95 {p95:8.3f}"


def in_turn(ways: Mapping[str, Callable[[], object]], times: int) -> dict[str, list[float]]:
    """Time the ways in turn, so that what else the machine does falls on all of them."""
    for call in ways.values():
        call()
    measured: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(times):
        for name, call in ways.items():
            measured[name].append(took_ms(call))
    return measured


def compare(workers: Workers, executor: ProcessPoolExecutor, size: int, times: int) -> None:
    """Compare the ways to hand bytes of a size to a task."""
    content = Content(ObjectRef("bucket", "name", 1), "uri", size, data=os.urandom(size))
    ways: dict[str, Callable[[], object]] = {
        "here": lambda: TASK(content),
        "worker": lambda: workers.run(TASK, content),
        "executor": lambda: executor.submit(TASK, content).result(),
    }
    measured = in_turn(ways, times)
    for name, found in measured.items():
        print(line(f"{size / 1e6:g} MB, {name}", found))
    ratio = statistics.median(measured["worker"]) / statistics.median(measured["executor"])
    print(f"{size / 1e6:g} MB, worker / executor {ratio:17.2f}")


def compare_ct(workers: Workers, times: int) -> None:
    """Describe a CT of 512 x 512 in a thread, as in a server without workers, and in a worker."""
    grey = np.add.outer(np.arange(512), np.random.default_rng(1).integers(0, 900, 512)).astype("<i2")
    file = ct(Rows=512, Columns=512, BitsAllocated=16, BitsStored=16, HighBit=15, PixelData=grey.tobytes())
    content, options = Content(ObjectRef("b", "n", 1), "uri", len(file), data=file), DescribeOptions()
    with ThreadPoolExecutor(1) as threads:
        ways: dict[str, Callable[[], object]] = {
            "thread": lambda: threads.submit(describe, content, options).result(),
            "worker": lambda: workers.run(describe, content, options),
        }
        measured = in_turn(ways, times)
    for name, found in measured.items():
        print(line(f"CT of {len(file) / 1e6:.1f} MB, {name}", found))
    more = [worker - thread for worker, thread in zip(measured["worker"], measured["thread"], strict=True)]
    print(line("CT, worker over thread", more))


def crash(workers: Workers) -> None:
    with suppress(WorkerCrashed):
        workers.run(os.abort)


def main() -> None:
    preload = tuple(sys.argv[1:]) or PRELOAD
    context = multiprocessing.get_context("forkserver")
    with (
        closing(Workers(1, 1 << 30, 60.0, preload=preload)) as workers,
        ProcessPoolExecutor(1, mp_context=context) as executor,
    ):
        first = took_ms(lambda: workers.run(os.getpid))
        print(f"first call, with the import of {', '.join(preload)}: {first:.0f}")
        compare(workers, executor, 500_000, 500)
        compare(workers, executor, 30_000_000, 30)
        compare_ct(workers, 300)
        crashed, healed = [], []
        for _ in range(CRASHES):
            crashed.append(took_ms(lambda: crash(workers)))
            healed.append(took_ms(lambda: workers.run(os.getpid)))
        print(line("crash to WorkerCrashed", crashed))
        print(line("first call of the next worker", healed))


if __name__ == "__main__":
    main()
