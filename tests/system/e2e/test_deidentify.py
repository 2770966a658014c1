"""A lake with a profile: nothing that names a patient leaves it, by any door."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import httpx
import pydicom
import pytest
from pydicom.data import get_testdata_file

from tests.receiver import PictureReceiver
from tests.system.e2e.service import Service, paths, until

FILES = ("CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm")
HELD_BACK = "reportsi.dcm"
KEY = "k" * 32
NAMES = ("DOE", "SMITH", "WARD-7")


def sample(name: str) -> Path:
    found = get_testdata_file(name)
    assert isinstance(found, str)
    return Path(found)


def identifiers() -> set[bytes]:
    """Return what names the patients of the samples: names, ids and instance UIDs."""
    found = {name.encode() for name in NAMES}
    for name in (*FILES, HELD_BACK):
        dataset = pydicom.dcmread(sample(name), force=True)
        for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "SOPInstanceUID", "InstitutionName"):
            value = str(dataset.get(keyword) or "")
            if len(value) > 3:
                found.add(value.encode())
    return found


@pytest.fixture(scope="module")
def receiver():
    opened = PictureReceiver()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def lake(tmp_path_factory, receiver):
    folder = tmp_path_factory.mktemp("clean") / "lake"
    settings = {"deidentify__profile": "basic", "deidentify__key": KEY}
    settings["forward__urls"] = json.dumps([receiver.url, f"file:{folder / 'encoded'}"])
    landing = folder / "landing" / "DOE"
    landing.mkdir(parents=True)
    for name in (*FILES, HELD_BACK):
        shutil.copy(sample(name), landing / f"SMITH-{name}")
    with open(os.fsencode(landing) + b"/SMITH-\xff.dcm", "wb") as no_name:  # of no object: only a log line
        no_name.write(sample(FILES[0]).read_bytes())
    with zipfile.ZipFile(folder / "landing" / "WARD-7.zip", "w") as archive:
        archive.write(sample("CT_small.dcm"), "SMITH/ct.dcm")
        archive.writestr("SMITH/junk.dcm", b"\x00" * 300)
    with Service(folder, **settings) as service:
        wanted = len(FILES) + 1
        assert until(lambda: len(rows(service)) == wanted and len(letters(service)) == 2), (
            service.log.read_text()
        )
        yield service


def rows(service):
    return service.rows("SELECT * FROM instances_current")


def letters(service):
    return service.rows("SELECT * FROM dead_letters")


def found_in(data: bytes) -> set[bytes]:
    return {one for one in identifiers() if one in data}


def test_every_row_comes_from_a_clean_copy(lake):
    for row in rows(lake):
        copy = pydicom.dcmread(row["dicom_uri"].removeprefix("file://"))
        assert copy.PatientIdentityRemoved == "YES"
        assert row["patient_id"] == copy.PatientID
        assert row["sop_instance_uid"] == copy.SOPInstanceUID
        assert row["size_bytes"] == Path(row["dicom_uri"].removeprefix("file://")).stat().st_size
        assert row["crc32c"] is None


def test_what_cannot_be_made_clean_is_a_dead_letter_and_has_no_artifact(lake):
    codes = sorted(letter["code"] for letter in letters(lake))
    assert codes == ["bad_archive", "cannot_deidentify"]
    copies = [path for path in paths(lake.lake / "output" / "dicom") if path.suffix == ".dcm"]
    assert len(copies) == len(rows(lake))


def test_no_artifact_row_failure_or_log_line_names_a_patient(lake):
    for path in paths(lake.lake / "output"):
        assert not found_in(str(path.relative_to(lake.lake)).encode())
        assert not found_in(path.read_bytes() if path.is_file() else b"")
    for table in ("instances", "failures"):
        for row in lake.rows(f"SELECT * FROM {table}"):
            assert not found_in(str(row).replace(str(lake.lake), "").encode())
    assert not found_in(lake.log.read_bytes())


def test_no_picture_that_is_forwarded_names_a_patient(lake, receiver):
    pictures = {row["row_id"] for row in rows(lake) if row["preview_uri"]}
    assert len(pictures) == len(FILES) + 1
    assert until(lambda: receiver.accepted.keys() == pictures)
    assert until(lambda: len(list((lake.lake / "encoded").rglob("*.png.txt"))) == len(pictures))
    for headers, body in receiver.requests:
        assert not found_in(repr(headers).encode() + body)
    for path in paths(lake.lake / "encoded"):
        assert not found_in(str(path.relative_to(lake.lake)).encode())
    assert {body["study_instance_uid"] for body in receiver.accepted.values()} == {
        row["study_instance_uid"] for row in rows(lake)
    }
    for row in lake.rows("SELECT * FROM deliveries"):
        assert not found_in(str(row).replace(str(lake.lake), "").encode())


def test_no_page_or_answer_names_a_patient(lake):
    client = httpx.Client(base_url=lake.url, headers={"Accept": "*/*"})
    label = client.get("/files").json()["studies"]
    row = next(one for one in rows(lake) if one["collection"] == label[0])
    study = f"/dicomweb/studies/{row['study_instance_uid']}"
    answers = [
        *("/", "/dead-letters", "/overview", "/search", "/files", f"/files/{label[0]}", "/metrics"),
        *(f"/studies/{row['study_instance_uid']}", "/dicomweb/studies?includefield=all"),
        *(study, f"{study}/metadata"),
    ]
    for path in answers:
        answer = client.get(path, headers={"Accept": "text/html"} if "web" not in path else {})
        assert answer.status_code < 500, path
        assert not found_in(answer.content), path
    assert client.get(study).status_code == 200
    name = client.get(f"/files/{label[0]}").json()["files"][0]
    assert client.get(f"/files/{label[0]}/{name}/png").headers["content-type"] == "image/png"
    tag = client.get(f"/files/{label[0]}/{name}/tag", params={"tag": "PatientID"}).json()["tags"][0]
    assert tag["value"] in {one["patient_id"] for one in rows(lake)}


def test_an_object_that_leaves_takes_its_clean_copy_along(lake):
    before = rows(lake)
    (lake.landing / "DOE" / f"SMITH-{FILES[0]}").unlink()
    assert until(lambda: len(rows(lake)) == len(before) - 1)
    gone = ({row["dicom_uri"] for row in before} - {row["dicom_uri"] for row in rows(lake)}).pop()
    assert until(lambda: not Path(gone.removeprefix("file://")).exists())
