"""QIDO-RS through HTTP: what each search returns, in which form, and what it refuses (PS3.18 10.6)."""

import gzip
import json

import pytest
from dicomweb_client.api import DICOMwebClient
from pydicom.dataset import Dataset
from starlette.testclient import TestClient

from app.api import create_app
from app.services import open_services
from tests import data
from tests.browse.lake import put
from tests.conftest import lake_settings
from tests.data import SERIES, SOP, STUDY
from tests.system.e2e.service import Service, until

ROOT = "/dicomweb"
OF_STUDY = f"{ROOT}/studies/{STUDY}"
OF_SERIES = f"{OF_STUDY}/series/{SERIES}"
STUDY_TAGS = {
    *("00080005", "00080020", "00080030", "00080050", "00080061", "00080090", "00081190", "00100010"),
    *("00100020", "00100030", "00100040", "0020000D", "00200010", "00201206", "00201208"),
}
SERIES_TAGS = {"00080060", "0020000E", "00200011", "00201209"}
INSTANCE_TAGS = {"00080016", "00080018", "00200013"}


def request_step():
    """Return an item of Request Attributes Sequence."""
    item = Dataset()
    item.ScheduledProcedureStepID, item.RequestedProcedureID = "STEP-1", "REQ-1"
    return item


@pytest.fixture
def lake(services):
    """Store a study of two series, and one of another patient; return the client."""
    step = {
        "RequestAttributesSequence": [request_step()],
        "PerformedProcedureStepStartDate": "20240131",
        "PerformedProcedureStepStartTime": "134500",
        "TimezoneOffsetFromUTC": "+0100",
    }
    uids = {"SeriesInstanceUID": f"{STUDY}.4", "SOPInstanceUID": f"{STUDY}.4.1", "SeriesNumber": "4"}
    other = {"StudyInstanceUID": "1.2.9", "SeriesInstanceUID": "1.2.9.1", "SOPInstanceUID": "1.2.9.1.1"}
    put(services, "acme/1.dcm", data.ct(StudyDescription="Chest", **step))
    put(services, "acme/2.dcm", data.ct(SOPInstanceUID=f"{SERIES}.4", InstanceNumber="8"))
    put(services, "acme/3.dcm", data.ct(Modality="SR", SeriesDescription=None, **uids))
    name = {"SpecificCharacterSet": "ISO_IR 192", "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう"}
    put(services, "b/4.dcm", data.ct(PatientID="P-2", StudyDate="20230101", **name, **other))
    return TestClient(create_app(services), raise_server_exceptions=False)


def search(client, path, **headers):
    answer = client.get(f"{ROOT}{path}", headers=headers)
    assert answer.status_code in (200, 204), answer.text
    return answer.json() if answer.status_code == 200 else []


def value(result, tag):
    """Return the only value of an element."""
    (found,) = result[tag]["Value"]
    return found


def test_a_study_has_all_its_attributes(lake):
    first, second = search(lake, "/studies")
    assert set(first) == set(second) == STUDY_TAGS
    assert list(first) == sorted(first)
    assert first == {
        "00080005": {"vr": "CS", "Value": ["ISO_IR 192"]},
        "00080020": {"vr": "DA", "Value": ["20240131"]},
        "00080030": {"vr": "TM", "Value": ["134501.5"]},
        "00080050": {"vr": "SH", "Value": ["A-17"]},
        "00080061": {"vr": "CS", "Value": ["CT", "SR"]},
        "00080090": {"vr": "PN"},
        "00081190": {"vr": "UR", "Value": [f"http://testserver{OF_STUDY}"]},
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Doe^Jane"}]},
        "00100020": {"vr": "LO", "Value": ["P-1"]},
        "00100030": {"vr": "DA", "Value": ["19700102"]},
        "00100040": {"vr": "CS", "Value": ["F"]},
        "0020000D": {"vr": "UI", "Value": [STUDY]},
        "00200010": {"vr": "SH", "Value": ["S-1"]},
        "00201206": {"vr": "IS", "Value": [2]},
        "00201208": {"vr": "IS", "Value": [3]},
    }
    assert value(second, "00100010") == {
        "Alphabetic": "Yamada^Tarou",
        "Ideographic": "山田^太郎",
        "Phonetic": "やまだ^たろう",
    }


def test_ohif_which_asks_for_the_modality_of_studies_can_read_one_without_any(client, services):
    put(services, "1.dcm", data.ct(Modality=None))
    (as_the_standard_says,) = search(client, "/studies")
    assert as_the_standard_says["00080061"] == {"vr": "CS"}
    (for_ohif,) = search(client, "/studies?includefield=00081030%2C00080060")
    assert "00080061" not in for_ohif


