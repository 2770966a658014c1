"""STOW-RS: what is stored, what is not and why; PS3.18 10.5."""

import gzip
from contextlib import closing

import pytest
from starlette.testclient import TestClient

from app.api import create_app
from app.services import open_services
from tests import data
from tests.conftest import lake_settings

TYPE = 'multipart/related; type="application/dicom"; boundary=XX'
UIDS = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4", "SOPInstanceUID": "1.2.3.4.5"}
CT_CLASS = "1.2.840.10008.5.1.4.1.1.2"


def body(*parts, kind=b"application/dicom", closing=b"--XX--\r\n"):
    heads = b"".join(b"--XX\r\nContent-Type: " + kind + b"\r\n\r\n" + part + b"\r\n" for part in parts)
    return heads + closing


def stow(client, content, path="/dicomweb/studies", content_type=TYPE, **headers):
    return client.post(path, content=content, headers={"Content-Type": content_type, **headers})


def second(**elements):
    return data.ct(**{**UIDS, "SOPInstanceUID": "1.2.3.4.6", **elements})


def test_all_stored_is_200_with_where_each_is(client, tmp_path):
    answer = stow(client, body(data.ct(**UIDS), second()))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/dicom+json")
    study = "http://testserver/dicomweb/studies/1.2.3"
    assert answer.json() == {
        "00081190": {"vr": "UR", "Value": [study]},
        "00081199": {
            "vr": "SQ",
            "Value": [
                {
                    "00081150": {"vr": "UI", "Value": [CT_CLASS]},
                    "00081155": {"vr": "UI", "Value": [uid]},
                    "00081190": {"vr": "UR", "Value": [f"{study}/series/1.2.3.4/instances/{uid}"]},
                }
                for uid in ("1.2.3.4.5", "1.2.3.4.6")
            ],
        },
    }
    assert (tmp_path / "landing/stow/1.2.3/1.2.3.4/1.2.3.4.5.dcm").read_bytes() == data.ct(**UIDS)


def test_some_stored_is_202_with_the_reason_of_each_other(client):
    answer = stow(client, body(data.ct(**UIDS), second()[:-20], b"no DICOM"))
    assert answer.status_code == 202
    reasons = [item["00081197"]["Value"] for item in answer.json()["00081198"]["Value"]]
    assert reasons == [[0xC000], [0xC000]]
    assert answer.json()["00081198"]["Value"][0]["00081155"]["Value"] == ["1.2.3.4.6"]


def test_instances_of_another_study_are_409_where_one_is_named(client):
    answer = stow(client, body(data.ct(**UIDS)), "/dicomweb/studies/1.2.99")
    assert answer.status_code == 409
    assert answer.json()["00081198"]["Value"][0]["00081197"] == {"vr": "US", "Value": [0xA900]}
    assert "00081199" not in answer.json()
    assert stow(client, body(data.ct(**UIDS)), "/dicomweb/studies/1.2.3").status_code == 200


def test_one_instance_may_come_alone(client):
    assert stow(client, data.ct(**UIDS), content_type="application/dicom").status_code == 200


def test_a_body_may_come_in_chunks_that_cut_anything(client, tmp_path):
    whole = body(data.ct(**UIDS), second())
    pieces = (whole[at : at + 7] for at in range(0, len(whole), 7))
    assert stow(client, pieces).status_code == 200
    assert (tmp_path / "landing/stow/1.2.3/1.2.3.4/1.2.3.4.6.dcm").read_bytes() == second()


def test_text_before_the_first_boundary_is_passed_over(client, tmp_path):
    """RFC 2046 5.1.1: a preamble is to be ignored, whatever stands in it."""
    whole = b"This is a message in MIME format.\r\n--X\r\n-\r\n" + body(data.ct(**UIDS), second())
    for size in (len(whole), 7, 1):
        pieces = (whole[at : at + size] for at in range(0, len(whole), size))
        assert stow(client, pieces).status_code == 200
    assert (tmp_path / "landing/stow/1.2.3/1.2.3.4/1.2.3.4.5.dcm").read_bytes() == data.ct(**UIDS)


@pytest.mark.parametrize("content_type", [TYPE, "application/dicom"])
def test_a_compressed_body_is_415(client, content_type):
    """RFC 9110 8.4: a content coding that is not understood is no fault of the media type's content."""
    headers = {"Content-Encoding": "gzip"}
    answer = stow(client, gzip.compress(body(data.ct(**UIDS))), content_type=content_type, **headers)
    assert (answer.status_code, answer.json()["message"]) == (
        415,
        "content-encoding: send the body uncompressed",
    )


def test_the_same_bytes_again_write_nothing_and_others_make_a_version(client, tmp_path):
    stow(client, body(data.ct(**UIDS)))
    path = tmp_path / "landing/stow/1.2.3/1.2.3.4/1.2.3.4.5.dcm"
    before = path.stat()
    assert stow(client, body(data.ct(**UIDS))).status_code == 200
    assert path.stat() == before
    changed = data.ct(**UIDS, PatientID="other")
    assert stow(client, body(changed)).status_code == 200
    assert path.read_bytes() == changed


def test_uids_that_are_no_path_are_not_understood(client, tmp_path):
    answer = stow(client, body(data.ct(**{**UIDS, "SOPInstanceUID": "../../x"})))
    assert answer.status_code == 409
    assert not list(tmp_path.rglob("*x*.dcm"))


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (body(data.minimal()), 'multipart/related; type="application/dicom"', 400),
        (b"", TYPE, 400),
        (b"", "application/dicom", 400),
        (b"--XX--\r\n", TYPE, 400),
        (body(data.ct(**UIDS), closing=b""), TYPE, 400),
        (body(b"{}", kind=b"application/dicom+json"), TYPE.replace("dicom", "dicom+json"), 415),
        (b"{}", "application/json", 415),
        (data.ct(**UIDS), "", 415),
    ],
)
def test_what_is_no_store_request_is_refused(client, content, content_type, status):
    answer = stow(client, content, content_type=content_type)
    assert answer.status_code == status
    assert answer.json()["message"]


def test_an_answer_in_a_form_that_is_not_there_is_406(client):
    answer = stow(client, body(data.ct(**UIDS)), Accept="application/dicom+xml")
    assert answer.status_code == 406


def test_absolute_urls_are_those_that_the_client_sees(client):
    headers = {
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "lake.example",
        "X-Forwarded-Prefix": "/pacs",
    }
    answer = stow(client, body(data.ct(**UIDS)), **headers)
    assert answer.json()["00081190"]["Value"] == ["https://lake.example/pacs/dicomweb/studies/1.2.3"]


def test_a_lake_that_gives_new_uids_names_no_url_for_those_that_were_sent(tmp_path):
    """The instance will be under other UIDs, which the sender of the original is not to learn here."""
    settings = lake_settings(tmp_path, deidentify__profile="basic", deidentify__key="k" * 32)
    with closing(open_services(settings)) as services:
        answer = stow(TestClient(create_app(services)), body(data.ct(**UIDS)))
    assert answer.status_code == 200
    assert answer.json() == {
        "00081199": {
            "vr": "SQ",
            "Value": [
                {
                    "00081150": {"vr": "UI", "Value": [CT_CLASS]},
                    "00081155": {"vr": "UI", "Value": ["1.2.3.4.5"]},
                    "00081190": {"vr": "UR"},
                }
            ],
        },
    }
