import base64
import importlib
import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from app.bus import Bus, open_bus
from app.bus.pubsub import PubSubBus, pubsub_errors
from app.events import message_from_request
from app.jobs import dead_letters as dlq
from app.jobs import doctor
from app.model.errors import BadEvent, BusUnavailable, ConfigError, WarehouseUnavailable
from app.model.values import EventType, Message, Reason, Row, Status
from app.pipeline import handle
from app.services import open_lane, open_services
from app.sources.notifications import notification
from tests.bus.conftest import QUICK, Sink, until
from tests.bus.contract import BusContract, Endpoint, exceptions, note
from tests.conftest import lake_settings
from tests.data import ct
from tests.emulators import PubSubEmulator
from tests.system.e2e.deadletter_subscription import DeadLetterSubscription

pytestmark = pytest.mark.xdist_group("cloud")

TOPIC = "projects/p/topics/landing"
LETTERS = "projects/p/topics/letters"
NOT_DICOM = Reason("not_dicom", "describe: the bytes are not DICOM", "gs://in/a.dcm")


@pytest.fixture
def here(pubsub: PubSubEmulator, monkeypatch: pytest.MonkeyPatch) -> PubSubEmulator:
    """The emulator, to which every new client in this process connects."""
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub.host)
    return pubsub


@pytest.fixture
def topic(here: PubSubEmulator) -> str:
    return here.topic("landing")


@pytest.fixture
def letters(here: PubSubEmulator) -> str:
    return here.topic("letters")


@pytest.fixture
def subscribed(here: PubSubEmulator, topic: str, endpoint: Endpoint, letters: str) -> Iterator[str]:
    """The push subscription, which outlives the bus as in production."""
    subscription = here.push(topic, endpoint.url, letters, max_attempts=5)
    yield subscription
    here.unsubscribe(subscription)


@pytest.fixture
def bus(topic: str, letters: str, sink: Sink) -> Iterator[Bus]:
    bus = open_bus(f"pubsub:{topic}", QUICK, sink, letters)
    yield bus
    bus.close()


@pytest.fixture
def dead_letters(here: PubSubEmulator, letters: str, sink: Sink) -> Iterator[Callable[[int], list[Row]]]:
    with DeadLetterSubscription(here, letters, sink):
        yield sink.wait


@pytest.mark.usefixtures("subscribed")
class TestPubSubBus(BusContract):
    counts_deliveries = False  # the emulator sends no deliveryAttempt

    @pytest.fixture
    def vendor(self) -> tuple:
        names = ("google.api_core.exceptions", "google.api_core.universe", "google.auth.exceptions", "grpc")
        return [importlib.import_module(name) for name in names], partial(pubsub_errors, TOPIC)

    def test_vendor_exceptions_become_ours(self, vendor: tuple) -> None:
        modules, translate = vendor
        kinds = {kind for module in modules for kind in exceptions(module)}
        # Only the asynchronous REST transport raises it, for a parameter that we do not give.
        kinds = {kind for kind in kinds if kind.__name__ != "AsyncRestUnsupportedParameterError"}
        assert len(kinds) > 40
        for kind in kinds:
            with pytest.raises(BusUnavailable), translate():
                raise kind.__new__(kind)  # past __init__: some want a response, others a cause


def test_message_refused_five_times_is_given_up_by_the_subscription(bus, subscribed, endpoint, dead_letters):
    endpoint.answer(503, 422, 500, 400, 429)
    message_id = bus.publish(note(b"\x01", objectId="a.dcm"))
    endpoint.wait(5)  # a retry takes the emulator three seconds, whatever the retry policy
    (row,) = dead_letters(1)
    assert [push["message"]["messageId"] for push in endpoint.pushes] == [message_id] * 5
    attributes = json.loads(row["attributes"])
    published = attributes.pop("CloudPubSubDeadLetterSourceTopicPublishTime")
    assert datetime.fromisoformat(published).timestamp() == pytest.approx(
        row["publish_time"].timestamp(), abs=60
    )
    assert row["data"] == b"\x01"
    assert attributes == {
        "objectId": "a.dcm",
        "CloudPubSubDeadLetterSourceDeliveryCount": "5",
        "CloudPubSubDeadLetterSourceSubscription": subscribed.split("/")[3],
        "CloudPubSubDeadLetterSourceSubscriptionProject": "dicomlake-test",
    }


