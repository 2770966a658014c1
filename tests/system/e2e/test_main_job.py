"""The main job as a user sees it: drop a file, look at what becomes of it, remove it."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from tests.system.e2e.service import Service, until

CT = Path(get_testdata_file("CT_small.dcm")).read_bytes()


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    # Five deliveries take fifteen seconds otherwise; when they are due is checked on a clock of the tests.
    with Service(tmp_path_factory.mktemp("lake"), delivery__backoff_min_s=0.1) as running:
        yield running


def test_a_dropped_file_has_row_picture_and_document(service):
    path = service.drop("study/ct.dcm", CT)
    row = until(lambda: service.current().get("study/ct.dcm"))
    assert row
    assert row["generation"] == path.stat().st_mtime_ns
    assert (row["modality"], row["rows"], row["columns"], row["patient_id"]) == ("CT", 128, 128, "1CT1")
    assert row["study_date"] == "2004-01-19"
    assert row["size_bytes"] == len(CT)
    assert json.loads(str(row["pixel_spacing"])) == [0.661468, 0.661468]
    picture = Path(str(row["preview_uri"]).removeprefix("file://"))
    assert picture == service.lake / f"output/images/study/ct.dcm.{row['generation']}.png"
    with Image.open(io.BytesIO(picture.read_bytes())) as image:
        assert (image.format, image.size, image.mode) == ("PNG", (128, 128), "L")
        low, high = image.getextrema()
        assert high - low > 200
    document = json.loads(Path(str(row["metadata_uri"]).removeprefix("file://")).read_text())
    assert document["00080060"] == {"vr": "CS", "Value": ["CT"]}
    assert document["00100010"]["Value"] == [{"Alphabetic": "CompressedSamples^CT1"}]


def test_a_deleted_file_leaves_the_view_and_its_artifacts(service):
    path = service.drop("gone.dcm", CT)
    row = until(lambda: service.current().get("gone.dcm"))
    assert row
    path.unlink()
    assert until(lambda: "gone.dcm" not in service.current())
    for column in ("preview_uri", "metadata_uri"):
        artifact = Path(str(row[column]).removeprefix("file://"))
        assert until(lambda file=artifact: not file.exists())
    history = service.rows(
        f"SELECT event_type FROM instances WHERE object_uri = '{row['object_uri']}' ORDER BY ingested_at"
    )
    assert [entry["event_type"] for entry in history] == ["OBJECT_FINALIZE", "OBJECT_DELETE"]


def test_a_file_moved_away_and_back_is_current_again(service, tmp_path):
    path = service.drop("moved.dcm", CT)
    assert until(lambda: "moved.dcm" in service.current())
    aside = service.lake / "aside.dcm"
    path.rename(aside)
    assert until(lambda: "moved.dcm" not in service.current())
    aside.rename(path)
    assert until(lambda: "moved.dcm" in service.current())


def test_an_overwrite_shows_the_new_bytes_alone(service):
    service.drop("twice.dcm", CT)
    first = until(lambda: service.current().get("twice.dcm"))
    service.drop("twice.dcm", Path(get_testdata_file("MR_small.dcm")).read_bytes())
    assert until(lambda: service.current().get("twice.dcm", {}).get("modality") == "MR")
    assert until(lambda: not Path(str(first["preview_uri"]).removeprefix("file://")).exists())


def test_a_text_file_named_dcm_ends_as_a_dead_letter_with_its_reason_and_can_be_requeued(service):
    path = service.drop("x.dcm", b"just a text\n")
    letters = until(lambda: service.rows("SELECT * FROM dead_letters WHERE object = 'x.dcm'"))
    listed = [json.loads(line) for line in service.run("dlq", "list").stdout.splitlines()]
    assert [(letter["object"], letter["code"]) for letter in listed] == [("x.dcm", "not_dicom")]
    shown = json.loads(service.run("dlq", "show", letters[0]["message_id"]).stdout)
    assert [attempt["delivery_attempt"] for attempt in shown["attempts"]] == [1, 2, 3, 4, 5]
    assert {attempt["code"] for attempt in shown["attempts"]} == {"not_dicom"}
    generation = path.stat().st_mtime_ns
    requeued = service.run("dlq", "requeue", letters[0]["message_id"])
    assert requeued.returncode == 0, requeued.stderr
    asked = (
        f"SELECT * FROM dead_letters WHERE object = 'x.dcm' AND message_id <> '{letters[0]['message_id']}'"
    )
    again = until(lambda: service.rows(asked))
    assert len(service.rows("SELECT * FROM dead_letters WHERE object = 'x.dcm'")) == 1
    assert (again[0]["event_type"], again[0]["generation"]) == ("OBJECT_FINALIZE", generation)
    assert service.run("dlq", "purge").returncode == 0
    assert service.run("dlq", "list").stdout == ""


def test_a_file_that_is_not_dicom_and_not_named_so_is_ignored(service):
    service.drop("notes.txt", b"remember the milk")
    assert until(
        lambda: any(
            line.get("code") == "not_dicom"
            and line.get("object") == "notes.txt"
            and line.get("status") == "ignored"
            for line in service.lines()
        )
    )
    assert service.rows("SELECT * FROM failures WHERE object_uri LIKE '%notes.txt'") == []


def test_the_command_line_reads_while_the_service_writes(service):
    service.drop("read.dcm", CT)
    assert until(lambda: "read.dcm" in service.current())
    found = service.run(
        "query", "SELECT modality FROM instances_current WHERE object_uri LIKE '%read.dcm'", "--json"
    )
    assert json.loads(found.stdout) == [{"modality": "CT"}]
    shown = service.run(
        "query", "SELECT modality, rows FROM instances_current WHERE object_uri LIKE '%read.dcm'"
    )
    assert shown.stdout.splitlines()[2].split() == ["CT", "128"]
    refused = service.run("query", "DELETE FROM instances")
    assert (refused.returncode, refused.stdout) == (1, "")


def test_no_value_of_a_data_set_is_logged(service):
    text = service.log.read_text()
    assert "CompressedSamples" not in text
    assert "1CT1" not in text
