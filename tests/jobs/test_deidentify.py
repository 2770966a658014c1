"""Clean copies of folders: the same shape under other names, a table of what became of each, and a check."""

import csv
import gzip
import io
import os
import shutil
import sys
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file

from app.cli import cleaning
from app.config import load
from app.model.errors import ConfigError
from app.model.keys import Keys
from tests.archives import tgz, zipped
from tests.data import SOP, ct, sr
from tests.dicom.deidentify.cleaned import SECRET

QUIET = {"emit": lambda line: None, "progress": lambda done, total: None}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "Doe Jane"
    (folder / "CT 2024").mkdir(parents=True)
    (folder / "CT 2024" / "slice1.dcm").write_bytes(ct())
    (folder / "CT 2024" / "slice2").write_bytes(ct(SOPInstanceUID=f"{SOP}.2", InstanceNumber="8"))
    (folder / "report.dcm").write_bytes(sr())
    (folder / "readme.txt").write_text("for Jane Doe")
    (folder / "link.dcm").symlink_to(folder / "report.dcm")
    return folder


def settings(**given: object):
    return load({}, {f"deidentify.{key}": value for key, value in given.items()}).settings


def run(source: Path, target: Path, profile: str = "basic", secret: bytes = SECRET, **given: object):
    lines: list[dict[str, object]] = []
    job = cleaning.Job(source, target, profile, secret)
    summary = cleaning.run(job, settings(**given), lines.append, QUIET["progress"])
    return summary, lines


def table(target: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((target / "deidentified.csv").read_text())))


def test_folders_keep_their_shape_under_hashed_names(source, tmp_path):
    target = tmp_path / "clean"
    summary, _ = run(source, target)
    keys = Keys(SECRET)
    folder = keys.name("CT 2024")
    assert summary == {"files": 4, "clean": 2, "refused": 2}
    assert [tuple(row.values()) for row in table(target)] == [
        ("CT 2024/slice1.dcm", f"{folder}/{keys.name('slice1.dcm')}.dcm", "clean", ""),
        ("CT 2024/slice2", f"{folder}/{keys.name('slice2')}.dcm", "clean", ""),
        ("readme.txt", "", "refused", "not_dicom"),
        ("report.dcm", "", "refused", "cannot_deidentify"),
    ]
    made = dcmread(target / folder / f"{keys.name('slice1.dcm')}.dcm")
    assert made.SOPInstanceUID == keys.uid(SOP)
    assert sorted(path.name for path in target.iterdir()) == [".deidentified", "deidentified.csv", folder]


def test_advice_is_for_copies_and_not_for_dead_letters(source, tmp_path):
    _, lines = run(source, tmp_path / "clean")
    advice = {line["source"]: line.get("do", "") for line in lines if line["status"] == "refused"}
    assert advice["readme.txt"] == ""
    assert advice["report.dcm"].startswith("see docs/deidentification.md")


def test_archives_are_refused_as_what_they_are(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    for name, packed in (
        ("a.zip", zipped([("a.dcm", ct())])),
        ("b.tgz", tgz([("a.dcm", ct())])),
        ("c.dcm.gz", gzip.compress(ct())),
    ):
        (folder / name).write_bytes(packed)
    _, lines = run(folder, tmp_path / "clean")
    told = {(line["code"], line["reason"]) for line in lines}
    assert told == {("cannot_deidentify", "it is an archive: unpack it, and give the folder of its files")}


def test_with_pixels_a_secondary_capture_is_searched_for_text_and_released(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(get_testdata_file("SC_rgb_small_odd.dcm"), folder)
    for pixels, status in ((False, "refused"), (True, "clean")):
        summary, _ = run(folder, tmp_path / status, pixels=pixels)
        assert summary == {"files": 1, status: 1}


def test_pixels_need_the_extra_and_say_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    with pytest.raises(ConfigError, match=r"deidentify\.pixels: needs dicomlake\[pixels\]"):
        cleaning.load_profile("basic", pixels=True)


def test_a_second_run_reads_only_what_is_new(source, tmp_path):
    target = tmp_path / "clean"
    run(source, target)
    before = (target / "deidentified.csv").read_bytes()
    summary, lines = run(source, target)
    assert summary == {"files": 4, "unchanged": 2, "refused": 2}
    assert (target / "deidentified.csv").read_bytes() == before
    (source / "new.dcm").write_bytes(ct(SOPInstanceUID=f"{SOP}.9"))
    summary, lines = run(source, target)
    assert [line["source"] for line in lines if line["status"] == "clean"] == ["new.dcm"]


def test_two_runs_write_the_same_bytes(source, tmp_path):
    for name in ("one", "two"):
        run(source, tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.dcm"))
    assert len(files) == 2
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.parametrize("other", [{"profile": "research"}, {"secret": SECRET[::-1]}, {"names": "keep"}])
def test_one_folder_is_of_one_profile_and_key(source, tmp_path, other):
    run(source, tmp_path / "clean")
    with pytest.raises(ConfigError, match="another profile or key"):
        run(source, tmp_path / "clean", **other)


def test_a_target_inside_the_source_is_refused(source):
    with pytest.raises(ConfigError, match="lies in the folder to be read"):
        run(source, source / "clean")


def test_names_can_be_kept(source, tmp_path):
    run(source, tmp_path / "clean", names="keep")
    assert (tmp_path / "clean" / "CT 2024" / "slice2.dcm").exists()
    assert (tmp_path / "clean" / "CT 2024" / "slice1.dcm").exists()


def test_a_file_that_turned_bad_loses_its_copy(source, tmp_path):
    target = tmp_path / "clean"
    run(source, target)
    (copy,) = (target / row["output"] for row in table(target) if row["source"].endswith("slice1.dcm"))
    assert copy.exists()
    (source / "CT 2024" / "slice1.dcm").write_bytes(sr())
    newer = copy.stat().st_mtime_ns + 10**9
    os.utime(source / "CT 2024" / "slice1.dcm", ns=(newer, newer))
    run(source, target)
    assert not copy.exists()


def test_a_check_reports_what_is_left(source, tmp_path):
    lines: list[dict[str, object]] = []
    summary = cleaning.check(source / "CT 2024", settings(), "basic", lines.append, QUIET["progress"])
    assert summary["left"] == 2
    assert ["00100010", "to_replace"] in lines[0]["left"]
    assert "Doe" not in str([line["left"] for line in lines])


def test_a_check_of_copies_finds_nothing(source, tmp_path):
    run(source, tmp_path / "clean", "research")
    summary = cleaning.check(tmp_path / "clean", settings(), "research", QUIET["emit"], QUIET["progress"])
    assert (summary["files"], summary["clean"]) == (3, 3)
    assert "keep it apart" in str(summary["note"])


def test_a_profile_that_is_no_json_is_named(tmp_path):
    (tmp_path / "own.json").write_text("{")
    with pytest.raises(ConfigError, match=r"own\.json is not JSON"):
        cleaning.load_profile(str(tmp_path / "own.json"), pixels=False)
    with pytest.raises(ConfigError, match="is no profile"):
        cleaning.load_profile("strict", pixels=False)


def test_a_key_is_needed(tmp_path):
    with pytest.raises(ConfigError, match="there is no key"):
        cleaning.secret_of(settings(), None)
    (tmp_path / "key").write_bytes(SECRET + b"\n")
    assert cleaning.secret_of(settings(), tmp_path / "key") == SECRET