def test_dead_letter_has_the_attributes_of_pubsub_and_our_reason(bus, dead_letters):
    published = datetime(2026, 1, 2, 3, 4, 5, 678_000, UTC)
    lost = Message(b"{}", {"objectId": "a.dcm"}, "77", published, 5, "projects/p/subscriptions/s")
    bus.dead_letter(lost, NOT_DICOM)
    (row,) = dead_letters(1)
    assert row["message_id"] != "77"
    assert json.loads(row["attributes"]) == {
        "objectId": "a.dcm",
        "dicomlakeCode": "not_dicom",
        "dicomlakeReason": "describe: the bytes are not DICOM",
        "dicomlakeMessageId": "77",
        "objectUri": "gs://in/a.dcm",
        "CloudPubSubDeadLetterSourceDeliveryCount": "5",
        "CloudPubSubDeadLetterSourceSubscription": "s",
        "CloudPubSubDeadLetterSourceSubscriptionProject": "p",
        "CloudPubSubDeadLetterSourceTopicPublishTime": "2026-01-02T03:04:05.678Z",
    }


def test_dead_letter_the_warehouse_refuses_comes_again(bus, sink, dead_letters):
    sink.failure = WarehouseUnavailable("down")
    bus.dead_letter(note(b"x"), NOT_DICOM)
    until(lambda: sink.calls >= 2)
    sink.failure = None
    assert dead_letters(1)[0]["data"] == b"x"


def test_full_message_is_dead_lettered_without_what_finds_no_room(bus, dead_letters):
    attributes = {f"key{number}": "value" for number in range(98)}
    bus.dead_letter(Message(b"x", attributes, "7", attempt=5), NOT_DICOM)
    kept = json.loads(dead_letters(1)[0]["attributes"])
    assert kept == attributes | {
        "dicomlakeCode": "not_dicom",
        "dicomlakeReason": "describe: the bytes are not DICOM",
    }


def test_address_too_long_for_an_attribute_is_left_out(bus, dead_letters):
    message = note(b"x", objectUri="gs://b/theirs")
    bus.dead_letter(message, Reason("not_dicom", "no", "gs://bucket/" + "n" * 1024))
    kept = json.loads(dead_letters(1)[0]["attributes"])
    assert "objectUri" not in kept
    assert kept["dicomlakeCode"] == "not_dicom"


@pytest.mark.usefixtures("subscribed")
def test_requeued_dead_letter_is_pushed_as_it_first_was(here, topic, letters, endpoint, tmp_path):
    event = {
        "bucketId": "in",
        "objectId": "a.dcm",
        "objectGeneration": "7",
        "eventType": "OBJECT_FINALIZE",
        "payloadFormat": "NONE",
    }
    settings = lake_settings(tmp_path, bus__url=f"pubsub:{topic}", bus__dead_letter_topic=letters)
    services = open_services(settings)

    def sink(row: Row) -> None:
        services.warehouse.append("dead_letter", [row])

    with DeadLetterSubscription(here, letters, sink):
        services.bus.dead_letter(Message(b"\x00{}", event, "77", attempt=5), NOT_DICOM)
        until(lambda: list(dlq.letters(services.warehouse)))
        (letter,) = dlq.letters(services.warehouse)
        assert (letter["code"], letter["generation"], letter["delivery_count"]) == ("not_dicom", 7, 5)
        (line,) = dlq.requeue(services, [str(letter["message_id"])])
        (push,) = endpoint.wait(1)
    assert push["message"]["messageId"] == line["requeued_as"]
    assert push["message"]["data"] == "AHt9"
    assert push["message"]["attributes"] == event | {"objectUri": "gs://in/a.dcm"}
    assert list(dlq.letters(services.warehouse)) == []
    services.close()


