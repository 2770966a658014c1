"""Where fake-gcs-server differs from our stand-in, which does what Cloud Storage documents.

They are why ours stays. Neither the storage contract nor tests/system/e2e/announced.py needs any of them.
"""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.emulators import GcsServer, PubSubEmulator, gcs_server
from tests.fake_gcs import FakeGcs

pytestmark = pytest.mark.xdist_group("cloud")

UPLOAD, OBJECTS = "/upload/storage/v1/b/landing/o", "/storage/v1/b/landing/o"
MEDIA = f"{UPLOAD}?uploadType=media&name="


@pytest.fixture(scope="module")
def server() -> Iterator[GcsServer]:
    with gcs_server() as server:
        server.make_bucket("landing")
        yield server


def ask(url: str, method: str, path: str, **options: Any) -> int:
    httpx.post(f"{url}{MEDIA}a", content=b"123456789")
    return httpx.request(method, url + path, **options).status_code


def multipart(url: str, crc32c: str) -> int:
    """Upload with a checksum in the metadata."""
    metadata = json.dumps({"name": "b", "crc32c": crc32c}).encode()
    parts = [b"\r\ncontent-type: application/json\r\n\r\n" + metadata, b"\r\n\r\n123456789"]
    body = b"--x" + b"\r\n--x".join(parts) + b"\r\n--x--"
    headers = {"Content-Type": "multipart/related; boundary=x"}
    return httpx.post(f"{url}{UPLOAD}?uploadType=multipart", content=body, headers=headers).status_code


def resumable(url: str, content_range: str, **query: object) -> int:
    """Send five bytes as one chunk of an upload, to a name that another upload took meanwhile."""
    begun = httpx.post(url + UPLOAD, params={"uploadType": "resumable", "name": "c", **query})
    httpx.post(f"{url}{MEDIA}c", content=b"first")
    place, headers = begun.headers["location"], {"Content-Range": content_range}
    return httpx.put(place, content=b"56789", headers=headers).status_code


@pytest.mark.parametrize(
    ("status", "theirs", "request_of"),
    [
        pytest.param(
            412, 200, lambda url: ask(url, "POST", f"{MEDIA}a&ifGenerationMatch=0"), id="media upload"
        ),
        pytest.param(
            412, 200, lambda url: resumable(url, "bytes 0-4/5", ifGenerationMatch=0), id="resumable upload"
        ),
        pytest.param(412, 200, lambda url: ask(url, "GET", f"{OBJECTS}/a?ifGenerationMatch=5"), id="read"),
        pytest.param(
            412, 200, lambda url: ask(url, "DELETE", f"{OBJECTS}/a?ifGenerationMatch=5"), id="delete"
        ),
        pytest.param(400, 200, lambda url: multipart(url, "AAAAAA=="), id="wrong checksum"),
        pytest.param(400, 200, lambda url: resumable(url, "bytes 5-9/10"), id="chunk after a gap"),
        pytest.param(400, 200, lambda url: ask(url, "POST", f"{MEDIA}a%0Ab"), id="name with a line break"),
        pytest.param(400, 200, lambda url: ask(url, "POST", MEDIA + "x" * 1025), id="name too long"),
        pytest.param(501, 200, lambda url: ask(url, "GET", f"{OBJECTS}?unheard=of"), id="unknown parameter"),
        pytest.param(204, 200, lambda url: ask(url, "DELETE", f"{OBJECTS}/a"), id="answer to a delete"),
    ],
)
def test_fake_gcs_server_takes_what_cloud_storage_refuses(
    gcs: FakeGcs, server: GcsServer, status: int, theirs: int, request_of: Callable[[str], int]
) -> None:
    assert (request_of(gcs.url), request_of(server.url)) == (status, theirs)


def test_a_change_of_metadata_does_not_count_there(gcs: FakeGcs, server: GcsServer) -> None:
    def metageneration(url: str) -> str:
        ask(url, "PATCH", f"{OBJECTS}/a", json={"metadata": {"a": "b"}})
        return httpx.get(f"{url}{OBJECTS}/a").json()["metageneration"]

    assert (metageneration(gcs.url), metageneration(server.url)) == ("2", "1")


def test_a_kept_version_of_a_deleted_object_cannot_be_removed_there(gcs: FakeGcs, server: GcsServer) -> None:
    gcs.make_bucket("kept", versioning=True)
    server.make_bucket("kept", versioning=True)

    def remove_for_good(url: str) -> int:
        made = httpx.post(f"{url}/upload/storage/v1/b/kept/o?uploadType=media&name=a", content=b"x").json()
        httpx.delete(f"{url}/storage/v1/b/kept/o/a")
        kept = f"{url}/storage/v1/b/kept/o/a?generation={made['generation']}"
        assert httpx.get(kept).status_code == 200
        return httpx.delete(kept).status_code

    assert (remove_for_good(gcs.url), remove_for_good(server.url)) == (204, 404)


def test_its_notifications_lack_what_ours_have(gcs: FakeGcs, pubsub: PubSubEmulator) -> None:
    ours: list[tuple[dict[str, str], bytes]] = []
    gcs.subscribe(lambda attributes, data: ours.append((attributes, data)))
    gcs.put("landing", "a", b"123456789")
    gcs.delete("landing", "a")
    topic = pubsub.topic("changes")
    subscription = pubsub.pull(topic)
    with gcs_server(announce="landing", topic=topic, pubsub=pubsub.host) as server:
        server.make_bucket("landing")
        server.upload("landing", "a", b"123456789")
        server.delete("landing", "a")
        theirs = pulled(pubsub, subscription, 2)
    for (attributes, data), (their_attributes, their_data) in zip(ours, theirs, strict=True):
        kind = attributes["eventType"]
        assert kind == their_attributes["eventType"]
        assert set(attributes) - set(their_attributes) == {"notificationConfig"}
        resource, other = json.loads(data), json.loads(their_data)
        assert "metageneration" in set(resource) - set(other)
        sizes = {"OBJECT_FINALIZE": ("9", "9"), "OBJECT_DELETE": ("9", "0")}
        assert (resource["size"], other["size"]) == sizes[kind]


def pulled(pubsub: PubSubEmulator, subscription: str, count: int) -> list[tuple[dict[str, str], bytes]]:
    """Return so many messages, oldest first."""
    found = []
    end = time.monotonic() + 30
    while len(found) < count and time.monotonic() < end:
        answer = pubsub.subscriber.pull(subscription=subscription, max_messages=10, timeout=30)
        found += [(dict(one.message.attributes), one.message.data) for one in answer.received_messages]
    return sorted(found, key=lambda message: message[0]["eventType"], reverse=True)
