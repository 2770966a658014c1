"""Labels, files, attributes and pictures over REST, and the shapes of the answers."""

import io

import pytest
from PIL import Image

from tests import data
from tests.pdfs import page, pdf_object, stream


@pytest.fixture
def lake(client):
    files = [
        ("IM000001", data.ct(Rows=2, Columns=2, PixelData=bytes(8))),
        ("two.dcm", data.ct(SOPInstanceUID="1.2.3.9")),
        ("cine.dcm", data.enhanced(frames=3)),
    ]
    for name, content in files:
        answer = client.post("/upload", data={"study": "iraj-x-ray"}, files={"files": (name, content)})
        assert answer.json()["success"]
    return client


def test_attributes_by_keyword_tag_and_path(lake):
    answer = lake.get("/files/iraj-x-ray/IM000001/tag?tag=(0028,0010)&tag=Columns&tag=00100020")
    assert answer.status_code == 200
    found = answer.json()
    assert (found["file"], found["study"], found["success"]) == ("IM000001", "iraj-x-ray", True)
    assert found["tags"][0] == {
        "VM": 1,
        "VR": "US",
        "keyword": "Rows",
        "name": "Rows",
        "tag": "(0028,0010)",
        "value": 2,
    }
    assert [one["keyword"] for one in found["tags"]] == ["Rows", "Columns", "PatientID"]


def test_a_known_tag_that_the_file_lacks_is_null(lake):
    (found,) = lake.get("/files/iraj-x-ray/IM000001/tag?tag=PatientComments").json()["tags"]
    assert (found["value"], found["VM"]) == (None, 0)


@pytest.mark.parametrize("query", ["", "?tag=", "?tag=Rows&tag="])
def test_no_tag_is_refused(lake, query):
    answer = lake.get(f"/files/iraj-x-ray/IM000001/tag{query}")
    assert answer.status_code == 400
    assert answer.json() == {"error": "tag query parameter is empty", "success": False}


def test_unknown_tags_are_named(lake):
    answer = lake.get("/files/iraj-x-ray/IM000001/tag?tag=(2222,2222)&tag=Rows")
    assert (answer.status_code, answer.json()) == (400, {"invalidTags": ["(2222,2222)"], "success": False})


@pytest.mark.parametrize("what", ["tag?tag=Rows", "png", "jpg", "gif"])
def test_a_file_that_is_not_there_is_not_found(lake, what):
    answer = lake.get(f"/files/iraj-x-ray/nobody/{what}")
    assert (answer.status_code, answer.json()) == (404, {"error": "file not found", "success": False})


@pytest.mark.parametrize(("what", "kind"), [("png", "PNG"), ("jpg", "JPEG"), ("gif", "GIF")])
def test_pictures(lake, what, kind):
    answer = lake.get(f"/files/iraj-x-ray/two.dcm/{what}")
    assert answer.status_code == 200
    assert Image.open(io.BytesIO(answer.content)).format == kind


def test_a_picture_as_asked_for(lake):
    answer = lake.get("/files/iraj-x-ray/cine.dcm/png?frame=2&window=40,400&max_side=8")
    assert max(Image.open(io.BytesIO(answer.content)).size) == 8
    assert lake.get("/files/iraj-x-ray/cine.dcm/png?window=wide").status_code == 400


@pytest.mark.parametrize(
    ("file", "size"), [(data.sr(), (707, 1000)), (pdf_object(page(stream(b""), b"")), (750, 1000))]
)
def test_the_picture_of_a_document_is_its_page(client, file, size):
    assert client.post("/upload", data={"study": "paper"}, files={"files": ("a.dcm", file)}).json()["success"]
    answer = client.get("/files/paper/a.dcm/png?max_side=1000")
    assert Image.open(io.BytesIO(answer.content)).size == size


def test_all_frames_of_a_file_and_all_files_of_a_label_as_a_cine(lake):
    frames = Image.open(io.BytesIO(lake.get("/files/iraj-x-ray/cine.dcm/gif").content))
    assert frames.n_frames == 3
    label = lake.get("/files/iraj-x-ray/gif")
    assert label.headers["content-type"] == "image/gif"
    assert Image.open(io.BytesIO(label.content)).format == "GIF"
    assert lake.get("/files/nobody/gif").status_code == 404


def test_the_last_segment_decides(client, tmp_path):
    (tmp_path / "landing/a/deep").mkdir(parents=True)
    (tmp_path / "landing/a/deep/png").write_bytes(data.ct())
    answer = client.get("/files/a/deep/png/tag?tag=Modality")
    assert answer.json()["file"] == "deep/png"
    assert answer.json()["tags"][0]["value"] == "CT"


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("frame=x", "frame: input should be a valid integer, unable to parse string as an integer"),
        ("frame=0", "frame: input should be greater than or equal to 1"),
        ("max_side=99999", "max_side: input should be less than or equal to 4096"),
    ],
)
def test_a_parameter_of_a_wrong_kind_is_named_in_the_form_of_every_other_fault(lake, query, error):
    answer = lake.get(f"/files/iraj-x-ray/cine.dcm/png?{query}")
    assert (answer.status_code, answer.json()) == (400, {"error": error, "success": False})
