"""Read one bulk value that needs conversion, so that a byte range of the object would not do."""

from __future__ import annotations

from typing import BinaryIO, cast

from app.dicom.metadata.bulk_entries import bulk_entries
from app.dicom.metadata.dicom_json import to_document, to_metadata
from app.dicom.metadata.values import Reading, to_little, turned
from app.dicom.read.dataset import ObjectDataset
from app.dicom.write.explicit import cell_bytes
from app.model.errors import BadDataset, permanent

PIXEL_DATA = "7FE00010"


def read_bulk(dataset: ObjectDataset, threshold: int, tag: str, number: int) -> bytes:
    """Return the bytes of a bulk value, identified by its order in the document.

    Parameters
    ----------
    dataset : as read
    threshold : the bulk threshold the document was written with, in bytes
    tag, number : eight hex digits, and the 1-based count among the bulk values of this tag

    Returns
    -------
    the value in little endian (PS3.18 F.2.7)

    Raises
    ------
    BadDataset : there is no such value (code `no_such_value`)
    """
    little = dataset.original_encoding[1] is not False
    dataset.deflated = False  # offsets then refer to `dataset.buffer`, which holds the inflated bytes
    document = to_document(to_metadata(dataset, "", threshold))
    for entry in bulk_entries(document):
        if (entry.tag, entry.number) == (tag, number) and entry.offset is not None:
            with permanent(BadDataset):
                stream = cast(BinaryIO, dataset.buffer)
                stream.seek(entry.offset)
                value = stream.read(entry.length or 0)
                if not little and (entry.tag, entry.vr) == (PIXEL_DATA, "OW"):
                    return turned(value, cell_bytes(dataset))
                return to_little(entry.vr, value, Reading(little))
    raise BadDataset("the data set has no such value", code="no_such_value")
