"""Every real file there is goes through `ingest`: stored or dead-lettered with a code; prints the table."""

import csv
import json
from collections import Counter
from pathlib import Path

import pydicom.data

from tests.parts import shared
from tests.system.e2e.service import Service

BUNDLED = Path(pydicom.data.__file__).parent

# What no reader can take for a whole data set, by name; every other DICOM file is stored.
LOST_AT_THE_END = {
    "MR_truncated.dcm",
    "rtplan_truncated.dcm",
    "mr_explicit_mono2_mr-truncated.dcm",
    "rtplan_implicit_rtplan-truncated.dcm",
    "xx_j2k-ll_emri-small-jpeg-2k-lossless-too-short.dcm",
}


def ingest(tmp_path, *folders):
    service = Service(tmp_path / "lake")
    result = service.run("ingest", *map(str, folders))
    *lines, last = [json.loads(line) for line in result.stdout.splitlines()]
    print(json.dumps(last["summary"]))
    table = Counter((line["status"], line.get("code") or line.get("preview_error") or "") for line in lines)
    for (status, code), count in sorted(table.items()):
        print(f"{count:5}  {status:14} {code}")
    return service, result, lines, last["summary"]


def names(lines, status):
    return {Path(line["object_uri"]).name: line.get("code") for line in lines if line["status"] == status}


def test_the_files_that_come_with_pydicom(tmp_path):
    service, result, lines, summary = ingest(tmp_path, BUNDLED / "test_files", BUNDLED / "charset_files")
    files = [path for folder in ("test_files", "charset_files") for path in (BUNDLED / folder).rglob("*")]
    assert summary["files"] == len(lines) == sum(path.is_file() for path in files)
    assert "failed" not in summary
    given_up = names(lines, "dead_lettered")
    assert {name for name, code in given_up.items() if code == "truncated"} >= {
        "MR_truncated.dcm",
        "rtplan_truncated.dcm",
    }
    assert set(given_up.values()) <= {"truncated", "not_dicom"}
    assert all(not name.endswith(".dcm") for name in names(lines, "ignored"))
    assert result.returncode == 1
    letters = [json.loads(line) for line in service.run("dlq", "list").stdout.splitlines()]
    assert {Path(letter["object"]).name: letter["code"] for letter in letters} == given_up


def test_a_second_run_changes_nothing(tmp_path):
    folder = BUNDLED / "charset_files"
    service, *_ = ingest(tmp_path, folder)
    before = service.rows("SELECT * FROM instances ORDER BY row_id")
    output = sorted(str(path) for path in (service.lake / "output").rglob("*"))
    ingest(tmp_path, folder)
    assert service.rows("SELECT * FROM instances ORDER BY row_id") == before
    assert sorted(str(path) for path in (service.lake / "output").rglob("*")) == output


def test_the_development_corpus(tmp_path):
    folder = shared("corpus")
    with (folder / "MANIFEST.csv").open() as file:
        decoded_elsewhere = {row["file"] for row in csv.DictReader(file) if row["pydicom_decodes"] == "yes"}
    _, _, lines, summary = ingest(tmp_path, folder)
    objects = {Path(line["object_uri"]).name: line for line in lines if line["object_uri"].endswith(".dcm")}
    assert len(objects) == len(list(folder.glob("*.dcm")))
    assert "failed" not in summary
    assert set(names(objects.values(), "dead_lettered")) <= LOST_AT_THE_END | {"xx_nots_no-meta.dcm"}
    pictures = {name: line["preview_uri"] for name, line in objects.items() if line.get("preview_uri")}
    assert decoded_elsewhere <= set(pictures)
    for uri in pictures.values():
        assert Path(uri.removeprefix("file://")).read_bytes().startswith(b"\x89PNG\r\n")
