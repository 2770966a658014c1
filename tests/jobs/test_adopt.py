"""A lake records its profile; another one is taken over only by removing what the earlier one described."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from app.jobs import ingest as ingesting
from app.jobs.adopt import adopt, check_profile
from app.model.errors import ConfigError
from app.services import open_services
from tests import data
from tests.conftest import lake_settings
from tests.system.e2e.service import paths

KEY = "0123456789abcdef0123456789abcdef"
CLEAN = {"deidentify__profile": "basic", "deidentify__key": KEY}
PATIENT = b"Doe^Jane"


@pytest.fixture
def lake(tmp_path):
    def opened(**settings):
        return closing(open_services(lake_settings(tmp_path, **settings)))

    (tmp_path / "landing").mkdir()
    for number in range(3):
        path = tmp_path / "landing" / f"DOE-{number}.dcm"
        path.write_bytes(data.ct(PatientName=PATIENT.decode(), SOPInstanceUID=f"1.2.3.{number}"))
    return opened


def ingest_all(services):
    check_profile(services)
    return ingesting.ingest([services.source.root], services, lambda line: None)


def holds(folder: Path, value: bytes) -> list[str]:
    return [
        str(path)
        for path in paths(folder)
        if path.is_file() and "landing" not in path.parts and value in path.read_bytes()
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"deidentify__profile": "research"},
        {"deidentify__key": KEY[::-1]},
        {"deidentify__names": "keep"},
        {"deidentify__profile": "off"},
    ],
)
def test_a_start_with_another_profile_key_or_names_is_refused(lake, change):
    with lake(**CLEAN) as services:
        ingest_all(services)
    with lake(**CLEAN) as services:
        check_profile(services)
    with lake(**CLEAN | change) as services, pytest.raises(ConfigError, match="--adopt"):
        check_profile(services)


def test_a_lake_without_a_profile_is_not_turned_clean_by_a_setting(lake):
    with lake() as services:
        ingest_all(services)
    with lake(**CLEAN) as services, pytest.raises(ConfigError, match="--adopt"):
        check_profile(services)


def test_an_adoption_leaves_nothing_of_what_was_described_before(lake, tmp_path):
    with lake() as services:
        assert ingest_all(services)["stored"] == 3
    assert holds(tmp_path, PATIENT)
    with lake(**CLEAN) as services:
        summary = adopt(services)
        assert summary["rows_removed"] == 3
        assert summary["artifacts_removed"] == 6
        assert summary["described"]["stored"] == 3
        check_profile(services)
        rows = services.warehouse.query("SELECT * FROM instances")
        assert len(rows) == 3
        assert len({row["patient_id"] for row in rows}) == 1
    assert holds(tmp_path, PATIENT) == []
    names = [str(path.relative_to(tmp_path)) for path in paths(tmp_path) if "landing" not in path.parts]
    assert not [name for name in names if "DOE" in name]


def test_an_adoption_can_be_undone_while_the_originals_are_there(lake, tmp_path):
    with lake(**CLEAN) as services:
        ingest_all(services)
    with lake() as services:
        adopt(services)
        check_profile(services)
        rows = services.warehouse.query("SELECT patient_name, dicom_uri FROM instances")
    assert {row["patient_name"] for row in rows} == {PATIENT.decode()}
    assert {row["dicom_uri"] for row in rows} == {None}
    assert not [path for path in paths(tmp_path / "output" / "dicom") if path.is_file()]


def test_an_adoption_that_broke_off_is_still_asked_for(lake, monkeypatch):
    with lake() as services:
        ingest_all(services)

    def broken(*_, **__):
        raise KeyboardInterrupt

    with lake(**CLEAN) as services:
        monkeypatch.setattr(ingesting, "ingest", broken)
        with pytest.raises(KeyboardInterrupt):
            adopt(services)
        with pytest.raises(ConfigError, match="--adopt"):
            check_profile(services)
    monkeypatch.undo()
    with lake(**CLEAN) as services:
        assert adopt(services)["described"]["stored"] == 3


def test_a_key_that_is_missing_or_short_is_refused_at_the_start(lake):
    for key in ("", "short"):
        with pytest.raises(ConfigError, match="32"), lake(deidentify__profile="basic", deidentify__key=key):
            pass


def test_a_profile_that_is_none_is_refused_at_the_start(lake, tmp_path):
    broken = tmp_path / "p.json"
    broken.write_text('{"options": ["everything"]}')
    for profile in ("bassic", str(broken)):
        with lake(**CLEAN | {"deidentify__profile": profile}) as services, pytest.raises(ConfigError):
            check_profile(services)


def test_a_profile_of_a_file_is_read_once_at_the_start(lake, tmp_path):
    file = tmp_path / "p.json"
    file.write_text('{"base": "basic", "overrides": {"StudyDescription": "K"}}')
    with lake(**CLEAN | {"deidentify__profile": str(file)}) as services:
        file.unlink()
        assert ingest_all(services)["stored"] == 3


def test_rows_that_were_removed_leave_nothing_in_the_file(lake, tmp_path):
    with lake() as services:
        ingest_all(services)
        services.warehouse.clear("instances")
    with closing(sqlite3.connect(tmp_path / "lake.db")) as connection:
        assert connection.execute("SELECT count(*) FROM instances").fetchone() == (0,)
    assert PATIENT not in (tmp_path / "lake.db").read_bytes()
