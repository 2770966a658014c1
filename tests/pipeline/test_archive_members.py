"""Archives through the pipeline, on real storage, warehouse and workers."""

import gzip
import json
import random
import tarfile
import time
import zipfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from app import pipeline
from app.archive import describe_members
from app.model.errors import (
    BadArchive,
    DeadlineExceeded,
    NotDicom,
    RowsRejected,
    StorageUnavailable,
    WorkerCrashed,
)
from app.model.values import Content, EventType, GiveUp, Message, Status
from app.pipeline.archive_members import Members
from app.pipeline.attempt import Attempt
from app.sources.notifications import notification
from app.workers.pool import Workers
from tests import data
from tests.archives import tarred, tgz, zipped
from tests.parts import shared
from tests.streams import Log
from tests.system.faults import Broken, broken

CT = data.ct()
GOOD = [("a/1.dcm", CT), ("a/2.dcm", data.minimal())]
MIXED = [*GOOD, ("a/3.dcm", b"no image"), ("notes.txt", b"hello")]


@pytest.fixture(scope="module")
def workers():
    warm = Workers(1, 3 << 29, 60)
    yield warm
    warm.close()


@pytest.fixture
def services(services, workers):
    return replace(services, workers=workers)


def land(services, name, packed):
    path = services.source.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(packed)
    return services.source.find(name)


def handle(services, ref, kind=EventType.FINALIZE, **more):
    told = notification(kind, ref, services.source.uri(ref.name), services.now())
    message = replace(told, message_id="1", **{key: more[key] for key in ("attempt",) if key in more})
    return pipeline.handle(message, services, more.get("how", GiveUp.WHEN_DUE))


def rows(services, table="instances_current"):
    return services.warehouse.query(f"SELECT * FROM {table}")


def members(services):
    return sorted(row["member"] for row in rows(services))


def artifacts(services):
    return sorted(found.name for found in services.artifacts.list())


@pytest.mark.parametrize("packed", [zipped(GOOD), tarred(GOOD), tgz(GOOD)], ids=["zip", "tar", "tgz"])
def test_every_member_is_a_row_with_its_own_artifacts(services, packed):
    ref = land(services, "study/x.zip", packed)
    outcome = handle(services, ref)
    assert (outcome.status, outcome.stored, outcome.instances) == (Status.STORED, 2, ())
    assert members(services) == ["a/1.dcm", "a/2.dcm"]
    folder = f"study/x.zip.{ref.generation}^/a"
    assert artifacts(services) == [
        f"images/{folder}/1.dcm.png",
        f"metadata/{folder}/1.dcm.json",
        f"metadata/{folder}/2.dcm.json",
    ]
    first, second = sorted(rows(services), key=lambda row: row["member"])
    assert first["size_bytes"] == second["size_bytes"] == len(packed)
    assert (first["modality"], first["preview_error"], second["preview_error"]) == (
        "CT",
        None,
        "no_pixel_data",
    )
    assert first["preview_uri"].endswith(f"images/{folder}/1.dcm.png")
    assert Path(first["preview_uri"].removeprefix("file://")).read_bytes()[:4] == b"\x89PNG"


def test_a_single_file_in_gzip_is_a_row(services):
    handle(services, land(services, "scan.dcm.gz", gzip.compress(CT)))
    assert members(services) == ["scan.dcm"]


def test_bulk_data_of_a_member_is_found_in_the_member(services):
    ref = land(services, "x.zip", zipped([("a b/1.dcm", CT)]))
    handle(services, ref)
    (row,) = rows(services)
    uri = json.loads(Path(row["metadata_uri"].removeprefix("file://")).read_bytes())["7FE00010"][
        "BulkDataURI"
    ]
    assert f"/x.zip?generation={ref.generation}&member=a%20b%2F1.dcm#offset=" in uri


def test_good_members_are_stored_and_the_bad_ones_named(services):
    ref = land(services, "x.zip", zipped(MIXED))
    with pytest.raises(BadArchive) as caught:
        handle(services, ref)
    assert caught.value.code == "bad_archive"
    assert caught.value.text == '1 member(s) failed: "a/3.dcm" (not_dicom)'
    assert members(services) == ["a/1.dcm", "a/2.dcm"]


