"""Announcements to the embedded queue, and to Google's emulator of Pub/Sub."""

import sqlite3
from dataclasses import replace

import pytest

from app.announce import Options
from app.announce.bus_topic import TopicAnnouncer
from app.bus import DeliveryPolicy
from app.bus.local.queue import MAIN, Queue
from app.model.errors import AnnounceUnavailable, BusUnavailable, ConfigError
from tests.announce.contract import AnnouncerContract, Received, announcement


def received(attributes, data, key=None):
    own = {name[3:]: value for name, value in attributes.items() if name.startswith("ce-")}
    return Received(own, attributes["content-type"], key, data)


@pytest.fixture
def vendor(announcer, monkeypatch):
    """The bus translates what its own vendor raises; its contract tests that."""
    module = type(pytest)("bus_errors")
    module.BusUnavailable = BusUnavailable

    def provoke(kind):
        def fail(_):
            raise kind("x")

        monkeypatch.setattr(announcer._bus, "publish", fail)
        announcer.announce([announcement()])

    return [module], provoke


class TestLocal(AnnouncerContract):
    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / "announcements.db"

    @pytest.fixture
    def announcer(self, path):
        opened = TopicAnnouncer("announce.urls", f"local:{path}", Options())
        yield opened
        opened.close()

    @pytest.fixture
    def receive(self, path):
        def lease(count):
            queue = Queue(path, DeliveryPolicy().ack_deadline_s)
            messages = queue.lease(MAIN, 1000, 2e9, 2e9 + 1)
            queue.close()
            return [received(message.attributes, message.data) for message in messages]

        return lease

    @pytest.fixture
    def down(self, path, announcer):
        def lock():
            holder = sqlite3.connect(path)
            holder.execute("ALTER TABLE queue RENAME TO away")
            holder.commit()

            def free():
                holder.execute("ALTER TABLE away RENAME TO queue")
                holder.commit()
                holder.close()

            return free

        return lock


@pytest.mark.xdist_group("cloud")
class TestPubSub(AnnouncerContract):
    @pytest.fixture
    def emulator(self, pubsub):
        return pubsub

    @pytest.fixture
    def topic(self, emulator, monkeypatch):
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", emulator.host)
        return emulator.topic()

    @pytest.fixture
    def subscription(self, emulator, topic):
        return emulator.pull(topic)

    @pytest.fixture
    def announcer(self, topic, subscription):
        opened = TopicAnnouncer("announce.urls", f"pubsub:{topic}", Options())
        yield opened
        opened.close()

    @pytest.fixture
    def receive(self, emulator, subscription):
        def pull(count):
            found = {}
            for _ in range(100):
                if len(found) >= count:
                    break
                answer = emulator.subscriber.pull(subscription=subscription, max_messages=100, timeout=10)
                found |= {one.message.message_id: one.message for one in answer.received_messages}
            return [received(dict(one.attributes), one.data, one.ordering_key) for one in found.values()]

        return pull

    @pytest.fixture
    def down(self, emulator, topic, subscription):
        def delete():
            emulator.publisher.delete_topic(topic=topic)

            def make():
                emulator.publisher.create_topic(name=topic)
                emulator.subscriber.delete_subscription(subscription=subscription)
                emulator.subscriber.create_subscription(name=subscription, topic=topic)

            return make

        return delete


def test_a_topic_that_the_service_takes_as_events_is_refused(tmp_path):
    taken = Options(taken=(f"local:{tmp_path / 'queue.db'}", "pubsub:projects/p/topics/letters"))
    for url in taken.taken:
        with pytest.raises(ConfigError, match="whose messages the service takes as events"):
            TopicAnnouncer.check_settings("announce.urls", url, taken)


def test_a_wrong_topic_is_found_before_the_start():
    with pytest.raises(ConfigError, match=r"announce.urls names the topic 'nothing'"):
        TopicAnnouncer.check_settings("announce.urls", "pubsub:nothing", Options())


def test_a_refusal_of_the_bus_is_no_permanent_failure(tmp_path):
    opened = TopicAnnouncer("announce.urls", f"local:{tmp_path / 'q.db'}", Options())
    with pytest.raises(AnnounceUnavailable, match="10 MB"):
        opened.announce([replace(announcement(), data=b"x" * 10_000_001)])
    opened.close()
