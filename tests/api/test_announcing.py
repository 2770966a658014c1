"""The routes that Pub/Sub and Cloud Scheduler call, and what keeps a letter open."""

import base64
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from app import pipeline
from app.announce import Announcers
from app.announce.letters import LetterSink, announce_letter
from app.api import create_app
from app.jobs import dead_letters
from app.jobs.ingest import ingest
from app.model.errors import AnnounceUnavailable
from app.model.values import EventType, Message
from app.sources.notifications import notification
from tests import data
from tests.pipeline.test_announcing import Target, kinds
from tests.pipeline.test_pipeline import NOON, handle, put, rows


@pytest.fixture
def target():
    return Target()


@pytest.fixture
def lake(services, target):
    both = Announcers([("kafka://b/t", target)])
    return replace(services, announcers=both, letter_announcers=both)


@pytest.fixture
def client(lake):
    return TestClient(create_app(lake), raise_server_exceptions=False)


def pushed(message_id="1", body=b"{}", **attributes):
    message = {"data": base64.b64encode(body).decode(), "messageId": message_id, "attributes": attributes}
    return {"message": message, "subscription": "projects/p/subscriptions/dead-letter-push"}


GIVEN_UP = {
    "bucketId": "in",
    "objectId": "a.dcm",
    "objectGeneration": "7",
    "eventType": "OBJECT_FINALIZE",
    "correlationId": "trace-1",
    "CloudPubSubDeadLetterSourceDeliveryCount": "20",
    "CloudPubSubDeadLetterSourceSubscription": "landing-push",
}


def fail(lake, code, generation=7):
    event = {"object_uri": "gs://in/a.dcm", "generation": generation, "event_type": "OBJECT_FINALIZE"}
    row = {**event, "code": code, "message": f"read: {code}", "permanent": False, "failed_at": NOON}
    lake.warehouse.append("failures", [row])


def test_a_letter_of_pubsub_is_announced_with_the_reason_of_its_last_failure(client, lake, target):
    fail(lake, "storage_unavailable")
    assert client.post("/dead-letters", json=pushed("9", b"body", **GIVEN_UP)).status_code == 204
    (message,) = target.received
    assert message.value == {
        "message_id": "9",
        "delivery_attempt": 20,
        "object_uri": "gs://in/a.dcm",
        "generation": "7",
        "event_type": "OBJECT_FINALIZE",
        "code": "storage_unavailable",
        "reason": "read: storage_unavailable",
        "attributes": {name: value for name, value in GIVEN_UP.items() if not name.startswith("Cloud")},
        "data": base64.b64encode(b"body").decode(),
        "correlation_id": "trace-1",
    }


def test_a_letter_that_the_service_gave_up_is_announced_already(client, target):
    letter = pushed("9", **GIVEN_UP, dicomlakeCode="not_dicom", dicomlakeReason="x")
    assert client.post("/dead-letters", json=letter).status_code == 204
    assert target.received == []


def test_a_letter_is_kept_while_the_target_is_down(client, target):
    target.down = True
    answer = client.post("/dead-letters", json=pushed("9", **GIVEN_UP))
    assert (answer.status_code, answer.json()["code"]) == (503, "announce_unavailable")
    target.down = False
    assert client.post("/dead-letters", json=pushed("9", **GIVEN_UP)).status_code == 204
    assert len(target.received) == 1


@pytest.mark.parametrize("route", ["/dead-letters", "/settled"])
def test_a_web_page_may_not_call_them(client, route):
    assert client.post(route, json=pushed(), headers={"Origin": "https://evil"}).status_code == 403


def test_a_scheduler_asks_for_settled_studies(client, lake, target):
    row = {"row_id": "a" * 64, "object_uri": "gs://in/a", "generation": 1, "event_type": "OBJECT_FINALIZE"}
    row |= {"event_time": NOON, "ingested_at": NOON, "study_instance_uid": "1.2"}
    lake.warehouse.append("instances", [row])
    later = replace(lake, now=lambda: NOON.replace(hour=13))
    scheduled = TestClient(create_app(later), raise_server_exceptions=False)
    assert scheduled.post("/settled").json() == {"announced": 1}
    assert scheduled.post("/settled").json() == {"announced": 0}
    assert kinds(target) == ["settled"]


def test_ready_names_a_target_that_does_not_answer(client, lake, target):
    assert client.get("/ready").json()["announce"] == "ok"

    def check():
        raise AnnounceUnavailable("down")

    target.check = check
    answer = client.get("/ready")
    assert (answer.status_code, answer.json()["announce"]) == (503, "announce_unavailable")


