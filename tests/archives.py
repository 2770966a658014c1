"""Archives made in code, whole and hostile, as the bytes of an object."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Iterable

import pytest

from app import archive
from app.archive.gzip import Inflated
from app.archive.unpack import unpack
from app.model.errors import BadArchive, PermanentError
from app.model.listing import Kind
from app.model.options import ArchiveLimits
from app.model.values import Content
from tests import data

LIMITS = ArchiveLimits()
MIB = 1 << 20
Files = Iterable[tuple[str, bytes]]


def zipped(files: Files, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a zip as Python's own writer makes it."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", method) as archive:
        warnings.simplefilter("ignore")  # names that are there already
        for name, content in files:
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return buffer.getvalue()


def tarred(files: Files, form: int = tarfile.PAX_FORMAT) -> bytes:
    """Return a tar as Python's own writer makes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, content in files:
            archive.addfile(tar_file(name, len(content)), io.BytesIO(content))
    return buffer.getvalue()


def tar_file(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    """Return what a tar says of one file."""
    found = tarfile.TarInfo(name)
    found.size, found.type, found.linkname = size, kind, link
    return found


def tar_special(kind: bytes, link: str = "", form: int = tarfile.PAX_FORMAT) -> bytes:
    """Return a tar of something that is no file, followed by a good one."""
    good = tar_file("good.dcm", len(data.minimal()))
    head = tar_file("special.dcm", kind=kind, link=link).tobuf(form)
    body = data.minimal().ljust(-(-good.size // 512) * 512, b"\0")
    return head + good.tobuf(form) + body + bytes(1024)


def patched(archive: bytes, *changes: tuple[bytes, bytes]) -> bytes:
    """Return an archive with bytes replaced by as many others, wherever they are."""
    for old, new in changes:
        assert len(old) == len(new)
        assert old in archive
        archive = archive.replace(old, new)
    return archive


def deflated_zeros(size_mib: int) -> tuple[bytes, int]:
    """Return so many MiB of zeros deflated, and their checksum, without ever having them."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    crc = 0
    for _ in range(size_mib):
        crc = zlib.crc32(bytes(MIB), crc)
    return block * size_mib + packer.flush(), crc


def zip_raw(name: str, packed: bytes, size: int, crc: int) -> bytes:
    """Return a zip of one deflated member whose headers say what they are told."""
    told = struct.pack("<HHHHHLLLHH", 20, 0, 8, 0, 0x21, crc, len(packed), size, len(name), 0)
    local = b"PK\3\4" + told + name.encode() + packed
    record = b"PK\1\2\x14\3" + told + struct.pack("<HHHLL", 0, 0, 0, 0, 0) + name.encode()
    return local + record + b"PK\5\6" + struct.pack("<HHHHLLH", 0, 0, 1, 1, len(record), len(local), 0)


def overlapping(count: int) -> bytes:
    """Return a zip whose members all are the same bytes."""
    one = zipped([("a.dcm", data.minimal())], zipfile.ZIP_STORED)
    at = one.index(b"PK\1\2")
    record, end = one[at : one.index(b"PK\5\6")], one[:at]
    records = b"".join(record.replace(b"a.dcm", b"%05d" % number) for number in range(count))
    return end + records + b"PK\5\6" + struct.pack("<HHHHLLH", 0, 0, count, count, len(records), len(end), 0)


def gzip_bomb(size_mib: int, head: bytes = b"") -> bytes:
    """Return a gzip of `head` and so many MiB of zeros; its checksum is never reached."""
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    begin = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    return begin + deflated_zeros(size_mib)[0]


def tgz(files: Files) -> bytes:
    """Return a tar in gzip."""
    return gzip.compress(tarred(files), mtime=0)


def content(packed: bytes, name: str = "x.zip") -> Content:
    """Return an archive as the storage hands it over."""
    return data.content(packed, f"gs://landing/{name}")


def unpacked(
    packed: bytes, limits: ArchiveLimits = LIMITS, name: str = "x.zip"
) -> tuple[dict[str, bytes | str], str]:
    """Return what the members are, label -> bytes or code, and the fault of the archive."""
    whole = content(packed, name)
    listing = archive.list_members(whole, limits)
    found: dict[str, bytes | str] = {}
    for entry in listing.entries:
        part = archive.part(whole, listing.kind, [entry])
        gzipped = listing.kind is Kind.GZIP
        stream = Inflated(whole.open(), whole.size, limits) if gzipped else part.content.open()
        try:
            found[entry.label] = unpack(stream, listing.kind, part.entries[0], limits)
        except PermanentError as error:
            found[entry.label] = error.code
    return found, listing.fault


def refused(packed: bytes, limits: ArchiveLimits = LIMITS) -> str:
    """Return the code with which an archive is refused whole."""
    with pytest.raises(BadArchive) as caught:
        archive.list_members(content(packed), limits)
    return caught.value.code