def test_a_series_has_what_is_known_of_it(lake):
    first, second = search(lake, f"/studies/{STUDY}/series")
    known = {"0008103E", "00080201", "00400244", "00400245", "00400275"}
    assert set(second) == SERIES_TAGS | {"00080005", "00081190"}
    assert set(first) <= SERIES_TAGS | known | {"00080005", "00081190"}
    assert value(first, "00201209") == 2
    assert value(first, "0008103E") == "Thorax"
    assert value(first, "00081190") == f"http://testserver{OF_SERIES}"
    (only,) = search(lake, "/series?PatientID=P-1&SeriesNumber=3&SOPInstanceUID=" + SOP)
    assert set(only) >= STUDY_TAGS | SERIES_TAGS
    assert value(only, "00201208") == 3


def test_attributes_of_a_series_that_have_no_column_come_from_its_document(client, services):
    step = {"PerformedProcedureStepStartDate": "20240131", "TimezoneOffsetFromUTC": "+0100"}
    put(services, "1.dcm", data.ct(RequestAttributesSequence=[request_step()], **step))
    (series,) = search(client, f"/studies/{STUDY}/series")
    assert value(series, "00400244") == "20240131"
    assert value(series, "00080201") == "+0100"
    assert "00400245" not in series
    assert value(series, "00400275") == {
        "00400009": {"vr": "SH", "Value": ["STEP-1"]},
        "00401001": {"vr": "SH", "Value": ["REQ-1"]},
    }
    for key in ("RequestAttributesSequence.ScheduledProcedureStepID", "00400275.00400009"):
        assert len(search(client, f"/series?{key}=STEP-1")) == 1
        assert search(client, f"/series?{key}=STEP") == []


def test_an_instance_carries_the_levels_that_its_path_does_not_name(lake):
    one, two = search(lake, f"/studies/{STUDY}/series/{SERIES}/instances")
    pixels = {"00280010", "00280011", "00280100"}
    assert set(one) == INSTANCE_TAGS | pixels | {"00080005", "00081190"}
    assert (value(one, "00200013"), value(two, "00200013")) == (7, 8)
    assert (value(one, "00280010"), value(one, "00280011")) == (16, 8)
    assert value(one, "00081190") == f"http://testserver{OF_SERIES}/instances/{SOP}"
    of_study = search(lake, f"/studies/{STUDY}/instances")
    assert len(of_study) == 3
    assert all(set(one) >= SERIES_TAGS and "00100020" not in one for one in of_study)
    assert {value(one, "00201209") for one in of_study} == {1, 2}
    everywhere = search(lake, "/instances")
    assert [value(one, "00100020") for one in everywhere] == ["P-1", "P-1", "P-1", "P-2"]
    assert all(set(one) >= STUDY_TAGS | SERIES_TAGS | INSTANCE_TAGS for one in everywhere)


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("PatientID=P-1", 1),
        ("00100020=P-1", 1),
        (f"0020000d={STUDY}", 1),
        ("PatientName=doe%5Ejane", 1),
        ("PatientName=%E5%B1%B1%E7%94%B0*", 0),  # a name begins with its alphabetic group
        ("PatientName==%E5%B1%B1%E7%94%B0*", 1),
        ("PatientName=*%E5%B1%B1%E7%94%B0*", 1),
        ("PatientID=P-%3F", 2),
        ("PatientID=", 2),
        ("ModalitiesInStudy=SR,US", 1),
        ("StudyDate=20230101-20231231&PatientID=P-2", 1),
        ("StudyDate=20230101-20231231&PatientID=P-1", 0),
        ("SeriesDescription=Thorax", 2),
        ("limit=1", 1),
        ("limit=1&offset=1", 1),
        ("offset=2", 0),
        ("limit=0", 0),
        ("limit=999999999", 2),
        ("emptyvaluematching=false&multiplevaluematching=false", 2),
    ],
)
def test_keys_select_studies(lake, query, count):
    answer = lake.get(f"{ROOT}/studies?{query}")
    assert answer.status_code == (200 if count else 204)
    assert len(answer.json() if count else answer.content) == count
    assert (answer.headers.get("content-type") == "application/dicom+json") == bool(count)


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("PatinetName=X", "PatinetName: is neither an attribute by keyword or tag nor a parameter"),
        ("00099999=X", "00099999: is neither an attribute by keyword or tag nor a parameter"),
        ("%3Cb%3E=X", "a name in the query: is neither an attribute by keyword or tag nor a parameter"),
        ("A.B=X", "A.B: is neither an attribute by keyword or tag nor a parameter"),
        ("limit=-1", "limit: is no whole number from 0 to 999,999,999"),
        ("offset=1.5", "offset: is no whole number from 0 to 999,999,999"),
        ("fuzzymatching=perhaps", "fuzzymatching: is neither true nor false"),
        ("NumberOfStudyRelatedSeries=1", "NumberOfStudyRelatedSeries: cannot be searched by"),
        ("RetrieveURL=x", "RetrieveURL: cannot be searched by"),
        (
            "StudyDate=yesterday",
            "StudyDate: the value is no date YYYYMMDD, nor a range of two as in a-b, a- or -b",
        ),
        ("PatientName=a%00", "PatientName: the value holds a control character"),
        ("&".join(f"PatientID={n}" for n in range(101)), "the query names more than 100 attributes"),
    ],
)
def test_what_cannot_be_searched_by_is_refused(lake, query, sentence):
    answer = lake.get(f"{ROOT}/studies?{query}")
    assert (answer.status_code, answer.json()["message"]) == (400, sentence)


