"""Schemathesis, which makes requests of the OpenAPI document: no answer is 500, and each is as documented."""

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import checks

from app.services import open_services
from tests import data
from tests.browse.lake import put
from tests.conftest import lake_settings
from tests.data import SERIES, SOP, STUDY
from tests.system.browser.chromium import lake

EXAMPLES = 8
"""Requests of each route and kind: as generated, and with a path that leads to what is there."""

NAMED = {
    "study": STUDY,
    "series": SERIES,
    "instance": SOP,
    "file": "1.dcm",
    "numbers": "1",
    "tag": "7FE00010",
    "number": "1",
}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Serve a lake of two objects under one label."""
    opened = open_services(lake_settings(tmp_path_factory.mktemp("lake")))
    put(opened, "a/1.dcm", data.ct())
    put(opened, "a/2.dcm", data.enhanced(StudyInstanceUID=STUDY, SeriesInstanceUID=f"{STUDY}.9"))
    with lake(opened) as base:
        yield base


@pytest.fixture
def api(address):
    return schemathesis.openapi.from_url(f"{address}/openapi.json")


schema = schemathesis.pytest.from_fixture("api")


def hold(case: schemathesis.Case) -> None:
    """Send a request, and compare the answer with the document."""
    case.call_and_validate(
        checks=[
            checks.not_a_server_error,
            checks.status_code_conformance,
            checks.content_type_conformance,
            checks.response_schema_conformance,
        ]
    )


@schema.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_route_answers_as_its_document_says(case):
    hold(case)


@schema.include(path_regex="{").parametrize()
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_route_to_what_is_there_answers_as_its_document_says(case):
    there = NAMED | ({"study": "a"} if case.path.startswith("/files") else {})
    case.path_parameters = {name: there[name] for name in case.path_parameters}
    hold(case)
