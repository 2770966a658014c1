"""Values that another tool planted in every place that can hold them: none is left, nothing else is lost."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from tests.dicom.deidentify.cleaned import clean_bytes
from tests.parts import shared

SOURCES = ("CT_small.dcm", "MR_small_RLE.dcm", "rtplan.dcm", "J2K_pixelrep_mismatch.dcm")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    tools, folder = shared("tools", "deid"), tmp_path_factory.mktemp("injected")
    plan = [
        {
            "src": str(get_testdata_file(name)),
            "group": index // 2,
            "charset": ("none", "jp", "latin1", "kr")[index],
        }
        for index, name in enumerate(SOURCES)
    ]
    (folder / "plan.json").write_text(json.dumps(plan))
    run(tools / "phi_inject.py", "--plan", folder / "plan.json", "--out", folder / "in")
    (folder / "out").mkdir()
    for path in (folder / "in").glob("*.dcm"):
        (folder / "out" / path.name).write_bytes(clean_bytes(path.read_bytes()))
    manifest, where = folder / "in" / "manifest.json", folder / "report.json"
    run(
        *(tools / "phi_check.py", "--manifest", manifest, "--inj", folder / "in"),
        *("--out", folder / "out", "--report", where, "--quiet"),
    )
    return json.loads(where.read_text())


def run(*words: object) -> None:
    subprocess.run([sys.executable, *map(str, words)], check=True, capture_output=True, cwd=Path.home())


def test_no_planted_value_is_left(report):
    assert report["planted"] > 9000
    assert {kind: left for kind, (left, _) in report["by_cat"].items() if left} == {}


def test_nothing_else_is_lost_or_changed(report):
    keep = report["keep"]
    assert keep["keep_lost"] + keep["keep_changed"] <= 0.005 * keep["keep_total"]
    assert report["crit_lost"] == {}
    assert set(report["pix"]) <= {"same", "none", "undecodable-in"}


def test_uids_are_new_consistent_and_apart(report):
    uids = report["uids"]
    assert (uids["unchanged"], uids["inconsistent"], uids["collisions"], uids["bad_syntax"]) == (0, 0, 0, 0)


def test_every_copy_is_readable_and_stamped(report):
    assert report["outputs"] == report["readable"] == len(SOURCES)
    assert report["keep"]["stamp_PIR"] == report["keep"]["stamp_codes"] == len(SOURCES)