def test_a_redelivery_of_an_archive_with_bad_members_repeats_nothing(services):
    ref = land(services, "x.zip", zipped(MIXED))
    for attempt in range(1, 4):
        with pytest.raises(BadArchive):
            handle(services, ref, attempt=attempt)
        if attempt == 1:
            first, files = rows(services, "instances"), artifacts(services)
    assert rows(services, "instances") == first
    assert artifacts(services) == files


def test_the_dead_letter_of_an_archive_stays_open_although_members_have_rows(services):
    ref = land(services, "x.zip", zipped(MIXED))
    outcome = handle(services, ref, how=GiveUp.NOW)
    assert (outcome.status, outcome.code, outcome.stored) == (Status.DEAD_LETTERED, "bad_archive", 2)
    (letter,) = rows(services, "dead_letters")
    assert (letter["object"], letter["code"]) == ("x.zip", "bad_archive")
    assert letter["reason"] == 'describe: 1 member(s) failed: "a/3.dcm" (not_dicom)'
    assert len(rows(services)) == 2


def test_many_bad_members_are_counted_and_their_names_cannot_forge_a_line(services):
    bad = [(f"{number}\n\x1b{'x' * 200}\u202e.dcm", b"no") for number in range(100)]
    with pytest.raises(BadArchive) as caught:
        handle(services, land(services, "x.zip", zipped([*GOOD, *bad])))
    assert caught.value.text.startswith("100 member(s) failed: ")
    assert caught.value.text.endswith(", and 90 more")
    assert len(caught.value.text) <= 1000
    assert caught.value.text.isascii()
    assert caught.value.text.isprintable()


@pytest.mark.parametrize(
    "files",
    [[], [("readme.txt", b"hello")], [("LICENSE", b"free")], [("DICOMDIR", CT)], [("a.dcm", b"no")]],
)
def test_an_archive_without_dicom_fails_as_a_plain_file_would(services, files):
    with pytest.raises(NotDicom):
        handle(services, land(services, "x.zip", zipped(files)))
    outcome = handle(services, land(services, "letter.docx", zipped(files)))
    assert (outcome.status, outcome.code) == (Status.IGNORED, "not_dicom")
    assert rows(services, "instances") == []


def test_what_comes_along_on_a_patient_disc_does_no_harm(services):
    others = ["DICOMDIR", "viewer.exe", "__MACOSX/a/._1.dcm", "a/._1.dcm", "autorun.inf", "report.docx"]
    disc = [*GOOD, *((name, zipped([]) if name.endswith("x") else b"\0\5\x16\7") for name in others)]
    assert handle(services, land(services, "disc.zip", zipped(disc))).status is Status.STORED
    assert members(services) == ["a/1.dcm", "a/2.dcm"]


TEXTS = [("LICENSE", b"Attribution"), ("a/README", "é".encode() * 4096), ("VERSION", b"1.0\n")]


@pytest.mark.parametrize("pack", [zipped, tarred, tgz])
def test_plain_text_without_an_extension_beside_images_is_passed_over(services, pack):
    assert handle(services, land(services, "x.zip", pack([*TEXTS, *GOOD]))).status is Status.STORED
    assert members(services) == ["a/1.dcm", "a/2.dcm"]


@pytest.mark.parametrize(
    ("content", "why"), [(bytes(200), "not_dicom"), (b"\xff\xd8\xff", "not_dicom"), (b"", "not_dicom: empty")]
)
def test_other_bytes_without_an_extension_are_a_damaged_image(services, content, why):
    with pytest.raises(BadArchive) as caught:
        handle(services, land(services, "x.zip", zipped([*TEXTS, *GOOD, ("IM000001", content)])))
    assert caught.value.text == f'1 member(s) failed: "IM000001" ({why})'


def test_what_was_passed_over_is_counted_and_named_in_one_line_of_the_log(services, caplog):
    others = [("DICOMDIR", CT), ("viewer.exe", b"MZ\0"), ("a\nb", b"text"), *TEXTS]
    with caplog.at_level("INFO", logger="dicomlake"):
        ref = land(services, "disc.zip", zipped([*GOOD, *others]))
        handle(services, ref)
    (line,) = [record for record in caplog.records if record.getMessage() == "passed over"]
    assert (line.count, line.object, line.generation) == (6, "disc.zip", ref.generation)
    assert json.loads(line.member) == ["DICOMDIR", "viewer.exe", "a\\x0ab", "LICENSE", "a/README", "VERSION"]


