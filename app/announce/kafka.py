"""Announcements to a topic of Kafka: `kafka://host:port[,host:port]/topic`, by librdkafka.

Messages are idempotent and acknowledged by all replicas in sync. Each caller waits for the delivery reports
of its own messages; one thread serves the reports of all. A producer that failed once is replaced: after a
fatal error, and if the broker has lost its topics, a producer never delivers again.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from app.announce import Options
from app.model.errors import AnnounceUnavailable, ConfigError
from app.model.values import Announcement

GUARANTEES: dict[str, str | int | bool] = {"acks": "all", "enable.idempotence": True}
DEFAULTS: dict[str, str | int | bool] = {
    "client.id": "dicomlake",
    "message.timeout.ms": 10_000,
    "reconnect.backoff.max.ms": 1000,  # a broker that is back must be noticed within a delivery
    "socket.keepalive.enable": True,
    "allow.auto.create.topics": True,
}
POLL_S, CHECK_S, CLOSE_S, SLACK_S = 0.5, 4.0, 2.0, 10.0
_URL = re.compile(r"kafka://([^/?#@\s]+)/([A-Za-z0-9._-]{1,249})")
# It logs every attempt to connect; what matters is in our errors.
_quiet = logging.getLogger("dicomlake.announce.librdkafka")
_quiet.setLevel(logging.CRITICAL)


class KafkaAnnouncer:
    """A topic of a cluster; connects on first use."""

    def __init__(self, setting: str, url: str, options: Options) -> None:
        self._brokers, self._topic = _place(setting, url)
        self._options = _options(options.kafka)
        self._lock = threading.Lock()
        self._connection: _Connection | None = None
        self._closed = False

    @staticmethod
    def check_settings(setting: str, url: str, options: Options) -> None:
        """Raise ConfigError if the URL or an option is wrong. Connects to no broker."""
        _place(setting, url)
        try:
            Producer({**_options(options.kafka), "bootstrap.servers": ""}, logger=_quiet)
        except KafkaException as exc:
            raise ConfigError(f"announce.kafka: {exc.args[0].str()}") from None

    def announce(self, announcements: Sequence[Announcement]) -> None:
        """Produce them in order and wait until all are acknowledged."""
        connection = self._connected()
        reports = _Reports(len(announcements))
        try:
            with kafka_errors():
                for one in announcements:
                    self._produce(one, connection.producer, reports)
            timeout_ms = float(self._options["message.timeout.ms"])
            if fault := reports.wait(timeout_ms / 1000 + SLACK_S):
                raise AnnounceUnavailable(fault)
        except AnnounceUnavailable:
            self._replace(connection)
            raise
        except BufferError:
            raise AnnounceUnavailable("its queue is full") from None

    def _produce(self, one: Announcement, producer: Any, reports: _Reports) -> None:
        headers = {f"ce_{name}": _encoded(value) for name, value in one.attributes.items()}
        headers["content-type"] = b"application/json"
        producer.produce(
            self._topic, one.data, _encoded(one.key), headers=list(headers.items()), on_delivery=reports.take
        )

    def check(self) -> None:
        """Ask for the topic; raises AnnounceUnavailable."""
        with kafka_errors():
            self._connected().producer.list_topics(self._topic, timeout=CHECK_S)

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._closed = True
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _connected(self) -> _Connection:
        with self._lock:
            if self._closed:
                raise AnnounceUnavailable("it is closed")
            if self._connection is None:
                with kafka_errors():
                    self._connection = _Connection({**self._options, "bootstrap.servers": self._brokers})
            return self._connection

    def _replace(self, failed: _Connection) -> None:
        """Let the next call make a new producer, unless another thread has done so already."""
        with self._lock:
            if self._connection is failed:
                self._connection = None
        failed.retire()


class _Connection:
    """A producer, and the thread that serves its delivery reports."""

    def __init__(self, options: Mapping[str, str | int | bool]) -> None:
        self.producer: Any = Producer(dict(options), logger=_quiet)
        self._retired = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="kafka", daemon=True)
        self._thread.start()

    def retire(self) -> None:
        """Let the thread end when no message of another caller is pending; returns at once."""
        self._retired.set()

    def close(self) -> None:
        """End the thread; pending messages are abandoned, and their events are delivered again."""
        self.retire()
        self._thread.join(CLOSE_S)

    def _serve(self) -> None:
        while not self._retired.is_set() or len(self.producer):
            self.producer.poll(POLL_S)


class _Reports:
    """The delivery reports of the messages of one call."""

    def __init__(self, count: int) -> None:
        self._left, self._fault = count, ""
        self._done = threading.Event()

    def take(self, error: KafkaError | None, _: object) -> None:
        """Note one report; called from the serving thread alone."""
        self._left -= 1
        if error is not None:
            self._fault = self._fault or error.name()
        if not self._left:
            self._done.set()

    def wait(self, timeout_s: float) -> str:
        """Return the name of the first error; empty if all were delivered."""
        return self._fault if self._done.wait(timeout_s) else "no delivery report"


@contextmanager
def kafka_errors() -> Iterator[None]:
    """Translate errors of the SDK, without their texts. All are transient: a missing topic can be created."""
    try:
        yield
    except (KafkaException, RuntimeError) as exc:  # RuntimeError: the producer was closed meanwhile
        cause = exc.args[0] if exc.args else None
        name = cause.name() if isinstance(cause, KafkaError) else type(exc).__name__
        raise AnnounceUnavailable(name) from exc


def _place(setting: str, url: str) -> tuple[str, str]:
    found = _URL.fullmatch(url)
    if not found:
        raise ConfigError(f"{setting}: a topic of Kafka is written kafka://host:port[,host:port]/topic")
    return found[1], found[2]


def _options(given: Mapping[str, str | int | bool]) -> dict[str, str | int | bool]:
    fixed = {"bootstrap.servers", "metadata.broker.list", "request.required.acks", *GUARANTEES}
    if wrong := sorted(fixed & given.keys()):
        raise ConfigError(f"announce.kafka: {wrong[0]} is not yours to set; remove it")
    return {**DEFAULTS, **given, **GUARANTEES}


def _encoded(text: str) -> bytes:
    return text.encode(errors="backslashreplace")
