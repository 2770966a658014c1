"""Announcements by HTTP: each is a POST of a CloudEvent in binary mode, and any 2xx answer is its receipt.

Nothing is retried here: a refusal nacks the event, and its redelivery announces again with the same id.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

import httpx

from app.announce import Options, each_at_once
from app.model.errors import AnnounceUnavailable
from app.model.values import Announcement
from app.plumbing.http_url import check_http_url

TIMEOUT_S = 10.0
_SAFE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
"""Characters of a header's value that stay as they are (CloudEvents HTTP binding 3.1.3.2)."""


class WebhookAnnouncer:
    """The receiver at an address; connections are kept."""

    def __init__(self, setting: str, url: str, options: Options) -> None:
        self.check_settings(setting, url, options)
        headers = {**options.headers, "content-type": "application/json"}
        self._url, self._closed = url, False
        self._client = httpx.Client(headers=headers, timeout=TIMEOUT_S)

    @staticmethod
    def check_settings(setting: str, url: str, options: Options) -> None:
        """Raise ConfigError for a wrong address or header, and for http: to another machine."""
        check_http_url(setting, url, options.headers)

    def announce(self, announcements: Sequence[Announcement]) -> None:
        """Post them; return once every one has a 2xx answer."""
        each_at_once(self._post, announcements)

    def check(self) -> None:
        """Do nothing: any request to a receiver would have an effect."""

    def close(self) -> None:
        """Close the connections."""
        self._closed = True
        self._client.close()

    def _post(self, one: Announcement) -> None:
        if self._closed:
            raise AnnounceUnavailable("it is closed")
        headers = {
            f"ce-{name}": quote(value, _SAFE, errors="replace") for name, value in one.attributes.items()
        }
        try:
            answer = self._client.post(self._url, content=one.data, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, RuntimeError) as exc:
            raise AnnounceUnavailable(type(exc).__name__) from exc
        if not answer.is_success:
            raise AnnounceUnavailable(f"it answers {answer.status_code}")
