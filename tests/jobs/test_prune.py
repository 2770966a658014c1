"""`ingest --prune`: what is gone from a folder is removed, what may be on a missing disk is not."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import closing
from dataclasses import replace

import orjson
import pytest

from app.jobs import dead_letters
from app.jobs.prune import RemovalsHeld, prune
from app.model.errors import ConfigError, WarehouseUnavailable
from app.services import open_services
from tests import archives
from tests.conftest import lake_settings
from tests.jobs.test_ingest import CT, MR, TIME, count, current, document, ingest, output, put, statuses
from tests.parts import ROOT, need
from tests.pipeline.test_pipeline import Around, changed
from tests.system.e2e.service import Service, until


@pytest.fixture(params=["s", "landing"])
def folder(request, tmp_path):
    """A folder outside the landing folder, and that itself."""
    return tmp_path / request.param


def pruned(services, folder, sure=False):
    lines = []
    summary = prune(folder, services, lines.append, sure)
    orjson.dumps(lines)
    return lines, summary


def names(services, folder):
    return sorted(os.path.relpath(path, folder) for path in current(services))


def removals(services):
    sql = "SELECT object_uri, generation, event_type FROM instances WHERE event_type <> 'OBJECT_FINALIZE'"
    return [tuple(row.values()) for row in services.warehouse.query(sql)]


def test_what_is_gone_gets_its_tombstone_and_loses_its_artifacts(services, folder):
    put(folder / "kept.dcm", CT)
    gone = put(folder / "deep/ä b.dcm", MR)
    ingest(services, folder)
    gone.unlink()
    lines, summary = pruned(services, folder)
    assert lines == [{"object_uri": f"file://{gone}", "status": "deleted"}]
    assert summary == {"deleted": 1, "kept": 1}
    assert names(services, folder) == ["kept.dcm"]
    assert removals(services) == [(f"file://{gone}", TIME, "OBJECT_DELETE")]
    assert len(output(services)) == 2
    assert pruned(services, folder) == ([], {"deleted": 0, "kept": 1})
    assert count(services, "instances") == 3


def test_a_file_that_comes_back_with_its_old_time_is_stored_again(services, folder):
    put(folder / "kept.dcm", CT)
    path = put(folder / "a.dcm", MR)
    ingest(services, folder)
    path.unlink()
    pruned(services, folder)
    put(path, MR)
    assert ("stored", None) in statuses(ingest(services, folder))
    row = current(services)[str(path)]
    assert row["generation"] == TIME + 1
    assert document(row)["00080060"]["Value"] == ["MR"]


def test_only_the_folder_itself_is_pruned(services, folder):
    for name in ("s/a.dcm", "s/b.dcm", "s-2/a.dcm", "s/t/c.dcm", "s0.dcm", "other.dcm"):
        put(folder / name, CT)
    ingest(services, folder)
    for name in ("s/a.dcm", "s-2/a.dcm", "s0.dcm", "other.dcm"):
        (folder / name).unlink()
    assert pruned(services, folder / "s")[1] == {"deleted": 1, "kept": 2}
    assert names(services, folder) == ["other.dcm", "s-2/a.dcm", "s/b.dcm", "s/t/c.dcm", "s0.dcm"]


def test_a_folder_around_the_landing_folder_is_pruned_with_it(services, tmp_path):
    for name in ("landing/a.dcm", "landing/b.dcm", "s/a.dcm", "s/b.dcm"):
        put(tmp_path / name, CT)
    ingest(services, tmp_path)
    (tmp_path / "landing/a.dcm").unlink()
    (tmp_path / "s/a.dcm").unlink()
    (tmp_path / "link").symlink_to(tmp_path)
    assert pruned(services, tmp_path / "link/landing/..")[1] == {"deleted": 2, "kept": 2}
    assert names(services, tmp_path) == ["landing/b.dcm", "s/b.dcm"]
    assert services.source.last("a.dcm") is None


def test_an_archive_that_is_gone_loses_every_member(services, folder):
    put(folder / "kept.dcm", CT)
    gone = put(folder / "x.zip", archives.zipped([("1.dcm", CT), ("2.dcm", MR)]))
    ingest(services, folder)
    assert count(services, "instances_current") == 3
    gone.unlink()
    assert statuses(pruned(services, folder)[0]) == [("deleted", None)]
    assert count(services, "instances_current") == 1


def test_a_dead_letter_of_a_file_that_is_gone_is_closed(services, folder):
    put(folder / "kept.dcm", CT)
    gone = put(folder / "x.dcm", b"no DICOM")
    ingest(services, folder)
    gone.unlink()
    assert pruned(services, folder)[1] == {"deleted": 1, "kept": 1}
    assert list(dead_letters.letters(services.warehouse)) == []


def test_all_versions_of_a_file_that_is_gone_are_removed(services, folder):
    put(folder / "kept.dcm", CT)
    gone = put(folder / "a.dcm", CT)
    ingest(services, folder)
    put(gone, b"no DICOM any more", TIME + 5)
    assert statuses(ingest(services, gone)) == [("dead_lettered", "not_dicom")]
    gone.unlink()
    assert pruned(services, folder)[1] == {"deleted": 1, "kept": 1}
    assert (names(services, folder), len(output(services))) == (["kept.dcm"], 2)
    assert list(dead_letters.letters(services.warehouse)) == []


def test_a_new_index_does_not_matter(services, tmp_path):
    for name in ("a.dcm", "b.dcm"):
        put(tmp_path / "s" / name, CT)
    ingest(services, tmp_path / "s")
    settings = lake_settings(tmp_path, bus__url=f"local:{tmp_path}/new.db")
    (tmp_path / "s/a.dcm").unlink()
    with closing(open_services(settings)) as other:
        assert pruned(other, tmp_path / "s")[1] == {"deleted": 1, "kept": 1}
        put(tmp_path / "s/a.dcm", CT)
        ingest(other, tmp_path / "s")
        assert current(other)[f"{tmp_path}/s/a.dcm"]["generation"] == TIME + 1


@pytest.mark.parametrize("left", ["nothing", "empty", "other"])
def test_a_folder_of_which_all_is_gone_is_pruned_by_who_is_sure(services, tmp_path, left):
    folder = tmp_path / "s"
    for name in ("a.dcm", "deep/b.dcm"):
        put(folder / name, CT)
    ingest(services, folder)
    before = output(services)
    shutil.rmtree(folder)
    if left != "nothing":
        folder.mkdir()
    if left == "other":
        put(folder / "unmounted", b"")
    with pytest.raises(RemovalsHeld) as held:
        pruned(services, folder)
    assert held.value.text == (
        f"nothing was removed: none of the 2 object(s) that the lake knows in {folder} is there; "
        "mount its disk again or, if they were removed, give --yes as well"
    )
    assert (output(services), count(services, "instances")) == (before, 2)
    assert pruned(services, folder, sure=True)[1] == {"deleted": 2, "kept": 0}
    assert (current(services), output(services)) == ({}, [])
    if left == "nothing":
        with pytest.raises(ConfigError, match="there is no folder"):
            pruned(services, folder)


def test_an_empty_landing_folder_is_no_removal_of_all(services, tmp_path):
    path = put(tmp_path / "landing/a.dcm", CT)
    ingest(services, tmp_path / "landing")
    path.unlink()
    with pytest.raises(RemovalsHeld):
        pruned(services, tmp_path)
    assert names(services, tmp_path) == ["landing/a.dcm"]


def test_an_empty_folder_below_may_be_a_disk_that_is_missing(services, folder):
    for name in ("kept.dcm", "disk/a.dcm", "disk/deep/b.dcm", "one/c.dcm"):
        put(folder / name, CT)
    ingest(services, folder)
    for name in ("disk/deep", "disk", "one"):
        shutil.rmtree(folder / name)
    (folder / "one").mkdir()
    (folder / "disk").mkdir()
    with pytest.raises(RemovalsHeld, match="disk is empty and the lake knows 2 objects in it; mount"):
        pruned(services, folder)
    (folder / "disk").rmdir()
    assert pruned(services, folder)[1] == {"deleted": 3, "kept": 1}


def test_a_removal_that_fails_is_a_failed_line_and_done_by_the_next_run(services, tmp_path):
    folder = tmp_path / "s"
    for name in ("a.dcm", "b.dcm"):
        put(folder / name, CT)
    ingest(services, folder)
    (folder / "a.dcm").unlink()

    def append(table, rows):
        raise WarehouseUnavailable("down")

    broken = replace(services, warehouse=Around(services.warehouse, append=append))
    lines, summary = pruned(broken, folder)
    assert statuses(lines) == [("failed", "warehouse_unavailable")]
    assert lines[0]["reason"] == "append: down"
    assert summary == {"deleted": 0, "kept": 1, "failed": 1, "codes": {"warehouse_unavailable": 1}}
    assert names(services, folder) == ["a.dcm", "b.dcm"]
    assert pruned(services, folder)[1] == {"deleted": 1, "kept": 1}


def test_what_may_not_be_looked_at_is_not_gone(tmp_path):
    need("setpriv", shutil.which("setpriv") is not None or os.geteuid() != 0, "install util-linux")
    service, folder = Service(tmp_path / "lake"), tmp_path / "s"
    for name in ("closed/a.dcm", "b.dcm", "c.dcm"):
        put(folder / name, CT)
    service.run("ingest", str(folder))
    (folder / "c.dcm").unlink()
    (folder / "closed").chmod(0)
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    command = [*drop, sys.executable, "-m", "app", "ingest", "--prune", str(folder)]
    ran = subprocess.run(command, cwd=ROOT, env=service.env, capture_output=True, text=True, check=False)
    (folder / "closed").chmod(0o700)
    *lines, last = map(json.loads, ran.stdout.splitlines())
    assert statuses(lines) == [("failed", "storage_unavailable"), ("deleted", None)]
    assert last["summary"]["pruned"] == {
        **{"deleted": 1, "kept": 1, "failed": 1},
        "codes": {"storage_unavailable": 1},
    }
    assert ran.returncode == 1
    assert len(service.current()) == 2


def test_removals_that_the_settings_leave_out_are_ignored(services, folder):
    for name in ("a.dcm", "b.dcm"):
        put(folder / name, CT)
    ingest(services, folder)
    (folder / "a.dcm").unlink()
    plain = changed(services, source__events=["OBJECT_FINALIZE"])
    assert [line["status"] for line in pruned(plain, folder)[0]] == ["ignored"]
    assert names(services, folder) == ["a.dcm", "b.dcm"]
    assert pruned(services, folder)[1] == {"deleted": 1, "kept": 1}


def test_the_command_line_ingests_then_prunes(tmp_path):
    service, folder = Service(tmp_path / "lake"), tmp_path / "s"
    assert service.run("ingest", "--prune", str(folder)).returncode == 2  # no lake yet
    assert not (tmp_path / "lake/lake.db").exists()
    put(folder / "a.dcm", CT)
    put(folder / "b.dcm", CT)
    assert service.run("ingest", str(folder)).returncode == 0
    (folder / "a.dcm").rename(folder / "c.dcm")
    ran = service.run("ingest", str(folder), "--prune", str(folder))
    *lines, last = map(json.loads, ran.stdout.splitlines())
    assert [line["status"] for line in lines] == ["unchanged", "stored", "deleted"]
    assert last == {"summary": {"files": 2, "unchanged": 1, "stored": 1, "pruned": {"deleted": 1, "kept": 2}}}
    assert (ran.returncode, ran.stderr) == (0, "")
    shutil.rmtree(folder)
    ran = service.run("ingest", "--prune", str(folder))
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == (
        f"Error: removals_held: nothing was removed: none of the 2 object(s) that the lake knows in {folder} "
        "is there; mount its disk again or, if they were removed, give --yes as well\n"
    )
    ran = service.run("ingest", "--prune", str(folder), "--yes", "--quiet")
    assert (ran.returncode, ran.stdout) == (0, '{"summary":{"pruned":{"deleted":2,"kept":0}}}\n')
    assert service.current() == {}
    assert service.run("ingest").returncode == 2
    assert service.run("ingest", "--yes", str(tmp_path)).returncode == 2


def test_beside_the_service_that_removes_the_same_file(tmp_path):
    with Service(tmp_path / "lake") as service:
        for name in ("a.dcm", "b.dcm"):
            service.drop(name, CT)
        assert until(lambda: len(service.current()) == 2)
        (service.landing / "a.dcm").unlink()
        assert service.run("ingest", "--prune", str(service.landing)).returncode == 0
        assert list(service.current()) == ["b.dcm"]
        assert until(lambda: service.rows("SELECT 1 FROM instances WHERE event_type = 'OBJECT_DELETE'"))
    rows = service.rows("SELECT row_id FROM instances WHERE event_type = 'OBJECT_DELETE'")
    assert len(rows) == 1
