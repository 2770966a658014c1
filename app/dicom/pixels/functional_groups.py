"""Look up an attribute of one frame: per frame, shared, or at the top level (PS3.3 C.7.6.16)."""

from __future__ import annotations

import io
from collections.abc import Iterator
from struct import Struct
from typing import Any, cast

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from app.dicom.pixels.attributes import element_as_it_lies, has_value, items
from app.dicom.read.byte_reader import Source
from app.dicom.read.vr import ITEM, UNDEFINED
from app.model.errors import BadDataset, permanent

GROUPS = ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence")


def frame_item(dataset: Dataset, frame_index: int, macro: str, keyword: str) -> Dataset | None:
    """Return the data set or item that holds `keyword` for a frame.

    Parameters
    ----------
    dataset : the whole data set
    frame_index : 0-based
    macro : keyword of the functional group's sequence, such as FrameVOILUTSequence
    keyword : the attribute; an empty one counts as absent

    Returns
    -------
    the item of the frame, else the shared item, else the data set itself, else None

    References
    ----------
    PS3.3 C.7.6.16.1.1 (Shared), C.7.6.16.1.2 (Per-frame)
    """
    candidates = _candidates(dataset, frame_index, macro)
    return next((item for item in candidates if has_value(item, keyword)), None)


def _candidates(dataset: Dataset, frame_index: int, macro: str) -> Iterator[Dataset]:
    for groups, index in zip(GROUPS, (frame_index, 0), strict=True):
        group = _nth_item(dataset, groups, index)
        if group is not None:
            yield from items(group, macro)[:1]
    yield dataset


def _nth_item(dataset: Dataset, keyword: str, index: int) -> Dataset | None:
    """Return one item of a sequence, skipping the others if their lengths are defined."""
    found = element_as_it_lies(dataset, keyword)
    if isinstance(found, RawDataElement) and found.VR in (None, "SQ"):
        source, start = _source(dataset, found)
        span = _span(source, start, found.is_little_endian, index)
        if span is not None:
            try:
                with permanent(BadDataset):
                    data = io.BytesIO(source.value(*span))
                    return read_dataset(data, found.is_implicit_VR, found.is_little_endian)
            except BadDataset:
                return None
    whole = items(dataset, keyword)
    return whole[index] if index < len(whole) else None


def _source(dataset: Dataset, found: RawDataElement) -> tuple[Source, int]:
    """Return a source for the value of a sequence, in memory or in the file, and its position there."""
    node = getattr(dataset, "nodes", {}).get(found.tag)
    if found.value is None and node is not None:
        return Source(cast(Any, dataset).buffer, node.offset + node.length), node.offset
    value = found.value or b""
    return Source(io.BytesIO(value), len(value), value), 0


def _span(source: Source, position: int, little_endian: bool, index: int) -> tuple[int, int] | None:
    """Return position and length of an item; None if an item up to it has an undefined length."""
    head = Struct("<HHI" if little_endian else ">HHI")
    while len(data := source.value(position, head.size)) == head.size:
        group, number, length = head.unpack(data)
        if group << 16 | number != ITEM or length == UNDEFINED:
            return None
        position += head.size
        if index == 0:
            return position, length
        index, position = index - 1, position + length
    return None
