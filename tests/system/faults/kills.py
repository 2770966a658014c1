"""The process dies at every step of the pipeline, and nothing is lost.

    python -m tests.system.faults.kills [--times 20]

Before and after each step, so many times each: a file whose name says where the process dies is handled, the
process is started again, and in the end the checker looks. Prints a line a step.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection
from itertools import product
from pathlib import Path

from tests.system.faults import checker
from tests.system.faults.plan import KILL
from tests.system.faults.service import FaultyService
from tests.system.faults.world import World

STEPS = {
    "publish": "good",
    "fetch": "good",
    "describe": "good",
    "json": "good",
    "png": "good",
    "append_instances": "good",
    "settle": "good",
    "announce": "good",
    "forward": "good",
    "ack": "good",
    "dead_letter": "text",
    "append_dead_letter": "text",
    "delete": "good",
}
"""Where the process dies, and of what kind the file is that leads there."""
MOMENTS = ("before", "after")
PATIENCE_S = 75
SETTINGS: dict[str, object] = {
    "delivery__permanent_attempts": 1,
    "delivery__max_attempts": 10_000,  # what is in hand when the process dies counts a delivery
    "delivery__backoff_min_s": 0.1,
    "delivery__backoff_max_s": 0.2,
    "log__level": "debug",
}


class Kills:
    """One lake in which a process dies at every step, once for each file."""

    def __init__(self, lake: Path, times: int, steps: Collection[str] = tuple(STEPS)) -> None:
        urls = json.dumps([f"file:{lake / 'encoded'}"])
        self.service = FaultyService(lake, forward__urls=urls, **SETTINGS)
        self.world = World(self.service.landing, lake / "staging", 1, seed=1)
        self.names = {
            f"{number:03}/kill@{step}@{moment}@.dcm": step
            for number in range(times)
            for step, moment in product(steps, MOMENTS)
        }

    def run(self) -> checker.Findings:
        """Drop the files, round by round, and return what is wrong in the end."""
        self.service.start()
        try:
            for number in sorted({name[:4] for name in self.names}):
                self._round([name for name in self.names if name.startswith(number)])
            self.world.save(self.service.lake / "model.json")
            self._alive(lambda: not (self.service.queued() or checker.check(self.service.lake).any()))
            return checker.check(self.service.lake)
        finally:
            self.service.stop()

    def killed(self) -> Counter[str]:
        """Return how often the process died where."""
        found = [KILL.search(line["killed"]) for line in self.service.plan().noted() if "killed" in line]
        return Counter(" ".join(reversed(one.groups())) for one in found if one)

    def _round(self, names: list[str]) -> None:
        for name in names:
            self.world.write(name, STEPS[self.names[name]])
        for name in names:
            if self.names[name] == "delete":
                self._alive(lambda name=name: name in self.service.current())
                self.world.delete(name)
        self._alive(lambda: self._died() >= set(names))

    def _died(self) -> set[str]:
        """Return the objects at which the process died; an artifact's name holds that of its object."""
        places = [line["killed"] for line in self.service.plan().noted() if "killed" in line]
        return {name for name in self.names if any(name in place for place in places)}

    def _alive(self, done: Callable[[], bool]) -> None:
        """Start the process again whenever it has died, until `done`."""
        end = time.monotonic() + PATIENCE_S
        while not done() and time.monotonic() < end:
            if self.service.process.poll() is not None:
                assert self.service.process.returncode == -signal.SIGKILL
                self.service.start(wait=False)
            time.sleep(0.02)


def main() -> None:
    """Run them all; exit 1 if anything is lost, or if the process did not die everywhere."""
    parser = argparse.ArgumentParser(description="the process dies at every step")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--keep", type=Path, help="folder for the lake, kept afterwards")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the service does not outlive us
    with tempfile.TemporaryDirectory() as scratch:
        began = time.monotonic()
        folder = given.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        kills = Kills(folder / "kills", given.times)
        findings = kills.run()
        killed = kills.killed()
        for step, moment in product(STEPS, MOMENTS):
            print(f"{moment:6} {step:20} {killed[f'{moment} {step}']:4} kills")
        took_s = round(time.monotonic() - began)
        print(json.dumps({"kills": killed.total(), "took_s": took_s, **findings.counts()}))
        for line in findings.lines():
            print(f"  {line}", file=sys.stderr)
    sys.exit(findings.any() or killed.total() < given.times * len(STEPS) * len(MOMENTS))


if __name__ == "__main__":
    main()
