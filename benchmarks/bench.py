"""One table: dicomlake beside every peer that is installed, on the same files, in CPU milliseconds.

    python -m benchmarks.bench [--rounds N] [--rows N] [--only PART] [--write]

The ways take turns on each file, so what else the machine does falls on all of them. Medians are shown, with
how many times our CPU a peer takes in brackets.

dcmtk: a process of dcm2json, on a copy without pixels, and one of dcmj2pnm. Orthanc: its own CPU for REST
calls; for `both` a file is stored, asked for tags and picture, and removed. pydicom: with Pillow, warm, in
one process, as most people write it first. Ours is warm and in one process too, except for `event`, the
running service from a file in its folder to its row, and `ingest`, both with their workers.

--write puts the results into docs/performance.json, the plot into docs/performance.svg and the tables into
docs/performance.md. Orthanc listens on all addresses of the machine: give it a network of its own by
`unshare -n sh -c 'ip link set lo up; make bench'`.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import math
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from pydicom import dcmread

from app import __version__
from app.dicom import describe
from app.dicom.read.dataset import read_dataset
from app.dicom.render.preview import preview
from app.model.options import DescribeOptions, PreviewOptions
from app.model.values import Row
from app.warehouse.sqlite.warehouse import SqliteWarehouse
from benchmarks import previews, speed
from benchmarks.cost import cpu_s
from tests.data import content, enhanced, part10
from tests.parts import ROOT
from tests.system.e2e.service import Service, free_port, until

DOCS = ROOT / "docs"
OURS, DCMTK, ORTHANC, PYDICOM = "dicomlake", "dcmtk", "Orthanc", "pydicom + Pillow"
TASKS = ("metadata", "picture", "both")
LEAST_S = 0.15
"""CPU of one measurement, about: the kernel counts that of another process in hundredths of a second."""
FULL = PreviewOptions(max_side=0)
COLORS = {OURS: "#0a7", DCMTK: "#888", ORTHANC: "#c60", PYDICOM: "#36c"}

Times = dict[str, float]


@dataclass(frozen=True)
class Way:
    """A way to do one task with a file; `clock` counts the CPU seconds that it takes, wherever that is."""

    name: str
    run: Callable[[], object]
    clock: Callable[[], float] = field(default=lambda: previews.cpu_ms() / 1000)


def figures(value: float) -> str:
    """Return a number with three significant figures, as people write it: 1,570 and 6.45."""
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 1000 else f"{value:.3g}"


def files() -> dict[str, bytes]:
    """Return the files: what hospitals store, small to large."""
    return {
        "CT": speed.big_ct(),
        "CT JPEG 2000": speed.compressed("CT", previews.CT, previews.J2K)(),
        "DX": speed.compressed("DX", previews.DX, previews.ExplicitVRLittleEndian)(),
        "DX JPEG-LS": speed.compressed("DX", previews.DX, previews.JPEG_LS)(),
        "US JPEG, 20 frames": speed.compressed("US", previews.US, previews.JPEG, 20)(),
        "MR, 100 frames": speed.big_mr(),
        "RTSTRUCT": speed.structures(),
    }


def ours(data: bytes, task: str) -> Way:
    one, plain, whole = content(data), DescribeOptions().without_preview(), DescribeOptions(preview=FULL)
    runs: dict[str, Callable[[], object]] = {
        "metadata": lambda: describe(one, plain),
        "picture": lambda: preview(read_dataset(one), FULL),
        "both": lambda: describe(one, whole),
    }
    return Way(OURS, runs[task])


def pydicom(data: bytes, task: str) -> Way:
    dataset = dcmread(io.BytesIO(data))
    frames, color = int(dataset.get("NumberOfFrames", 1)), dataset.get("SamplesPerPixel", 1) == 3
    case = previews.Case("", (0, 0), frames=frames, color=color)
    runs: dict[str, Callable[[], object]] = {
        "metadata": lambda: speed.their_metadata(data),
        "picture": previews.naive_picture(data, case),
        "both": previews.naive(data, case),
    }
    return Way(PYDICOM, runs[task])


def dcmtk(data: bytes, task: str, folder: Path) -> Way:
    image, header = folder / "image.dcm", folder / "header.dcm"
    image.write_bytes(data)
    dataset = dcmread(io.BytesIO(data))
    frames, syntax = int(dataset.get("NumberOfFrames", 1)), dataset.file_meta.TransferSyntaxUID
    window = [] if dataset.get("SamplesPerPixel", 1) == 3 else ["+Wm"]
    if "PixelData" in dataset:
        del dataset.PixelData
    header.write_bytes(part10(dataset))
    program = "dcml2pnm" if syntax == previews.JPEG_LS else "dcmj2pnm"
    draw = [program, "+on", "+F", str(frames // 2 + 1), *window, str(image), str(folder / "image.png")]
    tell = ["dcm2json", str(header), str(folder / "header.json")]
    commands = {"metadata": [tell], "picture": [draw], "both": [tell, draw]}[task]

    def run() -> None:
        for command in commands:
            subprocess.run(command, check=True, capture_output=True)

    return Way(DCMTK, run)


class Orthanc:
    """An Orthanc of its own, over an empty folder."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        settings = {
            "StorageDirectory": str(folder / "db"),
            "IndexDirectory": str(folder / "db"),
            "HttpPort": self.port,
            "DicomServerEnabled": False,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "OverwriteInstances": True,  # files made here share their UIDs
            "Plugins": [],
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(["Orthanc", folder / "orthanc.json"], stdout=quiet, stderr=quiet)
        assert until(self.answers), "Orthanc does not start"

    def answers(self) -> bool:
        with suppress(OSError):
            return bool(self.call("GET", "/system"))
        return False

    def call(self, method: str, path: str, body: bytes | None = None, accept: str = "*/*") -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.request(method, path, body, {"Accept": accept})
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        if response.status != 200:
            raise RuntimeError(f"{method} {path.rpartition('/')[2]}: {response.status}")
        return answer

    def way(self, data: bytes, task: str) -> Way:
        frame = int(dcmread(io.BytesIO(data)).get("NumberOfFrames", 1)) // 2
        name = json.loads(self.call("POST", "/instances", data))["ID"]

        def tags() -> None:
            self.call("GET", f"/instances/{name}/tags")

        def picture() -> None:
            self.call("GET", f"/instances/{name}/frames/{frame}/rendered", accept="image/png")

        def both() -> None:
            self.call("DELETE", f"/instances/{name}")
            self.call("POST", "/instances", data)
            tags()
            picture()

        runs = {"metadata": tags, "picture": picture, "both": both}
        return Way(ORTHANC, runs[task], lambda: cpu_s(self.process.pid))


