"""WADO-RS through HTTP: what each resource answers, to whom, and with which headers (PS3.18 10.4)."""

import io
import json
import re
from xml.etree import ElementTree

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from starlette.testclient import TestClient

from app.api import create_app
from app.api.dicomweb.capabilities import MEDIA_TYPES
from app.api.dicomweb.parameters import BadParameter, frame_numbers, viewport_values, window_text
from app.services import open_services
from tests import data
from tests.browse.lake import put, remove
from tests.conftest import lake_settings
from tests.data import SERIES, SOP, STUDY
from tests.dicom.pictures import RLE, encapsulated, picture, rle
from tests.parts import ROOT as ROOT_FOLDER
from tests.pdfs import operators, page, pdf_object, stream

ROOT = "/dicomweb"
OF_STUDY = f"{ROOT}/studies/{STUDY}"
OF_SERIES = f"{OF_STUDY}/series/{SERIES}"
INSTANCE = f"{OF_SERIES}/instances/{SOP}"
DICOM = 'multipart/related; type="application/dicom"'
OCTETS = 'multipart/related; type="application/octet-stream"'
EXPLICIT = "1.2.840.10008.1.2.1"


def parts(answer):
    """Return headers and body of each part of a multipart answer, which must be whole."""
    boundary = re.search(r"boundary=([^;]+)", answer.headers["content-type"])[1].encode()
    assert answer.content.endswith(b"\r\n--" + boundary + b"--\r\n")
    found = []
    for part in (b"\r\n" + answer.content).split(b"\r\n--" + boundary)[1:-1]:
        head, _, body = part.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().strip().split("\r\n"))
        found.append((headers, body))
    return found


def get(client, path, accept=None, **headers):
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.get(path, headers=given | ({"accept": accept} if accept else {}))


@pytest.fixture
def compressed(services):
    """Three frames of 16 x 16 pixels, each of one value, in RLE; returns the stored frames."""
    stored = [rle(bytes([0x81, value]) * 2) for value in (5, 6, 7)]
    dataset = data.identity(SamplesPerPixel=1)
    dataset.update(picture(encapsulated(*stored), 16, 16, RLE, NumberOfFrames=3))
    put(services, "rle.dcm", data.part10(dataset, RLE))
    return stored


def test_an_instance_comes_as_it_is_stored_with_the_headers_of_a_part(client, services):
    raw = data.ct()
    put(services, "a.dcm", raw)
    answer = get(client, INSTANCE, f"{DICOM}; transfer-syntax=*")
    ((headers, body),) = parts(answer)
    assert body == raw
    assert headers == {
        "Content-Type": f"application/dicom; transfer-syntax={EXPLICIT}",
        "Content-Location": f"http://testserver{INSTANCE}",
    }
    assert answer.headers["content-type"].startswith('multipart/related; type="application/dicom"; boundary=')
    assert answer.headers["cache-control"] == "private, no-cache"
    assert "default-src 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("syntax", data.NATIVE)
def test_an_instance_of_any_encoding_is_explicit_little_endian_by_default(client, services, syntax):
    put(services, "a.dcm", data.ct(syntax))
    answer = get(client, INSTANCE, "application/dicom")
    found = pydicom.dcmread(io.BytesIO(answer.content))
    assert answer.headers["content-type"] == f"application/dicom; transfer-syntax={EXPLICIT}"
    assert found.file_meta.TransferSyntaxUID == EXPLICIT
    assert found.pixel_array.ravel().tolist() == list(range(128))


def test_what_is_lossless_is_decoded_what_is_lossy_stays_and_each_on_request(client, services, compressed):
    found = pydicom.dcmread(io.BytesIO(get(client, INSTANCE, "application/dicom").content))
    assert found.PixelData == bytes([5]) * 256 + bytes([6]) * 256 + bytes([7]) * 256
    stored = get(client, INSTANCE, f"application/dicom; transfer-syntax={RLE}")
    assert pydicom.dcmread(io.BytesIO(stored.content)).file_meta.TransferSyntaxUID == RLE
    lossy = pydicom.dcmread(str(get_testdata_file("JPEG2000.dcm", download=False)))
    put(services, "lossy.dcm", data.part10(lossy, lossy.file_meta.TransferSyntaxUID))
    path = f"{ROOT}/studies/{lossy.StudyInstanceUID}/series/{lossy.SeriesInstanceUID}"
    path += f"/instances/{lossy.SOPInstanceUID}"
    by_default = get(client, path, "application/dicom")
    decoded = get(client, path, f"application/dicom; transfer-syntax={EXPLICIT}")
    assert by_default.headers["content-type"].endswith(lossy.file_meta.TransferSyntaxUID)
    assert decoded.headers["content-type"].endswith(f"={EXPLICIT}")


