"""A landing folder that is emptied by an unmounted disk keeps its rows, pictures and documents."""

from pathlib import Path

import httpx
from pydicom.data import get_testdata_file

from tests.system.e2e.service import Service, until


def test_rows_and_artifacts_outlive_a_missing_disk_until_the_removals_are_accepted(tmp_path):
    data = Path(get_testdata_file("MR_small.dcm")).read_bytes()
    service = Service(tmp_path / "lake")

    def answer() -> tuple[int, str]:
        ready = httpx.get(f"{service.url}/ready", timeout=10)
        return ready.status_code, ready.json()["source"]

    def written() -> list[Path]:
        return sorted(path for path in (service.lake / "output").rglob("*") if path.is_file())

    with service:
        for name in ("disk/a.dcm", "disk/b.dcm"):
            service.drop(name, data)
        assert until(lambda: len(service.current()) == 2, 30)
        assert answer() == (200, "ok")
    before = written()
    assert len(before) == 4
    (service.landing / "disk").rename(tmp_path / "away")
    (service.landing / "disk").mkdir()
    with service:
        assert until(lambda: answer() == (503, "removals_held"), 30)
        assert len(service.current()) == 2
        assert written() == before
    service.start("--accept-removals")
    try:
        assert until(lambda: service.current() == {}, 30)
        assert until(lambda: written() == [], 10)
        assert answer() == (200, "ok")
    finally:
        service.stop()
    assert service.rows("SELECT * FROM dead_letters") == []
