"""Door to the message bus: notifications in, pushes out, dead letters kept; the scheme of a URL picks one."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from app.model.values import Message, Reason, Row
from app.plumbing.backends import load_backend

Connect = Callable[[], socket.socket]
"""Makes a connection to this very service, or raises OSError."""
DeadLetterSink = Callable[[Row], None]
"""Writes one row of the table `dead_letter`; returns only when it is durable."""


@dataclass(frozen=True, slots=True)
class DeliveryPolicy:
    """How a bus that pushes by itself delivers; times in seconds.

    min_free_bytes: it does not deliver while its own disk has less free.
    """

    max_attempts: int = 20
    backoff_min_s: float = 1.0
    backoff_max_s: float = 600.0
    ack_deadline_s: float = 600.0
    concurrency: int = 8
    min_free_bytes: int = 0


class Bus(Protocol):
    """A topic, its push subscription and its dead-letter topic. Safe to call from several threads."""

    def publish(self, message: Message) -> str:
        """Publish `data` and `attributes`; return the message id once the message is durable."""
        ...

    def dead_letter(self, message: Message, reason: Reason) -> None:
        """Give a message up, with its reason; returns once that is durable, else raises BusUnavailable."""
        ...

    def start(self, connect: Connect) -> None:
        """Begin to push over connections made by `connect`, where the bus runs in this service."""
        ...

    def depth(self) -> int | None:
        """Return how many messages wait, where the bus can tell."""
        ...

    def check(self) -> None:
        """Raise BusUnavailable unless the bus answers."""
        ...

    def close(self) -> None:
        """Stop pushing, finish what is in flight, let go of connections."""
        ...


BACKENDS: dict[str, tuple[str, str, str | None]] = {
    "local": ("app.bus.local.bus", "LocalBus", None),
    "pubsub": ("app.bus.pubsub", "PubSubBus", "gcp"),
}


def check_bus(url: str, dead_letter_topic: str = "") -> None:
    """Raise ConfigError where opening this bus would; makes and opens nothing."""
    load_backend("bus", url, BACKENDS).check_settings(url, dead_letter_topic)


def open_bus(url: str, policy: DeliveryPolicy, sink: DeadLetterSink, dead_letter_topic: str = "") -> Bus:
    """Open the bus a URL names; `sink` is for one that carries its dead letters to the warehouse itself."""
    bus: Bus = load_backend("bus", url, BACKENDS)(url, policy, sink, dead_letter_topic)
    return bus