def test_more_attributes_are_returned_when_asked_for(lake):
    def fields(query, path="/studies"):
        return search(lake, f"{path}?PatientID=P-1&{query}")[0]

    assert value(fields("includefield=StudyDescription"), "00081030") == "Chest"
    for form in ("00081030,00081032", "00081030%2C00081032"):
        found = fields(f"includefield={form}")
        assert (value(found, "00081030"), found["00081032"]) == ("Chest", {"vr": "SQ"})
    found = fields("includefield=00081032&includefield=StudyDescription")
    assert set(found) == STUDY_TAGS | {"00081030", "00081032"}
    assert value(fields("includefield=all"), "00081030") == "Chest"
    assert set(fields("includefield=00080018,Modality,0020000E")) == STUDY_TAGS
    series = fields("includefield=PatientID,BodyPartExamined,Rows", f"/studies/{STUDY}/series")
    assert (value(series, "00100020"), value(series, "00180015")) == ("P-1", "CHEST")
    assert "00280010" not in series
    instance = fields("includefield=ImageType,PixelSpacing,RescaleSlope,ModalitiesInStudy", "/instances")
    assert instance["00080008"]["Value"] == ["ORIGINAL", "PRIMARY", "AXIAL"]
    assert instance["00280030"]["Value"] == [0.5, 0.25]
    assert instance["00281053"] == {"vr": "DS", "Value": [2]}
    assert instance["00080061"]["Value"] == ["CT", "SR"]
    everything = fields("includefield=all", f"/studies/{STUDY}/series/{SERIES}/instances")
    assert value(everything, "00083002") == "1.2.840.10008.1.2.1"


def test_the_character_set_of_an_answer_is_its_own_also_when_asked_for(lake):
    for path in ("/studies", "/series", "/instances"):
        for one in search(lake, f"{path}?includefield=SpecificCharacterSet,00081190"):
            assert one["00080005"] == {"vr": "CS", "Value": ["ISO_IR 192"]}
            assert value(one, "00081190").startswith("http://testserver/dicomweb/studies/")


def test_a_negative_value_has_a_signed_vr(client, services):
    """Pixel Padding Value is US or SS (PS3.6); -2000 is none of US, so a client could not write it."""
    lut = Dataset()
    lut.add_new("LUTDescriptor", "SS", [16, -2000, 16])
    lut.add_new("LUTData", "OW", bytes(32))
    put(services, "1.dcm", data.ct(PixelRepresentation=1, PixelPaddingValue=-2000, VOILUTSequence=[lut]))
    fields = "includefield=PixelPaddingValue,VOILUTSequence"
    (found,) = search(client, f"/studies/{STUDY}/instances?{fields}")
    assert found["00280120"] == {"vr": "SS", "Value": [-2000]}
    assert found["00283010"]["Value"][0]["00283002"] == {"vr": "SS", "Value": [16, -2000, 16]}


def test_private_elements_come_with_their_creator(client, services):
    dataset = data.ct_dataset()
    block = dataset.private_block(0x0019, "ACME 1.0", create=True)
    block.add_new(0x01, "LO", "secret sauce")
    block.add_new(0x02, "DS", ["1.5", "2.5"])
    put(services, "1.dcm", data.part10(dataset))
    query = "00190010=ACME%201.0&includefield=00191001,00191002"
    (found,) = search(client, f"/studies/{STUDY}/instances?{query}")
    assert found["00190010"] == {"vr": "LO", "Value": ["ACME 1.0"]}
    assert found["00191001"]["Value"] == ["secret sauce"]
    assert found["00191002"]["Value"] == [1.5, 2.5]
    assert len(search(client, "/instances?00190010=ACME%201.0&00191001=secret*")) == 1
    assert search(client, "/instances?00190010=OTHER") == []
    assert client.get(f"{ROOT}/instances?00191001=x").status_code == 400