def test_of_very_many_that_were_passed_over_ten_are_named(services, caplog):
    others = [(f"{number}-{'x' * 100}.txt", b"text") for number in range(30)]
    with caplog.at_level("INFO", logger="dicomlake"):
        handle(services, land(services, "disc.zip", zipped([*GOOD, *others])))
    (line,) = [record for record in caplog.records if record.getMessage() == "passed over"]
    assert (line.count, len(json.loads(line.member))) == (30, 10)
    assert len(line.member) < 1000


def test_the_download_with_a_text_file_is_stored(services):
    packed = (shared("fieldcases") / "macosx_with_a_text_file.zip").read_bytes()
    assert handle(services, land(services, "x.zip", packed)).status is Status.STORED
    assert members(services) == ["x/IM1.dcm", "x/IM2"]


def test_an_archive_of_a_kind_that_is_not_read_is_not_lost_silently(services):
    with pytest.raises(BadArchive) as caught:
        handle(services, land(services, "study.rar", b"Rar!\x1a\7\1\0" + bytes(100)))
    assert caught.value.code == "unsupported_archive"


def test_a_cut_archive_stores_what_is_whole_and_fails(services):
    packed = tarred(GOOD)
    with pytest.raises(BadArchive) as caught:
        handle(services, land(services, "x.tar", packed[: packed.index(b"a/2.dcm") + 600]))
    assert caught.value.code == "archive_truncated"
    assert members(services) == ["a/1.dcm"]


@pytest.mark.parametrize("name", ["x.zip", "a^b%20.zip", "50%.zip"])
def test_a_delete_hides_all_members_and_removes_their_artifacts(services, name):
    other = land(services, f"{name}.dcm", CT)
    handle(services, other)
    kept = artifacts(services)
    files = [*GOOD, ("../../up.dcm", CT), ("100%.dcm", CT), ("a/1.dcm", CT), ("b.json/c.dcm", CT), ("b", CT)]
    ref = land(services, name, zipped(files))
    assert handle(services, ref).stored == 7
    assert len(artifacts(services)) == len(kept) + 13
    (services.source.root / name).unlink()
    handle(services, ref, EventType.DELETE)
    assert [row["member"] for row in rows(services)] == [None]
    tombstones = [row for row in rows(services, "instances") if row["event_type"] == "OBJECT_DELETE"]
    assert [row["member"] for row in tombstones] == [None]
    assert artifacts(services) == kept


def test_an_update_of_the_metadata_of_an_archive_is_one_row_more_for_each_member(services):
    ref = land(services, "x.zip", zipped(GOOD))
    handle(services, ref)
    files = artifacts(services)
    assert handle(services, ref, EventType.METADATA_UPDATE).stored == 2
    assert members(services) == ["a/1.dcm", "a/2.dcm"]
    assert len(rows(services, "instances")) == 4
    assert artifacts(services) == files


def test_no_member_is_written_outside_the_artifacts(services):
    names = [
        "../../../up.dcm",
        "/abs.dcm",
        "a/../../b.dcm",
        "..",
        "a//b.dcm",
        "x" * 5000,
        "d/" * 900 + "1.dcm",
    ]
    ref = land(services, "x.zip", zipped([(name, CT) for name in names]))
    assert handle(services, ref).stored == len(names)
    lake = services.artifacts.root.parent
    pictures = [path.relative_to(lake).as_posix() for path in lake.rglob("*.png")]
    assert len(pictures) == len(names)
    assert all(path.startswith(f"output/images/x.zip.{ref.generation}^/") for path in pictures)
    assert len(artifacts(services)) == 2 * len(names)


class Deadly(Broken):
    """Workers that die on some members: on all of them, or only while they are rendered."""

    def __init__(self, workers, labels, rendering):
        super().__init__(workers, "stream", WorkerCrashed("the worker died"))
        self.labels, self.rendering, self.tasks = labels, rendering, 0

    def _fail(self, function, *args, **limits):
        self.tasks += 1
        assert function is describe_members
        _, part, options, _ = args
        with closing(self._inner.stream(function, *args, **limits)) as found:
            for entry in part.entries:
                if entry.label in self.labels and (options.preview.enabled or not self.rendering):
                    raise self._error
                yield next(found)


