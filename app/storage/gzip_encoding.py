"""Decode objects stored with Content-Encoding gzip. Only workers may call this, because it inflates."""

from __future__ import annotations

import gzip
import io
from typing import BinaryIO

from app.model.errors import BadDataset, LimitExceeded, permanent

MAX_BYTES = 256 << 20
GZIP_MAGIC = b"\x1f\x8b"
CHUNK_BYTES = 2 << 20


def inflated(stream: BinaryIO, limit: int = MAX_BYTES) -> BinaryIO:
    """Inflate a gzip stream; return any other stream unchanged, whatever encoding was declared for it.

    Raises LimitExceeded if it inflates to more than `limit` bytes, BadDataset if it is broken.
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
                raise LimitExceeded(f"the gzip-encoded object inflates to more than {limit} bytes")
    held.seek(0)
    return held