@pytest.mark.parametrize(
    "accept",
    [
        "text/turtle",
        f"{DICOM}; transfer-syntax=1.2.840.10008.1.2",
        f"{DICOM}; transfer-syntax=1.2.840.10008.1.2.2",
        f"{DICOM}; transfer-syntax=1.2.840.10008.1.2.4.102",
        f"{DICOM};q=0",
    ],
)
def test_what_cannot_be_had_is_not_acceptable(client, services, accept):
    put(services, "a.dcm", data.ct())
    answer = get(client, INSTANCE, accept)
    assert (answer.status_code, answer.json()["code"]) == (406, "not_acceptable")


def test_a_study_and_a_series_are_all_their_instances(client, services):
    for number in (1, 2):
        put(services, f"{number}.dcm", data.ct(SOPInstanceUID=f"{SOP}.{number}", InstanceNumber=str(number)))
    put(services, "other.dcm", data.ct(SeriesInstanceUID=f"{SERIES}.9", SOPInstanceUID=f"{SOP}.3"))
    for path, numbers in ((OF_STUDY, {"1", "2", "3"}), (OF_SERIES, {"1", "2"})):
        found = [pydicom.dcmread(io.BytesIO(body)) for _, body in parts(get(client, path, DICOM))]
        assert {str(one.SOPInstanceUID).rpartition(".")[2] for one in found} == numbers
        told = get(client, f"{path}/metadata").json()
        assert {one["00080018"]["Value"][0].rpartition(".")[2] for one in told} == numbers


def test_metadata_is_compressed_and_conditional(client, services):
    put(services, "a.dcm", data.ct())
    for path in (OF_STUDY, OF_SERIES, INSTANCE):
        answer = get(client, f"{path}/metadata", accept_encoding="gzip")
        assert answer.headers["content-type"] == "application/dicom+json"
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.headers["vary"] == "Accept, Accept-Encoding"
        assert answer.json()[0]["00100010"]["Value"] == [{"Alphabetic": "Doe^Jane"}]
        plain = get(client, f"{path}/metadata", accept_encoding="identity")
        assert "content-encoding" not in plain.headers
        assert plain.json() == answer.json()
        tag = answer.headers["etag"]
        assert get(client, f"{path}/metadata", if_none_match=f'"x", {tag}').status_code == 304
        assert get(client, f"{path}/metadata", if_none_match='"x"').status_code == 200
    before = get(client, f"{OF_SERIES}/metadata").headers["etag"]
    put(services, "b.dcm", data.ct(SOPInstanceUID=f"{SOP}.2"))
    after = get(client, f"{OF_SERIES}/metadata", if_none_match=before)
    assert (after.status_code, len(after.json())) == (200, 2)


@pytest.mark.parametrize("host", ["lake.example:8443", "testserver"])
def test_addresses_are_those_of_the_client(client, services, host):
    put(services, "a.dcm", data.ct())
    forwarded = {"x-forwarded-host": host, "x-forwarded-proto": "https"}
    (told,) = client.get(f"{INSTANCE}/metadata", headers=forwarded).json()
    assert told["7FE00010"]["BulkDataURI"] == f"https://{host}{INSTANCE}/bulkdata/7FE00010"
    (evil,) = client.get(f"{INSTANCE}/metadata", headers={"x-forwarded-host": 'x"}],<'}).json()
    assert evil["7FE00010"]["BulkDataURI"] == f"http://testserver{INSTANCE}/bulkdata/7FE00010"


