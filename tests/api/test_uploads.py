"""Uploads over REST: what is stored, what is refused and why, and the shapes of the answers."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.api import create_app
from app.services import open_services
from tests import data
from tests.conftest import lake_settings

PDF = b"%PDF-1.4\n%%EOF"


def files(*pairs):
    return [("files", (name, content)) for name, content in pairs]


def failed(*pairs):
    return {
        "success": False,
        "failedFiles": len(pairs),
        "files": [{"name": name, "reason": reason} for name, reason in pairs],
    }


GOOD = {"success": True, "failedFiles": 0, "files": []}


def test_a_labelled_file_lands_under_its_label(client, tmp_path):
    answer = client.post("/upload", data={"study": "iraj-x-ray"}, files=files(("IM000001", data.ct())))
    assert (answer.status_code, answer.json()) == (200, GOOD)
    assert (tmp_path / "landing/iraj-x-ray/IM000001").read_bytes() == data.ct()
    assert client.get("/files").json() == {"studies": ["iraj-x-ray"], "studiesCount": 1, "success": True}
    assert client.get("/files/iraj-x-ray").json() == {
        "files": ["IM000001"],
        "filesCount": 1,
        "study": "iraj-x-ray",
        "success": True,
    }


def test_a_file_without_a_label_is_named_by_its_uids(client, tmp_path):
    uids = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4", "SOPInstanceUID": "1.2.3.4.5"}
    answer = client.post("/upload", files=files(("whatever.dcm", data.ct(**uids))))
    assert answer.json() == GOOD
    assert (tmp_path / "landing/stow/1.2.3/1.2.3.4/1.2.3.4.5.dcm").is_file()


def test_the_good_files_of_a_request_are_stored(client, tmp_path):
    answer = client.post(
        "/upload",
        data={"study": "a"},
        files=files(("sample.pdf", PDF), ("one.dcm", data.ct()), ("x.dcm", b"")),
    )
    assert answer.status_code == 400
    assert answer.json() == failed(("sample.pdf", "invalid_type"), ("x.dcm", "invalid_type"))
    assert [path.name for path in (tmp_path / "landing/a").iterdir()] == ["one.dcm"]


def test_equal_bytes_write_nothing_and_others_under_the_name_are_a_duplicate(client, tmp_path):
    for _ in range(2):
        answer = client.post("/upload", data={"study": "a"}, files=files(("one.dcm", data.ct())))
        assert answer.json() == GOOD
    before = (tmp_path / "landing/a/one.dcm").stat()
    other = client.post("/upload", data={"study": "a"}, files=files(("one.dcm", data.enhanced())))
    assert (other.status_code, other.json()) == (400, failed(("one.dcm", "duplicate")))
    assert (tmp_path / "landing/a/one.dcm").stat() == before


@pytest.mark.parametrize("label", [".hidden", "a/b", "..", "a\x01b", "x" * 200])
def test_a_label_that_is_no_segment_of_a_path_is_a_bad_name(client, tmp_path, label):
    answer = client.post("/upload", data={"study": label}, files=files(("one.dcm", data.ct())))
    assert (answer.status_code, answer.json()) == (400, failed(("one.dcm", "bad_name")))
    assert not list((tmp_path / "landing").iterdir())


@pytest.mark.parametrize("name", ["picture.jpg", ".hidden.dcm", "._one.dcm"])
def test_a_name_that_would_not_be_taken_for_dicom_is_a_bad_name(client, name):
    answer = client.post("/upload", data={"study": "a"}, files=files((name, data.ct())))
    assert answer.json() == failed((name, "bad_name"))


def test_of_a_path_only_the_last_segment_is_the_name(client, tmp_path):
    client.post("/upload", data={"study": "a"}, files=files(("../../etc/one.dcm", data.ct())))
    assert [
        str(path.relative_to(tmp_path / "landing")) for path in (tmp_path / "landing").rglob("*.dcm")
    ] == ["a/one.dcm"]


def test_a_file_over_the_limit_of_objects_is_too_large(tmp_path):
    with_limit(tmp_path, source__max_object_bytes=100, check=lambda client: (
        client.post("/upload", data={"study": "a"}, files=files(("one.dcm", data.ct()))).json()
    ), expected=failed(("one.dcm", "too_large")))  # fmt: skip


def test_a_request_over_the_limit_of_uploads_is_refused_whether_it_says_so_or_not(tmp_path):
    def check(client: TestClient) -> list[int]:
        announced = client.post("/upload", files=files(("one.dcm", data.ct())))
        head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
        chunked = client.post(
            "/upload",
            content=iter([head, *[b"0" * 400] * 10]),
            headers={"Content-Type": "multipart/form-data; boundary=x"},
        )
        return [announced.status_code, chunked.status_code]

    with_limit(tmp_path, browse__max_upload_bytes=1000, check=check, expected=[413, 413])


def test_uploads_can_be_switched_off(tmp_path):
    with_limit(tmp_path, browse__uploads=False, check=lambda client: [
        client.post("/upload", files=files(("one.dcm", data.ct()))).status_code,
        client.post("/dicomweb/studies", headers={"Content-Type": "application/dicom"}).status_code,
        client.get("/upload").status_code,
    ], expected=[403, 403, 404])  # fmt: skip


def with_limit(tmp_path: Path, check, expected, **settings):
    services = open_services(lake_settings(tmp_path, **settings))
    try:
        assert check(TestClient(create_app(services), raise_server_exceptions=False)) == expected
    finally:
        services.close()


def test_uploads_go_below_the_prefix_that_is_watched(tmp_path):
    services = open_services(lake_settings(tmp_path, source__write_prefix="in/"))
    try:
        client = TestClient(create_app(services), raise_server_exceptions=False)
        client.post("/upload", data={"study": "a"}, files=files(("one.dcm", data.ct())))
        assert (tmp_path / "landing/in/a/one.dcm").is_file()
        assert client.get("/files").json()["studies"] == ["a"]
        assert client.get("/files/a").json()["files"] == ["one.dcm"]
    finally:
        services.close()


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        ({"Content-Type": "application/json"}, b"{}", 415),
        ({"Content-Type": "multipart/form-data"}, b"x", 400),
        ({"Content-Type": "multipart/form-data; boundary=x"}, b"no form", 400),
        ({"Content-Type": "multipart/form-data; boundary=x"}, b"--x--\r\n", 400),
    ],
)
def test_a_body_that_is_no_form_of_files_is_refused_in_one_sentence(client, headers, content, status):
    answer = client.post("/upload", content=content, headers=headers)
    assert answer.status_code == status
    assert answer.json()["success"] is False
    assert answer.json()["error"]


def test_a_browser_without_javascript_gets_a_page(client):
    answer = client.post(
        "/upload",
        data={"study": "a"},
        files=files(("one.dcm", data.ct()), ("sample.pdf", PDF)),
        headers={"Accept": "text/html"},
    )
    assert answer.status_code == 400
    assert answer.headers["content-type"].startswith("text/html")
    assert "sample.pdf" in answer.text
    assert "not a DICOM file" in answer.text


def test_a_label_that_nobody_used_is_not_found(client):
    answer = client.get("/files/nobody")
    assert (answer.status_code, answer.json()) == (404, {"error": "study not found", "success": False})


def test_an_upload_waits_for_no_disk_that_is_almost_full(tmp_path):
    def check(client: TestClient) -> list[int]:
        upload = client.post("/upload", data={"study": "a"}, files=files(("one.dcm", data.ct())))
        stow = client.post(
            "/dicomweb/studies", content=data.ct(), headers={"Content-Type": "application/dicom"}
        )
        return [upload.status_code, stow.status_code]

    with_limit(tmp_path, delivery__min_free_bytes=1 << 60, check=check, expected=[507, 507])


@pytest.mark.parametrize("path", ["/upload", "/dicomweb/studies"])
def test_a_body_that_does_not_fit_into_temporary_files_is_no_bug(client, monkeypatch, path):
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.SpooledTemporaryFile.write", full)
    kind = {"Content-Type": "application/dicom"} if path.endswith("studies") else None
    content = {"content": data.ct()} if kind else {"files": files(("one.dcm", data.ct()))}
    answer = client.post(path, headers=kind, **content)
    assert answer.status_code == 507
    assert "No space" not in answer.text