def give_up(lake, ref, kind=EventType.FINALIZE):
    """Fail an event as often as the bus delivers it, then move it to the dead letters as the bus does."""
    told = notification(kind, ref, lake.source.uri(ref.name), NOON)
    with pytest.raises(AnnounceUnavailable):
        pipeline.handle(replace(told, message_id="m", attempt=20), lake)
    row = {"message_id": "m", "publish_time": NOON, "data": told.data}
    attributes = {**told.attributes, "CloudPubSubDeadLetterSourceDeliveryCount": "20"}
    lake.warehouse.append("dead_letter", [row | {"attributes": dead_letters.json.dumps(attributes)}])


def requeued(lake):
    """Requeue everything and handle what is in the queue then."""
    lines = list(dead_letters.requeue(lake, None))
    queue = lake.warehouse.query("SELECT data, attributes FROM queue WHERE topic = 'main'")
    for row in queue:
        attributes = dead_letters.json.loads(row["attributes"])
        pipeline.handle(Message(row["data"], attributes, "again", attempt=1), lake)
    return lines


def test_a_letter_that_waits_for_its_announcement_is_open_until_it_is_requeued(lake, target):
    ref = put(lake, "ct.dcm", data.ct())
    target.down = True
    give_up(lake, ref)
    assert len(rows(lake)) == 1
    (letter,) = rows(lake, "dead_letters")
    assert letter["code"] == "announce_unavailable"
    target.down = False
    requeued(lake)
    assert (kinds(target), rows(lake, "dead_letters")) == (["stored"], [])
    assert len(rows(lake, "instances")) == 1


def test_the_letter_of_a_removal_too(lake, target):
    ref = put(lake, "ct.dcm", data.ct())
    handle(lake, ref)
    (lake.source.root / "ct.dcm").write_bytes(data.ct(PatientID="P-2"))
    handle(lake, put(lake, "ct.dcm", data.ct(PatientID="P-3")))
    target.down = True
    give_up(lake, ref, EventType.DELETE)
    (letter,) = rows(lake, "dead_letters")
    assert (letter["event_type"], letter["code"]) == ("OBJECT_DELETE", "announce_unavailable")
    target.down = False
    requeued(lake)
    assert (kinds(target), rows(lake, "dead_letters")) == (["stored", "stored", "removed"], [])


def test_the_letter_of_a_version_that_went_is_closed(lake, target):
    ref = put(lake, "ct.dcm", data.ct())
    target.down = True
    give_up(lake, ref)
    target.down = False
    (lake.source.root / "ct.dcm").unlink()
    handle(lake, ref, EventType.DELETE)
    assert rows(lake, "dead_letters") == []


def test_ingest_announces_and_closes_such_a_letter(lake, target):
    ref = put(lake, "ct.dcm", data.ct())
    target.down = True
    give_up(lake, ref)
    target.down = False
    lines = []
    ingest([lake.source.root / "ct.dcm"], lake, lines.append)
    assert (kinds(target), rows(lake, "dead_letters")) == (["stored"], [])
    assert rows(lake, "dead_letter") == []


def test_the_reason_of_a_letter_that_names_no_event_is_found_by_its_message(lake, target):
    row = {"message_id": "9", "code": "bad_event", "message": "event: no", "failed_at": NOON}
    lake.warehouse.append("failures", [row])
    announce_letter(Message(b"", {}, "9"), lake.warehouse, lake.letter_announcers)
    (message,) = target.received
    assert (message.value["code"], message.key) == ("bad_event", "9")


def letter_row(message_id="m", **attributes):
    given = dead_letters.json.dumps(GIVEN_UP | attributes)
    return {"message_id": message_id, "publish_time": NOON, "data": b"{}", "attributes": given}


def test_a_letter_that_is_requeued_before_it_could_be_announced_does_not_come_back(lake, target):
    sink = LetterSink(lake.warehouse, lake.letter_announcers)
    target.down = True
    for _ in range(2):
        with pytest.raises(AnnounceUnavailable):
            sink(letter_row())
    assert len(rows(lake, "dead_letter")) == 1
    lake.warehouse.delete("dead_letter", "message_id", ["m"])  # as `requeue` does
    target.down = False
    sink(letter_row())
    assert (kinds(target), rows(lake, "dead_letter")) == (["dead_lettered"], [])


def test_a_letter_that_a_killed_process_has_stored_is_announced_and_not_doubled(lake, target):
    lake.warehouse.append("dead_letter", [letter_row()])
    LetterSink(lake.warehouse, lake.letter_announcers)(letter_row())
    assert (kinds(target), len(rows(lake, "dead_letter"))) == (["dead_lettered"], 1)


def test_a_letter_of_the_pipeline_is_stored_while_the_target_is_down(lake, target):
    target.down = True
    LetterSink(lake.warehouse, lake.letter_announcers)(letter_row(dicomlakeCode="not_dicom"))
    assert len(rows(lake, "dead_letter")) == 1
