"""A lake that an older version made is upgraded in place: nothing is lost, and what comes then is as new.

That version is taken from the history of the repository and run as it was, with the packages of today.
"""

import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from app.warehouse import open_warehouse
from tests import data
from tests.archives import zipped
from tests.parts import ROOT, need
from tests.system.e2e.service import Service, paths, until
from tests.warehouse.conftest import PROJECT, front

BEFORE = "386b159f721a57cc9446b81a8cc4f19bb2889717"
"""The last version whose rows have neither key nor revision."""
__all__ = ["front"]
ADDED = {"collection", "revision", "describe_key", "dicom_uri", "patient_name_folded"}
FILES = [("a/1.dcm", data.ct()), ("b", data.minimal()), ("m.r5", data.ct(SOPInstanceUID="1.2.3"))]


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """The code of that version, in a folder of its own."""
    need("git", shutil.which("git") is not None, "install git")
    git = ["git", "-C", str(ROOT)]
    found = subprocess.run([*git, "cat-file", "-e", f"{BEFORE}^{{commit}}"], capture_output=True, check=False)
    need(f"commit {BEFORE[:7]} of the repository", found.returncode == 0, "run git fetch --unshallow")
    folder = tmp_path_factory.mktemp("before")
    command = [*git, "archive", "--format=tar", BEFORE, "app", "tf/schemas"]
    packed = subprocess.run(command, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def lines(result):
    """Return how each file ended, by the end of its URI, and how many ended how."""
    *each, last = [json.loads(line) for line in result.stdout.splitlines()]
    counts = {name: value for name, value in last["summary"].items() if isinstance(value, int)}
    return {line["object_uri"].rpartition("/s/")[2]: line["status"] for line in each}, counts


def put(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def fill(folder):
    """Put one of each kind into a folder: objects of ordinary and of odd names, an archive, a bad file."""
    for name in ("ct.dcm", "acme/a^b.dcm", "acme/50%.dcm"):
        put(folder, name, data.ct())
    put(folder, "acme/x.zip", zipped(FILES))
    put(folder, "bad.dcm", b"no DICOM")


def by_id(rows):
    return {str(row["row_id"]): row for row in rows}


def assert_kept(before, after):
    """Check that every row is there as it was, with nulls in the columns that were added."""
    assert before.keys() <= after.keys()
    for row_id, row in before.items():
        found = after[row_id]
        assert found.keys() - row.keys() == ADDED
        assert {name: found[name] for name in row} == row
        assert {found[name] for name in ADDED} == {None}


def artifacts(lake):
    return {path for path in paths(lake / "output") if path.is_file()}


def named(rows):
    """Return the artifacts that rows name, which must be all there is."""
    uris = {row[name] for row in rows for name in ("metadata_uri", "preview_uri")} - {None}
    return {Path(str(uri).removeprefix("file://")) for uri in uris}


def test_a_lake_in_sqlite(before, tmp_path):
    lake = tmp_path / "lake"
    settings = {"delivery__permanent_attempts": 1, "workers__count": 1}
    with Service(lake, before, **settings) as service:
        fill(service.landing)
        service.drop("gone.dcm", data.ct())
        service.drop("over.dcm", data.ct())
        assert until(lambda: len(service.current()) == 6 and len(rows_of(service, "_current")) == 8, 30)
        (service.landing / "gone.dcm").unlink()
        service.drop("over.dcm", data.enhanced())
        gone = "SELECT * FROM instances WHERE event_type = 'OBJECT_DELETE'"
        assert until(lambda: len(service.rows(gone)) == 2, 30)
        assert until(lambda: service.rows("SELECT * FROM dead_letters"), 30)
    fill(tmp_path / "s")
    assert lines(service.run("ingest", str(tmp_path / "s")))[1] == {
        "files": 5,
        "stored": 4,
        "dead_lettered": 1,
    }
    rows, current = by_id(rows_of(service)), by_id(rows_of(service, "_current"))
    letters = service.rows("SELECT * FROM dead_letters ORDER BY message_id")
    assert (len(current), len(letters)) == (13, 2)
    assert {"queue", "landing"} <= tables(service)
    assert not ADDED & next(iter(rows.values())).keys()
    assert artifacts(lake) == named(current.values())

    with Service(lake, bus__url=f"local:{lake / 'queue.db'}", **settings) as service:
        assert_kept(rows, by_id(rows_of(service)))
        assert not {"queue", "landing"} & tables(service)  # they were moved
        assert by_id(rows_of(service)).keys() == rows.keys()
        assert by_id(rows_of(service, "_current")).keys() == current.keys()
        assert service.rows("SELECT * FROM dead_letters ORDER BY message_id") == letters
        for name in ("acme/x.zip", "acme/a^b.dcm", "acme/50%.dcm"):
            (service.landing / name).unlink()
        service.drop("acme/new.dcm", data.ct())
        left = {"ct.dcm", "over.dcm", "acme/new.dcm"}
        assert until(lambda: {name for name in service.current() if not name.startswith("file:")} == left, 30)
        assert until(lambda: artifacts(lake) == named(rows_of(service, "_current")), 30)
        new = service.current()["acme/new.dcm"]
        assert (new["collection"], new["patient_name_folded"], new["revision"]) == ("acme", "doe^jane", None)
        assert new["describe_key"]
    endings, _ = lines(service.run("ingest", str(tmp_path / "s"), str(service.landing / "ct.dcm")))
    assert list(endings.values()).count("stored") == 5
    assert endings["bad.dcm"] == "dead_lettered"
    after = rows_of(service, "_current")
    again = [row for row in after if row["revision"]]
    assert len(after) == 9
    assert len(again) == 7
    assert {row["describe_key"] for row in again} == {new["describe_key"]}
    assert artifacts(lake) == named(after)
    assert_kept(rows, by_id(rows_of(service)))
    _, summary = lines(service.run("ingest", str(tmp_path / "s"), str(service.landing)))
    assert summary == {"files": 9, "unchanged": 6, "stored": 1, "dead_lettered": 2}  # over.dcm was as before
    assert len(service.rows("SELECT * FROM dead_letters")) == 2


def rows_of(service, view=""):
    return service.rows(f"SELECT * FROM instances{view}")


def tables(service):
    return {row["name"] for row in service.rows("SELECT name FROM sqlite_master WHERE type = 'table'")}


@pytest.mark.xdist_group("cloud")
def test_a_lake_in_bigquery(before, tmp_path, front):
    lake, dataset = tmp_path / "lake", "upgraded"
    front.emulator.create_dataset(PROJECT, dataset, schemas=before / "tf/schemas")
    settings = {"warehouse__url": front.url(f"{PROJECT}.{dataset}"), "workers__count": 1}
    old = Service(lake, before, **settings)
    fill(tmp_path / "s")
    put(tmp_path / "s", "over.dcm", data.ct())
    assert lines(old.run("ingest", str(tmp_path / "s")))[1] == {"files": 6, "stored": 5, "dead_lettered": 1}
    put(tmp_path / "s", "over.dcm", data.enhanced())
    old.run("ingest", str(tmp_path / "s/over.dcm"))
    warehouse = open_warehouse(settings["warehouse__url"])

    def rows(table="instances"):
        return warehouse.query(f"SELECT * FROM {table}")

    stored, current, letters = by_id(rows()), by_id(rows("instances_current")), rows("dead_letters")
    assert (len(stored), len(current), len(letters)) == (9, 7, 1)
    assert artifacts(lake) == named(current.values())

    front.emulator.upgrade_dataset(PROJECT, dataset)
    assert_kept(stored, by_id(rows()))
    assert by_id(rows("instances_current")).keys() == current.keys()
    assert rows("dead_letters") == letters
    new = Service(lake, **settings)
    put(tmp_path / "s", "acme/x.zip", zipped(FILES[:1]))
    put(tmp_path / "s", "acme/a^b.dcm", data.ct())
    assert lines(new.run("ingest", str(tmp_path / "s")))[1] == {"files": 6, "stored": 5, "dead_lettered": 1}
    after = rows("instances_current")
    assert {(row["object_uri"].rpartition("/s/")[2], row["revision"] is None) for row in after} == {
        ("ct.dcm", False),
        ("over.dcm", False),
        ("acme/50%.dcm", False),
        ("acme/a^b.dcm", True),
        ("acme/x.zip", True),
    }
    assert artifacts(lake) == named(after)
    assert_kept(stored, by_id(rows()))
    _, summary = lines(new.run("ingest", str(tmp_path / "s")))
    assert summary == {"files": 6, "unchanged": 5, "dead_lettered": 1}
    warehouse.close()
