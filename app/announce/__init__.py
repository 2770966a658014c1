"""Announcements to other systems: the protocol, and the targets by URL scheme."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from app.model.errors import AnnounceUnavailable, ConfigError
from app.model.names import shown_url
from app.model.values import Announcement
from app.plumbing.backends import load_backend

AT_ONCE = 8
"""Announcements of one archive that are sent concurrently where the target has no batches."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a target may need besides its URL.

    kafka: options of librdkafka. headers: HTTP headers of each request. taken: URLs of the embedded queue
    that targets may not use, because the service itself consumes it.
    """

    kafka: Mapping[str, str | int | bool] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    taken: tuple[str, ...] = ()


class Announcer(Protocol):
    """One target of announcements. Safe to call from several threads."""

    def announce(self, announcements: Sequence[Announcement]) -> None:
        """Return once the target holds all of them durably; repeating the call is safe.

        Raises AnnounceUnavailable if it may not hold some of them.
        """
        ...

    def check(self) -> None:
        """Raise AnnounceUnavailable unless the target answers."""
        ...

    def close(self) -> None:
        """Close connections; later calls raise AnnounceUnavailable."""
        ...


BACKENDS: dict[str, tuple[str, str, str | None]] = {
    "kafka": ("app.announce.kafka", "KafkaAnnouncer", "kafka"),
    "pubsub": ("app.announce.bus_topic", "TopicAnnouncer", "gcp"),
    "https": ("app.announce.webhook", "WebhookAnnouncer", None),
    "http": ("app.announce.webhook", "WebhookAnnouncer", None),
    "local": ("app.announce.bus_topic", "TopicAnnouncer", None),
}


class Announcers:
    """All targets of a list of URLs. A target that fails does not keep the others from their announcement."""

    def __init__(self, targets: Sequence[tuple[str, Announcer]] = ()) -> None:
        self._targets = targets

    def __bool__(self) -> bool:
        return bool(self._targets)

    def announce(self, announcements: Sequence[Announcement]) -> None:
        """Announce to every target; raises AnnounceUnavailable, which names those that failed."""
        if announcements:
            self._each(lambda target: target.announce(announcements))

    def check(self) -> None:
        """Raise AnnounceUnavailable, which names the targets that do not answer."""
        self._each(lambda target: target.check())

    def close(self) -> None:
        """Close every target."""
        for _, target in self._targets:
            target.close()

    def _each(self, call: Callable[[Announcer], object]) -> None:
        faults = []
        for name, target in self._targets:
            try:
                call(target)
            except AnnounceUnavailable as error:
                faults.append(f"{name}: {error.text}")
        if faults:
            raise AnnounceUnavailable("; ".join(faults))


def check_announcers(setting: str, urls: Iterable[str], options: Options) -> None:
    """Raise ConfigError if any of these targets could not be opened. Creates and opens nothing."""
    for url in urls:
        load_backend("announce", url, BACKENDS, setting).check_settings(setting, url, options)


def open_announcers(setting: str, urls: Iterable[str], options: Options) -> Announcers:
    """Open the targets at these URLs, which `setting` lists. Connections are made on first use."""
    targets: list[tuple[str, Announcer]] = []
    try:
        for url in urls:
            backend = load_backend("announce", url, BACKENDS, setting)
            targets.append((shown_url(url), backend(setting, url, options)))
    except ConfigError:
        Announcers(targets).close()
        raise
    return Announcers(targets)


def each_at_once(send: Callable[[Announcement], object], announcements: Sequence[Announcement]) -> None:
    """Send announcements one by one, several at a time; raises the first error."""
    if len(announcements) == 1:
        send(announcements[0])
        return
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="announce") as pool:
        list(pool.map(send, announcements))
