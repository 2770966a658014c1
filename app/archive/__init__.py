"""Archives from bytes to members: pure; nothing is unpacked to a file, the path of a member is only a label.

    is_archive ─▶ list_members ─▶ batches ─▶ describe_members, which unpacks and describes one after another

`list_members` and `describe_members` run in worker processes, a batch a task, which gives one member after
another, so that neither a whole archive nor one task's time is at stake. What an archive says of itself is
checked against the limits, then enforced
while reading. Zip (stored, deflated, zip64), tar, tar in gzip; gzip of a single file is an archive with one
member, named as the object without `.gz`. Archives inside archives are refused.
"""

from __future__ import annotations

import io
import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO

from app.archive.gzip import Inflated
from app.archive.labels import label
from app.archive.tar import BLOCK, is_header, list_tar
from app.archive.unpack import Stream, kind_of, may_be_dicom, unpack
from app.archive.zip import list_zip
from app.model.errors import BadArchive, LimitExceeded, NotDicom, PermanentError, PlainText, permanent
from app.model.listing import Entry, Kind, Listing, Refused
from app.model.options import ArchiveLimits, DescribeOptions
from app.model.values import Content, Instance

_SETTING = re.compile(r"\b(limits|workers|archive)\.[a-z_]+")
"""In the text of an error: the setting that was exceeded."""

Describe = Callable[[Content, DescribeOptions], Instance]

TASK_BYTES, TASK_MEMBERS = 16 << 20, 64
"""Most that one task unpacks, except of gzip: every task would have to inflate all that comes before, too."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some entries of an archive and the bytes that hold them; their offsets are those in `content`."""

    kind: Kind
    entries: tuple[Entry, ...]
    content: Content


def is_archive(content: Content) -> bool:
    """Tell by its first bytes whether an object is an archive, also of a kind that is not read."""
    if (data := content.at_hand) is not None:
        return kind_of(data[:BLOCK]) is not None
    with content.open() as stream:
        return kind_of(stream.read(BLOCK)) is not None


def list_members(content: Content, limits: ArchiveLimits) -> Listing:
    """Return the files of an archive; those of a gzip are unpacked once, to see that they hold together.

    Raises
    ------
    BadArchive : nothing of it can be used: `unsupported_archive`, `archive_damaged`, `bad_directory`,
        `archive_truncated`, or over the limits: `too_many_members`, `archive_too_large`, `compression_ratio`
    """
    with permanent(BadArchive), content.open() as stream:
        kind = kind_of(stream.read(BLOCK))
        size = stream.seek(0, io.SEEK_END)  # of an object that is stored encoded, not content.size
        stream.seek(0)
        if kind is Kind.ZIP:
            return list_zip(stream, size, limits)
        if kind is Kind.TAR:
            return list_tar(stream, size, limits)
        if kind is Kind.GZIP:
            return _list_gzip(content, stream, limits)
    raise BadArchive("archives of this kind are not read", code="unsupported_archive")


def _list_gzip(content: Content, stream: BinaryIO, limits: ArchiveLimits) -> Listing:
    inflated = Inflated(stream, content.size, limits)
    head = inflated.read(BLOCK)
    if is_header(head):
        stream.seek(0)
        inflated = Inflated(stream, content.size, limits)
        listing = list_tar(inflated, None, limits)
        if not listing.fault:
            inflated.drain()
        return replace(listing, kind=Kind.GZIP)
    size = inflated.drain() if may_be_dicom(head) else len(head)
    name = posixpath.basename(content.ref.name)
    only = Entry(label(name[:-3] if name.lower().endswith(".gz") else name), 0, size, size)
    return Listing(Kind.GZIP, (only,))


def batches(listing: Listing) -> Iterator[tuple[Entry, ...]]:
    """Yield the entries in order, as many at once as are one task."""
    batch: list[Entry] = []
    room = TASK_BYTES
    for entry in listing.entries:
        size = max(entry.size, entry.end - entry.offset)
        room -= size
        if batch and listing.kind is not Kind.GZIP and (room < 0 or len(batch) == TASK_MEMBERS):
            yield tuple(batch)
            batch, room = [], TASK_BYTES - size
        batch.append(entry)
    if batch:
        yield tuple(batch)


def part(content: Content, kind: Kind, entries: Sequence[Entry]) -> Part:
    """Return entries with the bytes that a worker needs for them; of gzip, and of what is not here, all."""
    data = content.at_hand
    if data is None or kind is Kind.GZIP or not entries:
        return Part(kind, tuple(entries), content)
    base, end = entries[0].offset, max(entry.end for entry in entries)
    data = data[base:end]
    shifted = (replace(entry, offset=entry.offset - base, end=entry.end - base) for entry in entries)
    return Part(kind, tuple(shifted), replace(content, data=data, size=len(data)))


def describe_members(
    describe: Describe, part: Part, options: DescribeOptions, limits: ArchiveLimits
) -> Iterator[Instance | Refused]:
    """Yield what the entries are, in order; after a decoder's fault the others are for a fresh process.

    A decoder that fails may leak memory. For a gzip the next process would inflate all of it again, so there
    one goes on until a member gets no memory, which is left to the next, too.
    """
    leaked = False
    with part.content.open() as opened:
        stream: Stream = opened
        if part.kind is Kind.GZIP:
            stream = Inflated(opened, part.content.size, limits)
        for entry in part.entries:
            found: Instance | Refused
            try:
                with permanent(BadArchive):
                    data = unpack(stream, part.kind, entry, limits)
                found = _describe(describe, _member(part.content, entry.label, data), options)
            except PermanentError as error:
                found = _refused(entry, error)
            if leaked and _lacks_memory(found):
                return
            yield found
            leaked = leaked or (isinstance(found, Instance) and found.decoder_failed)
            if leaked and part.kind is not Kind.GZIP:
                return


def _lacks_memory(found: Instance | Refused) -> bool:
    code = found.preview_error if isinstance(found, Instance) else found.code
    return code in ("out_of_memory", LimitExceeded.code)


def _refused(entry: Entry, error: PermanentError) -> Refused:
    setting = _SETTING.search(error.text)
    empty = "empty" if isinstance(error, NotDicom) and not entry.size else ""
    return Refused(
        entry.label, error.code, setting.group() if setting else empty, isinstance(error, PlainText)
    )


def _member(content: Content, label: str, data: bytes) -> Content:
    return Content(content.ref, content.uri, len(data), data=data, member=label)


def _describe(describe: Describe, content: Content, options: DescribeOptions) -> Instance:
    """Describe one member; over a limit of memory or depth it is described again without its preview."""
    try:
        return describe(content, options)
    except LimitExceeded as error:
        if not options.preview.enabled:
            raise
        return replace(describe(content, options.without_preview()), preview_error=error.code)
