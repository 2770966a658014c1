"""Describe the members of one archive in workers, in batches, and report bad members at the end.

    list in a worker ─▶ batches ─▶ describe in a worker ─▶ member by member ─▶ instances, in groups to store

If a worker dies or exceeds its limits, the cause may be the first member that it did not return, or earlier
ones. The next worker starts with that member: if it fails as the first of its task, it is itself the cause.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace

from app import archive
from app.dicom import describe
from app.model.errors import BadArchive, LimitExceeded, NotDicom, PermanentError, WorkerCrashed
from app.model.listing import Entry, Kind, Refused
from app.model.not_dicom import is_expected
from app.model.options import DescribeOptions
from app.model.values import Content, Instance, Stage
from app.pipeline.attempt import Attempt
from app.pipeline.pdf_pages import with_page
from app.services import Services

log = logging.getLogger("dicomlake")

MAX_LOST = 16
"""After this many crashed or timed-out members, give up on the archive."""
MAX_OVERRUNS = 2
"""After this many PDFs over the drawing limit, draw no further PDFs of this archive."""
GROUP_BYTES, GROUP_MEMBERS, GROUP_S = 32 << 20, 1024, 10.0
"""Store a group of results at this size in bytes, this number, or after this many seconds."""
NAMED, NAME_LENGTH = 10, 60
"""A reason names at most this many members, and this many characters of each label."""
MAX_TEXT = 900

_JUNK = re.compile(r"(?i)(^|[/\\])(__macosx[/\\]|\._)")
_DIRECTORY_FILE = re.compile(r"(?i)(^|[/\\])dicomdir$")  # lists the others, no instance (PS3.10 8.6)
_ARCHIVE = re.compile(r"(?i)\.(zip|tar|t?gz|bz2|xz|7z|rar|zst)$")


class Members:
    """First iterate over `groups` for the good members; then `check` raises for the bad ones."""

    def __init__(
        self, content: Content, options: DescribeOptions, attempt: Attempt, services: Services
    ) -> None:
        self._content, self._attempt, self._services = content, attempt, services
        self._options = options.leaving_pdf()
        self._limits = services.settings.archive
        self._kind = Kind.OTHER
        self._fault = ""
        self._good, self._lost, self._overruns = 0, 0, 0
        self._refused: list[Refused] = []
        self._passed_over: list[str] = []

    def groups(self) -> Generator[list[Instance]]:
        """Yield the instances in groups to store together; close the generator to free the worker early."""
        attempt = self._attempt
        with attempt.step(Stage.DESCRIBE):
            listing = attempt.run(self._services.workers, archive.list_members, self._content, self._limits)
        self._kind, self._fault = listing.kind, listing.fault
        for batch in archive.batches(listing):
            wanted = [entry for entry in batch if not _DIRECTORY_FILE.search(entry.label)]
            directories = [entry.label for entry in batch if _DIRECTORY_FILE.search(entry.label)]
            self._passed_over += map(self._shown, directories)
            with closing(self._described(wanted)) as found:
                while group := self._group(found):
                    self.refuse(one for one in group if isinstance(one, Refused))
                    good = [one for one in group if isinstance(one, Instance)]
                    self._good += len(good)
                    if good:
                        yield good

    def refuse(self, refused: Iterable[Refused]) -> None:
        """Record members that cannot be stored; ignore those whose names do not promise DICOM."""
        for one in refused:
            if self._matters(one):
                self._refused.append(replace(one, label=self._shown(one.label)))
            else:
                self._passed_over.append(self._shown(one.label))

    def check(self) -> None:
        """Log ignored members; raise BadArchive if any was refused, NotDicom if none was DICOM."""
        self._attempt.stage = Stage.DESCRIBE
        if self._passed_over:
            names = json.dumps([label[:NAME_LENGTH] for label in self._passed_over[:NAMED]])
            facts = {"count": len(self._passed_over), "member": names}
            log.info("passed over", extra=self._attempt.facts() | facts)
        others = [one for one in self._refused if one.code != NotDicom.code]
        if not (self._good or others or self._fault):
            raise NotDicom("no member of the archive is DICOM")
        if self._refused or self._fault:
            raise BadArchive(self._text(), code=self._fault or None)

    def _group(self, found: Iterator[Instance | Refused]) -> list[Instance | Refused]:
        group: list[Instance | Refused] = []
        with self._attempt.step(Stage.DESCRIBE):
            room, until = GROUP_BYTES, time.monotonic() + GROUP_S
            for one in found:
                group.append(one)
                if isinstance(one, Instance):
                    room -= len(one.document) + len(one.metadata) + len(one.preview or b"")
                if room < 0 or len(group) == GROUP_MEMBERS or time.monotonic() > until:
                    break
        return group

    def _described(self, entries: Sequence[Entry]) -> Generator[Instance | Refused]:
        """Yield the described members in order, except that PDFs follow after their task has ended.

        Drawing a PDF needs a worker, and the running task occupies one.
        """
        while entries:
            done, room = 0, GROUP_BYTES
            undrawn: list[Instance] = []
            try:
                with closing(self._task(entries, self._options)) as found:
                    for one in found:
                        done += 1
                        if isinstance(one, Refused) or one.pdf is None:
                            yield one
                            continue
                        undrawn.append(one)
                        room -= len(one.document) + len(one.metadata) + len(one.pdf)
                        if room < 0:
                            break
            except (WorkerCrashed, LimitExceeded) as error:
                if not done:
                    done = 1
                    yield self._alone(entries[0], error)
            yield from map(self._with_page, undrawn)
            entries = entries[done:]

    def _with_page(self, instance: Instance) -> Instance:
        if self._overruns == MAX_OVERRUNS:
            return replace(instance, pdf=None, preview_error=LimitExceeded.code)
        drawn = with_page(instance, self._options.preview, self._attempt, self._services.workers)
        self._overruns += drawn.preview_error == LimitExceeded.code
        return drawn

    def _alone(self, entry: Entry, error: PermanentError) -> Instance | Refused:
        """Describe a member again that crashed its worker, now without its preview."""
        self._lost += 1
        if self._lost > MAX_LOST:
            raise BadArchive(f"more than {MAX_LOST} members cost their worker: {self._text()}")
        if not self._options.preview.enabled:
            return Refused(entry.label, error.code)
        try:
            (found,) = self._task([entry], self._options.without_preview())
        except (WorkerCrashed, LimitExceeded) as again:
            return Refused(entry.label, again.code)
        return replace(found, preview_error=error.code) if isinstance(found, Instance) else found

    def _task(self, entries: Sequence[Entry], options: DescribeOptions) -> Generator[Instance | Refused]:
        """Yield the first members, at least one, as a worker describes them."""
        part = archive.part(self._content, self._kind, entries)
        task = archive.describe_members, describe, part, options, self._limits
        count = 0
        with closing(self._attempt.stream(self._services.workers, *task)) as found:
            for count, one in enumerate(found, 1):
                if count > len(entries):
                    break
                yield one
        if not 0 < count <= len(entries):
            raise WorkerCrashed("the worker described another number of members than it was given")

    def _matters(self, refused: Refused) -> bool:
        label = refused.label
        if refused.code == "nested_archive" and _ARCHIVE.search(label):
            return True
        if refused.code in (NotDicom.code, "nested_archive"):
            expected = is_expected(label, self._services.settings.source.expect, refused.is_text)
            return expected and not _JUNK.search(label)
        return True

    def _shown(self, label: str) -> str:
        """Return the name under which a member appears in logs and reasons."""
        return self._services.cleaning.member(label) if self._services.cleaning else label

    def _text(self) -> str:
        """Name the refused members in a sentence; labels are escaped, because the sender chose them."""
        names = [
            f"{json.dumps(one.label[:NAME_LENGTH])} ({': '.join(filter(None, (one.code, one.detail)))})"
            for one in self._refused[:NAMED]
        ]
        if len(self._refused) > NAMED:
            names.append(f"and {len(self._refused) - NAMED} more")
        texts = [f"the archive is broken ({self._fault})"] if self._fault else []
        if names:
            texts.append(f"{len(self._refused)} member(s) failed: {', '.join(names)}")
        return "; ".join(texts)[:MAX_TEXT]