@contextmanager
def orthanc() -> Iterator[Orthanc | None]:
    """Yield a running Orthanc, None where it is not installed."""
    if shutil.which("Orthanc") is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        server = Orthanc(Path(folder))
        try:
            yield server
        finally:
            server.process.terminate()
            server.process.wait()


def in_turn(ways: Sequence[Way], rounds: int) -> Times:
    """Return the median CPU milliseconds of each way that can do it; short ones are repeated to be timed."""
    counts: dict[Way, int] = {}
    for way in ways:
        with suppress(NotImplementedError, RuntimeError, subprocess.CalledProcessError, AttributeError):
            way.run()
            began, times = way.clock(), 0
            while way.clock() - began < LEAST_S and times < 200:
                way.run()
                times += 1
            counts[way] = max(1, times)
    spent: dict[Way, list[float]] = {way: [] for way in counts}
    for _ in range(rounds):
        for way, times in counts.items():
            began = way.clock()
            for _ in range(times):
                way.run()
            spent[way].append((way.clock() - began) / times * 1000)
    return {way.name: statistics.median(times) for way, times in spent.items()}


def file_times(rounds: int, rest: Orthanc | None) -> dict[str, dict[str, Times]]:
    """Return CPU ms by file, task and way."""
    found: dict[str, dict[str, Times]] = {}
    for name, data in files().items():
        has_pixels = "PixelData" in dcmread(io.BytesIO(data))
        for task in TASKS if has_pixels else TASKS[:1]:
            with tempfile.TemporaryDirectory() as folder:
                ways = [ours(data, task), pydicom(data, task)]
                if shutil.which("dcm2json"):
                    ways.append(dcmtk(data, task, Path(folder)))
                if rest is not None:
                    ways.append(rest.way(data, task))
                found.setdefault(name, {})[task] = in_turn(ways, rounds)
                print(name, task, {k: round(v, 2) for k, v in found[name][task].items()}, flush=True)
    return found


