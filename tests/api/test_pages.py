"""The pages as a browser without JavaScript gets them: what they say, and that each error is a page too."""

import re
from dataclasses import replace
from html import unescape

import pytest
from fastapi.testclient import TestClient

from app import pipeline
from app.api import create_app
from app.model.errors import WarehouseUnavailable
from app.model.values import EventType, Message, Reason
from app.sources.notifications import described_again, notification
from tests import data
from tests.browse.lake import NOON, put
from tests.data import SERIES, SOP, STUDY

PAGE = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
INSTANCE = f"/studies/{STUDY}/series/{SERIES}/instances/{SOP}"


class Down:
    """A warehouse that does not answer."""

    def __init__(self, warehouse):
        self._warehouse = warehouse

    def query(self, *_, **__):
        raise WarehouseUnavailable("the warehouse does not answer")

    def __getattr__(self, name):
        return getattr(self._warehouse, name)


def words(answer) -> str:
    """Return the text of a page without its marks."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", answer.text)).split())


@pytest.mark.parametrize("path", ["/nothing", "/studies/1/series", "/static/no.css"])
def test_an_address_that_there_is_not_is_a_page_for_a_browser(client, path):
    answer = client.get(path, headers=PAGE)
    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("text/html")
    assert "There is no such address." in words(answer)
    assert "style-src 'self'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/nothing", 404, {"code": "not_found", "message": "there is no such address"}),
        ("GET", "/dicomweb/nothing", 404, {"code": "not_found", "message": "there is no such address"}),
        ("GET", "/files/a/b.dcm", 404, {"error": "there is no such address", "success": False}),
        (
            "DELETE",
            "/dicomweb/studies",
            405,
            {"code": "method_not_allowed", "message": "this address does not take DELETE"},
        ),
        ("GET", "/upload/no", 404, {"error": "there is no such address", "success": False}),
        ("PUT", "/upload", 405, {"error": "this address does not take PUT", "success": False}),
    ],
)
def test_an_address_that_there_is_not_answers_a_program_as_the_routes_around_it(
    client, method, path, status, body
):
    answer = client.request(method, path)
    assert (answer.status_code, answer.json()) == (status, body)
    assert ("allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize("path", ["/", "/studies", INSTANCE, "/dead-letters", "/overview"])
def test_a_page_that_cannot_be_made_now_says_so_as_a_page(services, path):
    client = TestClient(create_app(replace(services, warehouse=Down(services.warehouse))))
    answer = client.get(path, headers=PAGE)
    assert answer.status_code == 503
    assert answer.headers["content-type"].startswith("text/html")
    assert "The warehouse does not answer." in words(answer)


def test_dicomweb_and_rest_answer_a_browser_as_anyone(services):
    client = TestClient(create_app(replace(services, warehouse=Down(services.warehouse))))
    assert client.get("/dicomweb/studies", headers=PAGE).json()["code"] == "warehouse_unavailable"
    assert client.get("/search", headers=PAGE).json()["success"] is False


@pytest.mark.parametrize(
    ("path", "marked"),
    [
        ("/", "/studies"),
        ("/studies?modality=CT", "/studies"),
        (INSTANCE, "/studies"),
        ("/overview", "/overview"),
        ("/upload", "/upload"),
    ],
)
def test_the_menu_marks_where_one_is(client, services, path, marked):
    put(services, "a/1.dcm", data.ct())
    page = client.get(path, headers=PAGE).text
    assert re.findall(r'<a href="([^"]*)" aria-current="page">', page) == [marked]


def test_an_instance_names_what_it_is_in_words_that_people_use(client, services):
    put(services, "a/1.dcm", data.ct(PatientName="Doe^Jane", InstanceNumber=7))
    page = client.get(INSTANCE, headers=PAGE)
    text = words(page)
    assert re.search(r"Stored \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC ", text)
    assert "CT Image Storage (1.2.840.10008.5.1.4.1.1.2)" in text
    assert "Explicit VR Little Endian (1.2.840.10008.1.2.1)" in text
    assert f"Instance UID {SOP}" in text
    assert "› 7 · Doe, Jane · dicomlake" in page.text
    assert set(re.findall(r'download="([^"]*)"', page.text)) == {
        f"{SOP}.{end}" for end in ("dcm", "json", "png")
    }


def test_what_an_instance_has_not_is_left_out(client, services):
    put(services, "a/1.dcm", data.minimal())
    page = client.get(INSTANCE, headers=PAGE)
    assert page.status_code == 200
    assert "<dd></dd>" not in page.text
    assert "Rows × columns" not in page.text


def test_a_warning_names_its_attribute(client, services):
    put(services, "a/1.dcm", data.ct(StudyDate="20260230"))
    assert "(0008,0020) StudyDate" in words(client.get(INSTANCE, headers=PAGE)).partition("Warnings")[2][:40]


def test_a_date_that_is_none_is_told_once(client):
    text = words(client.get("/studies?from=abc", headers=PAGE))
    assert "StudyDate: the value is no date" in text
    assert "No study fits" not in text


def test_a_dead_letter_comes_with_what_to_do(client, services):
    services.bus.dead_letter(
        Message(b"", {"objectId": "a/1.dcm"}, "1"), Reason("not_dicom", "the bytes are text")
    )
    text = words(client.get("/dead-letters", headers=PAGE))
    assert "To do: put the right file in its place and ingest it, or drop the letter" in text


@pytest.mark.parametrize("label", ["trial 7", "Müller", "a_b-c.d"])
def test_the_form_takes_each_label_that_the_service_takes(client, label):
    (pattern,) = re.findall(r'name="study"[^>]* pattern="([^"]*)"', client.get("/upload", headers=PAGE).text)
    assert re.fullmatch(unescape(pattern), label)
    answer = client.post("/upload", data={"study": label}, files={"files": ("a.dcm", data.ct())})
    assert answer.json()["success"] is True


@pytest.mark.parametrize("label", [".a", "a/b", "a^b", "a%b", "a\\b"])
def test_the_form_takes_no_label_that_the_service_refuses(client, label):
    (pattern,) = re.findall(r'name="study"[^>]* pattern="([^"]*)"', client.get("/upload", headers=PAGE).text)
    assert not re.fullmatch(unescape(pattern), label)
    answer = client.post("/upload", data={"study": label}, files={"files": ("a.dcm", data.ct())})
    assert answer.json()["files"][0]["reason"] == "bad_name"


def test_the_overview_counts_instances_and_the_objects_that_hold_them(client, services):
    put(services, "a/1.dcm", data.ct())
    put(services, "a/copy.dcm", data.ct())
    text = words(client.get("/overview", headers=PAGE))
    assert "Instances 1 Objects 2 " in text


def test_what_is_described_again_has_not_arrived_again(client, services):
    ref = put(services, "a/1.dcm", data.ct())
    event = notification(EventType.FINALIZE, ref, services.source.uri(ref.name), NOON)
    pipeline.handle(described_again(event, 1_790_000_000, None), services)
    found = services.warehouse.query("SELECT COUNT(*) AS n FROM instances")
    assert found == [{"n": 2}]
    assert "most: 1 " in words(client.get("/overview", headers=PAGE))
