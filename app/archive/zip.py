"""Read zip files (APPNOTE 6.3): list the central directory, and verify each member against it on reading."""

from __future__ import annotations

import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from struct import Struct
from typing import BinaryIO

from app.archive.gzip import inflate, read_chunks
from app.archive.labels import Labels
from app.archive.limits import check_count, check_size
from app.model.errors import BadArchive
from app.model.listing import Entry, Kind, Listing
from app.model.options import ArchiveLimits

END = Struct("<4s4H2LH")  # 4.3.16
END64_LOCATOR = Struct("<4sLQL")  # 4.3.15
END64 = Struct("<4sQ2H2L4Q")  # 4.3.14
RECORD = Struct("<4s6H3L5H2L")  # 4.3.12
LOCAL = Struct("<4s5H3L2H")  # 4.3.7
STORED, DEFLATED = 0, 8
ENCRYPTED = 0x2041  # 4.4.4: encryption, strong encryption, masked headers
UTF8 = 0x800
UNIX = 3
FULL16, FULL32 = 0xFFFF, 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class _Record:
    """One file header of the central directory."""

    name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    offset: int
    mode: int


def list_zip(stream: BinaryIO, size: int, limits: ArchiveLimits) -> Listing:
    """List the files of a zip of `size` bytes; directories are left out.

    Raises
    ------
    BadArchive : `archive_truncated` (no end record), `bad_directory`, and the codes of the limits
    """
    offset, length, count = _directory(stream, size)
    records, fault = [], ""
    try:
        for record in _records(stream, offset, length):
            records.append(record)
            check_count(len(records), limits)
    except _Broken:
        fault = "bad_directory"
    if (len(records) - count) % (FULL16 + 1):  # writers without zip64 store the count modulo 65,536
        fault = "bad_directory"
    records.sort(key=lambda record: record.offset)
    check_size(sum(record.size for record in records), size, limits)
    ends = [after.offset for _, after in pairwise(records)] + [offset]
    labels = Labels()
    entries = (_entry(record, end, labels) for record, end in zip(records, ends, strict=False))
    return Listing(Kind.ZIP, tuple(entry for entry in entries if entry), fault)


class _Broken(Exception):
    """The rest of the central directory cannot be read."""


def _directory(stream: BinaryIO, size: int) -> tuple[int, int, int]:
    """Return offset and length of the central directory in bytes, and its declared number of files."""
    begin = max(0, size - END.size - FULL16)
    stream.seek(begin)
    tail = stream.read(size - begin)
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < END.size:
        raise BadArchive("the zip has no end record", code="archive_truncated")
    _, disk, first, _, count, length, offset, _ = END.unpack_from(tail, at)
    end = begin + at
    if FULL16 in (disk, first, count) or FULL32 in (length, offset):
        stream.seek(max(0, end - END64_LOCATOR.size))
        located = stream.read(END64_LOCATOR.size)
        if located.startswith(b"PK\6\7") and len(located) == END64_LOCATOR.size:
            end = END64_LOCATOR.unpack(located)[2]
            stream.seek(min(end, size))
            record = stream.read(END64.size)
            if len(record) < END64.size or not record.startswith(b"PK\6\6"):
                raise BadArchive("the zip64 end record is missing", code="bad_directory")
            _, _, _, _, disk, first, _, count, length, offset = END64.unpack(record)
    if disk or first or offset + length > end:
        raise BadArchive("the central directory is not in this file", code="bad_directory")
    return offset, length, count


def _records(stream: BinaryIO, offset: int, length: int) -> Iterator[_Record]:
    stream.seek(offset)
    while length:
        head = stream.read(RECORD.size)
        if len(head) < RECORD.size or not head.startswith(b"PK\1\2"):
            raise _Broken
        fields = RECORD.unpack(head)
        made, flags, method, crc, packed, size = fields[1], *fields[3:5], *fields[7:10]
        names, extras, comments = fields[10:13]
        name, extra = stream.read(names), stream.read(extras)
        length -= RECORD.size + names + extras + len(stream.read(comments))
        if length < 0:
            raise _Broken
        mode = fields[15] >> 16 if made >> 8 == UNIX else 0
        size, packed, offset = _zip64(extra, size, packed, fields[16])
        yield _Record(name, flags, method, crc, packed, size, offset, mode)


def _zip64(extra: bytes, *fields: int) -> list[int]:
    """Return size, packed size and offset; from the zip64 field those that do not fit 32 bits (4.5.3)."""
    while len(extra) >= 4:
        kind, length = Struct("<2H").unpack_from(extra)
        if kind == 1:
            wide = Struct(f"<{length // 8}Q").unpack_from(extra.ljust(4 + length, b"\0"), 4)
            values = iter(wide)
            return [next(values, field) if field == FULL32 else field for field in fields]
        extra = extra[4 + length :]
    return list(fields)


def _entry(record: _Record, end: int, labels: Labels) -> Entry | None:
    if record.name.endswith((b"/", b"\\")) and not record.size:
        return None
    entry = Entry(
        label=labels.add(record.name, "utf-8" if record.flags & UTF8 else "cp437"),
        offset=record.offset,
        end=end,
        size=record.size,
        packed=record.packed,
        method=record.method,
        crc=record.crc,
    )
    if stat.S_IFMT(record.mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return replace(entry, fault="not_a_file")
    if record.flags & ENCRYPTED:
        return replace(entry, fault="encrypted")
    # Overlapping files are a zip bomb that no compression ratio reveals.
    overlaps = record.offset + LOCAL.size + len(record.name) + record.packed > end
    return replace(entry, fault="overlapping_members") if overlaps else entry


def zip_chunks(stream: BinaryIO, entry: Entry) -> Iterator[bytes]:
    """Yield the bytes of one file; nothing is inflated beyond its declared size.

    Raises
    ------
    BadArchive : `header_mismatch` (the local header is missing or differs), `encrypted`,
        `overlapping_members`, `unsupported_compression`, `size_mismatch`, `bad_checksum`, or as `inflate`
    """
    stream.seek(entry.offset)
    head = stream.read(LOCAL.size)
    if len(head) < LOCAL.size or not head.startswith(b"PK\3\4"):
        raise BadArchive("a member has no local header", code="header_mismatch")
    _, _, flags, method, _, _, _, _, _, names, extras = LOCAL.unpack(head)
    if flags & ENCRYPTED:
        raise BadArchive("a member is encrypted", code="encrypted")
    if method != entry.method:
        raise BadArchive("a local header contradicts the central directory", code="header_mismatch")
    begin = entry.offset + LOCAL.size + names + extras
    if begin + entry.packed > entry.end:
        raise BadArchive("a member overlaps the next one", code="overlapping_members")
    if method not in (STORED, DEFLATED):
        raise BadArchive("a member is neither stored nor deflated", code="unsupported_compression")
    stream.seek(begin)
    chunks = inflate(stream, entry.packed) if method == DEFLATED else read_chunks(stream, entry.packed)
    yield from _checked(chunks, entry)


def _checked(chunks: Iterator[bytes], entry: Entry) -> Iterator[bytes]:
    size, crc = 0, 0
    for chunk in chunks:
        size, crc = size + len(chunk), zlib.crc32(chunk, crc)
        if size > entry.size:
            break
        yield chunk
    if size != entry.size:
        raise BadArchive("the size of a member differs from the central directory", code="size_mismatch")
    if crc != entry.crc:
        raise BadArchive("the checksum of a member differs from the central directory", code="bad_checksum")
