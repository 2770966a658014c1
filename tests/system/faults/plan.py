"""Which call fails, how, and at which step the process dies: drawn from a seed, noted for what comes after.

The environment variable FAULTS hands a plan to a service. What was done is appended to `record`, a line each,
by one write: a kill right after it does not undo it.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

THROTTLED_S = 0.05
LATE_S = 0.4
REFUSED, CRASHING = "REFUSED!", "CRASHING"
"""Values of Study Description: a row that is always refused, and pixels that kill who renders them."""
KILL = re.compile(r"kill@(\w+)@(before|after)@")
"""In the name of an object: where the process that handles it dies, once."""


@dataclass(frozen=True)
class Plan:
    """rate: share of the calls that go wrong. seed: another one for each life of the process."""

    seed: str
    rate: float
    record: str

    def environment(self) -> dict[str, str]:
        """Return the variable that hands this plan to a service."""
        return {"FAULTS": json.dumps(asdict(self))}

    def noted(self) -> list[dict[str, Any]]:
        """Return what was done so far, in all lives."""
        path = Path(self.record)
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class Faults:
    """A plan at work in one process. Safe to call from several threads."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._random = random.Random(plan.seed)
        self._throttled: dict[str, float] = {}
        self._lock = threading.Lock()

    def draw(self, seam: str, kinds: Sequence[str], share: float = 1.0) -> str:
        """Return what goes wrong with a call to a seam; empty if nothing does."""
        with self._lock:
            kind = self._random.choice(kinds) if self._random.random() < share * self._plan.rate else ""
            now = time.monotonic()
            if kind == "throttled":
                self._throttled[seam] = now + THROTTLED_S
            elif "throttled" in kinds and now < self._throttled.get(seam, 0.0):
                kind = "throttled"
        if kind:
            self.note(seam=seam, kind=kind)
        return kind

    def one_of(self, count: int) -> int:
        """Return the place of one of so many."""
        with self._lock:
            return self._random.randrange(max(1, count))

    def late_s(self) -> float:
        """Return how long something is put off."""
        with self._lock:
            return self._random.uniform(0.05, LATE_S)

    def die(self, step: str, moment: str, names: Sequence[str]) -> None:
        """Kill this process if the name of one of these objects says so; once for each name."""
        for name in names:
            found = KILL.search(name)
            if found and found.groups() == (step, moment):
                with self._lock:
                    if not any(line.get("killed") == name for line in self._plan.noted()):
                        self.note(killed=name)
                        os.kill(os.getpid(), signal.SIGKILL)

    def note(self, **facts: object) -> None:
        """Append one line to the record."""
        record = os.open(self._plan.record, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(record, json.dumps(facts).encode() + b"\n")
        os.close(record)
