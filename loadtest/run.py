"""Load a service of its own with more and more users of each kind; print requests a second and latencies.

    python -m loadtest.run [--seconds 10] [--users 1 2 4 8] [--write]

Service and users share this machine. --write puts table and plot into loadtest/results. Exit code 1 if a
request failed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from app import __version__
from loadtest.locustfile import SAMPLE, another_instance
from tests.pushes import wrapped
from tests.system.e2e.service import Service, until

RESULTS = Path(__file__).with_name("results")
STORED = 200
"""Instances in the lake before anyone searches."""
COLOURS = {
    "POST /": "#1b6ca8",
    "POST /upload": "#c8553d",
    "GET /search": "#3a7d44",
    "GET /dicomweb/studies": "#8e6c8a",
}


@dataclass(frozen=True)
class Result:
    """What one request of one kind of users was answered by."""

    request: str
    users: int
    count: int
    failed: int
    per_second: float
    median_ms: float
    p95_ms: float


def measure(kind: str, users: int, seconds: int, url: str, folder: Path) -> list[Result]:
    """Run so many users of one kind."""
    command = [
        sys.executable,
        "-m",
        "locust",
        "-f",
        str(Path(__file__).with_name("locustfile.py")),
        "--headless",
    ]
    command += ["-u", str(users), "-r", str(users), "-t", f"{seconds}s", "--host", url, "--json", kind]
    environment = os.environ | {"DICOMLAKE_LOAD_EVENT": str(folder / "push.json")}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    entries = json.loads(ran.stdout or "[]")
    if not entries:
        raise SystemExit(ran.stderr)
    return [result(one, users) for one in entries]


def result(entry: dict[str, Any], users: int) -> Result:
    """Return what Locust counted of one request."""
    histogram = {float(ms): number for ms, number in entry["response_times"].items()}
    times = sorted(ms for ms, number in histogram.items() for _ in range(number))
    pace = len(times) / (entry["last_request_timestamp"] - entry["start_time"])
    middle, late = times[len(times) // 2], times[len(times) * 95 // 100]
    return Result(entry["name"], users, entry["num_requests"], entry["num_failures"], pace, middle, late)


def measured(seconds: int, users: Sequence[int]) -> list[Result]:
    """Run all kinds of users, one after the other, over one lake."""
    with tempfile.TemporaryDirectory() as name, Service(Path(name) / "lake") as service:
        folder = Path(name)
        for number in range(STORED):
            service.drop(f"{number}.dcm", another_instance())
        pushed = service.drop("pushed.dcm", SAMPLE)
        assert until(lambda: len(service.current()) > STORED, 300)
        (folder / "push.json").write_text(json.dumps(wrapped(pushed)))
        order = ("Searches", "Pushes", "Uploads")  # what searches find is the same for all numbers of users
        return [
            one
            for kind in order
            for number in users
            for one in measure(kind, number, seconds, service.url, folder)
        ]


def table(results: Sequence[Result]) -> str:
    """Return the results as a table."""
    head = "| request | users | a second | median ms | 95 % ms | requests | failed |\n" + "|---" * 7 + "|\n"
    return head + "".join(
        f"| `{one.request}` | {one.users} | {one.per_second:.0f} | {one.median_ms:.0f} | {one.p95_ms:.0f}"
        f" | {one.count} | {one.failed} |\n"
        for one in results
    )


def plot(results: Sequence[Result]) -> str:
    """Return requests a second over users as SVG, a line for each request."""
    width, height, left, low = 640, 360, 60, 300
    most_users = max(one.users for one in results)
    most = max(one.per_second for one in results) * 1.1
    names = list(dict.fromkeys(one.request for one in results))

    def at(one: Result) -> str:
        return f"{left + one.users / most_users * 400:.0f},{low - one.per_second / most * 270:.0f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif">'
    ]
    parts += [
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="{left}" y="20">requests a second</text>',
    ]
    parts.append(f'<path d="M{left} 30V{low}H{left + 400}" fill="none" stroke="#444"/>')
    for users in sorted({one.users for one in results}):
        parts.append(
            f'<text x="{left + users / most_users * 400:.0f}" y="{low + 20}" font-size="12">{users}</text>'
        )
    parts.append(f'<text x="{left + 300}" y="{low + 40}" font-size="12">users at once</text>')
    for tenth in range(0, 11, 2):
        value = most * tenth / 10
        parts.append(f'<text x="10" y="{low - 27 * tenth}" font-size="12">{value:.0f}</text>')
    for number, name in enumerate(names):
        line = " ".join(at(one) for one in results if one.request == name)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{COLOURS[name]}" stroke-width="2"/>')
        parts.append(
            f'<text x="475" y="{60 + 20 * number}" font-size="13" fill="{COLOURS[name]}">{name}</text>'
        )
    return "\n".join([*parts, "</svg>\n"])


def page(results: Sequence[Result], seconds: int) -> str:
    """Return loadtest/results/README.md."""
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    model = found[1] if found else platform.processor()
    day, python, load = f"{datetime.now(UTC):%Y-%m-%d}", platform.python_version(), os.getloadavg()[2]
    return f"""# What the service bears

Made by `make load`, {day}, version {__version__}: up to {seconds} s for each line, one service with a folder,
SQLite and the embedded queue, {STORED} instances in it before; CT slices of 39 KB. Pushes and uploads are
durable when they are answered; a push is described, with document and picture, before its answer.

Machine: {os.cpu_count()} cores of {model}, Python {python}. **It was shared**: users, service and other
programs ran on the same cores, with a load average of {load:.0f} over the last quarter of an hour, which
differed from line to line. So these are lower bounds, and latencies are mostly waiting for a core. CPU for
each object, which other programs do not change, is in [performance.md](../../docs/performance.md).

![Requests a second over users](requests.svg)

{table(results)}"""


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--users", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    results = measured(given.seconds, given.users)
    print(table(results), end="")
    if given.write:
        (RESULTS / "requests.svg").write_text(plot(results))
        (RESULTS / "README.md").write_text(page(results, given.seconds))
    sys.exit(any(one.failed for one in results))


if __name__ == "__main__":
    main()
