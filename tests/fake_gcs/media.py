"""Answers with the bytes of an object: checksums, ranges, and the transcoding of gzip-encoded ones."""

import gzip
import re
from email.utils import format_datetime

from tests.fake_gcs.errors import ApiError
from tests.fake_gcs.messages import Response
from tests.fake_gcs.objects import Version


def media(version: Version, range_header: str, accept_encoding: str) -> Response:
    """Return the bytes as Cloud Storage serves them.

    A gzip-encoded object comes as it is stored to who accepts gzip, else inflated: then without length, and
    whole whatever the range.
    """
    encoding = version.settings.get("contentEncoding", "")
    headers = _headers(version, encoding)
    no_transform = "no-transform" in version.settings.get("cacheControl", "")
    if encoding == "gzip" and "gzip" not in accept_encoding and not no_transform:
        headers["Warning"] = "214 UploadServer gunzipped"
        return Response(200, gzip.decompress(version.data), headers, length=False)
    if encoding:
        headers["Content-Encoding"] = encoding
    headers["Accept-Ranges"] = "bytes"
    if not range_header:
        return Response(200, version.data, headers)
    first, last = _range(range_header, len(version.data))
    headers["Content-Range"] = f"bytes {first}-{last}/{len(version.data)}"
    return Response(206, version.data[first : last + 1], headers)


def _headers(version: Version, encoding: str) -> dict[str, str]:
    hashes = [f"crc32c={version.crc32c}"] + ([] if version.components else [f"md5={version.md5}"])
    headers = {
        "Content-Type": version.settings.get("contentType", "application/octet-stream"),
        "Cache-Control": version.settings.get("cacheControl", "private, max-age=0"),
        "ETag": version.etag(),
        "Last-Modified": format_datetime(version.made, usegmt=True),
        "X-Goog-Generation": str(version.generation),
        "X-Goog-Metageneration": str(version.metageneration),
        "X-Goog-Storage-Class": "STANDARD",
        "X-Goog-Stored-Content-Encoding": encoding or "identity",
        "X-Goog-Stored-Content-Length": str(len(version.data)),
        "X-Goog-Hash": ",".join(hashes),
    }
    if encoding == "gzip":
        headers["Vary"] = "Accept-Encoding"
    return headers


def _range(header: str, size: int) -> tuple[int, int]:
    """Return the first and last byte of a single range; raise 416 when there are none."""
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", header)
    if found is None or found.groups() == ("", ""):
        raise ApiError(501, "only a single range of bytes is served here")
    first, last = found.groups()
    start = int(first) if first else max(0, size - int(last))
    end = min(int(last), size - 1) if first and last else size - 1
    if start > end:
        raise ApiError(416, "", {"Content-Range": f"bytes */{size}"})
    return start, end
