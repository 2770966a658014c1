"""Objects stored with Content-Encoding gzip: what they hold. Called in workers alone, for it inflates."""

from __future__ import annotations

import gzip
import io
from typing import BinaryIO

from app.model.errors import BadDataset, LimitExceeded, permanent

MAX_BYTES = 256 << 20
GZIP_MAGIC = b"\x1f\x8b"
CHUNK_BYTES = 2 << 20


def inflated(stream: BinaryIO, limit: int = MAX_BYTES) -> BinaryIO:
    """Return what a gzip stream holds; a stream that is not gzip, whatever was said of it, as it is.

    Raises LimitExceeded when it holds more than `limit` bytes, BadDataset when it is broken.
    """
    is_gzip = stream.read(2) == GZIP_MAGIC
    stream.seek(0)
    if not is_gzip:
        return stream
    held = io.BytesIO()
    with permanent(BadDataset), gzip.GzipFile(fileobj=stream) as source:
        while chunk := source.read(CHUNK_BYTES):
            held.write(chunk)
            if held.tell() > limit:
                raise LimitExceeded("the gzip-encoded object holds too many bytes")
    held.seek(0)
    return held
