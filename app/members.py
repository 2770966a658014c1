"""The members of one archive, described in workers batch by batch; what is not good is kept for the end.

    list in a worker ─▶ batches ─▶ describe in a worker ─▶ instances, batch by batch

One task never has the whole archive: a crash or a hang costs one batch, which is then taken apart until the
member that did it stands alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from app import archive
from app.archive.entries import Entry, Kind, Refused
from app.attempt import Attempt
from app.dicom import describe
from app.errors import BadArchive, LimitExceeded, NotDicom, PermanentError, WorkerCrashed
from app.pages import with_page
from app.services import Services
from app.types import Content, DescribeOptions, Instance

T = TypeVar("T")

MAX_LOST = 16
"""So many members may cost their worker its life or its time; then the archive is given up."""
MAX_OVERRUNS = 2
"""After so many documents that take too much to draw, no more of them are drawn."""
NAMED = 10
MAX_TEXT = 900

_JUNK = re.compile(r"(?i)(^|[/\\])(__macosx[/\\]|\._)")
_DIRECTORY_FILE = re.compile(r"(?i)(^|[/\\])dicomdir$")  # lists the others, no instance (PS3.10 8.6)
_ARCHIVE = re.compile(r"(?i)\.(zip|tar|t?gz|bz2|xz|7z|rar|zst)$")


class Members:
    """Iterate to get the instances, a batch at a time; then `check` tells what was wrong with the others."""

    def __init__(self, content: Content, attempt: Attempt, services: Services) -> None:
        self._content, self._attempt, self._services = content, attempt, services
        self._options = services.settings.describe_options().leaving_pdf()
        self._limits = services.settings.archive_limits()
        self._kind = Kind.OTHER
        self._fault = ""
        self._good, self._lost, self._overruns = 0, 0, 0
        self._refused: list[Refused] = []

    def __iter__(self) -> Iterator[list[Instance]]:
        listing = self._run(archive.list_members, self._content, self._limits)
        self._kind, self._fault = listing.kind, listing.fault
        for batch in archive.batches(listing):
            wanted = [entry for entry in batch if not _DIRECTORY_FILE.search(entry.label)]
            yield from self._described(wanted)

    def refuse(self, refused: Iterable[Refused]) -> None:
        """Note members that cannot be stored; what nobody expected to be DICOM does no harm."""
        self._refused += [one for one in refused if self._matters(one)]

    def check(self) -> None:
        """Raise BadArchive if any member is lost, NotDicom if there was none to store."""
        self._attempt.stage = "describe"
        others = [one for one in self._refused if one.code != NotDicom.code]
        if not (self._good or others or self._fault):
            raise NotDicom("no member of the archive is DICOM")
        if self._refused or self._fault:
            raise BadArchive(self._text(), code=self._fault or None)

    def _described(self, entries: Sequence[Entry]) -> Iterator[list[Instance]]:
        while entries:
            try:
                found = self._describe(entries, self._options)
            except (WorkerCrashed, LimitExceeded) as error:
                yield from self._taken_apart(entries, error)
                return
            yield from self._good_ones(found)
            entries = entries[len(found) :]

    def _taken_apart(self, entries: Sequence[Entry], error: PermanentError) -> Iterator[list[Instance]]:
        """Describe in smaller tasks what did not go in one; a lone member without its preview."""
        if len(entries) > 1:
            step = -(-len(entries) // 8)
            for begin in range(0, len(entries), step):
                yield from self._described(entries[begin : begin + step])
            return
        self._lost += 1
        if self._lost > MAX_LOST:
            raise BadArchive(f"more than {MAX_LOST} members cost their worker: {self._text()}")
        yield from self._good_ones(self._alone(entries[0], error))

    def _alone(self, entry: Entry, error: PermanentError) -> Sequence[Instance | Refused]:
        if not self._options.preview.enabled:
            return [Refused(entry.label, error.code)]
        try:
            (found,) = self._describe([entry], self._options.without_preview())
        except (WorkerCrashed, LimitExceeded) as again:
            return [Refused(entry.label, again.code)]
        return [replace(found, preview_error=error.code) if isinstance(found, Instance) else found]

    def _describe(self, entries: Sequence[Entry], options: DescribeOptions) -> tuple[Instance | Refused, ...]:
        part = archive.part(self._content, self._kind, entries)
        return self._run(archive.describe_members, describe, part, options, self._limits)

    def _run(self, function: Callable[..., T], *args: object) -> T:
        attempt, workers = self._attempt, self._services.workers
        with attempt.step("describe"), attempt.working() as begun:
            return workers.run(function, *args, wait_s=attempt.left_s(), begun=begun)

    def _good_ones(self, found: Sequence[Instance | Refused]) -> Iterator[list[Instance]]:
        self.refuse(one for one in found if isinstance(one, Refused))
        good = [self._with_page(one) for one in found if isinstance(one, Instance)]
        self._good += len(good)
        if good:
            yield good

    def _with_page(self, instance: Instance) -> Instance:
        if instance.pdf is None:
            return instance
        if self._overruns == MAX_OVERRUNS:
            return replace(instance, pdf=None, preview_error=LimitExceeded.code)
        attempt, workers = self._attempt, self._services.workers
        with attempt.step("describe"), attempt.working() as begun:
            drawn = with_page(instance, self._options.preview, workers, attempt.left_s(), begun)
        self._overruns += drawn.preview_error == LimitExceeded.code
        return drawn

    def _matters(self, refused: Refused) -> bool:
        label = refused.label
        if refused.code == "nested_archive" and _ARCHIVE.search(label):
            return True
        if refused.code in (NotDicom.code, "nested_archive"):
            expected = re.search(self._services.settings.source.expect, label)
            return bool(expected) and not _JUNK.search(label)
        return True

    def _text(self) -> str:
        """Name what was refused; labels are escaped, for they are the sender's words."""
        names = [
            f"{json.dumps(one.label[:60])} ({': '.join(filter(None, (one.code, one.setting)))})"
            for one in self._refused[:NAMED]
        ]
        if len(self._refused) > NAMED:
            names.append(f"and {len(self._refused) - NAMED} more")
        texts = [f"the archive is broken ({self._fault})"] if self._fault else []
        if names:
            texts.append(f"{len(self._refused)} member(s) failed: {', '.join(names)}")
        return "; ".join(texts)[:MAX_TEXT]
