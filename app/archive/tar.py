"""Tar files: old, POSIX ustar and pax (IEEE 1003.1 pax), GNU long names; read strictly in order.

Python's tarfile takes a damaged header for the end of the archive and reads extended headers of any size.
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
"""Blocks of zeros after which nothing more is looked for; writers fill up a record, by default 20 blocks."""
DIRECTORY, GNU_NAME, GNU_LINK, PAX, PAX_GLOBAL, GNU_SPARSE = b"5", b"L", b"K", b"x", b"g", b"S"
GNU_VOLUME = b"V"  # what `tar --label` begins with: a name for the archive
LINKS_AND_DEVICES = frozenset((b"1", b"2", b"3", b"4", b"6"))
WITHOUT_DATA = LINKS_AND_DEVICES | {DIRECTORY, GNU_VOLUME}
FAULTS = ("archive_truncated", "bad_header")
"""Codes after which the files that came before still are what they say."""


@dataclass(frozen=True, slots=True)
class _Header:
    """One file header, with what the extended headers before it say."""

    name: bytes
    size: int
    kind: bytes
    sparse: bool
    end: int  # where the next header is


@dataclass(slots=True)
class _Reader:
    """Goes from header to header. `size`: bytes of the stream, None where nobody knows."""

    stream: Forward
    size: int | None
    position: int = 0
    said: dict[bytes, bytes] = field(default_factory=dict)

    def read(self, count: int) -> bytes:
        """Return exactly so many bytes."""
        found = self.stream.read(count)
        self.position += len(found)
        if len(found) != count:
            raise BadArchive("the tar ends too early", code="archive_truncated")
        return found

    def skip(self, target: int) -> None:
        """Go forward to `target`, which has to be there."""
        if self.size is not None and target > self.size:
            raise BadArchive("the tar ends too early", code="archive_truncated")
        self.position = self.stream.seek(target)
        if self.position < target:
            raise BadArchive("the tar ends too early", code="archive_truncated")

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
        said, self.said = self.said, {}
        if kind == GNU_SPARSE:
            more = block[482]
            while more:
                more = self.read(BLOCK)[504]
        name = said.get(b"path") or _name(block)
        if kind in WITHOUT_DATA:  # some writers give the size of what they link to
            size = 0
        elif b"size" in said:
            size = _decimal(said[b"size"])
        sparse = kind == GNU_SPARSE or any(key.startswith(b"GNU.sparse.") for key in said)
        return _Header(name, size, kind, sparse, _padded(self.position + size))

    def after_zeros(self) -> bytes:
        """Return the block after one of zeros and more of them, empty at the end of the archive.

        Two end it, yet the files of a tar that was appended follow. What follows a single one is more of this
        archive: the one was a header.
        """
        for zeros in range(1, MAX_ZEROS):
            block = self.stream.read(BLOCK)
            self.position += len(block)
            if any(block):
                return block if zeros == 1 or is_header(block) else b""
            if len(block) < BLOCK:
                break
        return b""

    def extended(self, header: _Header) -> None:
        """Take in what an extended header says about the next file."""
        if header.size > MAX_EXTENDED:
            raise BadArchive("an extended tar header is too large", code="bad_header")
        begin = self.position
        data = self.read(header.size)
        self.skip(_padded(begin + header.size))
        if header.kind == GNU_NAME:
            self.said[b"path"] = data.partition(b"\0")[0]
        elif header.kind == PAX:
            self.said |= _pax(data)


def list_tar(stream: Forward, size: int | None, limits: ArchiveLimits) -> Listing:
    """Return the files of a tar; directories are left out.

    Parameters
    ----------
    stream : at the beginning of the tar
    size : its bytes, None if they are not known before they are read

    Raises
    ------
    BadArchive : the codes of the limits. What a broken archive holds before its fault is listed, with `fault`
        `archive_truncated` (also when the block of zeros at the end is missing) or `bad_header`
    """
    reader, labels = _Reader(stream, size), Labels()
    entries: list[Entry] = []
    headers = 0
    try:
        while (header := reader.header()) is not None:
            headers += 1
            check_count(headers // 3, limits)  # a file may have two extended headers
            if not header.end:
                reader.extended(header)
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
    """Tell whether a block begins a file in a tar: its checksum is right, with blanks in its own place."""
    if len(block) < BLOCK or not any(block[148:156].strip(b" \0")):
        return False
    try:
        told = _number(block[148:156])
    except BadArchive:
        return False
    return told == sum(block[:148]) + 8 * ord(" ") + sum(block[156:BLOCK])


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
    if block[257:263] != b"ustar\0":  # GNU keeps other things where POSIX has the beginning of the name
        return name
    prefix = block[345:500].partition(b"\0")[0]
    return prefix + b"/" + name if prefix else name


def _number(text: bytes) -> int:
    """Return a number of a header: octal digits, or binary where the first bit says so (GNU)."""
    if text[0] & 0x80:
        return _checked(int.from_bytes(text[1:], "big")) if text[0] == 0x80 else _bad_number()
    digits = text.strip(b" \0") or b"0"
    return int(digits, 8) if all(digit in b"01234567" for digit in digits) else _bad_number()


def _decimal(text: bytes) -> int:
    return _checked(int(text)) if text.isdigit() and len(text) < 20 else _bad_number()


def _checked(number: int) -> int:
    return number if number <= MAX_SIZE else _bad_number()


def _bad_number() -> int:
    raise BadArchive("a tar header has a number that is none", code="bad_header")


def _padded(position: int) -> int:
    return -(-position // BLOCK) * BLOCK


def _pax(data: bytes) -> dict[bytes, bytes]:
    """Return the records `length key=value\\n` of a pax header."""
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
