"""Compare the file meta information with the data set, and detect required elements that both lack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID

from app.dicom.metadata.dicom_json import Metadata
from app.model.values import DatasetWarning

SOP_CLASS_UID, SOP_INSTANCE_UID, TRANSFER_SYNTAX_UID = "00080016", "00080018", "00020010"
REPEATED = {"00020002": SOP_CLASS_UID, "00020003": SOP_INSTANCE_UID}
"""Elements of the file meta information that repeat one of the data set."""
DIRECTORY_RECORDS = "00041220"
"""Directory Record Sequence. A DICOMDIR has its UID only in the file meta information (PS3.10 8.6)."""


def file_meta_warnings(dataset: Dataset, metadata: Metadata) -> tuple[DatasetWarning, ...]:
    """Return a warning for each contradiction, and for each missing element that every instance must have.

    Parameters
    ----------
    dataset : as read; its original encoding is the one detected, not the one declared
    metadata : of that data set

    Returns
    -------
    code `meta_mismatch`: the element contradicts the data set, whose value is used. code `missing`: the
    element is absent or empty

    References
    ----------
    PS3.10 7.1 (file meta information), PS3.3 C.12.1 (SOP Common)
    """
    found = [
        DatasetWarning(repeated, "meta_mismatch")
        for repeated, tag in REPEATED.items()
        if _differ(_uid(metadata.file_meta, repeated), _uid(metadata.dataset, tag))
    ]
    syntax = _uid(metadata.file_meta, TRANSFER_SYNTAX_UID)
    if not syntax:
        found.append(DatasetWarning(TRANSFER_SYNTAX_UID, "missing"))
    elif _encoding(syntax) not in (None, dataset.original_encoding):
        found.append(DatasetWarning(TRANSFER_SYNTAX_UID, "meta_mismatch"))
    if not _uid(metadata.dataset, SOP_INSTANCE_UID) and DIRECTORY_RECORDS not in metadata.dataset:
        found.append(DatasetWarning(SOP_INSTANCE_UID, "missing"))
    return tuple(found)


def _differ(one: str, other: str) -> bool:
    return bool(one and other) and one != other


def _encoding(syntax: str) -> tuple[bool, bool] | None:
    """Return (implicit, little endian) of a transfer syntax, None if it is unknown."""
    uid = UID(syntax)
    return (uid.is_implicit_VR, uid.is_little_endian) if uid.is_transfer_syntax else None


def _uid(fields: Mapping[str, Any], tag: str) -> str:
    """Return a UID without padding, empty if there is none."""
    value = next(iter(fields.get(tag, {}).get("Value", [])), None)
    return value.strip(" \0") if isinstance(value, str) else ""
