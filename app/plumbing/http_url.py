"""Check the address of an HTTP receiver that the settings name."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

import httpx

from app.model.errors import ConfigError


def check_http_url(setting: str, url: str, headers: Mapping[str, str]) -> None:
    """Raise ConfigError for a wrong address or header, and for http: to another machine.

    setting: where the address was given, such as `announce.urls`; the headers are in the same section.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
        httpx.Request("POST", url, headers=dict(headers))
    except (ValueError, httpx.InvalidURL):
        section = setting.partition(".")[0]
        raise ConfigError(f"{setting}: an address or a header of {section}.headers is not valid") from None
    if not host:
        raise ConfigError(f"{setting}: a receiver is written https://host/path")
    if parts.scheme == "http" and not _is_loopback(host):
        raise ConfigError(f"{setting}: http: is for receivers on this machine; write https:")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