def test_what_is_left_over_or_not_done_is_said_in_warnings(lake):
    def warnings(query):
        return lake.get(f"{ROOT}/studies?{query}").headers.get_list("warning")

    base = "299 http://testserver/dicomweb: "
    assert warnings("limit=1") == [f"{base}There are 1 additional results that can be requested"]
    assert warnings("limit=2") == warnings("limit=1&offset=1") == []
    literal = "The fuzzymatching parameter is not supported. Only literal matching has been performed."
    assert warnings("PatientName=Doe&fuzzymatching=true") == [base + literal]
    assert warnings("fuzzymatching=false") == []
    assert len(warnings("includefield=Shoes,Hats,StudyDescription")) == 1


@pytest.mark.parametrize(
    ("accept", "status", "media_type"),
    [
        ("*/*", 200, "application/dicom+json"),
        ("application/json", 200, "application/json"),
        ("text/turtle, application/dicom+json;q=0.9", 200, "application/dicom+json"),
        ('multipart/related; type="application/dicom+xml"', 406, "application/json"),
        ("image/png", 406, "application/json"),
    ],
)
def test_the_media_type_is_negotiated(lake, accept, status, media_type):
    answer = lake.get(f"{ROOT}/studies", headers={"accept": accept})
    assert (answer.status_code, answer.headers["content-type"]) == (status, media_type)


def test_long_answers_are_compressed_on_request(lake):
    with lake.stream("GET", f"{ROOT}/studies", headers={"accept-encoding": "gzip"}) as answer:
        raw = b"".join(answer.iter_raw())
    assert answer.headers["content-encoding"] == "gzip"
    assert len(json.loads(gzip.decompress(raw))) == 2
    plain = lake.get(f"{ROOT}/studies", headers={"accept-encoding": "identity"})
    assert int(plain.headers["content-length"]) == len(plain.content)
    assert lake.head(f"{ROOT}/studies").headers["content-type"] == "application/dicom+json"


def test_addresses_are_those_that_the_client_can_reach(lake, tmp_path):
    def url(client, **headers):
        return value(search(client, "/studies?limit=1", **headers)[0], "00081190")

    forwarded = {"x-forwarded-proto": "https", "x-forwarded-host": "pacs.example:8443"}
    assert url(lake, **forwarded) == f"https://pacs.example:8443{OF_STUDY}"
    assert url(lake, **forwarded, **{"x-forwarded-prefix": "/lake"}).startswith(
        "https://pacs.example:8443/lake/"
    )
    assert url(lake, **{"x-forwarded-host": "x y"}) == f"http://testserver{OF_STUDY}"
    opened = open_services(lake_settings(tmp_path, api__public_url="https://lake.example/a/"))
    try:
        assert url(TestClient(create_app(opened)), **forwarded) == f"https://lake.example/a{OF_STUDY}"
    finally:
        opened.close()


@pytest.mark.parametrize(
    "path", ["/studies/1.9/series", "/studies/nothing'--/series", f"/studies/1.9/series/{SERIES}/instances"]
)
def test_nothing_below_what_is_not_there(lake, path):
    assert lake.get(ROOT + path).status_code == 204


@pytest.mark.parametrize("path", ["/studies", "/series", "/instances", f"/studies/{STUDY}/series"])
def test_a_page_of_another_site_searches_nothing(lake, path):
    assert lake.get(ROOT + path, headers={"origin": "https://evil.example"}).status_code == 403
    assert lake.get(ROOT + path, headers={"sec-fetch-site": "cross-site"}).status_code == 403


def test_where_events_alone_are_served_nothing_is_searched(tmp_path):
    opened = open_services(lake_settings(tmp_path, api__serve="ingest"))
    try:
        assert TestClient(create_app(opened)).get(f"{ROOT}/studies").status_code == 404
    finally:
        opened.close()


def test_dicomweb_client_finds_studies_series_and_instances(tmp_path):
    """A real client, which sends Host without the port."""
    with Service(tmp_path / "lake") as service:
        for number in range(3):
            uids = {"StudyInstanceUID": f"1.{number}", "SOPInstanceUID": f"1.{number}.1"}
            (service.landing / f"{number}.dcm").write_bytes(data.ct(**uids))
        client = DICOMwebClient(f"{service.url}{ROOT}")
        assert until(lambda: len(client.search_for_studies()) == 3)
        studies = client.search_for_studies(limit=1, get_remaining=True)
        assert sorted(value(study, "0020000D") for study in studies) == ["1.0", "1.1", "1.2"]
        (series,) = client.search_for_series("1.1", search_filters={"Modality": "CT"})
        assert value(series, "00081190") == f"{service.url}{ROOT}/studies/1.1/series/{SERIES}"
        (instance,) = client.search_for_instances("1.1", SERIES, fields=["ImageType"])
        assert value(instance, "00080018") == "1.1.1"
        assert client.search_for_studies(search_filters={"PatientID": "nobody"}) == []
