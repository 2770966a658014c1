"""The CRC32C checksum that Cloud Storage stores with every object; local folders compute the same."""

from __future__ import annotations

import base64
from typing import BinaryIO

import google_crc32c

CHUNK_BYTES = 2**20


def checksum(stream: BinaryIO) -> str:
    """Return the CRC32C of the rest of a stream in the format of Cloud Storage: big-endian, base64."""
    crc = 0
    while chunk := stream.read(CHUNK_BYTES):
        crc = google_crc32c.extend(crc, chunk)
    return base64.b64encode(crc.to_bytes(4, "big")).decode()
