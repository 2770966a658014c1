"""Chaos: files come and go, calls fail, the process is killed; then a checker looks from outside.

    python -m tests.system.faults.chaos [--events 10000] [--seeds 1 2 3] [--rate 0.05] [--kill-s 2]
        [--keep FOLDER]

Prints a line of counts for each seed, with the memory and the open files of the service when all was quiet;
exit 1 if anything is lost, wrong, doubled, a ghost or left over.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter, deque
from contextlib import suppress
from pathlib import Path

import httpx

from tests.system.e2e.service import until
from tests.system.faults import checker
from tests.system.faults.service import FaultyService, Tail
from tests.system.faults.world import World

SETTINGS: dict[str, object] = {
    "delivery__backoff_min_s": 0.2,
    "delivery__backoff_max_s": 2,
    "delivery__ack_deadline_s": 4,  # so that a lost acknowledgement comes back within the test
    "delivery__deadline_s": 3,
    "log__level": "debug",
}
PAUSE_S = 0.05
AT_ONCE, UNTOLD, UNTOLD_S = 10, 200, 3.0
"""So many files change at once, unless so many changes of the last seconds are not published yet."""
BACKLOG = 300
KILL_S = 2.0
"""Between two kills, on average; from half to one and a half of it."""
TERMINATED, STILLBORN = 0.2, 0.2
"""Share of the kills by SIGTERM, and of the lives that may end before they answer."""
START_S = 60.0
REPEATED = 0.5
SETTLED_S = 75
"""So long the queue may stand still at the end before what is found counts."""


class Chaos:
    """One run: a world, a service that fails and dies, and somebody who delivers old events again."""

    def __init__(self, lake: Path, seed: int, rate: float, names: int, kill_s: float = KILL_S) -> None:
        self.service = FaultyService(lake, seed, rate, **SETTINGS)
        self.world = World(self.service.landing, lake / "staging", names, seed)
        self.counts: Counter[str] = Counter()
        self._random = random.Random(f"chaos {seed}")
        self._kill_s = kill_s
        self._tail = Tail(self.service.log)
        self._published: list[dict[str, object]] = []
        self._untold: dict[str, float] = {}
        self._owed: deque[dict[str, object]] = deque()

    def run(self, events: int) -> checker.Findings:
        """Let it happen until so many events were published, one kill at least; when all is quiet, look."""
        self.service.start()
        kept = self.world.furnish()
        assert until(lambda: self._told(kept))
        kill_at, is_up = self._next_kill(), True
        while len(self._published) < events or not self.counts["SIGKILL"]:
            self._listen()
            if self._published and self._random.random() < REPEATED:
                self._repeat()
            self._deliver()
            self._act()
            if not is_up and self.service.healthy():
                kill_at, is_up = self._next_kill(), True
            if time.monotonic() > kill_at:
                self._kill()
                # If every start were interrupted, a slow machine would never come to an end.
                starting_s = 0.0 if self._random.random() < STILLBORN else START_S
                kill_at, is_up = self._next_kill() + starting_s, False
            time.sleep(PAUSE_S)
        findings = self._settle()
        self.counts |= self.service.holds()
        self.counts["bad exits"] += self.service.stop() != 0
        self.counts["faults"] = sum("kind" in line for line in self.service.plan().noted())
        self.counts["events"] = len(self._published)
        self.counts["torn lines"] = self._tail.torn
        return findings

    def _told(self, names: set[str]) -> bool:
        self._listen()
        return names <= {str(line["object"]) for line in self._published}

    def _next_kill(self) -> float:
        return time.monotonic() + self._kill_s * self._random.uniform(0.5, 1.5)

    def _act(self) -> None:
        now = time.monotonic()
        self._untold = {name: since for name, since in self._untold.items() if now - since < UNTOLD_S}
        if len(self._untold) < UNTOLD and self._queued() < BACKLOG:
            self._untold |= {self.world.act(): now for _ in range(AT_ONCE)}

    def _settle(self) -> checker.Findings:
        """Wait until nothing waits and nothing is found, or the queue stands still; return what is found."""
        self.world.save(self.service.lake / "model.json")
        fewest, end = math.inf, 0.0
        while True:
            self._listen()
            seen = len(self._published)
            for _ in range(len(self._owed)):
                self._deliver()
            time.sleep(1)
            self._listen()
            if (queued := self._queued()) < fewest:
                fewest, end = queued, time.monotonic() + SETTLED_S
            late = time.monotonic() > end
            if late or (queued == 0 and seen == len(self._published) and not self._owed):
                findings = checker.check(self.service.lake)
                if late or not findings.any():
                    return findings

    def _listen(self) -> None:
        for line in self._tail.lines():
            if line.get("message") == "published":
                self._published.append(line)
                self._untold.pop(str(line["object"]), None)
            elif line.get("message") == "event":
                self.counts[str(line["status"])] += 1

    def _queued(self) -> int:
        with suppress(sqlite3.Error):
            return self.service.queued()
        return 0

    def _repeat(self) -> None:
        """Have an event delivered again that was published long ago, as the transport is allowed to."""
        old = self._random.choice(self._published)
        attributes = {
            "eventType": old["event_type"],
            "bucketId": old["bucket"],
            "objectId": old["object"],
            "objectGeneration": str(old["generation"]),
            "payloadFormat": "NONE",
        }
        message = {"messageId": f"again-{self.counts['repeated']}", "attributes": attributes}
        self._owed.append({"message": message, "subscription": "s", "deliveryAttempt": 1})
        self.counts["repeated"] += 1

    def _deliver(self) -> None:
        """Deliver one repeated event; what has no answer, or failed in a way that may heal, comes again."""
        if not self._owed:
            return
        status, push = 0, self._owed.popleft()
        with suppress(httpx.HTTPError):
            status = httpx.post(self.service.url, json=push, timeout=2).status_code
        if status not in (204, 422):
            self._owed.append(push)

    def _kill(self) -> None:
        gently = self.counts["SIGKILL"] and self._random.random() < TERMINATED
        how = signal.SIGTERM if gently else signal.SIGKILL
        if how is signal.SIGTERM and not self.service.healthy():
            how = signal.SIGKILL
        status = self.service.stop(how)
        self.counts[how.name] += 1
        self.counts["bad exits"] += how is signal.SIGTERM and status != 0
        self.service.start(wait=False)


def run(seed: int, given: argparse.Namespace, lake: Path) -> bool:
    """Run one seed, print what came of it and return whether all is well."""
    began = time.monotonic()
    chaos = Chaos(lake, seed, given.rate, max(50, given.events // 3), given.kill_s)
    try:
        findings = chaos.run(given.events)
    finally:
        chaos.service.end()
    counts = {"seed": seed, "took_s": round(time.monotonic() - began), **sorted_counts(chaos.counts)}
    print(json.dumps(counts | findings.counts()), flush=True)
    for line in findings.lines():
        print(f"  {line}", file=sys.stderr)
    return not findings.any() and not chaos.counts["bad exits"]


def sorted_counts(counts: Counter[str]) -> dict[str, int]:
    """Return counts by name, for a line to read."""
    return dict(sorted(counts.items()))


def main() -> None:
    """Run every seed."""
    parser = argparse.ArgumentParser(description="files come and go, calls fail, the process is killed")
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--rate", type=float, default=0.05, help="share of the calls that fail")
    parser.add_argument("--kill-s", type=float, default=KILL_S, help="seconds between kills, on average")
    parser.add_argument("--keep", type=Path, help="folder for the lakes, kept afterwards")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the service does not outlive us
    well = True
    with tempfile.TemporaryDirectory() as scratch:
        for seed in given.seeds:
            lake = (given.keep or Path(scratch)) / f"chaos-{seed}"
            lake.parent.mkdir(parents=True, exist_ok=True)
            well &= run(seed, given, lake)
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