def numbered(data: bytes) -> Callable[[int], bytes]:
    """Return what makes copies of a file, each with a SOP Instance UID of its own."""
    uid = str(dcmread(io.BytesIO(data)).SOPInstanceUID).encode()
    return lambda number: data.replace(uid, uid[:-6] + b"%06d" % number)


def event_ms(data: bytes, count: int) -> float:
    """Return CPU ms of the service for one file that is put into its folder, with its workers."""
    copy, warm = numbered(data), 60
    with tempfile.TemporaryDirectory() as folder, Service(Path(folder)) as service:
        assert service.process is not None

        def stored() -> object:
            return service.rows("SELECT count(*) AS stored FROM instances")[0]["stored"]

        def put(first: int, last: int) -> None:
            for number in range(first, last):
                path = service.lake / "new.dcm"
                path.write_bytes(copy(number))
                path.rename(service.landing / f"{number}.dcm")  # as a copy that is whole at once

        put(0, warm)
        assert until(lambda: stored() == warm, 120)
        time.sleep(1)
        began = cpu_s(service.process.pid)
        put(warm, warm + count)
        assert until(lambda: stored() == warm + count, 600)
        time.sleep(0.5)
        return (cpu_s(service.process.pid) - began) / count * 1000


def ingest_ms(data: bytes, count: int) -> float:
    """Return CPU ms of `ingest` for one file, beyond what a run over few takes; its workers are counted."""
    copy, few, spent = numbered(data), 20, []
    with tempfile.TemporaryDirectory() as folder:
        service = Service(Path(folder))
        for number, files in enumerate((range(few), range(few, few + few + count))):
            place = service.lake / f"in{number}"
            place.mkdir()
            for file in files:
                (place / f"{file}.dcm").write_bytes(copy(file))
            command = [sys.executable, "-m", "app", "ingest", str(place)]
            quiet = subprocess.DEVNULL
            process = subprocess.Popen(command, env=service.env, stdout=quiet, stderr=quiet)
            last = 0.0
            while process.poll() is None:  # workers are killed in the end, and then nobody has their times
                with suppress(OSError):
                    last = max(last, cpu_s(process.pid))
                time.sleep(0.02)
            spent.append(last)
    return (spent[1] - spent[0]) / count * 1000


def whole_times(rounds: int, rest: Orthanc | None) -> dict[str, Times]:
    """Return CPU ms of a whole event by way; peers do of it what they can, and keep no rows."""
    found: dict[str, Times] = {}
    for name, count in (("CT", 200), ("DX", 20)):
        data = files()[name]
        spent: dict[str, list[float]] = {"event": [], "ingest": []}
        for _ in range(rounds):
            spent["event"].append(event_ms(data, count))
            spent["ingest"].append(ingest_ms(data, count))
            if rest is not None:
                spent.setdefault(ORTHANC, []).append(in_turn([rest.way(data, "both")], 1)[ORTHANC])
        found[name] = {way: statistics.median(times) for way, times in spent.items()}
        print("whole", name, found[name], flush=True)
    return found


