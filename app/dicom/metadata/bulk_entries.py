"""What a DICOM JSON document leaves in the object, found without parsing the document."""

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
    """One value that a document leaves in the object. number: which of its tag, from 1.

    begin, end: where its address stands in the document. offset, length: where the value lies in the object;
    None where it has no place there.
    """

    tag: str
    vr: str
    number: int
    begin: int
    end: int
    offset: int | None
    length: int | None


def bulk_entries(document: bytes) -> Iterator[BulkEntry]:
    """Yield the values that a document, as `to_document` writes it, leaves in the object, in its order.

    A document may be tens of MiB: it is searched, not parsed. No text in it can look like an entry, for JSON
    has its quotes escaped.
    """
    counts: Counter[str] = Counter()
    for found in _BULK.finditer(document):  # what it begins with is rare, so this is quick
        before = _BEFORE_BULK.fullmatch(document, found.start() - _BEFORE_BULK_BYTES, found.start())
        if before is None:
            continue
        tag, vr = before[1].decode(), before[2].decode()
        counts[tag] += 1
        place = (int(found[2]), int(found[3])) if found[2] else (None, None)
        yield BulkEntry(tag, vr, counts[tag], *found.span(1), *place)
