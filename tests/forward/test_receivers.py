"""Pictures to a real HTTP server that fails on purpose, and to a folder."""

import base64
import json
import re
from email import message_from_bytes

import pytest

from app.forward import Options, check_distinct, check_receiver, open_receivers
from app.model.errors import ConfigError, ForwardRefused, ForwardUnavailable
from app.model.values import Picture
from tests.receiver import PictureReceiver

PNG = b"\x89PNG\r\n\x1a\n...."
FACTS = {"collection": "acme", "study_instance_uid": "1.2.3", "modality": None}
PICTURE = Picture("a1", "acme/in/ct.dcm", FACTS, PNG)


@pytest.fixture
def server():
    opened = PictureReceiver()
    yield opened
    opened.close()


@pytest.fixture
def open_one():
    opened = []

    def make(url, **options):
        (receiver,) = open_receivers([url], Options(**{"timeout_s": 30, **options})).values()
        opened.append(receiver)
        return receiver

    yield make
    for receiver in opened:
        receiver.close()


def test_a_picture_is_posted_as_json_under_its_key(server, open_one):
    open_one(server.url, headers={"Authorization": "Bearer s"}).forward(PICTURE)
    ((headers, body),) = server.requests
    assert (headers["idempotency-key"], headers["authorization"]) == ("a1", "Bearer s")
    assert json.loads(body) == {
        "row_id": "a1",
        "file_name": "ct.dcm.png",
        "collection": "acme",
        "study_instance_uid": "1.2.3",
        "modality": None,
        "picture": "iVBORw0KGgouLi4u",
    }


def test_a_picture_is_posted_as_a_form(server, open_one):
    open_one(server.url, multipart=True).forward(PICTURE)
    ((headers, body),) = server.requests
    parsed = message_from_bytes(b"Content-Type: " + headers["content-type"].encode() + b"\r\n\r\n" + body)
    parts = {part.get_param("name", header="content-disposition"): part for part in parsed.get_payload()}
    assert {name: part.get_payload(decode=True) for name, part in parts.items()} == {
        "row_id": b"a1",
        "file_name": b"ct.dcm.png",
        "collection": b"acme",
        "study_instance_uid": b"1.2.3",
        "picture": PNG,
    }
    assert parts["picture"].get_filename() == "ct.dcm.png"
    assert parts["picture"].get_content_type() == "image/png"


@pytest.mark.parametrize("status", [200, 201, 202, 204, 409])
def test_what_is_an_acceptance(server, open_one, status):
    server.script.append(status)
    open_one(server.url).forward(PICTURE)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, None])
def test_what_may_be_accepted_later(server, open_one, status):
    server.script.append(status)
    with pytest.raises(ForwardUnavailable):
        open_one(server.url).forward(PICTURE)


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 410, 413, 415, 422])
def test_what_is_refused_for_good(server, open_one, status):
    server.script.append(status)
    with pytest.raises(ForwardRefused, match=f"it answers {status}"):
        open_one(server.url).forward(PICTURE)


def test_a_pause_that_the_receiver_asks_for_is_passed_on(server, open_one):
    server.script.append((429, "7"))
    with pytest.raises(ForwardUnavailable) as raised:
        open_one(server.url).forward(PICTURE)
    assert raised.value.retry_after == "7"


def test_no_receiver_is_unavailable(server, open_one):
    receiver = open_one(server.url)
    server.close()
    with pytest.raises(ForwardUnavailable, match="ConnectError"):
        receiver.forward(PICTURE)


def test_a_folder_gets_the_text_of_the_picture_under_the_path_of_its_object(tmp_path, open_one):
    receiver = open_one(f"file:{tmp_path / 'encoded'}")
    receiver.forward(PICTURE)
    receiver.forward(PICTURE)
    (file,) = [found for found in (tmp_path / "encoded").rglob("*") if found.is_file()]
    assert file == tmp_path / "encoded/acme/in/ct.dcm.png.txt"
    assert base64.b64decode(file.read_text(), validate=True) == PNG


def test_no_name_leads_out_of_the_folder(tmp_path, open_one):
    open_one(f"file:{tmp_path / 'encoded'}").forward(Picture("a", "../../x", {}, PNG))
    assert {found.parts[len(tmp_path.parts)] for found in tmp_path.rglob("*")} == {"encoded"}


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://example.org/hook", "forward.urls: http: is for receivers on this machine"),
        ("https:///hook", "forward.urls: a receiver is written https://host/path"),
        ("https://host:port/", "header of forward.headers is not valid"),
        ("kafka://a/b", "forward.urls 'kafka://a/b' has no known scheme; begin it with one of https:"),
        ("file://elsewhere/x", "forward.urls: 'file://elsewhere/x' names a host"),
    ],
)
def test_what_cannot_work_is_found_before_the_start(url, why):
    with pytest.raises(ConfigError, match=re.escape(why)):
        check_receiver(url, Options(30))


def test_two_receivers_of_one_name_are_refused():
    with pytest.raises(ConfigError, match=r"https://h/p is named twice"):
        check_distinct(["https://h/p?key=1", "https://h/p?key=2"])
