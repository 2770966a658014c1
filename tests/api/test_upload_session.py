"""Uploads that go straight into a bucket: what is answered, what is refused before a byte of them is sent."""

from collections.abc import Iterator
from datetime import datetime, timedelta

import httpx
import pytest
from fastapi.testclient import TestClient

from app.api import create_app
from app.services import Services, open_services
from app.storage import SESSION_S
from tests import data
from tests.conftest import lake_settings
from tests.fake_gcs import ROLES, FakeGcs

pytestmark = pytest.mark.xdist_group("cloud")

UIDS = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4", "SOPInstanceUID": "1.2.3.4.5"}
BIG = data.ct(**UIDS, Rows=1024, Columns=1024)
HEAD, SIZE = BIG[: 1 << 20], len(BIG)


@pytest.fixture
def gcs(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGcs]:
    with FakeGcs() as fake:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", fake.url)
        fake.make_bucket("landing")
        fake.grants = ROLES["objectUser"]
        yield fake


@pytest.fixture
def cloud(gcs: FakeGcs, tmp_path) -> Iterator[Services]:
    given = {"source__url": "gs://landing/in", "source__write_prefix": "people/"}
    services = open_services(lake_settings(tmp_path, **given))
    yield services
    services.close()


@pytest.fixture
def client(cloud: Services) -> TestClient:
    return TestClient(create_app(cloud), raise_server_exceptions=False)


def begin(client, name="big.dcm", head=HEAD, size=SIZE, headers=None, **form):
    return client.post(
        "/upload/session", data={"size": str(size), **form}, files={"files": (name, head)}, headers=headers
    )


def put(url: str, content: bytes = BIG) -> httpx.Response:
    return httpx.put(
        url, content=content, headers={"Content-Range": f"bytes 0-{len(content) - 1}/{len(content)}"}
    )


def refused(reason: str) -> dict[str, object]:
    return {"success": False, "failedFiles": 1, "files": [{"name": "big.dcm", "reason": reason}]}


def test_a_file_goes_straight_into_the_bucket_under_its_label(client, cloud, gcs):
    assert len(HEAD) < len(BIG)
    answer = begin(client, study="trial")
    assert answer.status_code == 200
    found = answer.json()
    assert (found["success"], found["name"]) == (True, "in/people/trial/big.dcm")
    left = datetime.fromisoformat(found["expires"]) - cloud.now()
    assert timedelta() < timedelta(seconds=SESSION_S) - left < timedelta(minutes=10)
    assert gcs.buckets["landing"].live == {}
    assert put(found["url"]).status_code == 200
    assert gcs.buckets["landing"].live["in/people/trial/big.dcm"].data == BIG
    assert client.get("/files").json()["studies"] == ["trial"]


def test_without_a_label_the_uids_of_its_beginning_name_it_and_it_may_replace(client, gcs):
    for content in (BIG, BIG[:-2] + b"\1\1"):
        found = begin(client).json()
        assert found["name"] == "in/people/stow/1.2.3/1.2.3.4/1.2.3.4.5.dcm"
        assert put(found["url"], content).status_code == 200
        assert gcs.buckets["landing"].live[found["name"]].data == content


def test_a_name_that_is_taken_is_a_duplicate_before_and_after(client, gcs):
    first, second = (begin(client, study="trial").json()["url"] for _ in range(2))
    assert put(first).status_code == 200
    assert put(second).status_code == 412
    third = begin(client, study="trial")
    assert (third.status_code, third.json()) == (400, refused("duplicate"))


def test_the_session_is_of_the_origin_of_the_page_that_asked(client, gcs):
    page = begin(client, study="a", headers={"Origin": "http://testserver"}).json()["url"]
    program = begin(client, study="b").json()["url"]
    assert put(page).headers["access-control-allow-origin"] == "http://testserver"
    assert "access-control-allow-origin" not in put(program).headers
    assert begin(client, study="c", headers={"Origin": "https://evil.example"}).status_code == 403


def test_a_session_takes_no_more_than_was_said(client):
    assert put(begin(client, study="a", size=len(BIG) - 1).json()["url"]).status_code == 400


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ({"head": b"%PDF-1.4\n%%EOF"}, "invalid_type"),
        ({"head": data.ct(StudyInstanceUID="")[:1000]}, "invalid_type"),
        ({"study": "a/b"}, "bad_name"),
    ],
    ids=["no DICOM", "no UIDs", "no label"],
)
def test_what_its_beginning_shows_is_refused_at_once(client, gcs, form, reason):
    answer = begin(client, **form)
    assert (answer.status_code, answer.json()) == (400, refused(reason))
    assert [request.method for request in gcs.requests] == []


@pytest.mark.parametrize("form", [{"size": "0"}, {"size": "many"}, {"size": "-1"}, {"name": ""}])
def test_a_form_without_file_or_size_is_refused_in_one_sentence(client, form):
    answer = begin(client, **form)
    assert (answer.status_code, answer.json()["success"]) == (400, False)


def test_a_file_over_the_limit_of_objects_is_too_large(gcs, tmp_path):
    given = {"source__url": "gs://landing", "source__max_object_bytes": len(BIG) - 1}
    services = open_services(lake_settings(tmp_path, **given))
    try:
        client = TestClient(create_app(services), raise_server_exceptions=False)
        assert begin(client, study="a").json() == refused("too_large")
    finally:
        services.close()


def test_who_may_only_read_the_bucket_begins_nothing(client, gcs):
    gcs.grants = ROLES["objectViewer"]
    answer = begin(client, study="a")
    assert (answer.status_code, answer.json()["success"]) == (503, False)


def test_the_page_may_send_to_the_store_where_that_takes_uploads(client, gcs):
    page = client.get("/upload")
    assert f"connect-src 'self' {gcs.url};" in page.headers["content-security-policy"]
    assert 'data-direct="30000000"' in page.text
    assert gcs.url not in client.get("/studies").headers["content-security-policy"]


def test_a_folder_takes_uploads_through_the_service_alone(tmp_path):
    services = open_services(lake_settings(tmp_path))
    try:
        client = TestClient(create_app(services), raise_server_exceptions=False)
        answer = begin(client, study="a")
        assert (answer.status_code, answer.json()) == (
            400,
            {
                "error": "this landing storage takes no uploads but through the service; use POST /upload",
                "success": False,
            },
        )
        page = client.get("/upload")
        assert "connect-src 'self';" in page.headers["content-security-policy"]
        assert "data-direct" not in page.text
    finally:
        services.close()


def test_uploads_that_are_switched_off_begin_nothing(gcs, tmp_path):
    services = open_services(lake_settings(tmp_path, source__url="gs://landing", browse__uploads=False))
    try:
        client = TestClient(create_app(services), raise_server_exceptions=False)
        assert begin(client, study="a").status_code == 403
        assert gcs.requests == []
    finally:
        services.close()


def test_it_is_described(client):
    operation = client.get("/openapi.json").json()["paths"]["/upload/session"]["post"]
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/UploadSession"}