def test_frames_come_in_the_order_asked_for_as_stored_or_decoded(client, services, compressed):
    native = parts(get(client, f"{INSTANCE}/frames/3,1", OCTETS))
    assert [body for _, body in native] == [bytes([7]) * 256, bytes([5]) * 256]
    assert native[0][0] == {
        "Content-Type": f"application/octet-stream; transfer-syntax={EXPLICIT}",
        "Content-Location": f"http://testserver{INSTANCE}/frames/3",
    }
    stored = parts(get(client, f"{INSTANCE}/frames/2", f'{OCTETS}; transfer-syntax="*"'))
    assert stored[0][0]["Content-Type"] == f"application/octet-stream; transfer-syntax={RLE}"
    assert stored[0][1].rstrip(b"\0") == compressed[1].rstrip(b"\0")
    named = parts(
        get(
            client,
            f"{INSTANCE}/frames/2",
            f'multipart/related; type="image/dicom-rle"; transfer-syntax={RLE}',
        )
    )
    assert named[0][0]["Content-Type"] == f"image/dicom-rle; transfer-syntax={RLE}"
    alone = get(client, f"{INSTANCE}/frames/2", "application/octet-stream")
    assert (alone.content, alone.headers["content-length"]) == (bytes([6]) * 256, "256")
    everything = parts(get(client, f"{INSTANCE}/pixeldata", OCTETS))
    assert [body[0] for _, body in everything] == [5, 6, 7]


@pytest.mark.parametrize(
    ("numbers", "status"),
    [
        ("4", 404),
        ("1,4", 404),
        ("0", 404),
        ("-1", 400),
        ("abc", 400),
        ("1,,2", 400),
        ("1," * 1000 + "1", 400),
    ],
)
def test_frames_that_are_not_there(client, services, compressed, numbers, status):
    for accept in (OCTETS, f"{OCTETS}; transfer-syntax=*"):
        assert get(client, f"{INSTANCE}/frames/{numbers}", accept).status_code == status


def test_bulk_data_in_ranges(client, services):
    put(services, "a.dcm", data.ct())
    path = f"{INSTANCE}/bulkdata/7FE00010"
    whole = get(client, path, "application/octet-stream")
    assert (whole.content, whole.headers["accept-ranges"]) == (data.pixels(16, 8), "bytes")
    for given, wanted in (
        ("bytes=2-5", slice(2, 6)),
        ("bytes=250-", slice(250, 256)),
        ("bytes=-2", slice(254, 256)),
    ):
        answer = get(client, path, "*/*", range=given)
        assert (answer.status_code, answer.content) == (206, data.pixels(16, 8)[wanted])
        assert answer.headers["content-range"] == f"bytes {wanted.start}-{wanted.stop - 1}/256"
    late = get(client, path, "*/*", range="bytes=256-")
    assert (late.status_code, late.headers["content-range"]) == (416, "bytes */256")
    tag = whole.headers["etag"]
    assert get(client, path, "*/*", range="bytes=0-1", if_range=tag).status_code == 206
    assert get(client, path, "*/*", range="bytes=0-1", if_range='"x"').status_code == 200
    assert parts(get(client, path, OCTETS))[0][1] == data.pixels(16, 8)
    for missing in ("7FE00010/2", "7FE00010/0", "7FE00010/x", "00100010", "x"):
        assert get(client, f"{INSTANCE}/bulkdata/{missing}").status_code == 404


def test_pictures_by_media_type_window_viewport_and_frame(client, services):
    put(services, "a.dcm", data.enhanced(frames=3, Rows=4, Columns=4))

    def drawn(path, accept="image/png", **given):
        answer = get(client, f"{INSTANCE}{path}", accept, **given)
        assert answer.status_code == 200
        return Image.open(io.BytesIO(answer.content))

    assert (drawn("/rendered", "*/*").format, drawn("/rendered", "image/*").format) == ("JPEG", "JPEG")
    assert drawn("/rendered?accept=image/png", OCTETS).format == "PNG"
    assert drawn("/rendered", "image/gif").n_frames == 3
    # Values 16 to 31 of the second frame, from black at 15.5 - 8 + 0.5: PS3.3 C.11.2.1.3.2 (LINEAR_EXACT).
    exact = np.asarray(drawn("/frames/2/rendered?window=24,16,linear-exact")).ravel().tolist()
    assert exact == [0, 16, 32, 48, 64, 80, 96, 112, 128, 143, 159, 175, 191, 207, 223, 239]
    # Pixels are 0.75 high and 0.5 wide: 4 x 6 with square ones, so that 8 columns need 12 rows.
    assert drawn("/frames/2/rendered?viewport=8,100").size == (8, 12)
    several = get(client, f"{INSTANCE}/frames/1,2/rendered", 'multipart/related; type="image/png"')
    assert [Image.open(io.BytesIO(body)).format for _, body in parts(several)] == ["PNG", "PNG"]
    pictures = parts(get(client, f"{OF_SERIES}/rendered", 'multipart/related; type="image/jpeg"'))
    assert len(pictures) == 1


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("rendered?window=40", 400),
        ("rendered?window=", 400),
        ("rendered?window=a,b,linear", 400),
        ("rendered?window=40,400,cubic", 400),
        ("rendered?window=40,0,linear", 400),
        ("rendered?viewport=64", 400),
        ("rendered?viewport=0,0", 400),
        ("rendered?viewport=-5,64", 400),
        ("rendered?viewport=64,64,1,1", 400),
        ("rendered?viewport=100000,100000", 400),
        ("rendered?viewport=8,8,90,90,4,4", 404),
        ("rendered?quality=0", 400),
        ("rendered?quality=101", 400),
        ("rendered?quality=x", 400),
        ("frames/2/rendered", 404),
        ("frames/x/rendered", 400),
        ("frames/2/thumbnail", 404),
        ("thumbnail?viewport=x", 400),
    ],
)
def test_bad_parameters_are_refused(client, services, path, status):
    put(services, "a.dcm", data.ct())
    assert get(client, f"{INSTANCE}/{path}", "image/jpeg").status_code == status


