"""What is forwarded, when, and what comes of a receiver that is down or refuses."""

import base64
import json
from dataclasses import replace
from datetime import timedelta

import pytest
from fastapi.testclient import TestClient

from app import pipeline
from app.announce import Announcers
from app.announce.letters import LetterSink
from app.api import create_app
from app.forward import Options, open_receivers
from app.model.errors import BadEvent, ConfigError, ForwardUnavailable, WarehouseUnavailable
from app.model.values import FORWARD_TO, EventType, Message, Status
from app.services import open_services
from tests import data
from tests.archives import zipped
from tests.conftest import lake_settings
from tests.pipeline.test_pipeline import NOON, Around, changed, handle, picture, put, rows
from tests.receiver import PictureReceiver
from tests.system.faults import broken


class Lake:
    """Services whose bus keeps what is published, to be handled when a test says so."""

    def __init__(self, services, server):
        self.published = []
        bus = Around(services.bus, publish_all=self.published.extend)
        receivers = open_receivers([server.url], Options(30))
        self.services = replace(services, bus=bus, receivers=receivers)
        self.name = server.url

    def deliver(self, attempt=1, services=None):
        message = replace(self.published[0], attempt=attempt)
        return pipeline.handle(message, services or self.services)

    def states(self):
        found = rows(self.services, "deliveries")
        return [(one["row_id"], one["target"], one["status"]) for one in found]


@pytest.fixture
def server():
    opened = PictureReceiver()
    yield opened
    opened.close()


@pytest.fixture
def lake(services, server):
    made = Lake(services, server)
    yield made
    for receiver in made.services.receivers.values():
        receiver.close()


@pytest.fixture
def stored(lake):
    handle(lake.services, put(lake.services, "acme/ct.dcm", data.ct()))
    (row,) = rows(lake.services)
    return row


def test_a_stored_picture_is_delivered_and_recorded(lake, server, stored):
    assert lake.states() == [(stored["row_id"], lake.name, "queued")]
    assert server.requests == []
    assert lake.deliver().status is Status.FORWARDED
    assert server.accepted == {
        stored["row_id"]: {
            "row_id": stored["row_id"],
            "file_name": "ct.dcm.png",
            "collection": "acme",
            "study_instance_uid": data.STUDY,
            "series_instance_uid": data.SERIES,
            "sop_instance_uid": data.SOP,
            "modality": "CT",
            "picture": base64.b64encode(picture(stored).read_bytes()).decode(),
        }
    }
    assert lake.states()[1:] == [(stored["row_id"], lake.name, "delivered")]


def test_a_delivery_is_expected_before_its_row_is_there(lake):
    failing = broken(lake.services, "append", WarehouseUnavailable("down"))
    appended = []

    class Watched:
        def __getattr__(self, name):
            return getattr(lake.services.warehouse, name)

        def append(self, table, given):
            appended.append(table)
            lake.services.warehouse.append(table, given)

    ref = put(lake.services, "ct.dcm", data.ct())
    with pytest.raises(WarehouseUnavailable):
        handle(failing, ref)
    assert lake.published == []
    handle(replace(lake.services, warehouse=Watched()), ref)
    assert appended == ["deliveries", "instances"]


def test_what_has_no_picture_is_not_forwarded(lake):
    handle(lake.services, put(lake.services, "sr.dcm", data.ct(Rows=0)))
    (row,) = rows(lake.services)
    assert row["preview_uri"] is None
    assert (lake.published, lake.states()) == ([], [])


def test_a_metadata_update_is_not_forwarded_again(lake, stored):
    ref = lake.services.source.find("acme/ct.dcm")
    handle(lake.services, ref, EventType.METADATA_UPDATE, metageneration=2)
    assert len(lake.published) == 1


def test_members_of_an_archive_are_forwarded_each(lake, server):
    names = [f"in/{number}.dcm" for number in range(3)]
    packed = zipped([(name, data.ct(SOPInstanceUID=f"{data.SERIES}.{name[3]}")) for name in names])
    handle(lake.services, put(lake.services, "three.zip", packed))
    for message in lake.published:
        pipeline.handle(message, lake.services)
    assert sorted(body["file_name"] for body in server.accepted.values()) == [
        "0.dcm.png",
        "1.dcm.png",
        "2.dcm.png",
    ]


def test_a_repetition_has_the_same_id_and_the_same_content(lake):
    ref = put(lake.services, "ct.dcm", data.ct())
    handle(lake.services, ref)
    handle(lake.services, ref)
    first, again = lake.published
    assert first == again


