"""Read tar files: old, POSIX ustar and pax (IEEE 1003.1 pax), GNU long names; strictly forward.

Python's tarfile is not used: it treats a damaged header as the end of the archive, and it reads extended
headers of any size.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from app.archive.gzip import Forward
from app.archive.labels import Labels
from app.archive.limits import check_count, check_size
from app.model.errors import BadArchive
from app.model.listing import Entry, Kind, Listing
from app.model.options import ArchiveLimits

BLOCK = 512
MAX_SIZE = (1 << 63) - 1  # of a file, in bytes: what an off_t holds
MAX_EXTENDED = 1 << 20
MAX_ZEROS = 1 << 12
"""Maximum zero blocks to skip at the end; writers pad to a whole record, by default 20 blocks."""
DIRECTORY, GNU_NAME, GNU_LINK, PAX, PAX_GLOBAL, GNU_SPARSE = b"5", b"L", b"K", b"x", b"g", b"S"
GNU_VOLUME = b"V"  # first entry of `tar --label`: a name for the archive
LINKS_AND_DEVICES = frozenset((b"1", b"2", b"3", b"4", b"6"))
WITHOUT_DATA = LINKS_AND_DEVICES | {DIRECTORY, GNU_VOLUME}
FAULTS = ("archive_truncated", "bad_header")
"""Codes of faults that leave the files before them intact."""


@dataclass(frozen=True, slots=True)
class _Header:
    """One file header, with the values of the extended headers before it."""

    name: bytes
    size: int
    kind: bytes
    sparse: bool
    end: int  # where the next header is


@dataclass(slots=True)
class _Reader:
    """Reads header by header. size: bytes of the stream, None if unknown. extended: from extended headers."""

    stream: Forward
    size: int | None
    position: int = 0
    extended: dict[bytes, bytes] = field(default_factory=dict)

    def read(self, count: int) -> bytes:
        """Return exactly `count` bytes."""
        data = self.stream.read(count)
        self.position += len(data)
        if len(data) != count:
            raise BadArchive("the tar is truncated", code="archive_truncated")
        return data

    def skip(self, target: int) -> None:
        """Skip to `target`, which must exist."""
        if self.size is not None and target > self.size:
            raise BadArchive("the tar is truncated", code="archive_truncated")
        self.position = self.stream.seek(target)
        if self.position < target:
            raise BadArchive("the tar is truncated", code="archive_truncated")

    def header(self) -> _Header | None:
        """Return the next header of a file, None at the end of the archive."""
        block = self.read(BLOCK)
        if not any(block):
            block = self.after_zeros()
        if not block:
            return None
        if not is_header(block):
            raise BadArchive("a tar header has a wrong checksum", code="bad_header")
        size, kind = _number(block[124:136]), block[156:157]
        if kind in (GNU_NAME, GNU_LINK, PAX, PAX_GLOBAL):
            return _Header(b"", size, kind, False, 0)
        extended, self.extended = self.extended, {}
        if kind == GNU_SPARSE:
            more = block[482]
            while more:
                more = self.read(BLOCK)[504]
        name = extended.get(b"path") or _name(block)
        if kind in WITHOUT_DATA:  # some writers store the size of a link's target
            size = 0
        elif b"size" in extended:
            size = _decimal(extended[b"size"])
        sparse = kind == GNU_SPARSE or any(key.startswith(b"GNU.sparse.") for key in extended)
        return _Header(name, size, kind, sparse, _padded(self.position + size))

    def after_zeros(self) -> bytes:
        """Return the first block after zero blocks, empty at the end of the archive.

        Two zero blocks end an archive; a valid header after them is that of a tar appended to it, whose files
        are listed too. A single zero block does not end it: the block after it must be a header.
        """
        for zeros in range(1, MAX_ZEROS):
            block = self.stream.read(BLOCK)
            self.position += len(block)
            if any(block):
                return block if zeros == 1 or is_header(block) else b""
            if len(block) < BLOCK:
                break
        return b""

    def read_extended(self, header: _Header) -> None:
        """Read the data of an extended header, which applies to the next file."""
        if header.size > MAX_EXTENDED:
            raise BadArchive("an extended tar header is too large", code="bad_header")
        begin = self.position
        data = self.read(header.size)
        self.skip(_padded(begin + header.size))
        if header.kind == GNU_NAME:
            self.extended[b"path"] = data.partition(b"\0")[0]
        elif header.kind == PAX:
            self.extended |= _pax(data)


def list_tar(stream: Forward, size: int | None, limits: ArchiveLimits) -> Listing:
    """List the files of a tar; directories are left out.

    Parameters
    ----------
    stream : positioned at the start of the tar
    size : its size in bytes, None if it is unknown until the end

    Returns
    -------
    the files before the first fault; `fault` is `archive_truncated` (also if the final zero block is missing)
    or `bad_header`

    Raises
    ------
    BadArchive : the codes of the limits
    """
    reader, labels = _Reader(stream, size), Labels()
    entries: list[Entry] = []
    headers = 0
    try:
        while (header := reader.header()) is not None:
            headers += 1
            check_count(headers // 3, limits)  # up to two extended headers per file are legitimate
            if not header.end:
                reader.read_extended(header)
                continue
            if header.kind in (DIRECTORY, GNU_VOLUME) or header.name.endswith(b"/"):
                reader.skip(header.end)
                continue
            entry = _entry(header, reader.position, labels)
            entries.append(replace(entry, fault=entry.fault or "truncated"))
            check_count(len(entries), limits)
            reader.skip(header.end)
            entries[-1] = entry
    except BadArchive as error:
        if error.code not in FAULTS:
            raise
        return Listing(Kind.TAR, tuple(entries), error.code)
    check_size(sum(entry.size for entry in entries), reader.position, limits)
    return Listing(Kind.TAR, tuple(entries))


def is_header(block: bytes) -> bool:
    """Return whether a block is a tar header, by its checksum, which counts its own field as blanks."""
    if len(block) < BLOCK or not any(block[148:156].strip(b" \0")):
        return False
    try:
        checksum = _number(block[148:156])
    except BadArchive:
        return False
    return checksum == sum(block[:148]) + 8 * ord(" ") + sum(block[156:BLOCK])


def _entry(header: _Header, begin: int, labels: Labels) -> Entry:
    fault = "not_a_file" if header.kind in LINKS_AND_DEVICES else ""
    return Entry(
        label=labels.add(header.name),
        offset=begin,
        end=begin + header.size,
        size=header.size,
        fault="sparse_file" if header.sparse else fault,
    )


def _name(block: bytes) -> bytes:
    name = block[:100].partition(b"\0")[0]
    if block[257:263] != b"ustar\0":  # GNU stores other fields where POSIX has the prefix of the name
        return name
    prefix = block[345:500].partition(b"\0")[0]
    return prefix + b"/" + name if prefix else name


def _number(text: bytes) -> int:
    """Parse a number of a header: octal digits, or binary if the first bit is set (GNU)."""
    if text[0] & 0x80:
        return _checked(int.from_bytes(text[1:], "big")) if text[0] == 0x80 else _bad_number()
    digits = text.strip(b" \0") or b"0"
    return int(digits, 8) if all(digit in b"01234567" for digit in digits) else _bad_number()


def _decimal(text: bytes) -> int:
    return _checked(int(text)) if text.isdigit() and len(text) < 20 else _bad_number()


def _checked(number: int) -> int:
    return number if number <= MAX_SIZE else _bad_number()


def _bad_number() -> int:
    raise BadArchive("a tar header has an invalid number", code="bad_header")


def _padded(position: int) -> int:
    return -(-position // BLOCK) * BLOCK


def _pax(data: bytes) -> dict[bytes, bytes]:
    """Parse the records `length key=value\\n` of a pax header."""
    found, at = {}, 0
    while at < len(data):
        blank = data.find(b" ", at, at + 8)
        length = _decimal(data[at:blank]) if blank > 0 else _bad_number()
        if not blank - at < length - 1 <= len(data) - at - 1:
            _bad_number()
        key, _, value = data[blank + 1 : at + length - 1].partition(b"=")
        found[key] = value
        at += length
    return found
