"""The real service over seams that fail, killed and started again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from tests.parts import ROOT
from tests.system.e2e.service import Service, until
from tests.system.faults.plan import Plan


class FaultyService(Service):
    """`dicomlake serve` whose seams fail by a plan; every life has a seed of its own."""

    def __init__(self, lake: Path, seed: int = 0, rate: float = 0.0, **settings: object) -> None:
        targets = json.dumps([f"local:{lake / 'announced.db'}"])
        super().__init__(lake, **{"announce__urls": targets, **settings})
        self.record = lake / "faults.jsonl"
        self.lives = 0
        self._seed, self._rate = seed, rate

    def plan(self) -> Plan:
        """Return the plan of this life."""
        return Plan(f"{self._seed}/{self.lives}", self._rate, str(self.record))

    def start(self, wait: bool = True) -> FaultyService:
        """Begin another life."""
        self.lives += 1
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.system.faults.server", "serve"],
                cwd=ROOT,
                env=self.env | self.plan().environment(),
                stdout=log,
                stderr=log,
            )
        if wait:
            assert until(self.healthy), self.log.read_text()[-3000:]
        return self

    def end(self) -> None:
        """Kill the process if it still runs."""
        if self.process is not None and self.process.poll() is None:
            self.stop(signal.SIGKILL)

    def queued(self) -> int:
        """Return how many messages and dead letters are not done with."""
        return int(str(self.rows("SELECT count(*) AS n FROM queue")[0]["n"]))

    def holds(self) -> dict[str, int]:
        """Return what the process holds, where the system tells: MiB of its own memory, and open files."""
        facts = Path(f"/proc/{self.process.pid}")
        if not facts.exists():
            return {}
        own_kib = int((facts / "status").read_text().partition("RssAnon:")[2].split()[0])
        return {"memory_mib": own_kib // 1024, "open_files": len(list((facts / "fd").iterdir()))}


class Tail:
    """The whole lines that were added to a log since the last look, and how many a kill has torn."""

    def __init__(self, path: Path) -> None:
        self._path, self._read, self.torn = path, 0, 0

    def lines(self) -> list[dict[str, object]]:
        """Return what is new."""
        with self._path.open("rb") as stream:
            stream.seek(self._read)
            whole = stream.read().rpartition(b"\n")[0]
        self._read += len(whole) + bool(whole)
        found = []
        for line in whole.splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                self.torn += 1
        return found
