"""The service that polls an Orthanc dies again and again; Orthanc is killed and loses its database.

    python -m tests.system.faults.orthanc_kills [--kills 25]

Prints how many instances were ever uploaded, landed, are current and were ever stored: all four are equal.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests import data
from tests.orthanc import USER, Orthanc
from tests.system.e2e.service import Service, until

PATIENCE_S = 120


class Uploads:
    """Uploads one new instance after the other, except while paused; `seen` are the IDs it got."""

    def __init__(self, orthanc: Orthanc) -> None:
        self._orthanc, self.seen = orthanc, set[str]()
        self._end, self._turn = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def pause(self) -> None:
        self._turn.acquire()

    def go_on(self) -> None:
        self._turn.release()

    def close(self) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        number = 0
        while not self._end.wait(0.02):
            number += 1
            sop = f"{data.SERIES}.{number}"
            with self._turn:
                self.seen.add(self._orthanc.upload(data.ct(SOPInstanceUID=sop, InstanceNumber=str(number))))


class Kills:
    """One lake, one Orthanc; `run` returns the four counts."""

    def __init__(self, folder: Path, kills: int) -> None:
        self.orthanc, self.kills = Orthanc(folder / "orthanc"), kills
        login = {"orthanc__url": self.orthanc.url, "orthanc__user": USER[0], "orthanc__password": USER[1]}
        prompt = {"orthanc__poll_s": 0.2, "delivery__backoff_min_s": 0.2}
        self.service = Service(folder / "lake", **login, **prompt)

    def run(self) -> dict[str, int]:
        moments = random.Random(7)
        with self.orthanc, self.service:
            uploads = Uploads(self.orthanc)
            try:
                for kill in range(1, self.kills + 1):
                    time.sleep(moments.uniform(0.2, 1.5))
                    assert self.service.stop(signal.SIGKILL) == -signal.SIGKILL
                    self.service.start(wait=kill % 3 == 0)
                    if kill == self.kills // 3:
                        self._upset(uploads, lose=False)
                    if kill == 2 * self.kills // 3:
                        self._upset(uploads, lose=True)
            finally:
                uploads.close()
            assert until(lambda: self._landed() >= uploads.seen, PATIENCE_S), self.service.log.read_text()
            assert until(lambda: len(self.service.current()) >= len(uploads.seen), PATIENCE_S)
            assert until(lambda: self.service.rows("SELECT count(*) AS n FROM queue")[0]["n"] == 0)
            (history,) = self.service.rows("SELECT count(*) AS n FROM instances")
            assert self.service.rows("SELECT * FROM dead_letters") == []
            counts = (
                len(uploads.seen),
                len(self._landed()),
                len(self.service.current()),
                int(str(history["n"])),
            )
        return dict(zip(("uploaded", "landed", "current", "history"), counts, strict=True))

    def _upset(self, uploads: Uploads, lose: bool) -> None:
        """Restart Orthanc; with `lose` it forgets all that the lake has, so that is waited for."""
        uploads.pause()
        if lose:
            assert until(lambda: self._landed() >= uploads.seen, PATIENCE_S), self.service.log.read_text()
        self.orthanc.stop()
        if lose:
            self.orthanc.drop_database()
        self.orthanc.start()
        uploads.go_on()

    def _landed(self) -> set[str]:
        return {path.stem for path in (self.service.landing / "orthanc").glob("*.dcm")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=25)
    with tempfile.TemporaryDirectory() as folder:
        counts = Kills(Path(folder), parser.parse_args().kills).run()
    print(json.dumps(counts))
    sys.exit(len(set(counts.values())) > 1)


if __name__ == "__main__":
    main()
