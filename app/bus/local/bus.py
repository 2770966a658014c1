"""The embedded bus: a durable queue in a SQLite file that pushes over HTTP like a Pub/Sub subscription.

Differences from Pub/Sub, for machines that sleep, restart and fill up: a push to a service that is not
listening does not count towards `max_attempts`; the backoff of events is exact (doubling, without jitter,
because one process delivers a few messages at a time); a dead letter stays in the queue until the warehouse
has stored it.

Pictures to forward are a topic of their own, so that receivers that are slow or down hold up no event. Their
backoff has jitter, and is at least what the receiver asks for. So is what `backfill` and the like publish: it
is delivered beside live events while these leave slots free, and yields to them otherwise.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

from app.bus import Connect, DeadLetterSink, DeliveryPolicy, Publisher
from app.bus.dead_letter import dead_letter
from app.bus.local.pusher import Pump, Pusher, Verdict, push_body
from app.bus.local.queue import BACKFILL, DEAD_LETTER, FORWARD, MAIN, Queue, QueueStats, check_file
from app.model.errors import BadEvent, BusUnavailable, ConfigError, DicomlakeError, OutOfSpace
from app.model.values import FORWARD_TO, Message, Reason, Row
from app.plumbing.admission import Space
from app.plumbing.private import FILE_MODE

log = logging.getLogger("dicomlake.bus")

SUBSCRIPTION = "projects/local/subscriptions/landing-push"
DEAD_LETTER_SUBSCRIPTION = "projects/local/subscriptions/landing-dead-letter"
MAX_DATA_BYTES = 10_000_000  # the limit of Pub/Sub
GRACE_S = 5.0  # a lease outlasts its push, so the answer ends it, not the clock
CARRY_S = 120.0  # lease of a dead letter: longer than a warehouse takes for one row
UNREACHED_PAUSE_S = 0.25
RESERVE_BYTES = 4 * 2**20  # SQLite overwrites a write-ahead log of this size from its start
EVENTS = MAIN, BACKFILL
FORWARDS_AT_ONCE = 4
CLOSE_S = 8.0  # platforms kill a process 10 s after SIGTERM


class LocalBus:
    """The bus of `local:PATH`. Any process may publish; the process that called `start` delivers.

    The dead-letter topic is part of the same file, so `dead_letter_topic` is not used here.
    """

    def __init__(
        self,
        url: str,
        policy: DeliveryPolicy,
        sink: DeadLetterSink,
        dead_letter_topic: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = Path(url.partition(":")[2]).absolute()
        self._policy, self._sink, self._clock = policy, sink, clock
        self._lease_s = policy.ack_deadline_s + GRACE_S
        # Twice the longest delay, so that a small clock correction does not end the leases in flight.
        self._queue = Queue(self._path, 2 * max(policy.backoff_max_s, self._lease_s, CARRY_S))
        self._space = Space([self._path.parent], policy.min_free_bytes)
        self._full = False
        self._lock: int | None = None
        self._pusher: Pusher | None = None
        self._pumps: dict[str, Pump] = {}
        # Acknowledged, but in the file until the next commit.
        self._acked: dict[str, deque[Message]] = {topic: deque() for topic in EVENTS}

    @staticmethod
    def check_settings(url: str, dead_letter_topic: str = "") -> None:
        """Raise ConfigError if the file cannot hold a queue. Creates and changes nothing."""
        check_file(Path(url.partition(":")[2]).absolute())

    def publish(self, message: Message) -> str:
        """Publish `data` and `attributes`; return the message id once the message is durable.

        Raises BadEvent if the data exceeds 10 MB, BusUnavailable if the file cannot be written.
        """
        if len(message.data) > MAX_DATA_BYTES:
            raise BadEvent("a message is limited to 10 MB")
        topic = _topic(message)
        message_id = self._queue.publish(message, self._clock(), topic)
        self._wake(topic)
        return message_id

    def publish_all(self, messages: Sequence[Message]) -> None:
        """Publish several messages in one commit for each topic; raises as `publish`."""
        for topic in (MAIN, FORWARD):
            if own := [message for message in messages if _topic(message) == topic]:
                self.publish_to(topic, own)

    def publish_to(self, topic: str, messages: Sequence[Message]) -> None:
        """Publish several messages to one topic in one commit; raises as `publish`."""
        if any(len(message.data) > MAX_DATA_BYTES for message in messages):
            raise BadEvent("a message is limited to 10 MB")
        self._queue.publish_all(messages, self._clock(), topic)
        self._wake(topic)

    def backlog(self) -> Publisher:
        """Return the lane of long jobs; see the head of this file."""
        return _Backlog(self)

    def dead_letter(self, message: Message, reason: Reason) -> None:
        """Turn a message into a dead letter, durably; the sink may store it later."""
        now = self._clock()
        letter = self._queue.dead_letter(_dead_letter(message, now, reason), now, now + CARRY_S)
        if letter is not None:  # None: it is a dead letter already, and will reach the sink
            self._carry(letter)

    def start(self, connect: Connect) -> None:
        """Start to push over connections from `connect`; end the leases of a killed process.

        Raises ConfigError if another service serves this queue.
        """
        pusher = Pusher(connect, self._policy.ack_deadline_s)
        self._lock = lock_queue(self._path)
        self._queue.release(self._clock())
        self._reserve()
        self._pusher = pusher
        carry = partial(self._lease, DEAD_LETTER, CARRY_S)
        slots = self._policy.concurrency
        main = Pump("push", slots, partial(self._next, MAIN), partial(self._deliver, pusher, MAIN))
        yielding = partial(self._next_of_backlog, main)
        self._pumps = {
            MAIN: main,
            BACKFILL: Pump("backfill", slots, yielding, partial(self._deliver, pusher, BACKFILL)),
            FORWARD: Pump(
                "forward",
                FORWARDS_AT_ONCE,
                partial(self._lease, FORWARD, self._lease_s),
                partial(self._deliver, pusher, FORWARD),
            ),
            DEAD_LETTER: Pump("dead-letter", 1, carry, self._carry),
        }

    def stats(self) -> QueueStats:
        """Return the number of messages and the age of the oldest."""
        return self._queue.stats(self._clock())

    def unfinished(self) -> list[Mapping[str, str]]:
        """Return the attributes of all messages that are not acknowledged, and of letters not stored yet."""
        return self._queue.unfinished()

    def depth(self) -> int:
        """Return the number of waiting messages."""
        return self.stats().waiting

    def setup(self) -> dict[str, Any]:
        """Return how many messages wait, and for how many seconds the oldest one has."""
        stats = self.stats()
        return {"waiting": stats.waiting, "oldest_age_s": stats.oldest_age_s}

    def check(self) -> None:
        """Raise BusUnavailable unless the queue works and delivers, OutOfSpace while delivery is paused."""
        self._queue.check()
        self._space.check()
        if not all(pump.alive() for pump in self._pumps.values()):
            raise BusUnavailable("the queue is no longer delivered")

    def close(self) -> None:
        """Stop leasing, wait for pushes in flight, and release other leases for the next start."""
        deadline = time.monotonic() + CLOSE_S
        for pump in self._pumps.values():
            pump.stop()
        for pump in self._pumps.values():
            pump.join(deadline)
        if self._pusher is not None:
            self._pusher.close()
            for topic in (*EVENTS, FORWARD):
                self._pumps[topic].join(time.monotonic() + 1)
        if self._lock is not None:
            with _best_effort("acknowledgements not stored, the messages will come again"):
                for topic in EVENTS:
                    self._next(topic, 0)
            with _best_effort("leases end by themselves"):
                self._queue.release(self._clock())
            os.close(self._lock)
            self._lock = None
        self._queue.close()

    def _wake(self, topic: str) -> None:
        if topic in self._pumps:
            self._pumps[topic].wake()

    def _next_of_backlog(self, main: Pump, count: int) -> list[Message]:
        """Lease what long jobs published, unless live events fill all slots of theirs."""
        return self._next(BACKFILL, 0 if main.full() else count)

    def _next(self, topic: str, count: int) -> list[Message]:
        """Remove acknowledged messages and lease the next ones in one commit.

        This saves one of two commits per event. The removal need not be durable at once: after a crash the
        message is delivered again, as after a crash just before its acknowledgement.
        """
        acked = self._acked[topic]
        now, done = self._clock(), [acked.popleft() for _ in range(len(acked))]
        try:
            return self._queue.lease(topic, count if self._has_room() else 0, now, now + self._lease_s, done)
        except BusUnavailable:
            acked.extend(done)
            raise

    def _lease(self, topic: str, lease_s: float, count: int) -> list[Message]:
        if not self._has_room():
            return []
        now = self._clock()
        return self._queue.lease(topic, count, now, now + lease_s)

    def _has_room(self) -> bool:
        """Return whether the disk has space for what a delivery writes; if not, nothing is leased."""
        try:
            self._space.check()
        except OutOfSpace as exc:
            if not self._full:
                self._full = True
                log.warning("nothing is delivered while there is so little space", extra={"code": exc.code})
                self._reserve()  # before other processes take the rest
            return False
        self._full = False
        return True

    def _reserve(self) -> None:
        with _best_effort("no reserve for a full disk"):
            self._queue.reserve(RESERVE_BYTES)

    def _deliver(self, pusher: Pusher, topic: str, message: Message) -> None:
        """Push one leased message and end its lease according to the answer."""
        attempt = message.attempt or 1
        if attempt > self._policy.max_attempts:  # the process died during the last attempt
            self._give_up(topic, replace(message, attempt=attempt - 1))
            return
        answer = pusher.push(push_body(replace(message, subscription=SUBSCRIPTION)))
        verdict = answer.verdict
        if verdict is Verdict.ACK and topic in EVENTS:
            self._acked[topic].append(message)  # removed by `_next`, which runs at once: a slot is free
        elif verdict is Verdict.ACK:
            with _best_effort("acknowledgement not stored, the message will come again", message):
                self._queue.ack(topic, message)
        elif pusher.closed:  # we aborted the push, and close() ends the lease
            return
        elif verdict is Verdict.UNREACHED:
            time.sleep(UNREACHED_PAUSE_S)
            with _best_effort("refusal not stored, the lease ends by itself", message):
                self._queue.nack(topic, message, self._clock(), counted=False)
        elif attempt >= self._policy.max_attempts:
            self._give_up(topic, message)
        else:
            self._put_off(topic, message, answer.retry_after_s)

    def _put_off(self, topic: str, message: Message, retry_after_s: float = 0.0) -> None:
        pause_s = backoff_s(self._policy, message.attempt or 1)
        if topic == FORWARD:
            pause_s = max(pause_s, min(retry_after_s, self._policy.backoff_max_s)) * jitter(message)
        due_at = self._clock() + pause_s
        with _best_effort("refusal not stored, the lease ends by itself", message):
            self._queue.nack(topic, message, due_at)

    def _give_up(self, topic: str, message: Message) -> None:
        now = self._clock()
        with _best_effort("dead letter not stored, the lease ends by itself", message):
            self._queue.give_up(topic, message, _dead_letter(message, now), now)
            log.warning("given up after the last attempt", extra=_extra(message))
            self._wake(DEAD_LETTER)

    def _carry(self, letter: Message) -> None:
        """Write a leased dead letter to the sink; if that fails, retry later, without limit."""
        try:
            self._sink(_dead_letter_row(letter))
        except DicomlakeError as exc:
            log.warning(
                "dead letter not taken, will be tried again", extra=_extra(letter) | {"code": exc.code}
            )
            self._put_off(DEAD_LETTER, letter)
            return
        with _best_effort("dead letter stays in the queue, its row will come again", letter):
            self._queue.ack(DEAD_LETTER, letter)


class _Backlog:
    """The lane of long jobs of an embedded bus."""

    def __init__(self, bus: LocalBus) -> None:
        self._bus = bus

    def publish_all(self, messages: Sequence[Message]) -> None:
        """Publish messages that live events overtake; raises as `publish`."""
        self._bus.publish_to(BACKFILL, messages)


def backoff_s(policy: DeliveryPolicy, attempt: int) -> float:
    """Return the seconds between the refusal of delivery number `attempt` and the next delivery."""
    return min(policy.backoff_max_s, policy.backoff_min_s * 2.0 ** min(attempt - 1, 60))


def jitter(message: Message) -> float:
    """Return a factor from 1 to 1.5, which differs from message to message and from attempt to attempt."""
    return 1 + crc32(f"{message.message_id} {message.attempt}".encode()) % 1024 / 2048


def _topic(message: Message) -> str:
    return FORWARD if FORWARD_TO in message.attributes else MAIN


def _dead_letter(message: Message, now: float, reason: Reason | None = None) -> Message:
    """Return the dead letter of a message; its subscription defaults to ours."""
    named = replace(message, subscription=message.subscription or SUBSCRIPTION)
    return dead_letter(named, datetime.fromtimestamp(now, UTC), reason)


def _dead_letter_row(letter: Message) -> Row:
    return {
        "subscription_name": DEAD_LETTER_SUBSCRIPTION,
        "message_id": letter.message_id,
        "publish_time": letter.publish_time,
        "data": letter.data,
        "attributes": json.dumps(dict(letter.attributes)),
    }


@contextmanager
def _best_effort(otherwise: str, message: Message | None = None) -> Iterator[None]:
    """Log a failed change of the queue and continue, because a redelivery makes up for it."""
    try:
        yield
    except BusUnavailable as exc:
        log.warning(otherwise, extra=(_extra(message) if message else {}) | {"code": exc.code})


def _extra(message: Message) -> dict[str, object]:
    return {"message_id": message.message_id, "attempt": message.attempt}


def lock_queue(queue: Path) -> int:
    """Take the lock of the one process that delivers; the system frees it when that process ends.

    Raises ConfigError if another process holds it.
    """
    path = queue.with_name(f"{queue.name}.lock")
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(lock, 20, 0).decode("ascii", "replace") or "unknown"
            os.close(lock)
            raise ConfigError(
                f"the queue of {queue} is already served by process {owner}; "
                "stop it or give bus.url another file"
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
    except OSError as exc:
        raise ConfigError(f"the lock {path} cannot be taken: {exc.strerror}") from exc
    return lock