def growth(rounds: int, most_rows: int) -> dict[str, dict[str, Times]]:
    """Return CPU ms by the size of a frame, the number of frames, and the rows in the table."""
    sides = {
        f"{side} x {side}": speed.compressed("CT", (side, side), previews.ExplicitVRLittleEndian)()
        for side in (128, 512, 2048, 4096)
    }
    frames = {
        f"{n:,}": enhanced(frames=n, Rows=64, Columns=64, PixelData=bytes(64 * 64 * 2) * n)
        for n in (1, 10, 100, 1000)
    }
    return {
        "side": {
            name: in_turn([ours(data, "both"), pydicom(data, "both")], rounds) for name, data in sides.items()
        },
        "frames": {
            name: in_turn([ours(data, "both"), pydicom(data, "both")], rounds)
            for name, data in frames.items()
        },
        "rows": row_times(rounds, most_rows),
    }


def row(number: int) -> Row:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return {
        "row_id": f"{number:064x}",
        "object_uri": f"file:///lake/landing/{number // 100}/{number}.dcm",
        "generation": number + 1,
        "event_type": "OBJECT_FINALIZE",
        "event_time": now,
        "ingested_at": now,
        "study_instance_uid": f"1.2.3.{number // 100}",
        "series_instance_uid": f"1.2.3.{number // 100}.{number // 20}",
        "sop_instance_uid": f"1.2.3.{number}",
        "patient_id": f"P-{number // 200}",
        "modality": "CT",
        "metadata": json.dumps({"PatientID": f"P-{number // 200}", "note": "x" * 200}),
    }


def row_times(rounds: int, most: int) -> dict[str, Times]:
    """Return CPU ms of an append of 500 rows and of questions to the view, as the table grows."""
    found: dict[str, Times] = {}
    with tempfile.TemporaryDirectory() as folder:
        warehouse = SqliteWarehouse(f"sqlite:{folder}/lake.db")
        warehouse.create()
        have, size = 0, 1000
        while size <= most:
            while have < size:
                warehouse.append("instances", [row(n) for n in range(have, have + 500)])
                have += 500
            middle = row(size // 2)
            spent: dict[str, list[float]] = {"append 500": [], "one object": [], "one study": []}
            for _ in range(rounds):
                rows = [row(n) for n in range(have, have + 500)]
                spent["append 500"].append(previews.took(partial(warehouse.append, "instances", rows)))
                have += 500
                for what, column in (("one object", "object_uri"), ("one study", "study_instance_uid")):
                    sql = f"SELECT * FROM instances_current WHERE {column} = @value"
                    ask = partial(warehouse.query, sql, {"value": middle[column]})
                    spent[what].append(previews.took(ask))
            found[f"{size:,}"] = {what: statistics.median(times) for what, times in spent.items()}
            print("rows", size, found[f"{size:,}"], flush=True)
            size *= 10
        warehouse.close()
    return found


def table(heads: Sequence[str], lines: Mapping[str, Times], columns: Sequence[str], base: str = "") -> str:
    """Return a Markdown table; `base` is the column whose CPU the others are compared with."""
    text = [f"| {' | '.join([*heads, *columns])} |", "|---" * len(heads) + "|---:" * len(columns) + "|"]
    for name, times in lines.items():
        cells = []
        for column in columns:
            value = times.get(column)
            ratio = value / times[base] if value and base in times and column != base else 0.0
            beside = f" ({figures(float(f'{ratio:.2g}'))})" if ratio else ""
            cells.append("" if value is None else f"{figures(value)}{beside}")
        text.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(text)


def tables(results: dict) -> dict[str, str]:
    """Return the tables of docs/performance.md by their marks."""
    ways = [OURS, DCMTK, ORTHANC, PYDICOM]
    lines = {
        f"{name} | {task}": times for name, tasks in results["files"].items() for task, times in tasks.items()
    }
    grown = results["growth"]
    return {
        "machine": ", ".join(f"{name} {value}" for name, value in results["machine"].items()),
        "files": table(["file", "task"], lines, ways, OURS),
        "whole": table(["file"], results["whole"], ["event", "ingest", ORTHANC]),
        "side": table(["frame"], grown["side"], [OURS, PYDICOM], OURS),
        "frames": table(["frames"], grown["frames"], [OURS, PYDICOM], OURS),
        "rows": table(["rows in the table"], grown["rows"], ["append 500", "one object", "one study"]),
    }


def svg(results: dict) -> str:
    """Return the plot: CPU of file to JSON and PNG, a bar for each way, on a logarithmic scale."""
    groups = {name: tasks["both"] for name, tasks in results["files"].items() if "both" in tasks}
    bars, y, width, left = [], 30.0, 420, 150
    for name, times in groups.items():
        bars.append(f'<text x="{left - 8}" y="{y + 14}" text-anchor="end" font-weight="bold">{name}</text>')
        for way in (OURS, DCMTK, ORTHANC, PYDICOM):
            if way not in times:
                continue
            length = max(2.0, width * (2 + math.log10(times[way] / 10)) / 5)
            bars.append(
                f'<rect x="{left}" y="{y:.0f}" width="{length:.0f}" height="13" fill="{COLORS[way]}"/>'
            )
            bars.append(
                f'<text x="{left + length + 5:.0f}" y="{y + 11:.0f}">{way} {figures(times[way])} ms</text>'
            )
            y += 16
        y += 12
    font = 'font-family="sans-serif" font-size="12"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="720" height="{y:.0f}" {font}>'
    title = f'<text x="{left}" y="16">File to JSON and PNG, CPU ms, logarithmic</text>'
    return "\n".join([head, '<rect width="100%" height="100%" fill="#fff"/>', title, *bars, "</svg>"]) + "\n"


def machine() -> dict[str, object]:
    model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "dicomlake": __version__,
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "cpu": model[1] if model else platform.machine(),
        "load": round(os.getloadavg()[0], 1),
    }


