"""Announcements to a topic of a bus: `pubsub:projects/P/topics/T`, or `local:PATH`, an embedded queue."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from app.announce import Options, each_at_once
from app.bus import Bus, DeliveryPolicy, check_bus, open_bus
from app.model.errors import AnnounceUnavailable, BadEvent, BusUnavailable, ConfigError
from app.model.values import Announcement, Message, Row

MAX_ATTRIBUTE_BYTES = 1024  # as Pub/Sub, also of an ordering key


class TopicAnnouncer:
    """A topic. Attributes are named as the CloudEvents binding of Pub/Sub names them."""

    def __init__(self, setting: str, url: str, options: Options) -> None:
        _check_free(setting, url, options)
        with _bus_errors(setting):
            self._bus: Bus = open_bus(url, DeliveryPolicy(min_free_bytes=0), _no_letters)

    @staticmethod
    def check_settings(setting: str, url: str, options: Options) -> None:
        """Raise ConfigError if the topic's name is wrong, or its file cannot be used."""
        _check_free(setting, url, options)
        with _bus_errors(setting):
            check_bus(url)

    def announce(self, announcements: Sequence[Announcement]) -> None:
        """Publish them; return once all are durable."""
        each_at_once(self._publish, announcements)

    def check(self) -> None:
        """Raise AnnounceUnavailable unless the bus answers."""
        with _bus_errors():
            self._bus.check()

    def close(self) -> None:
        """Close the bus."""
        self._bus.close()

    def _publish(self, one: Announcement) -> None:
        attributes = {f"ce-{name}": value for name, value in one.attributes.items()}
        attributes["content-type"] = "application/json"
        if not _fits(one.key):
            del attributes["ce-subject"]  # the value has it
        key = (
            one.key
            if _fits(one.key)
            else one.key.encode(errors="replace")[:MAX_ATTRIBUTE_BYTES].decode(errors="ignore")
        )
        with _bus_errors():
            self._bus.publish(Message(one.data, attributes, "", ordering_key=key))


@contextmanager
def _bus_errors(setting: str = "") -> Iterator[None]:
    try:
        yield
    except (BusUnavailable, BadEvent) as exc:
        raise AnnounceUnavailable(exc.text) from exc
    except ConfigError as exc:
        raise ConfigError(exc.text.replace("bus.url", setting)) from None


def _check_free(setting: str, url: str, options: Options) -> None:
    if _place(url) in map(_place, options.taken):
        raise ConfigError(f"{setting}: {url} is bus.url itself, whose messages the service takes as events")


def _place(url: str) -> str:
    scheme, _, path = url.partition(":")
    return f"local:{Path(path).absolute()}" if scheme == "local" else url


def _fits(text: str) -> bool:
    return len(text.encode(errors="replace")) <= MAX_ATTRIBUTE_BYTES


def _no_letters(_: Row) -> None:
    raise AnnounceUnavailable("this service does not consume its own announcements")
