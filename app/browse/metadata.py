"""Documents of instances for DICOMweb: the artifacts, with addresses of this service for bulk data."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby

from app.browse.cache import MAX_OBJECT_BYTES, key_of
from app.browse.instances import NotFound, Stored
from app.browse.objects import Originals
from app.dicom.metadata.bulk_entries import BulkEntry, bulk_entries
from app.model.errors import ObjectGone

AT_ONCE, PER_TASK = 16, 4
"""Threads that read documents, and documents that each reads in a row; from a folder, one thread reads."""
BASE = b"\0"
"""Stands for the address of this service in cached text: JSON never contains it, and a byte is found fast."""


def documents_key(instances: Sequence[Stored]) -> str:
    """Return a key that changes with every change of the documents of these instances."""
    return key_of(["metadata", 1, *(one.row_id for one in instances)])


def documents(instances: Sequence[Stored], base: str, originals: Originals) -> Iterator[bytes]:
    """Yield a JSON array of the documents of these instances in pieces; base: URL of DICOMweb here.

    `instances` are those of whole series, one after the other: the text of a series is cached. Raises
    ObjectGone if an artifact no longer exists.
    """
    mark = b"["
    for _, group in groupby(instances, key=lambda one: one.series_instance_uid):
        series = list(group)
        for piece in _series(series, originals):
            yield mark
            yield piece.replace(BASE, base.encode())
            mark = b","
    yield b"]"


def document(stored: Stored, base: str, originals: Originals) -> bytes:
    """Return a JSON array of the document of one instance."""
    return b"[" + _rewritten(stored, originals).replace(BASE, base.encode()) + b"]"


def bulk_entry(stored: Stored, tag: str, number: int, originals: Originals) -> BulkEntry:
    """Return the entry in the document of an instance for a value that was left in the object.

    Raises NotFound if there is none; number counts the values of this tag, from 1.
    """
    for entry in bulk_entries(read_document(stored, originals)):
        if (entry.tag, entry.number) == (tag, number):
            return entry
    raise NotFound("the instance has no such value, or it is in its metadata")


def _series(series: Sequence[Stored], originals: Originals) -> Iterator[bytes]:
    """Yield the documents of a series, joined by commas, from the cache or from the artifacts."""
    uid, name = series[0].series_instance_uid, f"{documents_key(series)}.json"
    kept = originals.cache.get(uid, name)
    if kept is not None:
        yield kept
        return
    whole: io.BytesIO | None = io.BytesIO() if len(series) > 1 else None
    threads = 1 if originals.services.artifacts.uri("").startswith("file:") else AT_ONCE
    with ThreadPoolExecutor(threads, thread_name_prefix="documents") as pool:
        for start in range(0, len(series), AT_ONCE * PER_TASK):
            ends = range(start, min(start + AT_ONCE * PER_TASK, len(series)), PER_TASK)
            tasks = [series[begin : begin + PER_TASK] for begin in ends]
            piece = b",".join(pool.map(partial(_joined, originals=originals), tasks))
            if whole is not None:
                whole.write(b"," + piece if start else piece)
                if whole.tell() > MAX_OBJECT_BYTES:
                    whole = None
            yield piece
    if whole is not None:
        originals.cache.put(uid, name, whole.getvalue(), "application/dicom+json")


def _joined(instances: Sequence[Stored], originals: Originals) -> bytes:
    return b",".join(_rewritten(one, originals) for one in instances)


def read_document(stored: Stored, originals: Originals) -> bytes:
    """Return the document of an instance as it was written; raises ObjectGone if it no longer exists."""
    if stored.metadata_uri is None:
        raise ObjectGone("the row names no document")
    return originals.services.artifacts.read(stored.metadata_uri)


def _rewritten(stored: Stored, originals: Originals) -> bytes:
    """Return a document with addresses of DICOMweb, below a base that is put in when it is sent."""
    told = read_document(stored, originals)
    parts, done = [], 0
    for entry in bulk_entries(told):
        number = "" if entry.number == 1 else f"/{entry.number}"
        parts += [told[done : entry.begin], BASE, f"/{stored.path}/bulkdata/{entry.tag}{number}".encode()]
        done = entry.end
    return b"".join([*parts, told[done:]])
