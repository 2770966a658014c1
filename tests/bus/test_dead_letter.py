import json
import time
from contextlib import closing

import pytest

from app.bus import DeliveryPolicy
from app.bus.local.queue import MAIN, Queue, QueueStats
from app.model.errors import RowRejected, WarehouseUnavailable
from app.model.values import Message, Reason
from tests.bus.conftest import Clock, look, until
from tests.bus.contract import note


def test_message_refused_too_often_becomes_a_dead_letter(make, sink, path, endpoint):
    bus = make(DeliveryPolicy(max_attempts=3, backoff_min_s=0.01, backoff_max_s=0.02))
    endpoint.answer(503, 503, 503)
    bus.start(endpoint.connect)
    message_id = bus.publish(note(b"\x01", objectId="a.dcm"))
    (row,) = sink.wait(1)
    published = endpoint.pushes[0]["message"]["publishTime"]
    until(lambda: bus.stats() == QueueStats(0, 0, 0, 0.0))
    assert len(endpoint.pushes) == 3
    assert (row["data"], row["message_id"]) == (b"\x01", message_id)
    assert row["subscription_name"] == "projects/local/subscriptions/landing-dead-letter"
    assert row["publish_time"].utcoffset().total_seconds() == 0
    assert json.loads(row["attributes"]) == {
        "objectId": "a.dcm",
        "CloudPubSubDeadLetterSourceDeliveryCount": "3",
        "CloudPubSubDeadLetterSourceSubscription": "landing-push",
        "CloudPubSubDeadLetterSourceSubscriptionProject": "local",
        "CloudPubSubDeadLetterSourceTopicPublishTime": published,
    }


def test_message_that_killed_its_process_at_every_attempt_becomes_a_dead_letter(make, sink, path, endpoint):
    bus = make(DeliveryPolicy(max_attempts=2))
    bus.publish(note())
    with closing(Queue(path, 1200.0)) as queue:
        for _ in range(2):
            assert queue.lease(MAIN, 1, time.time(), time.time() + 600)
            queue.release(time.time())
    bus.start(endpoint.connect)
    (row,) = sink.wait(1)
    assert json.loads(row["attributes"])["CloudPubSubDeadLetterSourceDeliveryCount"] == "2"
    assert endpoint.pushes == []


@pytest.mark.parametrize("failure", [WarehouseUnavailable("down"), RowRejected("no")])
def test_dead_letter_waits_in_the_queue_until_the_sink_takes_it(failure, make, sink, path, endpoint):
    clock = Clock()
    bus = make(DeliveryPolicy(), clock)
    bus.start(endpoint.connect)
    sink.failure = failure
    bus.dead_letter(Message(b"x", {}, "7"), Reason("bad_dataset", "broken"))
    assert bus.stats().dead_letters == 1
    for wait in [1, 2, 4]:
        calls = sink.calls
        clock.now += wait
        until(lambda calls=calls: sink.calls == calls + 1)
        until(lambda: look(path, "SELECT leased FROM queue") == [(0,)])
    sink.failure = None
    clock.now += 8
    assert [row["message_id"] for row in sink.wait(1)] == ["7"]
    until(lambda: bus.stats().dead_letters == 0)
    assert endpoint.pushes == []


def test_dead_letter_outlives_the_process(make, sink, endpoint):
    bus = make()
    sink.failure = WarehouseUnavailable("down")
    bus.dead_letter(Message(b"x", {}, "7"), Reason("bad_dataset", "broken"))
    bus.close()
    sink.failure = None
    make().start(endpoint.connect)
    assert [row["message_id"] for row in sink.wait(1)] == ["7"]


def test_giving_up_twice_leaves_one_pending_dead_letter(bus, sink):
    sink.failure = WarehouseUnavailable("down")
    for _ in range(2):
        bus.dead_letter(Message(b"x", {}, "7"), Reason("bad_dataset", "broken"))
    assert bus.stats().dead_letters == 1


def test_message_that_is_a_pending_dead_letter_may_still_be_acknowledged(bus, sink, endpoint):
    sink.failure = WarehouseUnavailable("down")
    endpoint.open.clear()
    bus.start(endpoint.connect)
    message_id = bus.publish(note())
    endpoint.wait(1)
    bus.dead_letter(Message(b"{}", {}, message_id, attempt=1), Reason("not_dicom", "no"))
    endpoint.open.set()
    until(lambda: bus.stats().leased == 0)
    stats = bus.stats()
    assert (stats.waiting, stats.dead_letters) == (0, 1)


def test_dead_letters_without_an_id_are_all_kept(bus, sink):
    for data in (b"1", b"2"):
        bus.dead_letter(Message(data, {}, ""), Reason("not_dicom", "no"))
    assert [row["data"] for row in sink.rows] == [b"1", b"2"]
    assert len({row["message_id"] for row in sink.rows}) == 2


def test_dead_letter_names_the_subscription_it_came_by(bus, sink):
    bus.dead_letter(Message(b"", {}, "7", subscription="projects/p/subscriptions/s"), Reason("c", "t"))
    attributes = json.loads(sink.rows[0]["attributes"])
    assert attributes["CloudPubSubDeadLetterSourceSubscription"] == "s"
    assert attributes["CloudPubSubDeadLetterSourceSubscriptionProject"] == "p"


@pytest.mark.parametrize(
    ("address", "kept"),
    [("gs://b/ours", "gs://b/ours"), ("", None), ("gs://b/" + "x" * 1024, None)],
    ids=["ours", "none", "too long"],
)
def test_object_uri_of_the_sender_is_never_kept(bus, sink, address, kept):
    bus.dead_letter(Message(b"", {"objectUri": "gs://b/theirs"}, "7"), Reason("c", "t", address))
    assert json.loads(sink.rows[0]["attributes"]).get("objectUri") == kept


def test_object_uri_is_left_out_where_an_attribute_cannot_hold_it(bus, sink):
    for number, size in enumerate((1024, 1025)):
        bus.dead_letter(Message(b"", {}, str(number)), Reason("c", "t", "gs://b/" + "x" * (size - 7)))
    fits, left_out = (json.loads(row["attributes"]) for row in sink.rows)
    assert len(fits["objectUri"]) == 1024
    assert "objectUri" not in left_out


def test_id_from_outside_that_is_no_unicode_is_kept_as_text(bus, sink):
    bus.dead_letter(Message(b"", {}, "a\ud800"), Reason("c", "\ud800"))
    assert sink.rows[0]["message_id"] == "a\\ud800"
    assert bus.stats().dead_letters == 0


def test_bug_of_the_sink_is_not_hidden_and_loses_nothing(bus, sink):
    sink.failure = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        bus.dead_letter(Message(b"", {}, "7"), Reason("c", "t"))
    assert bus.stats().dead_letters == 1
