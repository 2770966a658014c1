"""Pictures by HTTP: each is a POST of JSON or of a form, and any 2xx answer is its receipt.

docs/receiver.yaml describes what a receiver must implement. Nothing is retried here: the bus does that.
"""

from __future__ import annotations

import base64
import json

import httpx

from app.forward import SETTING, Options
from app.model.errors import ForwardRefused, ForwardUnavailable
from app.model.values import Picture
from app.plumbing.http_url import check_http_url

KNOWN = 409
"""The receiver has this key already."""
LATER = frozenset((408, 425, 429))
"""Below 500, the answers after which a repetition may succeed."""


class HttpReceiver:
    """The receiver at an address; connections are kept, redirects not followed."""

    def __init__(self, url: str, options: Options) -> None:
        self.check_settings(url, options)
        self._url, self._multipart = url, options.multipart
        self._client = httpx.Client(headers=dict(options.headers), timeout=options.timeout_s)

    @staticmethod
    def check_settings(url: str, options: Options) -> None:
        """Raise ConfigError for a wrong address or header, and for http: to another machine."""
        check_http_url(SETTING, url, options.headers)

    def forward(self, picture: Picture) -> None:
        """Post the picture; return on a 2xx answer, or if the receiver has it already."""
        try:
            answer = self._client.send(self._request(picture))
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, RuntimeError) as exc:
            raise ForwardUnavailable(type(exc).__name__) from exc
        status = answer.status_code
        if answer.is_success or status == KNOWN:
            return
        if status in LATER or status >= 500:
            error = ForwardUnavailable(f"it answers {status}")
            error.retry_after = answer.headers.get("retry-after", "")
            raise error
        raise ForwardRefused(f"it answers {status}")

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _request(self, picture: Picture) -> httpx.Request:
        headers = {"Idempotency-Key": picture.row_id}
        fields = {"row_id": picture.row_id, "file_name": picture.file_name, **picture.facts}
        if self._multipart:
            form = {name: value for name, value in fields.items() if value is not None}
            files = {"picture": (picture.file_name, picture.png, "image/png")}
            return self._client.build_request("POST", self._url, headers=headers, data=form, files=files)
        fields["picture"] = base64.b64encode(picture.png).decode()
        headers["Content-Type"] = "application/json"
        return self._client.build_request("POST", self._url, headers=headers, content=json.dumps(fields))