def test_a_picture_is_not_sent_again_to_who_has_it(client, services):
    put(services, "a.dcm", data.ct())
    for path in (f"{INSTANCE}/rendered", f"{INSTANCE}/thumbnail", f"{INSTANCE}/frames/1/rendered"):
        tag = get(client, path, "image/jpeg").headers["etag"]
        assert get(client, path, "image/jpeg", if_none_match=tag).status_code == 304
        assert get(client, path, "image/png", if_none_match=tag).status_code == 200


def test_thumbnails_at_all_four_levels(client, services):
    put(services, "a.dcm", data.ct(Rows=300, Columns=300))
    for path in (OF_STUDY, OF_SERIES, INSTANCE, f"{INSTANCE}/frames/1"):
        answer = get(client, f"{path}/thumbnail", "*/*")
        assert answer.headers["content-type"] == "image/jpeg"
        assert max(Image.open(io.BytesIO(answer.content)).size) == 128
    small = get(client, f"{INSTANCE}/thumbnail?viewport=32,32", "image/jpeg")
    assert max(Image.open(io.BytesIO(small.content)).size) == 32


def test_what_has_no_pixels_has_no_pictures_and_no_frames(client, services):
    put(services, "a.dcm", data.minimal())
    for path, accept in (
        ("frames/1", OCTETS),
        ("rendered", "image/jpeg"),
        ("thumbnail", "image/jpeg"),
        ("pixeldata", OCTETS),
    ):
        assert get(client, f"{INSTANCE}/{path}", accept).status_code == 404


RED_BELOW = page(stream(b"1 0 0 rg 0 0 600 400 re f"), b"")
"""A page of 600 x 800 points whose lower half is red: PDF counts from the bottom."""


def image(answer):
    assert answer.status_code == 200, answer.text
    return Image.open(io.BytesIO(answer.content))


def test_the_page_of_a_pdf_is_drawn_as_any_picture_is(client, services):
    put(services, "a.dcm", pdf_object(RED_BELOW, SOP))
    drawn = image(get(client, f"{INSTANCE}/rendered", "image/png"))
    assert (drawn.format, drawn.size) == ("PNG", (768, 1024))  # preview.max_side
    assert (drawn.getpixel((300, 100)), drawn.getpixel((300, 900))) == ((255, 255, 255), (255, 0, 0))
    small = image(get(client, f"{INSTANCE}/rendered?viewport=300,4000", "image/jpeg"))
    assert (small.format, small.size) == ("JPEG", (300, 400))
    below = get(client, f"{INSTANCE}/rendered?viewport=100,100,0,512,768,512", "image/png")
    part = image(below)
    assert (part.size, part.getpixel((50, 30))) == ((100, 67), (255, 0, 0))
    assert image(get(client, f"{INSTANCE}/rendered", "image/gif")).n_frames == 1
    many = parts(get(client, f"{OF_STUDY}/rendered", 'multipart/related; type="image/png"'))
    assert [headers["Content-Type"] for headers, _ in many] == ["image/png"]


