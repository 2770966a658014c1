import base64
import json
import os
import socket
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing

import pytest

from app.bus import DeliveryPolicy, open_bus
from app.bus.local.bus import FORWARDS_AT_ONCE, LocalBus, backoff_s, jitter
from app.bus.local.pusher import Pump
from app.bus.local.queue import FORWARD, MAIN, QueueStats, queue_errors
from app.model.errors import BusUnavailable, ConfigError
from app.model.values import FORWARD_TO, Message, Row
from tests.bus.conftest import NOW, QUICK, Clock, Sink, look, unreachable, until
from tests.bus.contract import BusContract, Endpoint, note
from tests.processes import PATIENCE_S


class TestLocalBus(BusContract):
    @pytest.fixture
    def dead_letters(self, sink: Sink) -> Callable[[int], list[Row]]:
        return sink.wait

    @pytest.fixture
    def vendor(self) -> tuple:
        return [sqlite3], queue_errors


def test_door_opens_it(path, sink):
    bus = open_bus(f"local:{path}", QUICK, sink)
    assert bus.publish(note()).isdecimal()
    bus.close()


@pytest.mark.parametrize("status", [102, 200, 201, 202, 204])
def test_status_that_acknowledges(status, bus, endpoint):
    endpoint.answer(status)
    bus.start(endpoint.connect)
    bus.publish(note())
    endpoint.wait(1)
    until(lambda: bus.stats() == QueueStats(0, 0, 0, 0.0))
    assert len(endpoint.pushes) == 1


@pytest.mark.parametrize("status", [203, 206, 302, 307, 400, 404, 409, 422, 429, 500, 503])
def test_status_that_refuses(status, bus, endpoint):
    endpoint.answer(status)
    bus.start(endpoint.connect)
    bus.publish(note())
    assert [push["deliveryAttempt"] for push in endpoint.wait(2)] == [1, 2]


def test_what_follows_an_answer_of_102_is_not_the_answer_to_the_next_push(bus, endpoint):
    endpoint.answer(102)
    bus.start(endpoint.connect)
    for count in (1, 2):
        bus.publish(note())
        endpoint.wait(count)
        until(lambda: bus.stats() == QueueStats(0, 0, 0, 0.0))
    assert len(endpoint.pushes) == 2


def test_connection_stays_open_between_pushes(bus, endpoint):
    endpoint.answer(422, 200, 204)
    bus.start(endpoint.connect)
    for count in (2, 3, 4):
        bus.publish(note())
        endpoint.wait(count)
        until(lambda: bus.stats() == QueueStats(0, 0, 0, 0.0))
    assert endpoint.connections == 1


def test_default_backing_off_doubles_from_one_second_to_ten_minutes():
    waits = [backoff_s(DeliveryPolicy(), attempt) for attempt in range(1, 13)]
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]
    assert backoff_s(DeliveryPolicy(), 100_000) == 600


def test_fifth_delivery_comes_fifteen_seconds_after_the_first(make, path, endpoint):
    clock, began = Clock(), NOW
    bus = make(DeliveryPolicy(), clock)
    endpoint.answer(422, 422, 422, 422, 422)
    bus.start(endpoint.connect)
    bus.publish(note())
    for delivery, due_at in enumerate([began + 1, began + 3, began + 7, began + 15], start=1):
        endpoint.wait(delivery)
        until(lambda: look(path, "SELECT leased FROM queue") == [(0,)])
        assert look(path, "SELECT due_at FROM queue") == [(due_at,)]
        clock.now = due_at
    assert endpoint.wait(5)[-1]["deliveryAttempt"] == 5


def test_message_is_not_pushed_before_it_is_due(make, endpoint):
    clock = Clock()
    bus = make(DeliveryPolicy(), clock)
    endpoint.answer(503)
    bus.start(endpoint.connect)
    bus.publish(note())
    endpoint.wait(1)
    until(lambda: bus.stats().waiting == 1)
    clock.now += 0.99
    time.sleep(0.5)
    assert len(endpoint.pushes) == 1
    clock.now += 0.01
    endpoint.wait(2)


