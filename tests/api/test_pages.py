"""The pages as a browser without JavaScript gets them: what they say, and that each error is a page too."""

import re
from dataclasses import replace
from html import unescape

import pytest
from fastapi.testclient import TestClient

from app.api import create_app
from app.model.errors import WarehouseUnavailable
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
