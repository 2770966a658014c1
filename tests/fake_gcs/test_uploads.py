"""Uploads: multipart, media and resumable, by the real client and chunk by chunk on the wire."""

from typing import Any

import httpx
import pytest

from tests.fake_gcs import FakeGcs

KIB = 1024


def begin(gcs: FakeGcs, name: str, **headers: str) -> str:
    found = httpx.post(
        f"{gcs.url}/upload/storage/v1/b/landing/o?uploadType=resumable&name={name}", headers=headers
    )
    assert found.status_code == 200
    return found.headers["location"]


def put(place: str, content_range: str, data: bytes = b"", **headers: str) -> httpx.Response:
    return httpx.put(place, content=data, headers={"Content-Range": content_range, **headers})


def test_multipart_upload_with_a_wrong_checksum_stores_nothing(gcs: FakeGcs) -> None:
    body = (
        b'--x\r\ncontent-type: application/json\r\n\r\n{"name": "a", "crc32c": "AAAAAA=="}\r\n'
        b"--x\r\ncontent-type: text/plain\r\n\r\n123456789\r\n--x--"
    )
    found = httpx.post(
        f"{gcs.url}/upload/storage/v1/b/landing/o?uploadType=multipart",
        content=body,
        headers={"Content-Type": 'multipart/related; boundary="x"'},
    )
    assert found.status_code == 400
    assert gcs.buckets["landing"].live == {}


def test_multipart_upload_keeps_bytes_that_look_like_lines(gcs: FakeGcs, client: Any) -> None:
    data = b"\r\n--\r\n\r\n\0\r\n"
    client.bucket("landing").blob("a").upload_from_string(data, "application/dicom", checksum="crc32c")
    assert gcs.buckets["landing"].live["a"].data == data
    assert gcs.buckets["landing"].live["a"].settings["contentType"] == "application/dicom"


def test_media_upload(gcs: FakeGcs) -> None:
    found = httpx.post(
        f"{gcs.url}/upload/storage/v1/b/landing/o?uploadType=media&name=a",
        content=b"x",
        headers={"Content-Type": "text/plain"},
    )
    assert found.json()["contentType"] == "text/plain"


def test_real_client_uploads_in_chunks(gcs: FakeGcs, client: Any) -> None:
    data = bytes(range(256)) * 4 * 700  # 700 KiB
    blob = client.bucket("landing").blob("a", chunk_size=256 * KIB)
    with blob.open("wb", chunk_size=256 * KIB) as stream:
        stream.write(data)
    assert gcs.buckets["landing"].live["a"].data == data
    assert [request.method for request in gcs.requests].count("PUT") == 3


def test_interrupted_upload_is_taken_up_again(gcs: FakeGcs) -> None:
    data = bytes(300 * KIB)
    place = begin(
        gcs, "a", **{"X-Upload-Content-Length": str(len(data)), "X-Upload-Content-Type": "image/png"}
    )
    assert put(place, f"bytes */{len(data)}").headers.get("range") is None
    first = put(place, f"bytes 0-{256 * KIB - 1}/{len(data)}", data[: 256 * KIB])
    assert (first.status_code, first.headers["range"]) == (308, "bytes=0-262143")
    assert put(place, f"bytes */{len(data)}").headers["range"] == "bytes=0-262143"
    assert gcs.buckets["landing"].live == {}
    last = put(place, f"bytes {256 * KIB}-{len(data) - 1}/{len(data)}", data[256 * KIB :])
    assert (last.status_code, last.json()["size"], last.json()["contentType"]) == (200, "307200", "image/png")
    again = put(place, f"bytes */{len(data)}")
    assert (again.status_code, again.json()["generation"]) == (200, last.json()["generation"])


@pytest.mark.parametrize(
    ("content_range", "data"),
    [
        ("bytes 5-9/10", b"56789"),
        ("bytes 0-4/10", b"01234"),
        ("bytes 0-9/10", b"too few"),
        ("bytes 0-10/11", b"01234567890"),
        ("0-9", b"0123456789"),
    ],
)
def test_chunk_that_does_not_fit_is_refused(gcs: FakeGcs, content_range: str, data: bytes) -> None:
    place = begin(gcs, "a", **{"X-Upload-Content-Length": "10"})
    assert put(place, content_range, data).status_code == 400


def test_checksum_of_a_resumable_upload_is_compared(gcs: FakeGcs) -> None:
    place = begin(gcs, "a")
    assert put(place, "bytes 0-8/9", b"123456789", **{"X-Goog-Hash": "crc32c=AAAAAA=="}).status_code == 400
    assert gcs.buckets["landing"].live == {}


def test_upload_whose_condition_no_longer_holds_at_its_end_stores_nothing(gcs: FakeGcs) -> None:
    place = httpx.post(
        f"{gcs.url}/upload/storage/v1/b/landing/o?uploadType=resumable&name=a&ifGenerationMatch=0"
    ).headers["location"]
    gcs.put("landing", "a", b"first")
    assert put(place, "bytes 0-0/1", b"x").status_code == 412
    assert gcs.buckets["landing"].live["a"].data == b"first"


def test_a_session_lets_pages_of_the_origin_that_began_it_go_on(gcs: FakeGcs) -> None:
    place = begin(gcs, "a", Origin="https://lake.example")
    asked = httpx.options(place, headers={"Access-Control-Request-Headers": "content-range"})
    assert asked.headers["access-control-allow-headers"] == "content-range"
    answers = [asked, put(place, "bytes */1"), put(place, "nonsense"), put(place, "bytes 0-0/1", b"x")]
    assert [answer.status_code for answer in answers] == [200, 308, 400, 200]
    origins = {answer.headers["access-control-allow-origin"] for answer in answers}
    assert origins == {"https://lake.example"}
    other = put(begin(gcs, "b"), "bytes 0-0/1", b"x", Origin="https://lake.example")
    assert "access-control-allow-origin" not in other.headers


def test_what_came_before_a_break_is_kept(gcs: FakeGcs) -> None:
    place, data = begin(gcs, "a"), bytes(1024 * KIB)
    gcs.fail("cut", method="PUT")
    with pytest.raises(httpx.TransportError):
        put(place, f"bytes 0-{len(data) - 1}/{len(data)}", data)
    assert put(place, f"bytes */{len(data)}").headers["range"] == "bytes=0-524287"
    # "Cloud Storage ignores any bytes you send at an offset that Cloud Storage has already persisted."
    assert put(place, f"bytes 0-{len(data) - 1}/{len(data)}", data).json()["size"] == "1048576"


def test_cancelled_upload_is_unknown(gcs: FakeGcs) -> None:
    place = begin(gcs, "a")
    assert httpx.delete(place).status_code == 499
    assert put(place, "bytes 0-0/1", b"x").status_code == 404
