"""GET /search: what it finds, its JSON to the letter, what it refuses."""

from datetime import UTC, datetime

import pytest
from starlette.testclient import TestClient

from app.api import create_app
from app.api.search import PARAMETERS, SHOWN
from tests import data
from tests.browse.lake import put


@pytest.fixture
def lake(services):
    """Store three instances of two patients; return the client."""
    greek = {"SpecificCharacterSet": "ISO_IR 192", "PatientName": "Müller^Jürgen", "PatientID": "P-2"}
    uids = {"StudyInstanceUID": "1.2.9", "SeriesInstanceUID": "1.2.9.1", "SOPInstanceUID": "1.2.9.1.1"}
    put(services, "acme/1.dcm", data.ct(InstitutionName="General Hospital"))
    put(services, "acme/2.dcm", data.ct(SOPInstanceUID="1.2.3", InstanceNumber="8"))
    put(services, "b/3.dcm", data.ct(Modality="MR", StudyDate="20230101", **greek, **uids))
    return TestClient(create_app(services), raise_server_exceptions=False)


def test_an_answer_has_instances_count_and_success(lake):
    answer = lake.get("/search?modality=MR")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert list(body) == ["instances", "count", "success"]
    assert (body["count"], body["success"]) == (1, True)
    (instance,) = body["instances"]
    assert tuple(instance) == SHOWN
    assert instance["sop_instance_uid"] == "1.2.9.1.1"
    assert (instance["patient_name"], instance["study_date"]) == ("Müller^Jürgen", "2023-01-01")
    assert (instance["study_time"], instance["rows"]) == ("13:45:01.500000", 16)
    assert instance["object_uri"].endswith("/b/3.dcm")
    assert datetime.fromisoformat(instance["ingested_at"]).tzinfo == UTC
    assert lake.get("/search?modality=US").json() == {"instances": [], "count": 0, "success": True}


@pytest.mark.parametrize(
    ("query", "files"),
    [
        ("", "1 2 3"),
        ("patient_name=doe", "1 2"),
        ("patient_name=MULLER", "3"),
        ("patient_name=ürg", "3"),
        ("patient_name=m%3Fller*", "3"),
        ("patient_name=ller*", ""),
        ("patient_id=P-1", "1 2"),
        ("patient_id=P", ""),
        ("patient_id=P*", "1 2 3"),
        ("institution=hospital", "1"),
        ("institution=GENERAL*", "1"),
        ("institution=general", "1"),
        ("institution=hospital*", ""),
        ("modality=ct", "1 2"),
        ("modality=CT,MR", "1 2 3"),
        ("from=20230101&to=20231231", "3"),
        ("from=2023-01-02", "1 2"),
        ("to=2023-01-01", "3"),
        ("collection=acme", "1 2"),
        ("collection=ACME", ""),
        ("limit=1", "1"),
        ("limit=1&offset=1", "2"),
        ("limit=0", ""),
        ("offset=3", ""),
        ("patient_name=doe&modality=MR", ""),
        ("patient_name=%25", ""),
        ("patient_name='", ""),
        ("patient_name=*", "1 2 3"),
    ],
)
def test_parameters_select_instances(lake, query, files):
    body = lake.get(f"/search?{query}").json()
    found = [one["object_uri"].rpartition("/")[2].removesuffix(".dcm") for one in body["instances"]]
    assert found == files.split()
    assert body["count"] == len(found)


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("patientname=x", f"patientname: is no parameter; there are {', '.join(PARAMETERS)}"),
        ("%3Cb%3E=x", f"the query: is no parameter; there are {', '.join(PARAMETERS)}"),
        ("from=2023-02-30", "from: is no date as 20240131 or 2024-01-31"),
        ("to=yesterday", "to: is no date as 20240131 or 2024-01-31"),
        ("limit=-1", "limit: is no whole number from 0 to 999,999,999"),
        ("offset=x", "offset: is no whole number from 0 to 999,999,999"),
        ("patient_name=a%0Ab", "PatientName: the value holds a control character"),
    ],
)
def test_a_bad_parameter_is_refused(lake, query, error):
    answer = lake.get(f"/search?{query}")
    assert (answer.status_code, answer.json()) == (400, {"error": error, "success": False})


def test_a_page_of_another_site_searches_nothing(lake):
    answer = lake.get("/search", headers={"origin": "https://evil.example"})
    assert answer.status_code == 403
    assert answer.json()["success"] is False
