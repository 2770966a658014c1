"""Announcements to a real broker of Kafka."""

import itertools
import os
from importlib.util import find_spec

import pytest

if find_spec("confluent_kafka") is None and os.environ.get("DICOMLAKE_TEST_REQUIRE") != "all":
    pytest.skip("the library of Kafka is not on this machine: make .venv/.test", True)

import confluent_kafka

from app.announce import Options
from app.announce.kafka import KafkaAnnouncer, kafka_errors
from app.model.errors import AnnounceUnavailable, ConfigError
from tests.announce.contract import AnnouncerContract, Received, announcement, heals
from tests.tansu import running_broker

TOPICS = itertools.count()
QUICK = Options(kafka={"message.timeout.ms": 1500})


def received(message):
    headers = {name: value.decode() for name, value in message.headers()}
    attributes = {name[3:]: value for name, value in headers.items() if name.startswith("ce_")}
    return Received(attributes, headers["content-type"], message.key().decode(), message.value())


@pytest.fixture
def topic():
    return f"dicom.metadata.v{next(TOPICS)}"


@pytest.fixture
def broker(session_broker):
    session_broker.stop()
    session_broker.start()
    return session_broker


@pytest.fixture
def announcer(broker, topic):
    opened = KafkaAnnouncer("announce.urls", broker.url(topic), QUICK)
    yield opened
    opened.close()


class TestKafka(AnnouncerContract):
    @pytest.fixture
    def receive(self, broker, topic):
        return lambda count: [received(message) for message in broker.read(topic, count)]

    @pytest.fixture
    def down(self, broker):
        def stop():
            broker.stop()
            return broker.start

        return stop

    @pytest.fixture
    def vendor(self):
        def provoke(kind):
            with kafka_errors():
                raise kind(confluent_kafka.KafkaError(confluent_kafka.KafkaError._TRANSPORT))

        return [confluent_kafka], provoke

    def test_messages_of_one_key_are_in_one_partition_in_order(self, announcer, broker, topic):
        announcer.announce([announcement(number, f"gs://in/{number % 5}") for number in range(40)])
        found = broker.read(topic, 40)
        for key in {message.key() for message in found}:
            of_key = [message for message in found if message.key() == key]
            assert len({message.partition() for message in of_key}) == 1
            offsets = [message.offset() for message in of_key]
            numbers = [received(message).value["number"] for message in of_key]
            assert (sorted(offsets), sorted(numbers)) == (offsets, numbers)

    def test_a_broker_that_has_lost_its_topics_is_no_obstacle(self, announcer, broker, topic):
        announcer.announce([announcement(1)])
        broker.stop()
        broker.start()
        heals(announcer, announcement(2))
        assert [received(message).value["number"] for message in broker.read(topic, 1)] == [2]


def test_a_broker_that_is_not_there_names_the_error(topic):
    with running_broker() as gone:
        url = gone.url(topic)
    lonely = KafkaAnnouncer("announce.urls", url, QUICK)
    with pytest.raises(AnnounceUnavailable, match="_MSG_TIMED_OUT"):
        lonely.announce([announcement()])
    with pytest.raises(AnnounceUnavailable, match="_TRANSPORT"):
        lonely.check()
    lonely.close()


@pytest.mark.parametrize(
    ("url", "options", "why"),
    [
        ("kafka://host:9092", {}, "announce.urls: a topic of Kafka is written kafka://"),
        ("kafka://host/a/b", {}, "announce.urls: a topic of Kafka is written kafka://"),
        ("kafka://user:secret@host/topic", {}, "announce.urls: a topic of Kafka is written kafka://"),
        ("kafka://host/topic", {"acks": "0"}, "announce.kafka: acks is not yours to set"),
        ("kafka://host/topic", {"bootstrap.servers": "x"}, "announce.kafka: bootstrap.servers is not yours"),
        ("kafka://host/topic", {"no.such": "1"}, 'announce.kafka: No such configuration property: "no.such"'),
        ("kafka://host/t", {"security.protocol": "ssl", "ssl.ca.location": "/nowhere"}, "ssl.ca.location"),
    ],
)
def test_what_cannot_work_is_found_before_the_start(url, options, why):
    with pytest.raises(ConfigError, match=why) as fault:
        KafkaAnnouncer.check_settings("announce.urls", url, Options(kafka=options))
    assert "secret" not in fault.value.text


def test_options_of_sasl_and_tls_are_those_of_librdkafka():
    options = {
        "security.protocol": "SASL_SSL",
        "sasl.mechanisms": "SCRAM-SHA-512",
        "sasl.username": "lake",
        "sasl.password": "secret",
    }
    KafkaAnnouncer.check_settings("announce.urls", "kafka://a:1,b:2/t", Options(kafka=options))