@pytest.mark.parametrize("status", [429, 503, None])
def test_a_receiver_that_is_down_nacks_and_names_itself(lake, server, stored, status):
    server.script.append(status)
    with pytest.raises(ForwardUnavailable, match=lake.name):
        lake.deliver()
    assert [state for *_, state in lake.states()] == ["queued"]
    assert lake.deliver(attempt=2).status is Status.FORWARDED


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("7", 7),
        ((NOON + timedelta(seconds=90)).strftime("%a, %d %b %Y %H:%M:%S GMT"), 90),
        ((NOON - timedelta(seconds=90)).strftime("%a, %d %b %Y %H:%M:%S GMT"), 0),
        ("soon", 0),
    ],
)
def test_the_pause_it_asks_for_is_in_the_answer_to_the_push(lake, server, stored, said, seconds):
    server.script.append((429, said))
    with pytest.raises(ForwardUnavailable) as raised:
        lake.deliver(services=replace(lake.services, now=lambda: NOON))
    assert raised.value.retry_after_s == seconds


def test_a_push_is_answered_with_that_pause(client, lake, server, stored):
    server.script.append((503, "7"))
    client.app.state.services = lake.services
    message = lake.published[0]
    wrapped = {
        "attributes": dict(message.attributes),
        "data": base64.b64encode(message.data).decode(),
        "messageId": "7",
    }
    answer = client.post("/", json={"message": wrapped, "subscription": "s"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
    assert client.post("/", json={"message": wrapped, "subscription": "s"}).status_code == 204


def test_a_refusal_is_a_dead_letter_at_once_with_receiver_and_status(lake, server, stored):
    server.script.append(422)
    assert lake.deliver().status is Status.DEAD_LETTERED
    (letter,) = rows(lake.services, "dead_letters")
    assert (letter["code"], letter["object_uri"]) == ("forward_refused", stored["object_uri"])
    assert letter["reason"] == f"forward: {lake.name}: it answers 422"
    assert [state for *_, state in lake.states()] == ["queued", "refused"]


def test_the_last_delivery_to_a_receiver_that_is_down_is_a_dead_letter_with_its_reason(lake, server, stored):
    server.script.append(503)
    services = changed(lake.services, delivery__max_attempts=4)
    assert lake.deliver(attempt=4, services=services).status is Status.DEAD_LETTERED
    (letter,) = rows(lake.services, "dead_letters")
    assert letter["reason"] == f"forward: {lake.name}: it answers 503 after 4 deliveries"


GIVEN_UP = {"CloudPubSubDeadLetterSourceDeliveryCount": "20"}


def given_up(lake, at, **attributes):
    """Return the message of the delivery as it comes to the dead letters when the bus gives it up."""
    message = lake.published[0]
    return replace(message, attributes={**message.attributes, **GIVEN_UP, **attributes}, publish_time=at)


def pushed_letter(lake, letter):
    message = {
        "attributes": dict(letter.attributes),
        "data": base64.b64encode(letter.data).decode(),
        "messageId": "9",
        "publishTime": "2026-03-01T12:30:00Z",
    }
    client = TestClient(create_app(lake.services))
    return client.post("/dead-letters", json={"message": message, "subscription": "s"}).status_code


def test_a_delivery_that_pubsub_gives_up_is_refused(lake, stored):
    assert pushed_letter(lake, given_up(lake, NOON)) == 204
    state = {"row_id": stored["row_id"], "target": lake.name, "status": "refused"}
    assert rows(lake.services, "deliveries")[1:] == [state | {"at": NOON.replace(minute=30, microsecond=0)}]


def test_a_delivery_that_the_embedded_queue_gives_up_is_refused(lake, stored):
    letter = given_up(lake, NOON)
    row = {"message_id": "9", "publish_time": NOON, "data": letter.data}
    attributes = json.dumps(dict(letter.attributes))
    LetterSink(lake.services.warehouse, Announcers())(row | {"attributes": attributes})
    assert [state for *_, state in lake.states()] == ["queued", "refused"]
    assert len(rows(lake.services, "dead_letter")) == 1


def test_letters_that_are_no_delivery_given_up_by_the_bus_change_no_delivery(lake, server, stored):
    server.script.append(422)
    lake.deliver()
    assert pushed_letter(lake, given_up(lake, NOON, dicomlakeCode="forward_refused")) == 204  # recorded
    strange = replace(given_up(lake, NOON), data=b"{}")
    assert pushed_letter(lake, strange) == 204
    assert pushed_letter(lake, replace(strange, attributes=GIVEN_UP)) == 204
    assert [state for *_, state in lake.states()] == ["queued", "refused"]


def test_a_refused_picture_can_be_sent_again(services, server):
    from app.jobs.dead_letters import letters, requeue

    lake = Lake(services, server)
    handle(lake.services, put(services, "ct.dcm", data.ct()))
    server.script.append(422)
    lake.deliver()
    sent = []
    bus = Around(services.bus, publish=lambda message: sent.append(message) or "9")
    (letter,) = letters(services.warehouse)
    (line,) = requeue(replace(services, bus=bus), [letter["message_id"]])
    assert line["requeued_as"] == "9"
    (again,) = sent
    assert again.attributes == lake.published[0].attributes
    assert pipeline.handle(again, lake.services).status is Status.FORWARDED
    assert [*letters(services.warehouse)] == []
    assert len(server.accepted) == 1


def test_a_picture_that_is_gone_is_not_sent(lake, server, stored):
    ref = lake.services.source.find("acme/ct.dcm")
    (lake.services.source.root / "acme/ct.dcm").unlink()
    handle(lake.services, ref, EventType.DELETE)
    assert lake.deliver().code == "object_gone"
    assert [state for *_, state in lake.states()] == ["queued", "dropped"]
    assert server.requests == []


def test_what_waits_for_a_receiver_that_is_set_no_more_is_dropped(lake, server, stored):
    outcome = lake.deliver(services=replace(lake.services, receivers={}))
    assert (outcome.status, outcome.code) == (Status.SUPERSEDED, "receiver_gone")
    assert [state for *_, state in lake.states()] == ["queued", "dropped"]


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"row_id": 1, "path": "", "preview_uri": "", "facts": {}}']
)
def test_a_message_that_is_not_ours_is_a_bad_event(lake, data):
    with pytest.raises(BadEvent):
        pipeline.handle(Message(data, {FORWARD_TO: lake.name}, "7"), lake.services)


