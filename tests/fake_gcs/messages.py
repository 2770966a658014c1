"""Requests and answers of the JSON API, apart from the wire."""

import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.fake_gcs.errors import ApiError
from tests.fake_gcs.fields import partial
from tests.fake_gcs.objects import Preconditions

CONDITIONS = {
    "ifGenerationMatch": "generation",
    "ifGenerationNotMatch": "not_generation",
    "ifMetagenerationMatch": "metageneration",
    "ifMetagenerationNotMatch": "not_metageneration",
}


@dataclass(frozen=True)
class Request:
    """One request as it came; `names` are the parts of the path, unquoted."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes = b""
    names: tuple[str, ...] = ()

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    def number(self, name: str) -> int | None:
        value = self.query.get(name)
        if value is None:
            return None
        if not re.fullmatch(r"[0-9]{1,19}", value):
            raise ApiError(400, f"Invalid value for {name}")
        return int(value)

    def conditions(self) -> Preconditions:
        return Preconditions(**{ours: self.number(theirs) for theirs, ours in CONDITIONS.items()})

    def json(self) -> dict[str, Any]:
        return json.loads(self.body or b"{}")


@dataclass
class Response:
    """An answer before it is sent; `length` False sends the body in chunks, without Content-Length."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    length: bool = True


def refusal(error: ApiError, request: Request) -> Response:
    """Return an error as the API words it: in JSON, but for who asked for media in text."""
    wants_media = request.query.get("alt") == "media"
    kind = "text/html; charset=UTF-8" if wants_media else "application/json; charset=UTF-8"
    body = error.message.encode() if wants_media else error.body()
    headers = {"Content-Type": kind, **error.headers}
    return Response(error.status, b"" if error.status == 304 else body, headers)


def answer_json(value: Any, request: Request | None = None) -> Response:
    if request and "fields" in request.query:
        value = partial(value, request.query["fields"])
    return Response(200, json.dumps(value).encode(), {"Content-Type": "application/json; charset=UTF-8"})