def test_late_answer_is_a_refusal_and_the_message_comes_again(make, endpoint):
    bus = make(DeliveryPolicy(backoff_min_s=0.05, ack_deadline_s=0.3, concurrency=2))
    endpoint.open.clear()
    bus.start(endpoint.connect)
    bus.publish(note())
    endpoint.wait(1)
    assert [push["deliveryAttempt"] for push in endpoint.wait(2)] == [1, 2]
    endpoint.open.set()
    until(lambda: bus.stats().waiting + bus.stats().leased == 0)


def test_no_more_pushes_at_once_than_allowed(make, endpoint):
    bus = make(DeliveryPolicy(concurrency=3))
    for _ in range(12):
        bus.publish(note())
    endpoint.open.clear()
    bus.start(endpoint.connect)
    endpoint.wait(3)
    time.sleep(0.4)
    assert (len(endpoint.pushes), bus.stats().leased, bus.depth()) == (3, 3, 9)
    endpoint.open.set()
    endpoint.wait(12)
    assert endpoint.most_at_once == 3


def test_every_message_of_a_crowd_is_pushed_once(bus, endpoint):
    bus.start(endpoint.connect)
    ids = [bus.publish(note(b"%d" % number)) for number in range(300)]
    pushed = [push["message"]["messageId"] for push in endpoint.wait(300)]
    until(lambda: bus.stats() == QueueStats(0, 0, 0, 0.0))
    assert sorted(pushed) == sorted(ids)


def test_endpoint_that_is_not_there_yet_burns_no_attempt(make):
    bus = make(DeliveryPolicy(backoff_min_s=0.01, max_attempts=2))
    bus.start(unreachable)
    bus.publish(note())
    time.sleep(1.2)
    bus.close()
    with closing(Endpoint()) as endpoint, closing(make()) as bus:
        bus.start(endpoint.connect)
        assert endpoint.wait(1)[0]["deliveryAttempt"] == 1


def test_message_that_is_published_again_begins_at_its_first_delivery(bus, endpoint):
    bus.start(endpoint.connect)
    bus.publish(Message(b"", {}, "77", attempt=5))
    assert endpoint.wait(1)[0]["deliveryAttempt"] == 1


def test_connection_that_breaks_is_a_refusal(bus):
    with socket.create_server(("127.0.0.1", 0)) as server:
        bus.start(lambda: socket.create_connection(server.getsockname()))
        bus.publish(note())
        attempts = []
        for _ in range(2):
            connection, _ = server.accept()
            with connection:
                text = b""
                while b"deliveryAttempt" not in text:
                    text += connection.recv(65536)
            attempts.append(json.loads(text.partition(b"\r\n\r\n")[2])["deliveryAttempt"])
    assert attempts == [1, 2]


def test_lone_surrogates_of_a_file_name_survive(bus, endpoint):
    name = os.fsdecode(b"caf\xe9.dcm")
    bus.start(endpoint.connect)
    bus.publish(note(objectId=name))
    assert endpoint.wait(1)[0]["message"]["attributes"]["objectId"] == name


def test_own_message_does_not_wait_for_the_next_look(bus, endpoint, monkeypatch):
    monkeypatch.setattr("app.bus.local.pusher.TICK_S", 60.0)
    bus.start(endpoint.connect)
    for count in range(1, 6):
        bus.publish(note())
        endpoint.wait(count)
        until(lambda: bus.stats() == QueueStats(0, 0, 0, 0.0))


def test_second_service_on_the_same_queue_is_refused(make, endpoint):
    bus, second = make(), make()
    bus.start(endpoint.connect)
    with pytest.raises(ConfigError, match=f"already served by process {os.getpid()}; stop it"):
        second.start(endpoint.connect)
    bus.close()
    second.start(endpoint.connect)


def test_service_that_is_not_started_publishes_beside_another(make, endpoint):
    make().start(endpoint.connect)
    message_id = make().publish(note())
    assert endpoint.wait(1)[0]["message"]["messageId"] == message_id


def test_closing_releases_what_did_not_finish(make, endpoint, monkeypatch):
    monkeypatch.setattr("app.bus.local.bus.CLOSE_S", 0.2)
    slow = DeliveryPolicy(backoff_min_s=300)
    bus = make(slow)
    endpoint.open.clear()
    bus.start(endpoint.connect)
    bus.publish(note())
    endpoint.wait(1)
    bus.close()
    assert not endpoint.open.is_set()  # the push has no answer yet
    endpoint.open.set()
    make(slow).start(endpoint.connect)
    assert endpoint.wait(2)[1]["deliveryAttempt"] == 2


