"""The whole service announces to a real broker of Kafka: what is stored, removed and given up, and 0 lost."""

import json
import signal

import pytest

from tests import data
from tests.announce.contract import Received, check_message
from tests.processes import wait_until
from tests.system.e2e.service import Service, until
from tests.system.faults.service import FaultyService
from tests.tansu import running_broker

TOPIC, LETTERS = "dicom.metadata.v1", "dicom.metadata.dlq"
QUICK = {
    "delivery__permanent_attempts": 1,
    "delivery__backoff_min_s": 0.1,
    "delivery__backoff_max_s": 0.2,
    "announce__kafka": json.dumps({"message.timeout.ms": 1500}),
}


@pytest.fixture
def broker():
    with running_broker() as broker:
        yield broker


def targets(broker):
    return {
        "announce__urls": json.dumps([broker.url(TOPIC)]),
        "announce__dead_letter_urls": json.dumps([broker.url(LETTERS)]),
        **QUICK,
    }


def messages(broker, topic, count):
    found = []
    for message in broker.read(topic, count):
        headers = {name: value.decode() for name, value in message.headers()}
        attributes = {name[3:]: value for name, value in headers.items() if name.startswith("ce_")}
        content_type = headers["content-type"]
        found.append(Received(attributes, content_type, message.key().decode(), message.value()))
        check_message(found[-1])
    return found


def drop(service, name, content):
    part = service.lake / f".{name}"
    part.write_bytes(content)
    part.rename(service.landing / name)


def numbered(count):
    return {
        f"{n:02}.dcm": data.ct(SOPInstanceUID=f"{data.SERIES}.{n}", InstanceNumber=n) for n in range(count)
    }


def test_what_is_stored_removed_and_given_up_arrives(broker, tmp_path):
    with Service(tmp_path / "lake", announce__settle_s=1, **targets(broker)) as service:
        for name, content in numbered(20).items():
            drop(service, name, content)
        drop(service, "bad.dcm", b"just a text")
        assert until(lambda: len(service.rows("SELECT row_id FROM instances")) == 20)
        (service.landing / "07.dcm").unlink()
        found = messages(broker, TOPIC, 22)
        (letter,) = messages(broker, LETTERS, 1)
        rows = service.rows("SELECT row_id, object_uri, event_type FROM instances")
    kinds = [message.attributes["type"].split(".")[2] for message in found]
    assert (kinds.count("stored"), kinds.count("removed")) == (20, 1)
    assert kinds.count("settled") >= 1
    instances = {message.attributes["id"]: message for message in found if "row" not in message.value}
    expected = {row["row_id"]: row["object_uri"] for row in rows}
    assert {key: instances[key].key for key in expected} == expected
    assert letter.value["code"] == "not_dicom"
    assert letter.key.endswith("/bad.dcm")


def test_a_kill_between_row_and_announcement_loses_nothing(broker, tmp_path):
    service = FaultyService(tmp_path / "lake", **targets(broker))
    name = "kill@announce@before@.dcm"
    service.start()
    try:
        drop(service, name, data.ct())
        assert wait_until(lambda: service.process.poll() is not None)
        assert service.process.returncode == -signal.SIGKILL
        (row,) = service.rows("SELECT row_id FROM instances")
        service.start()
        (message,) = messages(broker, TOPIC, 1)
        assert message.attributes["id"] == row["row_id"]
        assert until(lambda: not service.queued())
        assert len(service.rows("SELECT row_id FROM instances")) == 1
    finally:
        service.end()


def test_a_broker_that_is_down_past_the_last_attempt_loses_nothing(broker, tmp_path):
    broker.stop()
    with Service(tmp_path / "lake", delivery__max_attempts=2, **targets(broker)) as service:
        for name, content in numbered(5).items():
            drop(service, name, content)
        assert until(lambda: len(service.rows("SELECT message_id FROM dead_letters")) == 5)
        assert len(service.rows("SELECT row_id FROM instances_current")) == 5
        letters = service.rows("SELECT code, reason FROM dead_letters")
        assert {letter["code"] for letter in letters} == {"announce_unavailable"}
        assert broker.url(TOPIC) in str(letters[0]["reason"])
        broker.start()
        assert service.run("dlq", "requeue", "--all").returncode == 0
        found = messages(broker, TOPIC, 5)
        ids = {row["row_id"] for row in service.rows("SELECT row_id FROM instances_current")}
        assert {message.attributes["id"] for message in found} == ids
        assert until(lambda: not service.rows("SELECT message_id FROM dead_letters"))
        assert len(messages(broker, LETTERS, 5)) >= 5
