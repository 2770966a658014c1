"""Find the bulk values of a DICOM JSON document without parsing it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

_BULK = re.compile(rb'"BulkDataURI":"([^"#]*(?:#offset=(\d+)&length=(\d+))?)"\}')
_BEFORE_BULK = re.compile(rb'"([0-9A-F]{8})":\{"vr":"([A-Z]{2})",')
_BEFORE_BULK_BYTES = 22


@dataclass(frozen=True, slots=True)
class BulkEntry:
    """One value that a document leaves in the object. number: 1-based count among the values of its tag.

    begin, end: position of its URI in the document. offset, length: position of the value in the object; None
    if the object does not hold its bytes as they are, as for a deflated data set.
    """

    tag: str
    vr: str
    number: int
    begin: int
    end: int
    offset: int | None
    length: int | None


def bulk_entries(document: bytes) -> Iterator[BulkEntry]:
    """Yield the bulk values of a document written by `to_document`, in document order.

    A document may have tens of MiB, so it is searched with regular expressions. Text values cannot match,
    because JSON escapes their quotes.
    """
    counts: Counter[str] = Counter()
    for found in _BULK.finditer(document):  # fast, because the literal prefix is rare in a document
        before = _BEFORE_BULK.fullmatch(document, found.start() - _BEFORE_BULK_BYTES, found.start())
        if before is None:
            continue
        tag, vr = before[1].decode(), before[2].decode()
        counts[tag] += 1
        place = (int(found[2]), int(found[3])) if found[2] else (None, None)
        yield BulkEntry(tag, vr, counts[tag], *found.span(1), *place)
