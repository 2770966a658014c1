"""Parse the URL of a BigQuery warehouse. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from urllib.parse import parse_qsl, urlsplit

from app.model.errors import ConfigError

_NAME = re.compile(r"((?:[a-z][a-z0-9.-]*:)?[a-z][a-z0-9-]{4,28}[a-z0-9])\.(\w{1,1024})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Place:
    """A dataset, and endpoints other than the default ones.

    Endpoints are URLs; an http: URL is an emulator, which is used in plain text and without credentials.
    """

    project: str
    dataset: str
    endpoint: str = ""
    write_endpoint: str = ""

    @property
    def name(self) -> str:
        """The dataset as written in SQL and for the REST client."""
        return f"{self.project}.{self.dataset}"

    def stream(self, table: str) -> str:
        """Return the name of the default stream of a table."""
        return f"projects/{self.project}/datasets/{self.dataset}/tables/{table}/streams/_default"


_OPTIONS = [field.name for field in fields(Place)][2:]


def read_url(url: str) -> Place:
    """Parse `bigquery:project.dataset?endpoint=URL&write_endpoint=URL`, all options optional.

    Raises
    ------
    ConfigError : the URL does not have this form
    """
    name, _, text = url.partition(":")[2].partition("?")
    found = _NAME.fullmatch(name)
    if not found:
        raise ConfigError(f"warehouse.url {url!r}: write it as bigquery:project.dataset")
    options = dict(parse_qsl(text, keep_blank_values=True))
    if unknown := options.keys() - set(_OPTIONS):
        raise ConfigError(
            f"warehouse.url: no option {', '.join(sorted(unknown))}; known: {', '.join(_OPTIONS)}"
        )
    place = Place(*found.groups(), **options)
    for option in ("endpoint", "write_endpoint"):
        _check_endpoint(option, options.get(option))
    return place


def _check_endpoint(option: str, url: str | None) -> None:
    if url is not None and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc):
        raise ConfigError(
            f"warehouse.url: {option} must be a URL such as https://host or http://127.0.0.1:9050"
        )
