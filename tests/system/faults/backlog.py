"""A backlog is worked while the lister and the service are killed, and live files keep coming.

    python -m tests.system.faults.backlog [--objects 100000] [--kills 5] [--rate 4000] [--keep FOLDER]

The landing folder is known to the service, but its tables are empty, as after a change of `warehouse.url`.
`dicomlake backfill` lists it into the embedded queue, `dicomlake serve` works it, and both die by SIGKILL
`--kills` times, while a file is dropped about every second and its row is awaited. Nothing stands in for
anything: folder, queue and SQLite are the backends of one machine. One process delivers an embedded queue, to
as many workers as there are cores. Prints JSON; exit 1 if a row is missing, doubled or wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

from app.jobs.lane import RATE
from app.storage.local.generations import Index, Seen, generation, stamp
from tests.system.e2e.service import Service, paths, until
from tests.system.faults.world import FIRST, version

USUAL = 20
"""Live files before the backlog, to see how long one takes usually."""
LIFE_S = 3600.0
"""Of a lister at the longest."""
PATIENCE_S = 120.0
"""A live file without a row by then is lost."""
FIRST_LIVE = FIRST + 10**8
IN_STUDY = 500


class Backlog:
    """One lake with a backlog, its lister, its service, and whoever drops files meanwhile."""

    def __init__(self, lake: Path, objects: int, kills: int, rate: float = RATE, seed: int = 1) -> None:
        self.objects, self.kills, self.rate = objects, kills, rate
        self.service = Service(lake, bus__url=f"local:{lake / 'queue.db'}")
        self._lister_log, self._manifest = lake / "lister.log", lake / "published.jsonl"
        self._random = random.Random(seed)
        self._names: dict[str, int] = {}
        self._waits: list[tuple[float, float]] = []
        self._lives: list[float] = []
        self._killed: list[float] = []
        self._peaks: dict[str, int] = {}
        self._lister: subprocess.Popen[bytes] | None = None
        self._lister_kills, self._over = 0, threading.Event()

    def run(self) -> dict[str, object]:
        """Work the backlog and return what came of it, `wrong` first of all."""
        self._fill()
        with ThreadPoolExecutor() as pool:
            try:
                self.service.start()
                with closing(self._connect()) as rows:
                    usual = [self._live(rows)[1] for _ in range(USUAL)]
                    began = time.monotonic()
                    self._work(rows, pool)
                    took_s = time.monotonic() - began
                self.service.stop()
            finally:
                self._over.set()
                for process in (self._lister, self.service.process):
                    if process is not None and process.poll() is None:
                        process.kill()
        return self._found(usual, took_s)

    def _fill(self) -> None:
        """Make the backlog: files that the service has seen, without rows."""
        self.service.landing.mkdir()
        seen: dict[str, Seen] = {}
        for number in range(self.objects):
            name = f"backlog/{number // IN_STUDY:04}/{number:07}.dcm"
            path = self._write(name, FIRST + number)
            found = stamp(path.stat())
            seen[name] = Seen(generation(found, None), found)
        with closing(Index(self.service.lake / "queue.db", self.service.landing)) as index:
            index.put(seen)

    def _write(self, name: str, number: int) -> Path:
        path = self.service.landing / name
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = self.service.lake / "staged"
        staged.write_bytes(version(number))
        staged.replace(path)
        self._names[name] = number
        return path

    def _list(self) -> None:
        """Run the lister until it is through; kill it `kills` times on the way."""
        command = ["backfill", "--json", "--rate", str(self.rate), "--manifest", str(self._manifest)]
        job, status = self._one_life([*command, f"file://{self.service.landing}/"])
        while status and not self._over.is_set():
            assert status == -signal.SIGKILL, self._lister_log.read_text()[-2000:]
            job, status = self._one_life([*command, "--resume", job])

    def _one_life(self, command: list[str]) -> tuple[str, int]:
        """Run the lister until it is through or killed, and return its job and how it ended."""
        last = self._listed() + self.objects / (self.kills + 1) * self._random.uniform(0.5, 1.5)
        with self._lister_log.open("ab") as log:
            self._lister = lister = subprocess.Popen(
                [sys.executable, "-m", "app", *command],
                cwd=self.service.code, env=self.service.env, stdout=log, stderr=subprocess.PIPE,
            )  # fmt: skip
        assert lister.stderr is not None
        with lister.stderr as errors:
            said = errors.readline().decode()
            job = said.removeprefix("job ").strip()
            if self._lister_kills < self.kills:
                until(lambda: lister.poll() is not None or self._listed() >= last, LIFE_S)
                if lister.poll() is None:
                    lister.kill()
                    self._lister_kills += 1
            rest = errors.read()
        with self._lister_log.open("ab") as log:
            log.write(said.encode() + rest)
        return job, lister.wait()

    def _listed(self) -> int:
        """Return how many events all lives of the lister have published, or were about to."""
        with suppress(FileNotFoundError), self._manifest.open("rb") as lines:
            return sum(block.count(b"\n") for block in iter(lambda: lines.read(1 << 20), b""))
        return 0

    def _work(self, rows: sqlite3.Connection, pool: ThreadPoolExecutor) -> None:
        """Start the lister; drop files and kill the service until all is done."""
        goals = [
            self.objects * (number + self._random.uniform(0.2, 0.8)) / self.kills
            for number in range(self.kills)
        ]
        others: list[Future[None]] = [pool.submit(self._list)]
        while goals or not all(one.done() for one in others) or self._queued():
            self._waits.append(self._live(rows))
            self._measure()
            (done,) = rows.execute("SELECT count(*) FROM instances").fetchone()
            if goals and done >= goals[0]:
                goals.pop(0)
                others.append(pool.submit(self._kill, self._random.uniform(0, 0.5)))
            for one in others:
                if one.done():
                    one.result()
            time.sleep(self._random.uniform(0.5, 1.5))

    def _kill(self, delay_s: float) -> None:
        """Kill the service and start it again, while files are dropped."""
        time.sleep(delay_s)
        self.service.stop(signal.SIGKILL)
        self._killed.append(time.monotonic())
        self.service.start(wait=False)
        assert until(self.service.healthy), "the service does not start again"
        self._lives.append(time.monotonic())

    def _live(self, rows: sqlite3.Connection) -> tuple[float, float]:
        """Drop a file and wait for its row; return when, and the seconds that it took."""
        number = FIRST_LIVE + len(self._names)
        began = time.monotonic()
        path = self._write(f"live/{number}.dcm", number)
        sql, address = "SELECT 1 FROM instances WHERE object_uri = ?", f"file://{path}"
        while not rows.execute(sql, [address]).fetchone():
            if time.monotonic() > began + PATIENCE_S:
                break
            time.sleep(0.01)
        return began, time.monotonic() - began

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(
            f"file:{self.service.lake / 'lake.db'}?mode=ro", uri=True, timeout=30, isolation_level=None
        )

    def _queued(self) -> int:
        with closing(sqlite3.connect(f"file:{self.service.lake / 'queue.db'}?mode=ro", uri=True)) as queue:
            return int(queue.execute("SELECT count(*) FROM queue").fetchone()[0])

    def _measure(self) -> None:
        """Note memory, files and load of the machine, where they are the largest so far."""
        found = {}
        for name, process in (("service", self.service.process), ("lister", self._lister)):
            if process is not None and process.poll() is None:
                found[f"{name}_mib"] = _memory_kib(process.pid) >> 10
        if self.service.process is not None:
            workers = [_memory_kib(one) >> 10 for one in _below(self.service.process.pid)]
            found["worker_mib"] = max(workers, default=0)
        for path in self.service.lake.glob("*.db*[!mk]"):  # and not those that are shared memory or a lock
            found[f"{path.name}_mib"] = path.stat().st_size >> 20
        found["load_average"] = round(os.getloadavg()[0])
        self._peaks |= {name: max(size, self._peaks.get(name, 0)) for name, size in found.items()}

    def _found(self, usual: list[float], took_s: float) -> dict[str, object]:
        """Compare rows and artifacts with what was written."""
        prefix = f"file://{self.service.landing}/"
        with closing(self._connect()) as database:
            rows = [
                (str(uri).removeprefix(prefix), uid)
                for uri, uid in database.execute("SELECT object_uri, sop_instance_uid FROM instances")
            ]
            (letters,) = database.execute("SELECT count(*) FROM dead_letter").fetchone()
        uids = dict(rows)
        listed = {json.loads(line)["object_uri"] for line in self._manifest.open("rb")}
        made = [path.suffix for path in paths(self.service.lake / "output") if path.is_file()]
        over_restart: list[float] = []
        alone: list[float] = []
        for began, wait in self._waits:
            lives = zip(self._killed, self._lives, strict=True)
            hit = any(began < healthy and began + wait > killed for killed, healthy in lives)
            (over_restart if hit else alone).append(wait)
        return {
            "objects": self.objects,
            "live": len(self._names) - self.objects,
            "rows": len(rows),
            "missing": len(self._names.keys() - uids.keys()),
            "doubled": len(rows) - len(uids),
            "wrong": sum(uids.get(name) != f"2.25.{number}" for name, number in self._names.items()),
            "dead_letters": letters,
            "documents": made.count(".json"),
            "previews": made.count(".png"),
            "not_in_manifest": sum(prefix + name not in listed for name in self._names if name[0] == "b"),
            "kills_of_lister": self._lister_kills,
            "kills_of_service": len(self._killed),
            "processed": self._processed(),
            "seconds": round(took_s, 1),
            "events_per_second": round(self.objects / took_s, 1),
            "live_usual_s": round(statistics.median(usual), 2),
            "live_usual_longest_s": round(max(usual), 2),
            "live_beside_backlog_s": round(statistics.median(alone), 2) if alone else None,
            "live_beside_backlog_longest_s": round(max(alone), 2) if alone else None,
            "live_over_a_restart_longest_s": round(max(over_restart), 2) if over_restart else None,
            "largest": self._peaks,
        }

    def _processed(self) -> int:
        """Return how many events were processed; what is listed again after a kill is processed again."""
        with self.service.log.open("rb") as log:
            return sum(b'"status":"stored"' in line.replace(b" ", b"") for line in log)


def _below(pid: int) -> Iterator[int]:
    """Yield the processes that a process has started, and those that these have."""
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                yield child
                yield from _below(child)


def _memory_kib(pid: int) -> int:
    """Return the resident memory of a process, 0 if it has just ended."""
    with suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0])
    return 0


def faults(found: dict[str, object]) -> Iterator[str]:
    """Yield what is wrong with a result; nothing without one."""
    if not found:
        return
    whole = int(str(found["objects"])) + int(str(found["live"]))
    for name in ("rows", "documents", "previews"):
        if found[name] != whole:
            yield f"{name}: {found[name]}, not {whole}"
    for name in ("missing", "doubled", "wrong", "dead_letters", "not_in_manifest"):
        if found[name]:
            yield f"{name}: {found[name]}"


def main() -> None:
    """Run it once; exit 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description="a backlog is worked while its processes die")
    parser.add_argument("--objects", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument("--keep", type=Path, help="folder for the lake, kept afterwards")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the service does not outlive us
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        found = Backlog(folder / "lake", given.objects, given.kills, given.rate).run()
    print(json.dumps(found, indent=2))
    wrong = [*faults(found)]
    for line in wrong:
        print(f"  {line}", file=sys.stderr)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