def test_closing_waits_for_pushes_in_flight(make, endpoint):
    bus = make()
    endpoint.open.clear()
    bus.start(endpoint.connect)
    bus.publish(note())
    endpoint.wait(1)
    threading.Timer(0.5, endpoint.open.set).start()
    bus.close()
    assert make().stats() == QueueStats(0, 0, 0, 0.0)


def test_closed_bus_is_unavailable(bus):
    bus.close()
    for call in (lambda: bus.publish(note()), bus.check, bus.stats):
        with pytest.raises(BusUnavailable):
            call()


def test_file_that_is_no_database_is_a_config_error(path, make):
    path.parent.mkdir()
    path.write_text("not a database" * 100)
    with pytest.raises(ConfigError, match=r"give bus\.url another file"):
        make()


def test_folder_in_place_of_the_file_is_a_config_error(path, make):
    path.mkdir(parents=True)
    with pytest.raises(ConfigError):
        make()


def test_folder_that_cannot_be_made_is_a_config_error(path, make):
    path.parent.write_text("a file")
    with pytest.raises(ConfigError):
        make()


def test_an_unforeseen_error_does_not_end_the_delivery(caplog):
    """As where the machine has no thread or memory left for a moment: the queue goes on afterwards."""
    handled: list[Message] = []
    told_alive: list[bool] = []
    faults: list[Exception] = [RuntimeError("can't start new thread"), MemoryError(), BusUnavailable("")]

    def lease(count: int) -> list[Message]:
        if len(faults) == 1:
            told_alive.append(pump.alive())
        if faults:
            raise faults.pop(0)
        return [] if handled else [note()]

    pump = Pump("push", 1, lease, handled.append)
    try:
        until(lambda: handled)
        assert (told_alive, pump.alive()) == ([False], True)
    finally:
        pump.stop()
        pump.join(time.monotonic() + PATIENCE_S)
    told = [record for record in caplog.records if record.name == "dicomlake.bus"]
    assert [record.__dict__["code"] for record in told] == ["internal_error"] * 2 + ["bus_unavailable"]
    assert [bool(record.exc_info) for record in told] == [True, True, False]


def test_messages_for_which_no_thread_starts_are_handled_once_one_does(monkeypatch, caplog):
    """They are leased already: forgotten, all of a queue would wait for the end of leases."""
    start, refusals = threading.Thread.start, [RuntimeError("can't start new thread")] * 3
    waiting, handled = deque(range(20)), []

    def start_or_not(thread: threading.Thread) -> None:
        if thread.name.startswith("push_") and refusals:
            raise refusals.pop()
        start(thread)

    def lease(count: int) -> list[Message]:
        return [note(b"%d" % waiting.popleft()) for _ in range(min(count, len(waiting)))]

    monkeypatch.setattr(threading.Thread, "start", start_or_not)
    pump = Pump("push", 8, lease, handled.append)
    try:
        until(lambda: len(handled) >= 20)
        until(pump.alive)
    finally:
        pump.stop()
        pump.join(time.monotonic() + PATIENCE_S)
    assert sorted(int(message.data) for message in handled) == list(range(20))
    assert len([record for record in caplog.records if record.name == "dicomlake.bus"]) == 1


def picture(**attributes):
    return Message(b"{}", {FORWARD_TO: "https://receiver", **attributes}, "")


def test_a_receiver_that_holds_up_pictures_holds_up_no_event(bus, endpoint):
    endpoint.answer(204)
    bus.publish_all([picture() for _ in range(FORWARDS_AT_ONCE)])
    held = [bus._queue.lease(FORWARD, FORWARDS_AT_ONCE, NOW, NOW + 600)]
    assert len(held[0]) == FORWARDS_AT_ONCE
    bus.publish(note(b"an event"))
    assert [message.data for message in bus._queue.lease(MAIN, 9, NOW, NOW + 600)] == [b"an event"]


def bodies(pushes):
    return [base64.b64decode(push["message"]["data"]) for push in pushes]