def deadly(services, labels, rendering=False):
    return replace(services, workers=Deadly(services.workers, set(labels), rendering))


def test_a_member_that_kills_its_worker_costs_itself_alone(services):
    files = [(f"{number}.dcm", data.minimal()) for number in range(70)]
    dying = deadly(services, ["33.dcm"])
    with pytest.raises(BadArchive) as caught:
        handle(dying, land(services, "x.zip", zipped(files)))
    assert caught.value.text == '1 member(s) failed: "33.dcm" (worker_crashed)'
    assert len(rows(services)) == 69
    assert dying.workers.tasks == 5  # two batches, the first again from that member, alone, and after it


def test_a_member_that_kills_its_worker_while_rendering_loses_its_picture_alone(services):
    dying = deadly(services, ["a/1.dcm"], rendering=True)
    assert handle(dying, land(services, "x.zip", zipped([*GOOD, ("3.dcm", CT)]))).stored == 3
    found = {row["member"]: row["preview_error"] for row in rows(services)}
    assert found == {"a/1.dcm": "worker_crashed", "a/2.dcm": "no_pixel_data", "3.dcm": None}


def test_an_archive_that_costs_worker_after_worker_is_given_up(services):
    files = [(f"{number}.dcm", data.minimal()) for number in range(60)]
    dying = deadly(services, [name for name, _ in files])
    with pytest.raises(BadArchive, match="more than 16 members"):
        handle(dying, land(services, "x.zip", zipped(files)))
    assert dying.workers.tasks < 60


def test_members_after_one_that_kills_its_worker_are_not_blamed_for_it(services):
    files = [(f"{number}.dcm", CT) for number in range(6)]
    dying = deadly(services, ["2.dcm", "3.dcm"], rendering=True)
    assert handle(dying, land(services, "x.tgz", tgz(files))).stored == 6
    found = {row["member"]: row["preview_error"] for row in rows(services)}
    assert found == {f"{n}.dcm": "worker_crashed" if n in (2, 3) else None for n in range(6)}


def large_tgz(services, deadly_ones=()):
    """Describe an archive of 3,000 members read in ranges, and return by how often its size it was read."""
    chance = random.Random(1)
    others = [(f"{number}.bin", b"\0" + chance.randbytes(700)) for number in range(3000)]
    others[700:700] = others[2900:2900] = [("1.dcm", CT)]
    packed = gzip.compress(tarred(others, tarfile.USTAR_FORMAT), 1)
    ref = land(services, "x.tgz", packed)
    stream = Log(packed)
    content = Content(ref, services.source.uri(ref.name), len(packed), opener=lambda: stream_again(stream))
    attempt = Attempt(Message(b"", {}, "1"), 500, services.metrics)
    attempt.stored = 0
    used = deadly(services, deadly_ones) if deadly_ones else services
    found = Members(content, services.settings.describe_options(), attempt, used)
    with closing(found.groups()) as groups:
        labels = [instance.member for group in groups for instance in group]
    return labels, sum(count for _, count in stream.reads) / len(packed)


def stream_again(stream):
    """Give a worker the same stream, which outlives it."""
    stream.close = lambda: None
    stream.seek(0)
    return stream


def test_a_large_tgz_is_inflated_once_to_list_it_and_once_to_describe_it(services):
    labels, times = large_tgz(services)
    assert labels == ["1.dcm", "1~2.dcm"]
    assert times < 2.2


def test_a_member_of_a_large_tgz_that_kills_its_worker_costs_two_passes_more(services):
    labels, times = large_tgz(services, ["1~2.dcm"])
    assert labels == ["1.dcm"]
    assert times < 5.2


def test_an_archive_that_is_given_up_in_the_middle_leaves_no_worker_busy(services):
    ref = land(services, "x.tgz", tgz([(f"{n}.dcm", data.minimal()) for n in range(3000)]))
    with pytest.raises(StorageUnavailable) as caught:
        handle(broken(services, "write", StorageUnavailable("down")), ref)
    assert services.workers.run(len, b"abc", wait_s=0) == 3  # while the error, with all its frames, is kept
    assert caught.value.code == "storage_unavailable"


