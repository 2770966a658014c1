"""Pictures forwarded to other systems: the protocol, and the receivers by URL scheme."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from app.model.errors import ConfigError
from app.model.names import shown_url
from app.model.values import Picture
from app.plumbing.backends import load_backend

SETTING = "forward.urls"


@dataclass(frozen=True, slots=True)
class Options:
    """How to send by HTTP: seconds to wait, headers of every request, and multipart instead of JSON."""

    timeout_s: float
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    multipart: bool = False


class Receiver(Protocol):
    """One receiver of pictures. Safe to call from several threads."""

    def forward(self, picture: Picture) -> None:
        """Return once the receiver has the picture; repeating the call is safe.

        Raises ForwardUnavailable if it may accept it later, ForwardRefused if it never will.
        """
        ...

    def close(self) -> None:
        """Close connections."""
        ...


BACKENDS: dict[str, tuple[str, str, str | None]] = {
    "https": ("app.forward.http", "HttpReceiver", None),
    "http": ("app.forward.http", "HttpReceiver", None),
    "file": ("app.forward.encoded", "EncodedFiles", None),
}


def check_receiver(url: str, options: Options) -> None:
    """Raise ConfigError if this receiver could not be opened. Creates and opens nothing."""
    load_backend("forward", url, BACKENDS, SETTING).check_settings(url, options)


def check_distinct(urls: Sequence[str]) -> None:
    """Raise ConfigError if two receivers would be named alike in rows and messages."""
    for name, count in Counter(map(shown_url, urls)).items():
        if count > 1:
            raise ConfigError(f"{SETTING}: {name} is named twice; a user or a query does not count")


def open_receivers(urls: Sequence[str], options: Options) -> dict[str, Receiver]:
    """Open the receivers at these URLs, by the names that rows and messages show."""
    opened: dict[str, Receiver] = {}
    try:
        for url in urls:
            opened[shown_url(url)] = load_backend("forward", url, BACKENDS, SETTING)(url, options)
    except ConfigError:
        for receiver in opened.values():
            receiver.close()
        raise
    return opened