def test_an_event_does_not_wait_behind_what_a_long_job_published(make, endpoint):
    bus = make(DeliveryPolicy(concurrency=2))
    bus.backlog().publish_all([note(b"old") for _ in range(50)])
    endpoint.open.clear()
    bus.start(endpoint.connect)
    assert bodies(endpoint.wait(2)) == [b"old", b"old"]
    bus.publish(note(b"live"))
    assert bodies(endpoint.wait(3)) == [b"old", b"old", b"live"]
    endpoint.open.set()
    endpoint.wait(51)
    until(lambda: bus.stats() == QueueStats(0, 0, 0, 0.0))


def test_a_long_job_yields_to_events_that_fill_all_slots(make, endpoint):
    bus = make(DeliveryPolicy(concurrency=2))
    for _ in range(4):
        bus.publish(note(b"live"))
    endpoint.open.clear()
    bus.start(endpoint.connect)
    endpoint.wait(2)
    bus.backlog().publish_all([note(b"old")])
    time.sleep(0.4)
    assert bodies(endpoint.pushes) == [b"live", b"live"]
    endpoint.open.set()
    assert sorted(bodies(endpoint.wait(5))) == [b"live"] * 4 + [b"old"]


def test_only_a_live_event_that_is_not_taken_makes_the_queue_old(make):
    clock = Clock()
    bus = make(DeliveryPolicy(), clock)
    bus.backlog().publish_all([note(), note()])
    clock.now += 7200
    assert bus.stats() == QueueStats(2, 0, 0, 0.0)
    bus.publish(note())
    clock.now += 5
    assert bus.stats() == QueueStats(3, 0, 0, 5.0)


def test_a_message_of_a_long_job_is_given_up_like_any_other(make, sink, endpoint):
    bus = make(DeliveryPolicy(max_attempts=2, backoff_min_s=0.01))
    endpoint.answer(500, 500)
    bus.backlog().publish_all([note(b"bad")])
    bus.start(endpoint.connect)
    (row,) = sink.wait(1)
    assert row["data"] == b"bad"
    until(lambda: bus.stats() == QueueStats(0, 0, 0, 0.0))


def test_a_picture_published_twice_waits_once(bus):
    named = Message(b"{}", {FORWARD_TO: "https://receiver"}, "row-1")
    bus.publish_all([named])
    bus.publish_all([named])
    assert len(bus.unfinished()) == 1


def test_a_picture_waits_as_long_as_the_receiver_asks_and_some_more(path, sink, endpoint):
    clock = Clock()
    policy = DeliveryPolicy(backoff_min_s=1, backoff_max_s=600)
    bus = LocalBus(f"local:{path}", policy, sink, clock=clock)
    bus.publish(picture())
    (message,) = bus._queue.lease(FORWARD, 1, NOW, NOW + 600)
    bus._put_off(FORWARD, message, 30)
    assert bus._queue.lease(FORWARD, 1, NOW + 29, NOW + 600) == []
    assert len(bus._queue.lease(FORWARD, 1, NOW + 45, NOW + 600)) == 1
    bus.close()


def test_no_receiver_delays_a_picture_beyond_the_longest_pause(path, sink):
    bus = LocalBus(f"local:{path}", DeliveryPolicy(backoff_max_s=10), sink, clock=Clock())
    bus.publish(picture())
    (message,) = bus._queue.lease(FORWARD, 1, NOW, NOW + 600)
    bus._put_off(FORWARD, message, 1e9)
    assert len(bus._queue.lease(FORWARD, 1, NOW + 15, NOW + 600)) == 1
    bus.close()


def test_jitter_differs_from_message_to_message():
    factors = {jitter(Message(b"", {}, str(number), attempt=1)) for number in range(100)}
    assert len(factors) > 50
    assert min(factors) >= 1
    assert max(factors) <= 1.5


def test_what_is_unfinished_is_known_until_it_is_acknowledged(bus, endpoint):
    endpoint.answer(204)
    bus.publish(note(objectId="a.dcm"))
    bus.publish(picture())
    assert [one.get("objectId") for one in bus.unfinished()] == ["a.dcm", None]
    bus.start(endpoint.connect)
    endpoint.wait(2)
    until(lambda: bus.unfinished() == [])
