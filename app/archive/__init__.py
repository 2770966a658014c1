"""Unpack archives: pure functions from bytes to members.

    is_archive ─▶ list_members ─▶ batches ─▶ describe_members: unpack and describe one by one

Nothing is unpacked to a file, and the path of a member is only a label. `list_members` and `describe_members`
run in worker processes, one batch per task. A task returns its members one by one: the time limit applies to
each, and a crash loses one member, not the archive. Sizes that an archive declares are checked against the
limits first, then enforced while reading. Formats: zip (stored, deflated, zip64), tar, tar in gzip; a gzip of
a single file is an archive with one member, named like the object without `.gz`. Archives inside archives are
refused.
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
"""Finds the setting that was exceeded in the text of an error."""

Describe = Callable[[Content, DescribeOptions], Instance]

TASK_BYTES, TASK_MEMBERS = 16 << 20, 64
"""Maximum per task. A gzip is a single task, because each task would have to inflate it from its start."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some entries of an archive and the bytes that hold them; offsets are relative to `content`."""

    kind: Kind
    entries: tuple[Entry, ...]
    content: Content


def is_archive(content: Content) -> bool:
    """Return whether an object starts like an archive, including unsupported formats."""
    if (data := content.at_hand) is not None:
        return kind_of(data[:BLOCK]) is not None
    with content.open() as stream:
        return kind_of(stream.read(BLOCK)) is not None


def list_members(content: Content, limits: ArchiveLimits) -> Listing:
    """List the files of an archive; a gzip is inflated once to verify it.

    Raises
    ------
    BadArchive : no member can be used: `unsupported_archive`, `archive_damaged`, `bad_directory`,
        `archive_truncated`, or over a limit: `too_many_members`, `archive_too_large`, `compression_ratio`
    """
    with permanent(BadArchive), content.open() as stream:
        kind = kind_of(stream.read(BLOCK))
        size = stream.seek(0, io.SEEK_END)  # differs from content.size for an object with gzip encoding
        stream.seek(0)
        if kind is Kind.ZIP:
            return list_zip(stream, size, limits)
        if kind is Kind.TAR:
            return list_tar(stream, size, limits)
        if kind is Kind.GZIP:
            return _list_gzip(content, stream, limits)
    raise BadArchive("archives of this format are not supported", code="unsupported_archive")


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
    """Yield the entries in order, in batches of one task each."""
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
    """Return entries with the bytes that a worker needs for them.

    A gzip, and an object that is not in memory, are passed as a whole.
    """
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
    """Describe the entries in order; stop after a decoder failed, so that a fresh process does the others.

    A decoder that failed may have leaked memory. A fresh process would have to inflate a gzip from its start,
    so a gzip is continued here until a member runs out of memory; that member is left to the next process.
    """
    leaked = False
    with part.content.open() as opened:
        stream: Stream = opened
        if part.kind is Kind.GZIP:
            stream = Inflated(opened, part.content.size, limits)
        for entry in part.entries:
            result: Instance | Refused
            try:
                with permanent(BadArchive):
                    data = unpack(stream, part.kind, entry, limits)
                result = _describe(describe, _member(part.content, entry.label, data), options)
            except PermanentError as error:
                result = _refused(entry, error)
            if leaked and _lacks_memory(result):
                return
            yield result
            leaked = leaked or (isinstance(result, Instance) and result.decoder_failed)
            if leaked and part.kind is not Kind.GZIP:
                return


def _lacks_memory(result: Instance | Refused) -> bool:
    code = result.preview_error if isinstance(result, Instance) else result.code
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
    """Describe one member; if it exceeds a limit, describe it again without a preview."""
    try:
        return describe(content, options)
    except LimitExceeded as error:
        if not options.preview.enabled:
            raise
        return replace(describe(content, options.without_preview()), preview_error=error.code)
