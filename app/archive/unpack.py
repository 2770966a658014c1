"""Unpack one member of an archive into memory, within the limits."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO

from app.archive.gzip import GZIP_MAGIC, Inflated, read_chunks
from app.archive.tar import BLOCK, is_header
from app.archive.zip import zip_chunks
from app.model.errors import BadArchive
from app.model.listing import Entry, Kind
from app.model.not_dicom import HEAD_BYTES, not_dicom
from app.model.options import ArchiveLimits

Stream = BinaryIO | Inflated

ZIP_MAGIC = (b"PK\3\4", b"PK\5\6")
OTHER_MAGIC = (b"Rar!\x1a\7", b"7z\xbc\xaf\x27\x1c", b"\xfd7zXZ\0", b"BZh91AY&SY", b"\x28\xb5\x2f\xfd")
DATASET_MAGIC = (b"DICM", b"\x02\0", b"\x08\0", b"\0\x08")
"""First bytes of DICOM without a preamble: group 0002 or 0008 (PS3.10 7.1, PS3.5 7.1)."""


def kind_of(head: bytes) -> Kind | None:
    """Return the format of an archive by its first bytes; None if it is not an archive.

    Parameters
    ----------
    head : the first 512 bytes, fewer for a shorter object
    """
    if head[128:132] == b"DICM":  # PS3.10 7.1: the preamble may hold the magic bytes of another format
        return None
    if head.startswith(ZIP_MAGIC):
        return Kind.ZIP
    if head.startswith(GZIP_MAGIC):
        return Kind.GZIP
    if head.startswith(OTHER_MAGIC):
        return Kind.OTHER
    return Kind.TAR if is_header(head) else None


def may_be_dicom(head: bytes) -> bool:
    """Return whether `read_dataset` may accept bytes that start like this; other members are not unpacked."""
    return head[128:132] == b"DICM" or head.startswith(DATASET_MAGIC)


def unpack(stream: Stream, kind: Kind, entry: Entry, limits: ArchiveLimits) -> bytes:
    """Return the bytes of one member.

    Raises
    ------
    NotDicom : it does not start like DICOM; the rest is not unpacked
    BadArchive : the fault of the entry, `nested_archive`, `member_too_large`, `truncated`, or as `zip_chunks`
    """
    if entry.fault:
        raise BadArchive("a member cannot be unpacked", code=entry.fault)
    chunks = _chunks(stream, kind, entry)
    head = b""
    while len(head) < HEAD_BYTES and (chunk := next(chunks, b"")):
        head += chunk
    if kind_of(head[:BLOCK]) is not None:
        raise BadArchive("a member is an archive itself", code="nested_archive")
    if not may_be_dicom(head):
        raise not_dicom(head[:HEAD_BYTES])
    if entry.size > limits.max_member_bytes:
        raise BadArchive(
            f"a member is over archive.max_member_bytes ({limits.max_member_bytes})", code="member_too_large"
        )
    unpacked = io.BytesIO()
    unpacked.write(head)
    for chunk in chunks:
        unpacked.write(chunk)
    return unpacked.getvalue()


def _chunks(stream: Stream, kind: Kind, entry: Entry) -> Iterator[bytes]:
    if kind is Kind.ZIP and not isinstance(stream, Inflated):
        return zip_chunks(stream, entry)
    stream.seek(entry.offset)
    return read_chunks(stream, entry.size)
