"""Notifications have the attributes and the payload of Cloud Storage's, and our own parser takes them."""

import json
import re
from typing import Any

import pytest

from app.events import object_event
from app.model.values import EventType, Message
from tests.fake_gcs import FakeGcs

Told = list[tuple[dict[str, str], bytes]]


@pytest.fixture
def told(gcs: FakeGcs) -> Told:
    told: Told = []
    gcs.subscribe(lambda attributes, data: told.append((attributes, data)))
    return told


def kinds(told: Told) -> list[str]:
    return [attributes["eventType"] for attributes, _ in told]


def test_upload_is_a_finalize(gcs: FakeGcs, client: Any, told: Told) -> None:
    blob = client.bucket("landing").blob("study/é.dcm")
    blob.upload_from_string(b"123456789", "application/dicom")
    ((attributes, data),) = told
    time = attributes.pop("eventTime")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", time)
    assert attributes == {
        "notificationConfig": "projects/_/buckets/landing/notificationConfigs/1",
        "eventType": "OBJECT_FINALIZE",
        "payloadFormat": "JSON_API_V1",
        "bucketId": "landing",
        "objectId": "study/é.dcm",
        "objectGeneration": str(blob.generation),
    }
    resource = json.loads(data)
    assert (resource["kind"], resource["size"], resource["crc32c"]) == ("storage#object", "9", "4waSgw==")


def test_our_parser_takes_it(gcs: FakeGcs, told: Told) -> None:
    version = gcs.put("landing", "a", b"123456789")
    event = object_event(Message(told[0][1], told[0][0], "1"))
    assert (event.type, event.ref.generation) == (EventType.FINALIZE, version.generation)
    assert (event.size, event.crc32c, event.metageneration) == (9, "4waSgw==", 1)
    assert event.storage_class == "STANDARD"


def test_overwrite_tells_of_both_versions(gcs: FakeGcs, told: Told) -> None:
    old, new = (gcs.put("landing", "a", data).generation for data in (b"old", b"new"))
    assert kinds(told) == ["OBJECT_FINALIZE", "OBJECT_FINALIZE", "OBJECT_DELETE"]
    assert told[1][0]["overwroteGeneration"] == str(old)
    assert told[2][0]["overwrittenByGeneration"] == str(new)
    assert told[2][0]["objectGeneration"] == str(old)
    assert "timeDeleted" in json.loads(told[2][1])


def test_overwrite_in_a_bucket_with_versions_is_an_archive(gcs: FakeGcs, told: Told) -> None:
    gcs.buckets["landing"].versioning = True
    gcs.put("landing", "a", b"old")
    new = gcs.put("landing", "a", b"new").generation
    assert kinds(told) == ["OBJECT_FINALIZE", "OBJECT_FINALIZE", "OBJECT_ARCHIVE"]
    assert told[2][0]["overwrittenByGeneration"] == str(new)


def test_delete_in_a_bucket_with_versions_is_an_archive_then_a_delete(gcs: FakeGcs, told: Told) -> None:
    gcs.buckets["landing"].versioning = True
    generation = gcs.put("landing", "a", b"x").generation
    gcs.delete("landing", "a")
    gcs.delete("landing", "a", generation)
    assert kinds(told) == ["OBJECT_FINALIZE", "OBJECT_ARCHIVE", "OBJECT_DELETE"]
    assert "overwrittenByGeneration" not in told[1][0]


def test_delete_and_change_of_metadata(gcs: FakeGcs, client: Any, told: Told) -> None:
    gcs.put("landing", "a", b"x")
    blob = client.bucket("landing").blob("a")
    blob.metadata = {"k": "v"}
    blob.patch()
    blob.delete()
    assert kinds(told) == ["OBJECT_FINALIZE", "OBJECT_METADATA_UPDATE", "OBJECT_DELETE"]
    assert json.loads(told[1][1])["metageneration"] == "2"


def test_failed_upload_tells_nothing(gcs: FakeGcs, client: Any, told: Told) -> None:
    gcs.put("landing", "a", b"x")
    told.clear()
    with pytest.raises(Exception, match="412"):
        client.bucket("landing").blob("a").upload_from_string(b"y", if_generation_match=0)
    assert told == []


def test_configuration_filters_and_adds(gcs: FakeGcs) -> None:
    told: Told = []
    gcs.subscribe(
        lambda attributes, data: told.append((attributes, data)),
        prefix="in/",
        event_types=("OBJECT_FINALIZE",),
        payload="NONE",
        custom={"tenant": "1"},
    )
    gcs.put("landing", "in/a", b"x")
    gcs.put("landing", "out/a", b"x")
    gcs.delete("landing", "in/a")
    ((attributes, data),) = told
    assert (attributes["objectId"], attributes["tenant"], attributes["payloadFormat"]) == (
        "in/a",
        "1",
        "NONE",
    )
    assert data == b""
