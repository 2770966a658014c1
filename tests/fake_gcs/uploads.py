"""Bodies of uploads: multipart/related in one request, or resumable in chunks."""

import itertools
import json
import re
from dataclasses import dataclass, field
from typing import Any

from tests.fake_gcs.errors import ApiError
from tests.fake_gcs.objects import Preconditions, Version, crc32c, md5

CHUNK_MULTIPLE = 256 * 1024


def parse_multipart(content_type: str, body: bytes) -> tuple[dict[str, Any], str, bytes]:
    """Return the metadata, the content type and the bytes of a multipart upload."""
    boundary = re.fullmatch(r"""multipart/related; boundary=['"]?([^'"]+)['"]?""", content_type.strip())
    if boundary is None:
        raise ApiError(400, "not multipart/related")
    mark = b"--" + boundary.group(1).encode()
    parts = (b"\r\n" + body).split(b"\r\n" + mark)
    if len(parts) != 4 or parts[0].strip() or parts[3].strip() != b"--":
        raise ApiError(400, "a multipart upload has two parts")
    (_, metadata), (headers, data) = (_part(part) for part in parts[1:3])
    return json.loads(metadata), headers.get("content-type", "application/octet-stream"), data


def _part(part: bytes) -> tuple[dict[str, str], bytes]:
    head, blank, body = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
    if not blank:
        raise ApiError(400, "a part without headers")
    lines = (line.split(":", 1) for line in head.decode().split("\r\n"))
    return {key.strip().lower(): value.strip() for key, value in lines}, body


def checked_settings(metadata: dict[str, Any], content_type: str, data: bytes) -> dict[str, Any]:
    """Return the fields to store; the checksums among them must be those of the bytes."""
    found = dict(metadata)
    found.pop("name", None)
    for key, sum_of in (("crc32c", crc32c), ("md5Hash", md5)):
        if found.pop(key, sum_of(data)) != sum_of(data):
            raise ApiError(400, f"Provided {key} doesn't match calculated {key}")
    return {"contentType": content_type, **found}


@dataclass
class Session:
    """A resumable upload under way."""

    bucket: str
    name: str
    metadata: dict[str, Any]
    content_type: str
    conditions: Preconditions
    length: int | None
    origin: str = ""
    data: bytearray = field(default_factory=bytearray)
    done: Version | None = None

    def take(self, content_range: str, body: bytes) -> bool:
        """Add a chunk, or only look where we are; tell whether the upload is complete."""
        found = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", content_range)
        if found is None:
            raise ApiError(400, "Content-Range of a chunk is not legal")
        first, last, total = found.groups()
        end = None if total == "*" else int(total)
        if self.length is not None and end not in (None, self.length):
            raise ApiError(400, "the total is another than announced")
        if first is not None:
            if int(first) > len(self.data) or int(last) - int(first) + 1 != len(body):
                raise ApiError(400, "the chunk does not begin or end where it should")
            self.data += body[len(self.data) - int(first) :]  # what it has already, Cloud Storage ignores
        complete = end is not None and len(self.data) == end
        if not complete and first is not None and len(body) % CHUNK_MULTIPLE:
            raise ApiError(400, "a chunk that is not the last has a multiple of 256 KiB")
        return complete

    def cut(self, content_range: str, body: bytes) -> None:
        """Keep what came of a chunk before its connection broke: half of what was not there yet."""
        first = int(content_range.removeprefix("bytes ").partition("-")[0])
        rest = body[len(self.data) - first :]
        self.data += rest[: len(rest) // 2 // CHUNK_MULTIPLE * CHUNK_MULTIPLE]

    def shared(self) -> dict[str, str]:
        """Return the headers that let pages of the origin that began the session read its answers."""
        if not self.origin:
            return {}
        return {
            "Access-Control-Allow-Origin": self.origin,
            "Access-Control-Expose-Headers": "Range, X-GUploader-UploadID",
            "Vary": "Origin",
        }

    def progress(self) -> dict[str, str]:
        """Return the header that says how far it is."""
        return {"Range": f"bytes=0-{len(self.data) - 1}"} if self.data else {}


class Sessions:
    """Resumable uploads by their id."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._open: dict[str, Session] = {}

    def begin(self, session: Session) -> str:
        upload_id = f"upload-{next(self._numbers)}"
        self._open[upload_id] = session
        return upload_id

    def find(self, upload_id: str) -> Session:
        if upload_id not in self._open:
            raise ApiError(404, "no such upload")
        return self._open[upload_id]

    def shared(self, upload_id: str) -> dict[str, str]:
        """Return the headers for pages that a session's answers have, an error's too."""
        return self._open[upload_id].shared() if upload_id in self._open else {}

    def cancel(self, upload_id: str) -> None:
        self.find(upload_id)
        del self._open[upload_id]
