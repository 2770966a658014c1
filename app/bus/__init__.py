"""The message bus (topic, push subscription, dead letters): the protocol, and the backends by URL scheme."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from app.model.options import DeliveryOptions
from app.model.values import Message, Reason, Row
from app.plumbing.backends import load_backend

Connect = Callable[[], socket.socket]
"""Opens a connection to this service, or raises OSError."""
DeadLetterSink = Callable[[Row], None]
"""Writes one row of the table `dead_letter`; returns only when it is durable."""


@dataclass(frozen=True, slots=True)
class DeliveryPolicy(DeliveryOptions):
    """How the embedded bus delivers messages. concurrency: how many are in delivery at a time."""

    concurrency: int = 8


class Publisher(Protocol):
    """Takes messages for later delivery. Safe to call from several threads."""

    def publish_all(self, messages: Sequence[Message]) -> None:
        """Publish messages and return once all are durable; if it raises, some may be published."""
        ...


class Bus(Publisher, Protocol):
    """A topic, its push subscription and its dead-letter topic. Safe to call from several threads."""

    def publish(self, message: Message) -> str:
        """Publish `data` and `attributes`; return the message id once the message is durable."""
        ...

    def backlog(self) -> Publisher:
        """Return where long jobs publish: a lane that live events overtake, or this bus if it has none."""
        ...

    def dead_letter(self, message: Message, reason: Reason) -> None:
        """Store a message durably as a dead letter with its reason, else raise BusUnavailable."""
        ...

    def start(self, connect: Connect) -> None:
        """Start to push over connections from `connect`, if the bus is embedded in this service."""
        ...

    def unfinished(self) -> list[Mapping[str, str]] | None:
        """Return the attributes of all messages not acknowledged and letters not stored; None if unknown."""
        ...

    def depth(self) -> int | None:
        """Return the number of waiting messages, or None if the bus cannot count them."""
        ...

    def setup(self) -> dict[str, Any]:
        """Return how messages are delivered: facts for `doctor`.

        topic, subscriptions, publishers of the topic; of dead letters the same; what pubsub_setup.around
        returns; or, of an embedded bus, waiting and oldest_age_s.
        """
        ...

    def check(self) -> None:
        """Raise BusUnavailable unless the bus answers."""
        ...

    def close(self) -> None:
        """Stop pushing, finish messages in flight, close connections."""
        ...


BACKENDS: dict[str, tuple[str, str, str | None]] = {
    "local": ("app.bus.local.bus", "LocalBus", None),
    "pubsub": ("app.bus.pubsub", "PubSubBus", "gcp"),
}


def check_bus(url: str, dead_letter_topic: str = "") -> None:
    """Raise ConfigError if opening this bus would. Creates and opens nothing."""
    load_backend("bus", url, BACKENDS).check_settings(url, dead_letter_topic)


def open_bus(url: str, policy: DeliveryPolicy, sink: DeadLetterSink, dead_letter_topic: str = "") -> Bus:
    """Open the bus at a URL. The embedded bus writes dead letters to the warehouse through `sink`."""
    bus: Bus = load_backend("bus", url, BACKENDS)(url, policy, sink, dead_letter_topic)
    return bus
