"""Kill the service at random moments while files arrive: nothing is lost, nothing counts twice."""

import random
import signal
import sqlite3
import threading
import time
from pathlib import Path

from pydicom.data import get_testdata_file

from tests.system.e2e.service import Service, until

FILES = 500
KILLS = 10


def test_ten_kills_while_500_files_arrive_lose_and_double_nothing(tmp_path):
    data = Path(get_testdata_file("MR_small.dcm")).read_bytes()
    service = Service(tmp_path / "lake", delivery__backoff_min_s=0.2)
    random.seed(7)
    service.start()

    def arrive() -> None:
        for number in range(FILES):
            service.drop(f"in/{number:03}.dcm", data)
            time.sleep(0.02)

    arriving = threading.Thread(target=arrive)
    arriving.start()
    for _ in range(KILLS):
        time.sleep(random.uniform(0.3, 1.8))
        assert service.stop(signal.SIGKILL) == -signal.SIGKILL  # it had not refused to start
        service.start(wait=False)
    arriving.join()
    try:
        assert until(lambda: len(service.current()) == FILES, 90), len(service.current())
        assert until(lambda: service.rows("SELECT count(*) AS n FROM queue")[0]["n"] == 0)
        rows = service.rows("SELECT object_uri FROM instances_current")
        assert len({row["object_uri"] for row in rows}) == len(rows) == FILES
        assert service.rows("SELECT * FROM dead_letters") == []
        for row in service.rows("SELECT preview_uri, metadata_uri FROM instances_current"):
            assert all(Path(str(uri).removeprefix("file://")).stat().st_size > 0 for uri in row.values())
    finally:
        assert service.stop() == 0
    with sqlite3.connect(service.lake / "lake.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