def test_many_threads_publish_through_one_client(bus, endpoint, subscribed):
    ids: list[str] = []
    threads = [threading.Thread(target=lambda: ids.append(bus.publish(note(b"x")))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(push["message"]["messageId"] for push in endpoint.wait(8)) == sorted(ids)


def test_largest_message_is_published_and_a_larger_one_refused_with_a_sentence(bus):
    room = 10_000_000 - 200  # for the topic's name and the framing
    assert bus.publish(note(b"x" * room))
    with pytest.raises(BadEvent, match="limited to 10 MB, attributes included"):
        bus.publish(note(b"x" * 10_000_000))


def test_message_at_the_limits_of_its_attributes_is_published(bus):
    attributes = {"n" * 256: "é" * 512} | {f"key{number}": "" for number in range(99)}
    assert bus.publish(Message(b"", attributes, ""))


def test_missing_topic_is_unavailable_and_named(here, sink):
    bus = PubSubBus(f"pubsub:{TOPIC}", QUICK, sink, LETTERS)
    with pytest.raises(BusUnavailable, match=f"{TOPIC}: NotFound"):
        bus.publish(note())
    with pytest.raises(BusUnavailable, match=f"{LETTERS}: NotFound"):
        bus.dead_letter(note(), NOT_DICOM)
    bus.close()


def test_closed_bus_is_unavailable(bus):
    bus.publish(note())
    bus.close()
    for call in (bus.check, lambda: bus.publish(note()), lambda: bus.dead_letter(note(), NOT_DICOM)):
        with pytest.raises(BusUnavailable, match="closed"):
            call()


def test_unwrapped_push_is_read_as_the_same_message(here, topic, bus):
    received: list[Message] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append(message_from_request(dict(self.headers), body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        server.timeout = 5
        subscription = here.push(topic, f"http://127.0.0.1:{server.server_port}/", unwrapped=True)
        message_id = bus.publish(note(b"\x00data", objectId="a.dcm"))
        for _ in range(4):  # the emulator may open a connection and think better of it
            if not received:
                server.handle_request()
        here.unsubscribe(subscription)
    (message,) = received
    assert (message.data, message.message_id) == (b"\x00data", message_id)
    assert message.attributes["objectId"] == "a.dcm"


def test_more_messages_than_fit_in_one_request_are_published_together(
    subscribed: str, bus: Bus, endpoint: Endpoint
) -> None:
    bus.publish_all([note(b"%d" % number) for number in range(1001)])
    pushes = endpoint.wait(1001)
    assert {base64.b64decode(push["message"]["data"]) for push in pushes} == {
        b"%d" % number for number in range(1001)
    }


def test_one_message_that_is_too_large_stops_all_before_any_is_published(bus: Bus) -> None:
    with pytest.raises(BadEvent, match="10 MB"):
        bus.publish_all([note(b"small"), note(bytes(11_000_000))])


def test_the_setup_is_told(subscribed: str, bus: Bus, endpoint: Endpoint, topic: str, letters: str) -> None:
    """The emulator knows no policies, so that nobody is named there."""
    found = bus.setup()
    assert (found["topic"], found["dead_letter_topic"]) == (topic, letters)
    (one,) = found["subscriptions"]
    assert (one["name"], one["endpoint"]) == (subscribed, endpoint.url)
    assert (one["dead_letter_topic"], one["max_attempts"]) == (letters, 5)
    assert (one["table"], one["table_active"], one["subscribers"]) == ("", False, [])
    assert found["publishers"] == []


def test_pictures_are_delivered_by_a_topic_of_their_own(
    here: PubSubEmulator, topic: str, letters: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    own = here.topic("forward")
    subscription = here.push(own, endpoint.url, letters, max_attempts=20)
    given = {"bus__url": f"pubsub:{topic}", "bus__dead_letter_topic": letters, "forward__topic": own}
    given["forward__urls"] = json.dumps([f"file:{tmp_path / 'encoded'}"])
    services = open_services(lake_settings(tmp_path, **given))
    try:
        (services.source.root / "ct.dcm").write_bytes(ct())
        found = services.source.current("ct.dcm")
        services.source.remember("ct.dcm", found)
        ref = services.source.find("ct.dcm")
        event = notification(EventType.FINALIZE, ref, services.source.uri(ref.name), datetime.now(UTC))
        assert handle(event, services).status is Status.STORED
        endpoint.wait(1)
        (push,) = endpoint.pushes
        assert list(push["message"]["attributes"]) == ["forwardTo", "objectUri"]
        delivered = handle(message_from_request({}, json.dumps(push).encode()), services)
        assert delivered.status is Status.FORWARDED
        assert (tmp_path / "encoded" / "ct.dcm.png.txt").exists()
    finally:
        here.unsubscribe(subscription)
        services.close()


def test_a_topic_of_deliveries_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"forward\.topic names the topic 'x'"):
        open_services(lake_settings(tmp_path, forward__topic="x"))


def test_jobs_publish_to_a_topic_of_their_own(
    here: PubSubEmulator, topic: str, letters: str, tmp_path: Path
) -> None:
    own = here.topic("backfill")
    settings = lake_settings(
        tmp_path, bus__url=f"pubsub:{topic}", bus__dead_letter_topic=letters, backfill__topic=own
    )
    services = open_services(settings)
    try:
        with open_lane(services) as lane:
            assert lane.setup()["topic"] == own
        (lost,) = [one for one in doctor.examine(services) if one.fault.startswith(own)]
        assert lost.fault.endswith("has no push subscription: what is published there is lost")
        here.push(own, "http://127.0.0.1:9/")
        assert not [one for one in doctor.examine(services) if one.fault.startswith(own)]
        faults = [one for one in doctor.examine(services) if one.name.startswith("backfill-") and one.fault]
        assert faults[0].name.endswith(": account")
    finally:
        services.close()
    with pytest.raises(ConfigError, match=r"backfill\.topic names the topic 'x'"):
        open_services(lake_settings(tmp_path, backfill__topic="x"))