def test_the_document_of_a_pdf_comes_as_it_is_to_those_who_ask_for_it(client, services):
    put(services, "a.dcm", pdf_object(RED_BELOW, SOP))
    asked = get(client, f"{INSTANCE}/rendered?accept=application/pdf", OCTETS)  # as OHIF asks
    assert (asked.status_code, asked.headers["content-type"]) == (200, "application/pdf")
    assert asked.content.rstrip(b"\0") == RED_BELOW
    assert "default-src 'none'" in asked.headers["content-security-policy"]
    assert get(client, f"{INSTANCE}/rendered", "*/*").headers["content-type"] == "image/jpeg"
    assert get(client, f"{INSTANCE}/thumbnail", "application/pdf").status_code == 406
    assert get(client, f"{OF_SERIES}/rendered", "application/pdf").status_code == 406


def test_a_report_is_drawn_as_the_page_of_its_preview(client, services):
    put(services, "a.dcm", data.sr())
    drawn = image(get(client, f"{INSTANCE}/rendered?viewport=620,877", "image/png"))
    assert (drawn.mode, drawn.size) == ("L", (620, 877))
    assert drawn.getextrema() == (0, 255)
    answer = get(client, f"{INSTANCE}/rendered", "application/pdf")
    assert answer.status_code == 406
    assert answer.json()["message"] == "the instance holds no PDF document: ask for an image"


def test_a_picture_is_no_document_and_a_document_has_no_frames(client, services):
    put(services, "a.dcm", data.ct())
    answer = get(client, f"{INSTANCE}/rendered", "application/pdf")
    assert answer.status_code == 406
    assert "image/jpeg, image/png, image/gif" in answer.json()["message"]
    both = get(client, f"{INSTANCE}/rendered", "application/pdf, image/png")
    assert both.headers["content-type"] == "image/png"
    put(services, "b.dcm", pdf_object(RED_BELOW, f"{SOP}.1"))
    assert get(client, f"{INSTANCE}.1/frames/1/rendered", "image/png").status_code == 404


@pytest.mark.parametrize("pdf", [b"no document", operators()], ids=["broken", "endless"])
def test_a_page_that_cannot_be_drawn_is_not_acceptable_as_a_picture(client, services, pdf):
    put(services, "a.dcm", pdf_object(pdf, SOP))
    assert get(client, f"{INSTANCE}/rendered", "image/jpeg").status_code == 406
    assert get(client, f"{INSTANCE}/rendered", "application/pdf").content.rstrip(b"\0") == pdf


@pytest.mark.parametrize(
    "level", [f"{ROOT}/studies/1.2", f"{OF_STUDY}/series/1.2", f"{OF_SERIES}/instances/1.2"]
)
@pytest.mark.parametrize("resource", ["", "/metadata", "/rendered", "/thumbnail"])
def test_what_is_not_there_is_not_found(client, services, level, resource):
    put(services, "a.dcm", data.ct())
    answer = get(client, f"{level}{resource}", "*/*")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_what_was_overwritten_is_given_as_it_is_now(client, services):
    put(services, "a.dcm", data.ct())
    assert get(client, f"{INSTANCE}/frames/1").status_code == 200
    put(services, "a.dcm", data.ct(PixelData=bytes(256)))
    assert parts(get(client, f"{INSTANCE}/frames/1", OCTETS))[0][1] == bytes(256)


def test_what_was_removed_is_not_found(client, services):
    ref = put(services, "a.dcm", data.ct())
    assert get(client, f"{INSTANCE}/metadata").status_code == 200
    remove(services, ref)
    for path in ("", "/metadata", "/frames/1", "/rendered", "/bulkdata/7FE00010"):
        assert get(client, f"{INSTANCE}{path}", "*/*").status_code == 404


def test_head_tells_what_get_would(client, services):
    put(services, "a.dcm", data.ct())
    for path, accept in (
        (INSTANCE, "application/dicom"),
        (f"{INSTANCE}/metadata", None),
        (f"{INSTANCE}/frames/1", OCTETS),
        (f"{INSTANCE}/rendered", "image/png"),
    ):
        whole = get(client, path, accept)
        head = client.head(path, headers={"accept": accept} if accept else {})
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["etag"] == whole.headers["etag"]


def test_a_service_that_only_takes_events_has_none_of_it(tmp_path):
    services = open_services(lake_settings(tmp_path, api__serve="ingest"))
    try:
        assert TestClient(create_app(services)).get(OF_STUDY).status_code == 404
    finally:
        services.close()


