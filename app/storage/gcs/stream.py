"""Read one version of an object in Cloud Storage, whole or in ranges."""

from __future__ import annotations

import io
import time
from typing import Any, BinaryIO

from app.model.errors import ObjectGone, ShortRead, StorageUnavailable
from app.model.range_stream import RangedStream
from app.model.values import ObjectRef
from app.storage.gcs.client import DEADLINE_S, TIMEOUT_S, tried

MIN_REQUEST_BYTES = 2 * 2**20
"""Minimum per request: its transfer takes about as long as the latency of a request."""
MAX_REQUEST_BYTES = 32 * 2**20
"""Maximum per request, so that each ends within its deadline."""


class _Sink(io.BytesIO):
    """Receives a download and enforces its maximum size and duration."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit, self._end = limit, time.monotonic() + DEADLINE_S

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > self._limit:
            raise ShortRead("the store sent more bytes than requested")
        if time.monotonic() > self._end:
            raise StorageUnavailable("the download is too slow")
        return super().write(data)


def version(client: Any, ref: ObjectRef) -> Any:
    """Return the SDK's handle for one version, without a request."""
    return client.bucket(ref.bucket).blob(ref.name, generation=ref.generation)


def download(blob: Any, limit: int, start: int | None = None, end: int | None = None) -> bytes:
    """Return the stored bytes, not decoded, from `start` to `end` inclusive; ShortRead if above `limit`."""
    sink = _Sink(limit)
    blob.download_to_file(
        sink,
        start=start,
        end=end,
        raw_download=True,
        if_generation_match=blob.generation,
        checksum=None,  # the caller verifies it; for a range the SDK would only log that there is none
        timeout=TIMEOUT_S,
        retry=None,
    )
    return sink.getvalue()


def stream_version(client: Any, ref: ObjectRef, size: int) -> BinaryIO:
    """Return a seekable stream over a version of `size` stored bytes; small reads share a request.

    Reads raise ObjectGone once the version is gone.
    """

    def get(start: int, count: int) -> bytes:
        return tried(lambda: _range(client, ref, start, count), ObjectGone)

    return io.BufferedReader(RangedStream(get, size, MAX_REQUEST_BYTES), MIN_REQUEST_BYTES)


def _range(client: Any, ref: ObjectRef, start: int, count: int) -> bytes:
    data = download(version(client, ref), count, start, start + count - 1)
    if len(data) != count:
        raise ShortRead("the range ended early")
    return data