def write(results: dict) -> None:
    """Put the results into docs/."""
    (DOCS / "performance.json").write_text(json.dumps(results, indent=1) + "\n")
    (DOCS / "performance.svg").write_text(svg(results))
    page = DOCS / "performance.md"
    text = page.read_text()
    for mark, found in tables(results).items():
        begin, end = f"<!-- {mark} -->\n", f"<!-- /{mark} -->"
        head, _, rest = text.partition(begin)
        text = f"{head}{begin}{found}\n{end}{rest.partition(end)[2]}"
    page.write_text(text)


def main() -> None:
    """Measure all of it and print the tables."""
    parser = argparse.ArgumentParser(description="dicomlake beside its peers, in CPU milliseconds.")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each way")
    parser.add_argument("--rows", type=int, default=1_000_000, help="up to so many rows in the table")
    parser.add_argument(
        "--only", choices=("files", "whole", "growth"), help="the rest is as it was last written"
    )
    parser.add_argument("--write", action="store_true", help="write docs/performance.*")
    arguments = parser.parse_args()
    only = arguments.only
    results: dict = json.loads((DOCS / "performance.json").read_text()) if only else {}
    results["machine"] = machine()
    with orthanc() as rest:
        if only in (None, "files"):
            results["files"] = file_times(arguments.rounds, rest)
        if only in (None, "whole"):
            results["whole"] = whole_times(min(3, arguments.rounds), rest)
    if only in (None, "growth"):
        results["growth"] = growth(arguments.rounds, arguments.rows)
    for mark, text in tables(results).items():
        print(f"\n<!-- {mark} -->\n{text}")
    if arguments.write:
        write(results)


if __name__ == "__main__":
    main()