def test_no_answer_to_an_error_has_a_value_of_the_data_set(client, services):
    put(services, "a.dcm", data.ct(PatientName="Secret^Name"))
    for path in ("rendered?window=x", "frames/9", "bulkdata/00100010"):
        answer = get(client, f"{INSTANCE}/{path}", "*/*")
        assert answer.status_code in (400, 404)
        assert "Secret" not in answer.text
        assert set(json.loads(answer.text)) == {"code", "message"}


def test_parameters_are_read_to_the_letter():
    assert frame_numbers("1,30,2") == [1, 30, 2]
    assert window_text("-600,1500") == "-600,1500,linear"
    assert viewport_values("512,256", 4096) == ((512, 256), None)
    assert viewport_values("512,256,10,20.4,-30,40", 4096) == ((512, 256), (10, 20, -30, 40))
    assert viewport_values("512,256,,,,", 4096) == ((512, 256), None)
    for wrong in ("nan,nan", "1e3,5", "5", "5,5,nan,1,1,1", "5,5,-1,0,1,1"):
        with pytest.raises(BadParameter):
            viewport_values(wrong, 4096)


def test_the_conformance_statement_has_the_media_types_of_every_resource():
    """The tables of docs/dicomweb.md are compared with what OPTIONS tells, both ways."""
    text = (ROOT_FOLDER / "docs/dicomweb.md").read_text()
    answers = re.findall(r"^\| `(?:S|I/).* \| (.*) \|$", text, re.M)
    resources = ("{study}", "metadata", "{numbers}", "{tag}", "rendered", "thumbnail")
    for answer, resource in zip(answers, resources, strict=True):
        media_type = r"(?:image|application)/[a-z0-9+-]+"
        told = re.findall(media_type, " ".join(MEDIA_TYPES[resource]))
        assert set(re.findall(media_type, answer)) == set(told), resource


@pytest.mark.parametrize(
    "resource", ["", "/metadata", "/rendered", "/thumbnail", "/frames/1", "/bulkdata/7FE00010"]
)
def test_xml_is_left_out_everywhere(client, services, resource):
    put(services, "a.dcm", data.ct())
    for accept in ("application/dicom+xml", 'multipart/related; type="application/dicom+xml"'):
        answer = get(client, f"{INSTANCE}{resource}", accept)
        assert (answer.status_code, answer.json()["code"]) == (406, "not_acceptable")
        assert "dicom+xml" not in answer.json()["message"]


def test_capabilities_name_every_resource(client):
    wadl = client.options(f"{ROOT}/")
    assert wadl.headers["content-type"].startswith("application/vnd.sun.wadl+xml")
    root = ElementTree.fromstring(wadl.text)
    space = "{http://wadl.dev.java.net/2009/02}"
    paths = {one.get("path") for one in root.iter(f"{space}resource")}
    assert "studies/{study}/series/{series}/instances/{instance}/frames/{numbers}" in paths
    assert root.find(f"{space}resources").get("base") == "http://testserver/dicomweb"
    posts = [one for one in root.iter(f"{space}method") if one.get("name") == "POST"]
    answers = {one.get("mediaType") for post in posts for one in post.iter(f"{space}representation")}
    assert (len(posts), answers) == (2, {"application/dicom+json"})
    told = client.get(f"{ROOT}/", headers={"accept": "application/json"}).json()
    assert {one["path"] for one in told["resources"]} == paths
    assert client.get(f"{ROOT}/", headers={"accept": "text/turtle"}).status_code == 406


@pytest.mark.parametrize("headers", [{"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}])
def test_a_page_of_another_site_gets_nothing(client, services, headers):
    put(services, "a.dcm", data.ct())
    for path in (f"{ROOT}/", OF_STUDY, f"{INSTANCE}/metadata", f"{INSTANCE}/rendered"):
        assert client.get(path, headers=headers).status_code == 403


def test_without_a_token_nothing_is_told_where_one_is_asked_for(tmp_path):
    told = {"api__users": "token", "api__users_key": "k" * 32}
    services = open_services(lake_settings(tmp_path, **told))
    try:
        put(services, "a.dcm", data.ct())
        client = TestClient(create_app(services))
        for path in (f"{ROOT}/", OF_STUDY, f"{INSTANCE}/metadata", f"{INSTANCE}/rendered"):
            answer = client.get(path)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Bearer")
    finally:
        services.close()