def test_no_address_but_one_of_our_artifacts_is_read(lake, server, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    value = {"row_id": "a", "path": "x", "preview_uri": f"file://{tmp_path}/secret.txt", "facts": {}}
    message = Message(json.dumps(value).encode(), {FORWARD_TO: lake.name}, "7")
    assert pipeline.handle(message, lake.services).code == "object_gone"
    assert server.requests == []


def test_a_clean_lake_forwards_names_and_uids_of_the_clean_copy(tmp_path, server):
    settings = lake_settings(tmp_path, deidentify__profile="basic", deidentify__key="k" * 32)
    services = open_services(settings)
    try:
        lake = Lake(services, server)
        handle(lake.services, put(services, "DOE/JANE-ct.dcm", data.ct()))
        lake.deliver()
        (row,) = rows(services)
    finally:
        services.close()
    (body,) = server.accepted.values()
    assert body["study_instance_uid"] == row["study_instance_uid"] != data.STUDY
    assert body["collection"] == row["collection"] != "DOE"
    sent = [*server.requests, *[(message.attributes, message.data) for message in lake.published]]
    for headers, content in sent:
        told = repr(headers).encode() + content
        for identifier in (b"DOE", b"JANE", b"Doe", b"P-1", b"A-17", data.SOP.encode(), data.STUDY.encode()):
            assert identifier not in told.replace(str(tmp_path).encode(), b"")


def test_settings_open_receivers_and_the_secret_is_a_bearer(tmp_path, server):
    settings = lake_settings(
        tmp_path,
        forward__urls=(f"{server.url}?x=1", f"file:{tmp_path / 'encoded'}"),
        forward__bearer_secret="s3",
    )
    services = open_services(settings)
    try:
        assert [*services.receivers] == [server.url, f"file:{tmp_path / 'encoded'}"]
        sent = Lake(services, server)
        handle(replace(sent.services, receivers=services.receivers), put(services, "a/ct.dcm", data.ct()))
        for message in sent.published:
            pipeline.handle(message, services)
    finally:
        services.close()
    assert server.requests[0][0]["authorization"] == "Bearer s3"
    assert (tmp_path / "encoded/a/ct.dcm.png.txt").exists()


def test_a_folder_of_pictures_in_the_landing_folder_is_refused(tmp_path):
    settings = lake_settings(tmp_path, forward__urls=(f"file:{tmp_path / 'landing/out'}",))
    with pytest.raises(ConfigError, match=r"forward\.urls: .* lies in the source"):
        open_services(settings)
