"""`ingest` by its facts: what it remembers of a file, what it says of one it cannot take."""

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest

from app import pipeline
from app.jobs import dead_letters
from app.jobs import ingest as ingesting
from app.jobs.own_files import Owner, OwnFiles
from app.model.errors import Overloaded, StorageUnavailable, WarehouseUnavailable
from app.model.values import EventType
from app.services import open_services
from app.sources.notifications import notification
from app.storage import WatchOptions
from tests import archives, data
from tests.conftest import lake_settings
from tests.parts import ROOT, need
from tests.pipeline.test_pipeline import Around, changed
from tests.system.e2e.service import Service, until

CT, MR = data.ct(), data.enhanced()
TIME = 1_700_000_000_000_000_000


def long_name(size):
    """Return a path of so many bytes whose segments are no longer than a file system takes."""
    name = "/".join(["d" * 200] * (size // 201))
    return f"{name}/{'f' * (size - len(name) - 5)}.dcm"


def put(path, content, mtime_ns=TIME):
    """Put a file in its place as `cp -p` and `tar` do: another inode, and the time it had elsewhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name("part")
    part.write_bytes(content)
    os.utime(part, ns=(mtime_ns, mtime_ns))
    part.replace(path)
    return path


def rewrite(path, content, mtime_ns=TIME):
    """Write in place, then set the time again."""
    time.sleep(0.01)  # file times move in steps of some milliseconds
    path.write_bytes(content)
    os.utime(path, ns=(mtime_ns, mtime_ns))


def ingest(services, *paths, again=False):
    lines = []
    summary = ingesting.ingest(paths, services, lines.append, again)
    assert summary["files"] == len(lines)
    orjson.dumps(lines)  # the command line prints every line
    return lines


def statuses(lines):
    return [(line["status"], line.get("code")) for line in lines]


def current(services):
    rows = services.warehouse.query("SELECT * FROM instances_current")
    return {row["object_uri"].removeprefix("file://"): row for row in rows}


def count(services, table):
    return services.warehouse.query(f"SELECT count(*) AS n FROM {table}")[0]["n"]


def output(services):
    return sorted(ref.name for ref in services.artifacts.list())


def document(row):
    return json.loads(Path(row["metadata_uri"].removeprefix("file://")).read_text())


@pytest.fixture(params=["s", "landing"])
def folder(request, tmp_path):
    """A folder outside the landing folder, and that itself."""
    return tmp_path / request.param


@pytest.mark.parametrize("mtime_ns", [TIME - 10**9, TIME, TIME + 10**9])
def test_what_replaces_a_file_is_current_whatever_its_time(services, folder, mtime_ns):
    path = put(folder / "a.dcm", CT)
    (first,) = ingest(services, folder)
    put(path, MR, mtime_ns)
    assert statuses(ingest(services, folder)) == [("stored", None)]
    row = current(services)[str(path)]
    assert row["modality"] == "MR"
    assert row["generation"] == max(mtime_ns, TIME + 1)
    assert document(row)["00080060"]["Value"] == ["MR"]
    assert not Path(first["metadata_uri"].removeprefix("file://")).exists()
    assert len(output(services)) == 2
    assert count(services, "instances") == 3  # two versions and the removal of the first
    assert statuses(ingest(services, folder)) == [("unchanged", None)]
    assert count(services, "instances") == 3


def test_bytes_written_in_place_behind_an_old_time_are_another_version(services, folder):
    path = put(folder / "a.dcm", data.ct(SeriesDescription="Thorax"))
    ingest(services, path)
    rewrite(path, data.ct(SeriesDescription="Throat"))
    ingest(services, path)
    row = current(services)[str(path)]
    assert (row["generation"], row["series_description"]) == (TIME + 1, "Throat")
    assert document(row)["0008103E"]["Value"] == ["Throat"]


def test_a_change_of_mode_or_links_is_no_version(services, folder):
    path = put(folder / "a.dcm", CT)
    ingest(services, path)
    before = output(services)
    path.chmod(0o600)
    os.link(path, folder.parent / "link")
    assert statuses(ingest(services, path)) == [("unchanged", None)]
    assert (count(services, "instances"), output(services)) == (1, before)


def bytes_read(services):
    (line,) = re.findall(r"^dicomlake_bytes_total (.*)$", services.metrics.render()[0].decode(), re.M)
    return float(line)


def test_what_has_its_row_is_unchanged_and_not_read(services, folder):
    put(folder / "a.dcm", CT)
    put(folder / "x.zip", archives.zipped([("1.dcm", CT), ("2.dcm", MR)]))
    ingest(services, folder)
    before = bytes_read(services), count(services, "instances"), output(services)
    assert before[0] > 0
    for _ in range(2):
        assert statuses(ingest(services, folder)) == [("unchanged", None)] * 2
    assert (bytes_read(services), count(services, "instances"), output(services)) == before


def test_what_the_service_stored_is_unchanged(services):
    path = put(services.source.root / "a.dcm", CT)
    published = []
    services.source.watch(published.extend, WatchOptions(0.3))
    assert until(lambda: published, 5)
    pipeline.handle(published[0], services)
    assert until(lambda: services.source.last("a.dcm").told, 5)
    assert statuses(ingest(services, path)) == [("unchanged", None)]


def test_other_settings_make_a_revision_whose_row_names_the_picture(services, folder):
    put(folder / "a.dcm", CT)
    put(folder / "x.zip", archives.zipped([("1.dcm", CT)]))
    plain = changed(services, preview__enabled=False)
    first = {line["object_uri"]: line.get("preview_error") for line in ingest(plain, folder)}
    assert set(first.values()) == {"disabled", None}
    lines = ingest(services, folder)
    assert statuses(lines) == [("stored", None)] * 2
    assert [line["preview_uri"] for line in lines if "preview_uri" in line] == [
        current(services)[str(folder / "a.dcm")]["preview_uri"]
    ]
    for row in current(services).values():
        assert Path(row["preview_uri"].removeprefix("file://")).read_bytes()[:4] == b"\x89PNG"
        assert row["revision"] == pytest.approx(time.time(), abs=600)
        assert f".r{row['revision']}.png" in row["preview_uri"]
    assert len(output(services)) == 4
    assert count(services, "instances") == 4
    assert statuses(ingest(services, folder)) == [("unchanged", None)] * 2
    ingest(plain, folder)
    assert {row["preview_uri"] for row in current(services).values()} == {None}
    assert (len(output(services)), count(services, "instances")) == (2, 6)


def test_again_describes_all_anew_and_each_time_under_a_higher_number(services, folder):
    path = put(folder / "a.dcm", CT)
    ingest(services, folder)
    still = replace(services, now=lambda: datetime(2026, 3, 1, 12, tzinfo=UTC))  # two runs within a second
    for number in (1772366400, 1772366401):
        assert statuses(ingest(still, folder, again=True)) == [("stored", None)]
        assert current(services)[str(path)]["revision"] == number
    assert len(output(services)) == 2
    path.unlink()
    put(folder / "a.dcm", MR, TIME + 1)
    ingest(services, folder)
    assert current(services)[str(path)]["revision"] is None


def test_rows_of_a_version_without_keys_are_described_again_once(services, folder):
    path = put(folder / "a.dcm", CT)
    ingest(services, folder)
    with closing(sqlite3.connect(services.source.root.parent / "lake.db")) as database, database:
        database.execute("UPDATE instances SET describe_key = NULL")
    assert statuses(ingest(services, folder)) == [("stored", None)]
    assert current(services)[str(path)]["revision"]
    assert statuses(ingest(services, folder)) == [("unchanged", None)]


def test_a_revision_that_failed_is_told_once_and_tried_until_it_passes(services, folder):
    path = put(folder / "a.dcm", data.ct(StudyDate="20241399"))
    ingest(services, folder)
    before = output(services)
    strict = changed(services, metadata__strict=True)
    for _ in range(2):
        assert statuses(ingest(strict, folder)) == [("dead_lettered", "invalid_value")]
    (letter,) = dead_letters.letters(services.warehouse)
    assert (letter["object_uri"], letter["letters"]) == (f"file://{path}", 1)
    assert (output(services), current(services)[str(path)]["revision"]) == (before, None)
    keys = changed(services, metadata__keys="tag")
    assert statuses(ingest(keys, folder)) == [("stored", None)]
    assert list(dead_letters.letters(services.warehouse)) == []


def test_a_run_that_ended_between_the_row_and_the_rest_is_completed(services, folder):
    put(folder / "a.dcm", CT)
    ingest(services, folder)

    def delete(name):
        raise StorageUnavailable("down")

    broken = replace(services, artifacts=Around(services.artifacts, delete=delete))
    assert statuses(ingest(broken, folder, again=True)) == [("failed", "storage_unavailable")]
    (row,) = current(services).values()
    assert row["revision"]
    assert len(output(services)) == 4
    assert statuses(ingest(services, folder)) == [("stored", None)]
    assert [row["revision"] for row in current(services).values()] == [row["revision"]]
    assert len(output(services)) == 2
    assert statuses(ingest(services, folder)) == [("unchanged", None)]


def test_an_archive_that_failed_in_part_is_tried_again(services, folder):
    put(folder / "x.zip", archives.zipped([("1.dcm", CT), ("2.dcm", b"no")]))
    for _ in range(2):
        assert statuses(ingest(services, folder)) == [("dead_lettered", "bad_archive")]
    assert count(services, "instances") == 1
    assert len(output(services)) == 2


def test_an_archive_that_was_cut_short_is_completed(services, folder):
    files = [(f"{number}.dcm", data.minimal()) for number in range(3)]
    put(folder / "x.zip", archives.zipped(files))

    def append(table, rows):
        if table == "instances":
            services.warehouse.append(table, rows[:1])
            raise WarehouseUnavailable("down")
        return services.warehouse.append(table, rows)

    broken = replace(services, warehouse=Around(services.warehouse, append=append))
    assert statuses(ingest(broken, folder)) == [("failed", "warehouse_unavailable")]
    assert count(services, "instances_current") == 1
    assert statuses(ingest(services, folder)) == [("stored", None)]
    assert (count(services, "instances_current"), count(services, "instances")) == (3, 3)
    assert statuses(ingest(services, folder)) == [("unchanged", None)]


def test_rows_are_asked_for_in_batches(services, tmp_path):
    for number in range(300):
        put(tmp_path / f"s/{number}.txt", b"no DICOM")
    asked = []

    def query(sql, parameters=None):
        asked.append(len(parameters or {}))
        return services.warehouse.query(sql, parameters)

    counting = replace(services, warehouse=Around(services.warehouse, query=query))
    assert statuses(ingest(counting, tmp_path / "s")) == [("ignored", "not_dicom")] * 300
    assert sorted(asked) == [44, 256]


def test_a_warehouse_that_is_down_while_rows_are_asked_for_fails_file_by_file(services, folder):
    put(folder / "a.dcm", CT)

    def query(sql, parameters=None):
        if parameters:
            raise WarehouseUnavailable("down")
        return services.warehouse.query(sql, parameters)

    broken = replace(services, warehouse=Around(services.warehouse, query=query))
    assert statuses(ingest(broken, folder)) == [("failed", "warehouse_unavailable")]


def test_the_command_line_describes_again_when_told_to(tmp_path):
    service = Service(tmp_path / "lake")
    put(tmp_path / "s/a.dcm", CT)
    ended = [
        [json.loads(line) for line in service.run("ingest", *words, str(tmp_path / "s")).stdout.splitlines()]
        for words in ([], [], ["--again"])
    ]
    assert [lines[0]["status"] for lines in ended] == ["stored", "unchanged", "stored"]
    assert ended[1][1] == {"summary": {"files": 1, "unchanged": 1}}
    assert service.rows("SELECT count(*) AS n FROM instances") == [{"n": 2}]


@pytest.mark.parametrize("content", [CT, b"no DICOM", b""], ids=["stored", "dead_lettered", "ignored"])
def test_the_service_finds_what_was_ingested_known_and_what_went_removed(services, tmp_path, content):
    kept, gone = put(tmp_path / "landing/kept.dcm", content), put(tmp_path / "landing/gone.dcm", content)
    ingest(services, tmp_path / "landing")
    gone.unlink()
    published = []
    services.source.watch(published.extend, WatchOptions(0.3))
    until(lambda: published)
    time.sleep(0.5)
    assert kept.exists()
    (told,) = [message.attributes for message in published]
    assert (told["eventType"], told["objectId"]) == ("OBJECT_DELETE", "gone.dcm")
    assert told["objectGeneration"] == str(TIME)


def test_a_dead_letter_of_a_file_that_was_replaced_is_closed(services, tmp_path):
    path = put(tmp_path / "s/a.dcm", b"no DICOM")
    assert statuses(ingest(services, path)) == [("dead_lettered", "not_dicom")]
    put(path, CT)
    assert statuses(ingest(services, path)) == [("stored", None)]
    assert list(dead_letters.letters(services.warehouse)) == []
    assert list(current(services)) == [str(path)]


def test_a_file_of_another_service_run_keeps_its_generation(services, tmp_path):
    path = put(tmp_path / "s/a.dcm", CT)
    ingest(services, path)
    put(path, MR, TIME - 1)
    again = open_services(lake_settings(tmp_path))
    try:
        ingest(again, path)
        ingest(again, path)
        assert current(again)[str(path)]["generation"] == TIME + 1
    finally:
        again.close()


def test_names_that_no_object_can_have_are_told_with_their_bytes_escaped(services, tmp_path):
    folder = tmp_path / "s"
    for name in (b"\xff.dcm", b"line\nbreak.dcm", b"return\r.dcm", b"\xfe/inside.dcm", b"50%.dcm"):
        path = os.path.join(os.fsencode(folder), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(CT)
    lines = ingest(services, folder)
    assert sorted((line["object_uri"].partition("/s/")[2], line.get("code")) for line in lines) == [
        ("50%.dcm", None),
        ("\\xfe/inside.dcm", "bad_name"),
        ("\\xff.dcm", "bad_name"),
        ("line\\x0abreak.dcm", "bad_name"),
        ("return\\x0d.dcm", "bad_name"),
    ]
    assert {line["status"] for line in lines if "code" in line} == {"failed"}
    (line,) = ingest(services, Path(os.fsdecode(os.fsencode(folder) + b"/\xfe")))
    assert (line["object_uri"], line["code"]) == (f"file://{folder}/\\xfe", "bad_name")


def test_a_name_longer_than_an_event_can_tell_is_a_bad_name(services, tmp_path):
    landing = tmp_path / "landing"
    fits, long = landing / f"{'d' * 250}/{'e' * 250}/{'f' * 250}/{'g' * 250}", "h" * 21
    put(fits / long[:-1], CT)
    put(fits / long, CT)
    lines = ingest(services, landing)
    assert sorted(statuses(lines), key=str) == [("failed", "bad_name"), ("stored", None)]


def test_a_folder_that_cannot_be_read_is_told_and_the_others_are_stored(tmp_path):
    need("setpriv", shutil.which("setpriv") is not None or os.geteuid() != 0, "install util-linux")
    service = Service(tmp_path / "lake")
    for name in ("a.dcm", "closed/b.dcm", "closed.dcm", "z.dcm"):
        put(tmp_path / "s" / name, CT)
    for name in ("closed", "closed.dcm"):
        (tmp_path / "s" / name).chmod(0)
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    command = [*drop, sys.executable, "-m", "app", "ingest", str(tmp_path / "s")]
    result = subprocess.run(
        command, cwd=ROOT, env=service.env, capture_output=True, text=True, timeout=60, check=False
    )
    (tmp_path / "s/closed").chmod(0o700)
    *lines, last = [json.loads(line) for line in result.stdout.splitlines()]
    assert {line["object_uri"].partition("/s/")[2]: line["status"] for line in lines} == {
        "a.dcm": "stored",
        "closed/": "failed",
        "closed.dcm": "failed",
        "z.dcm": "stored",
    }
    assert {line.get("code") for line in lines} == {None, "storage_unavailable"}
    reasons = {line["object_uri"].partition("/s/")[2]: line.get("reason") for line in lines}
    assert reasons["closed/"] == "permission denied by the storage"
    assert reasons["closed.dcm"] == "read: permission denied by the storage"
    assert last == {
        "summary": {"files": 4, "stored": 2, "failed": 2, "codes": {"storage_unavailable": 2}},
    }
    assert result.returncode == 1


def test_a_path_of_1010_bytes_is_stored_by_service_and_command_line(tmp_path):
    name = long_name(1010)
    assert len(name) == 1010
    with Service(tmp_path / "lake") as service:
        service.drop(name, CT)
        row = until(lambda: service.current().get(name))
        assert row
        assert row["modality"] == "CT"
        assert document(row)["00080060"]["Value"] == ["CT"]
        (service.landing / name).unlink()
        assert until(lambda: name not in service.current())
    path = put(tmp_path / long_name(1020 - len(f"{tmp_path}/")), CT)
    result = service.run("ingest", str(path.parent))
    line = json.loads(result.stdout.splitlines()[0])
    assert (line["status"], line["object_uri"]) == ("stored", f"file://{path}")


def test_a_dead_letter_of_a_long_path_is_told_once_by_bucket_and_object(services, tmp_path):
    path = put(tmp_path / long_name(1020 - len(f"{tmp_path}/")), b"no DICOM")
    assert len(str(path)) == 1020
    for _ in range(2):
        assert statuses(ingest(services, path)) == [("dead_lettered", "not_dicom")]
    (letter,) = dead_letters.letters(services.warehouse)
    assert letter["object_uri"] == f"gs://localhost{path}"
    assert letter["code"] == "not_dicom"
    assert letter["letters"] == 1


def test_what_desktops_and_editors_leave_behind_is_ignored(services, tmp_path):
    names = [".DS_Store", "Thumbs.db", "desktop.ini", ".a.dcm.swp", "a.dcm~", ".directory", "a.dcm.part"]
    for name in names:
        put(tmp_path / "landing" / name, b"\0\0\0\1Bud1\0")
    assert statuses(ingest(services, tmp_path / "landing")) == [("ignored", "not_dicom")] * len(names)
    assert list(dead_letters.letters(services.warehouse)) == []


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("series_$folder$", ("ignored", "empty_object")),
        ("notes.txt", ("ignored", "not_dicom")),
        ("a.dcm", ("dead_lettered", "not_dicom")),
    ],
)
def test_an_empty_file_is_a_failure_where_its_name_promises_more(services, folder, name, ending):
    put(folder / name, b"")
    assert statuses(ingest(services, folder)) == [ending]


def whole_lake(services, tmp_path):
    """Put a file into landing and one beside the lake's own files, and have both described once."""
    put(tmp_path / "landing/deep/a.dcm", CT)
    put(tmp_path / "study/b.dcm", MR)
    ingest(services, tmp_path / "landing", tmp_path / "study")
    assert len(output(services)) == 4


@pytest.mark.parametrize("way", [".", "study/..", "link", "landing/deep/../.."])
def test_ingest_of_a_folder_with_the_lake_in_it_takes_each_file_for_what_it_is(services, tmp_path, way):
    whole_lake(services, tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    before = output(services), count(services, "instances")
    lines = []
    summary = ingesting.ingest([tmp_path / way], services, lines.append)
    databases = len(list(tmp_path.glob("lake.db*")))
    assert databases > 1
    assert summary == {"files": 2, "unchanged": 2, "skipped": 4 + databases, "links": 1}
    assert [line["object_uri"] for line in lines] == [
        f"file://{tmp_path}/landing/deep/a.dcm",
        f"file://{tmp_path}/study/b.dcm",
    ]
    assert (output(services), count(services, "instances")) == before
    assert list(dead_letters.letters(services.warehouse)) == []


def test_what_went_from_landing_leaves_nothing_of_a_run_over_the_whole_lake(services, tmp_path):
    path = put(tmp_path / "landing/a.dcm", CT)
    ingest(services, tmp_path)
    assert len(output(services)) == 2
    path.unlink()
    services.source.watch(
        lambda messages: [pipeline.handle(message, services) for message in messages], WatchOptions(0.3)
    )
    assert until(lambda: not output(services), 10)
    assert current(services) == {}


@pytest.mark.parametrize("name", ["output", "output/metadata", "lake.db", "lake.db-wal", "output/stray.dcm"])
def test_ingest_of_what_the_lake_made_itself_does_nothing(services, tmp_path, name):
    whole_lake(services, tmp_path)
    put(tmp_path / "output/stray.dcm", CT)
    before = output(services), count(services, "instances")
    lines = []
    summary = ingesting.ingest([tmp_path / name], services, lines.append)
    assert lines == []
    assert summary.pop("skipped") > 0
    assert summary == {"files": 0}
    assert (output(services), count(services, "instances")) == before


def test_artifacts_beside_the_objects_are_skipped_and_the_objects_are_not(tmp_path):
    settings = lake_settings(tmp_path, source__url=f"file:{tmp_path}/in", artifacts__url=f"file:{tmp_path}")
    with closing(open_services(settings)) as services:
        put(tmp_path / "in/a.dcm", CT)
        put(tmp_path / "b.dcm", MR)
        ingest(services, tmp_path)
        assert sorted(current(services)) == [f"{tmp_path}/b.dcm", f"{tmp_path}/in/a.dcm"]
        assert len(ingest(services, tmp_path)) == 2


def test_the_index_and_a_queue_elsewhere_are_the_lakes_too(tmp_path):
    places = {"source__url": f"file:{tmp_path}/in", "bus__url": f"local:{tmp_path}/q/queue.db"}
    with closing(open_services(lake_settings(tmp_path, **places))) as services:
        put(tmp_path / "q/a.dcm", CT)
        (line,) = ingest(services, tmp_path / "q")
        assert line["object_uri"].endswith("/q/a.dcm")
        own = OwnFiles(services)
        for name in ("q/queue.db-journal", "lake.db-journal", "output/a.dcm", "q/QUEUE.DB"):
            assert own.owner(tmp_path / name)[0] is Owner.LAKE
        assert own.owner(tmp_path / "in/b/a.dcm") == (Owner.LANDING, "b/a.dcm")
        assert own.owner(tmp_path / "q/lake.db") == (Owner.OTHER, f"{tmp_path}/q/lake.db"[1:])


def test_ingest_of_the_folder_one_is_in_finds_the_lake_there(tmp_path):
    put(tmp_path / "lake/landing/a.dcm", CT)
    put(tmp_path / "b.dcm", MR)
    program = [sys.executable, "-m", "app", "ingest", "."]
    for status in ("stored", "unchanged"):
        ended = subprocess.run(
            program,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=False,
        )
        *lines, last = map(json.loads, ended.stdout.splitlines())
        assert [line["status"] for line in lines] == [status, status]
        assert last["summary"].pop("skipped") >= 1
        assert last == {"summary": {"files": 2, status: 2}}
    pictures = sorted(path.name.split(".")[0] for path in (tmp_path / "lake/output/images").rglob("*.png"))
    assert pictures == ["a", "b"]


def test_a_folder_mounted_at_a_second_place_is_still_the_landing_folder(services, tmp_path):
    need("bind mounts", os.geteuid() == 0 and shutil.which("mount") is not None, "run as root on Linux")
    whole_lake(services, tmp_path)
    again = tmp_path / "again"
    again.mkdir()
    mounted = subprocess.run(
        ["mount", "--bind", str(tmp_path / "landing"), str(again)], capture_output=True, check=False
    )
    need("bind mounts", mounted.returncode == 0, "run where mounting is allowed")
    try:
        (line,) = ingest(services, again)
    finally:
        subprocess.run(["umount", str(again)], check=True)
    assert line["object_uri"] == f"file://{tmp_path}/landing/deep/a.dcm"
    assert count(services, "instances") == 2


@pytest.mark.parametrize("inflight_bytes", [0, 1])  # with room for one file, the others wait for that as well
def test_waiting_for_a_worker_or_for_room_is_no_part_of_a_deadline(tmp_path, inflight_bytes):
    limits = {"delivery__deadline_s": 2, "workers__inflight_bytes": inflight_bytes}
    for name in ("a.dcm", "b.dcm"):
        put(tmp_path / "s" / name, CT)
    put(tmp_path / "s/c.zip", archives.zipped([("1.dcm", CT), ("2.dcm", MR)]))
    landed = put(tmp_path / "landing/d.dcm", CT)
    begun = threading.Event()
    with (
        closing(open_services(lake_settings(tmp_path, **limits))) as services,
        ThreadPoolExecutor() as threads,
    ):
        busy = threads.submit(services.workers.run, time.sleep, 5, begun=begun.set)
        assert begun.wait(30)
        lines = threads.submit(ingest, services, tmp_path / "s")
        ref = services.source.find(landed.name)
        pushed = notification(EventType.FINALIZE, ref, services.source.uri(ref.name), services.now())
        with pytest.raises(Overloaded):  # a push has to be answered before its sender gives up
            pipeline.handle(pushed, services)
        assert not busy.done()
        assert statuses(lines.result()) == [("stored", None)] * 3


@pytest.mark.parametrize(
    ("name", "content", "ending"),
    [
        ("LICENSE", b"Attribution 4.0 International", ("ignored", "not_dicom")),
        ("deep/README", "Zürich ".encode() * 1000, ("ignored", "not_dicom")),
        ("IM000001", bytes(128) + b"damaged", ("dead_lettered", "not_dicom")),
        ("IM000001", CT[:-100], ("dead_lettered", "truncated")),
        ("IM000001", CT, ("stored", None)),
        ("IM000001", b"", ("dead_lettered", "not_dicom")),
        ("a.dcm", b"<html>Not found</html>", ("dead_lettered", "not_dicom")),
    ],
)
def test_plain_text_without_an_extension_is_nothing_that_anybody_misses(
    services, folder, name, content, ending
):
    put(folder / name, content)
    assert statuses(ingest(services, folder)) == [ending]


def test_a_dead_letter_says_that_a_file_is_empty_or_text(services, tmp_path):
    put(tmp_path / "s/a.dcm", b"")
    put(tmp_path / "s/b.dcm", b"<html>Not found</html>")
    put(tmp_path / "s/c.zip", archives.zipped([("1.dcm", CT), ("2.dcm", b"")]))
    reasons = [line["reason"] for line in ingest(services, tmp_path / "s")]
    assert reasons == [
        "describe: the object is empty (0 bytes)",
        "describe: the bytes are plain text",
        'describe: 1 member(s) failed: "2.dcm" (not_dicom: empty)',
    ]
    assert sorted(letter["reason"] for letter in dead_letters.letters(services.warehouse)) == sorted(reasons)


def test_every_failed_line_has_a_reason_and_what_to_do(services, tmp_path):
    folder = tmp_path / "s"
    put(folder / "bad\nname.dcm", CT)
    put(folder / "cut.dcm", CT[:-100])
    put(folder / "empty.dcm", b"")
    put(folder / "notes.txt", b"a note")
    put(folder / "x.zip", archives.zipped([("1.dcm", CT), ("2.dcm", b"")]))
    os.mkfifo(folder / "pipe.dcm")
    lines = {line["object_uri"].partition("/s/")[2]: line for line in ingest(services, folder)}
    told = {
        name: (line["status"], line["code"], line["reason"], line["do"].partition(":")[0])
        for name, line in lines.items()
        if "reason" in line
    }
    assert told == {
        "bad\\x0aname.dcm": (
            *("failed", "bad_name", "the path is not UTF-8, or has a line end in it"),
            "rename the file and ingest it again",
        ),
        "cut.dcm": (
            *("dead_lettered", "truncated", "describe: the value of 7FE00010 is cut off"),
            "compare size and checksum with the sender's, put a whole copy in its place and ingest that, "
            "which closes the letter; `dicomlake dump FILE` shows what can be read",
        ),
        "empty.dcm": (
            *("dead_lettered", "not_dicom", "describe: the object is empty (0 bytes)"),
            "put the right file in its place and ingest it, or drop the letter (`dicomlake dlq purge ID`); "
            "if many unwanted names match, narrow `source.expect`",
        ),
        "pipe.dcm": (
            *("failed", "not_a_file", "it is a named pipe, not a regular file"),
            "copy its contents into a regular file and ingest that",
        ),
        "x.zip": (
            *("dead_lettered", "bad_archive", 'describe: 1 member(s) failed: "2.dcm" (not_dicom: empty)'),
            "send the members that the reason names again, alone or in a new archive",
        ),
    }
    assert lines["notes.txt"].keys() == {"object_uri", "status", "code"}
    summary = ingesting.ingest([folder], services, lambda line: None)
    assert summary == {
        "files": 6,
        "dead_lettered": 3,
        "failed": 2,
        "ignored": 1,
        "codes": {"bad_name": 1, "not_a_file": 1, "truncated": 1, "not_dicom": 1, "bad_archive": 1},
    }


@pytest.mark.parametrize("way", ["direct", "in a folder"])
@pytest.mark.parametrize("kind", ["a named pipe", "a socket", "a device"])
def test_what_is_no_regular_file_is_told_and_never_opened(services, folder, kind, way):
    folder.mkdir(exist_ok=True)
    path = folder / "IM0001"
    if kind == "a named pipe":
        os.mkfifo(path)
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.relpath(path))
    else:
        need("root", os.geteuid() == 0, "run as root, who may make devices")
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    (line,) = ingest(services, path if way == "direct" else folder)
    assert (line["status"], line["code"]) == ("failed", "not_a_file")
    assert (line["object_uri"], line["reason"]) == (f"file://{path}", f"it is {kind}, not a regular file")


def test_links_in_a_folder_are_counted_and_not_followed(services, folder, tmp_path):
    target = put(tmp_path / "other/a.dcm", CT)
    folder.mkdir(exist_ok=True)
    (folder / "good.dcm").symlink_to(target)
    (folder / "dangling.dcm").symlink_to(tmp_path / "nowhere")
    (folder / "below").symlink_to(target.parent)
    lines = []
    assert ingesting.ingest([folder], services, lines.append) == {"files": 0, "links": 3}
    assert lines == []
    assert statuses(ingest(services, folder / "good.dcm")) == [("stored", None)]
    assert list(current(services)) == [str(target)]


def test_a_file_that_is_named_twice_is_one_file(services, folder):
    path = put(folder / "a.dcm", CT)
    put(folder / "x.dcm", b"no DICOM")
    assert len(ingest(services, folder, path, folder / "x.dcm", folder)) == 2


def test_interrupt_does_not_wait_for_the_files_ahead(tmp_path):
    packed = archives.zipped((f"{number}.dcm", CT) for number in range(500))
    for number in range(20):
        put(tmp_path / "disc" / f"{number}.zip", packed)
    program = [sys.executable, "-m", "app", "ingest", "disc"]
    with subprocess.Popen(program, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}) as process:
        until(lambda: list(tmp_path.glob("lake/output/metadata/**/*.json")))
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(120) == 130
        finally:
            process.kill()
    services = open_services(lake_settings(tmp_path / "lake"))
    assert count(services, "instances") < 20 * 500
    services.close()