def test_a_member_of_a_long_name_has_artifacts_that_go_with_the_archive(services):
    names = ["/".join(["%" * 50] * 9) + f"/{number}.dcm" for number in range(2)]
    ref = land(services, "x.zip", zipped([(name, data.ct()) for name in names]))
    assert handle(services, ref).stored == 2
    stored = [found.name for found in services.artifacts.list()]
    assert len(stored) == 4
    assert max(len(name.encode()) for name in stored) < 1024
    (services.source.root / "x.zip").unlink()
    handle(services, ref, EventType.DELETE)
    assert list(services.artifacts.list()) == []


def test_a_row_that_the_warehouse_refuses_is_a_bad_member(services):
    class Refusing(Broken):
        def _fail(self, table, rows):
            if table != "instances":
                return self._inner.append(table, rows)
            bad = {index: "no" for index, row in enumerate(rows) if row["member"] == "a/1.dcm"}
            self._inner.append(table, [row for index, row in enumerate(rows) if index not in bad])
            raise RowsRejected(bad)

    refusing = replace(services, warehouse=Refusing(services.warehouse, "append", RowsRejected({})))
    with pytest.raises(BadArchive, match=r'"a/1.dcm" \(row_rejected\)'):
        handle(refusing, land(services, "x.zip", zipped(GOOD)))
    assert members(services) == ["a/2.dcm"]
    assert not [ref.name for ref in services.artifacts.list() if ref.name.endswith("a/1.dcm.json")]


def test_a_failing_store_is_transient_and_the_next_delivery_heals(services):
    ref = land(services, "x.zip", zipped(GOOD))
    with pytest.raises(StorageUnavailable):
        handle(broken(services, "write", StorageUnavailable("down")), ref)
    assert rows(services) == []
    handle(services, ref)
    assert members(services) == ["a/1.dcm", "a/2.dcm"]


@pytest.mark.parametrize("kind", ["zip", "tar", "tgz"])
def test_an_archive_too_big_for_memory_is_read_where_it_lies(services, kind):
    files = [("film.avi", random.Random(1).randbytes(65 << 20)), *GOOD]
    packed = zipped(files, zipfile.ZIP_STORED) if kind == "zip" else tarred(files)
    ref = land(services, "x.zip", gzip.compress(packed, 0) if kind == "tgz" else packed)
    assert services.source.fetch(ref).data is None
    assert handle(services, ref).stored == 2
    assert members(services) == ["a/1.dcm", "a/2.dcm"]


def test_more_members_than_one_task_takes_all_arrive(services):
    files = [(f"{number}.dcm", data.minimal(SOPInstanceUID=f"1.2.{number}")) for number in range(150)]
    assert handle(services, land(services, "x.zip", zipped(files, zipfile.ZIP_STORED))).stored == 150
    assert len({row["sop_instance_uid"] for row in rows(services)}) == 150


def with_deadline(services, deadline_s, **more):
    delivery = replace(services.settings.delivery, deadline_s=deadline_s)
    return replace(services, settings=services.settings.model_copy(update={"delivery": delivery}), **more)


class Slow(Broken):
    """Workers that take their time for each task: in it, or before it begins."""

    def __init__(self, workers, waiting_s, working_s):
        super().__init__(workers, "run", WorkerCrashed(""))
        self.waiting_s, self.working_s = waiting_s, working_s

    def _fail(self, function, *args, begun, **limits):
        time.sleep(self.waiting_s)
        begun()
        time.sleep(self.working_s)
        return self._inner.run(function, *args, **limits)


def test_an_archive_whose_members_take_all_the_time_is_refused_for_good(services):
    late = with_deadline(services, 0.5, workers=Slow(services.workers, 0, 0.6))
    ref = land(services, "x.zip", zipped(GOOD))
    with pytest.raises(BadArchive, match=r"delivery\.deadline_s") as caught:
        handle(late, ref)
    assert caught.value.code == "limit_exceeded"
    assert handle(late, ref, how=GiveUp.NOW).status is Status.DEAD_LETTERED


def test_an_archive_that_waited_for_workers_comes_again(services):
    late = with_deadline(services, 0.5, workers=Slow(services.workers, 0.6, 0))
    ref = land(services, "x.zip", zipped(GOOD))
    with pytest.raises(DeadlineExceeded):
        handle(late, ref)
    assert handle(services, ref).stored == 2
