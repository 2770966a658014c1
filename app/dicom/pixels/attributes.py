"""Read single attributes from a data set, tolerating raw, empty, wrong and repeated values.

Raw elements are read from their bytes, not through pydicom's conversion: that is slower, quotes values in its
warnings, and raises on values that a preview can do without.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_sequence_item

from app.dicom.read.dataset import ObjectDataset
from app.model.errors import BadDataset, permanent

BINARY = {
    "AT": "u2",
    "FD": "f8",
    "FL": "f4",
    "OB": "u1",
    "OD": "f8",
    "OF": "f4",
    "OL": "u4",
    "OW": "u2",
    "SL": "i4",
    "SS": "i2",
    "UL": "u4",
    "US": "u2",
    "US or OW": "u2",
    "US or SS": "u2",
    "US or SS or OW": "u2",
}
"""VR -> NumPy type of one value. An ambiguous VR is read as unsigned."""
MAX_LETTERS = 20_000
"""Maximum letters of a text to draw, more than a page holds."""


def has_value(dataset: Dataset, key: str | int) -> bool:
    """Return whether the element is present and not empty."""
    found = element_as_it_lies(dataset, key)
    if isinstance(found, RawDataElement):
        return found.length != 0
    return found is not None and found.value not in (None, "", b"")


def numbers(dataset: Dataset, key: str | int) -> tuple[float, ...]:
    """Return the values of a numeric element; NaN replaces a value that is not a number.

    Parameters
    ----------
    dataset : any data set or item
    key : keyword, or tag of an element in a repeating group

    Returns
    -------
    () if the element is absent, empty or not numeric
    """
    found = element(dataset, key)
    if found is None:
        return ()
    if not isinstance(found, RawDataElement):
        return tuple(_number(value) for value in _listed(found.value))
    if not isinstance(found.value, bytes) or not found.value:
        return ()
    kind = BINARY.get(_vr(found))
    if kind is not None:
        return tuple(_typed(found.value, kind, found.is_little_endian).tolist())
    return tuple(_number(part) for part in _texts(found.value))


def number(dataset: Dataset, key: str | int, default: float) -> float:
    """Return the first value of a numeric element, or `default` if it is absent or not finite."""
    first = next(iter(numbers(dataset, key)), math.nan)
    return first if math.isfinite(first) else default


def integer(dataset: Dataset, key: str | int, default: int) -> int:
    """Return the first value of a numeric element as an integer, or `default`."""
    return int(number(dataset, key, default))


def text(dataset: Dataset, key: str | int) -> str:
    """Return the first value of a code string in upper case, without padding; empty if there is none."""
    found = element(dataset, key)
    if found is None or found.value is None:
        return ""
    if isinstance(found, RawDataElement):
        return _texts(found.value)[0].upper()
    return str(next(iter(_listed(found.value)), "")).strip(" \0").upper()


def words(dataset: Dataset, key: str | int, little_endian: bool) -> np.ndarray:
    """Return the 16-bit values of lookup table or overlay data.

    Parameters
    ----------
    dataset : any data set or item
    key : keyword, or tag of an element in a repeating group
    little_endian : byte order, used only for a value that pydicom has converted to bytes already

    Returns
    -------
    (n,) uint16, empty if there is no value
    """
    found = element(dataset, key)
    value = None if found is None else found.value
    if isinstance(found, RawDataElement):
        little_endian = found.is_little_endian
    if isinstance(value, bytes | bytearray):
        return _typed(bytes(value), "u2", little_endian)
    valid = [int(v) & 0xFFFF for v in map(_number, _listed(value)) if math.isfinite(v)]
    return np.array(valid, np.uint16)


def octets(dataset: Dataset, key: str | int) -> bytes:
    """Return the bytes of a binary element, empty if it is absent."""
    found = element(dataset, key)
    return bytes(found.value) if found is not None and isinstance(found.value, bytes | bytearray) else b""


def readable(dataset: Dataset, keyword: str) -> str:
    """Return the text of an element for display: decoded, with all its values and line breaks.

    Returns
    -------
    text without control characters, truncated to 20,000 letters; empty if the element is absent, empty or
    cannot be read
    """
    if keyword not in dataset:
        return ""
    try:
        with permanent(BadDataset):
            values = [str(value) for value in _listed(dataset[keyword].value)]
    except BadDataset:
        return ""
    lines = ", ".join(values)[:MAX_LETTERS].replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "\n".join("".join(filter(str.isprintable, line)) for line in lines).strip()


def items(dataset: Dataset, keyword: str) -> Sequence[Dataset]:
    """Return the items of a sequence; empty if it is absent or cannot be read."""
    if keyword not in dataset:
        return ()
    try:
        with permanent(BadDataset):
            return [item for item in dataset[keyword].value or () if isinstance(item, Dataset)]
    except BadDataset:
        return ()


def each_item(dataset: Dataset, keyword: str) -> Iterator[Dataset]:
    """Yield the items of a sequence, reading each on demand; stop at the first that cannot be read."""
    found = element_as_it_lies(dataset, keyword)
    if not isinstance(found, RawDataElement) or found.VR not in ("SQ", None):
        yield from items(dataset, keyword)
        return
    value, encoding = found.value or b"", dataset.original_character_set
    if found.value is None and isinstance(dataset, ObjectDataset) and dataset.buffer:  # left in the file
        node = dataset.nodes[found.tag]
        dataset.buffer.seek(node.offset)
        value = dataset.buffer.read(node.length)
    stream = io.BytesIO(value)
    while stream.tell() < len(value):
        try:
            with permanent(BadDataset):
                item = read_sequence_item(stream, found.is_implicit_VR, found.is_little_endian, encoding)
        except BadDataset:
            return
        if item is None:
            return
        yield item


def element(dataset: Dataset, key: str | int) -> DataElement | RawDataElement | None:
    """Return an element without conversion, after reading a value that was left in the file."""
    found = element_as_it_lies(dataset, key)
    if not isinstance(found, RawDataElement) or found.value is not None or found.length == 0:
        return found
    try:
        with permanent(BadDataset):
            return dataset[found.tag]
    except BadDataset:
        return None


def element_as_it_lies(dataset: Dataset, key: str | int) -> DataElement | RawDataElement | None:
    """Return an element without conversion; a value left in the file is not read and is None."""
    tag = tag_for_keyword(key) if isinstance(key, str) else key
    if tag is None:
        return None
    # The cast is safe: pydicom returns a data set only for a slice.
    return cast("DataElement | RawDataElement | None", dataset.get_item(tag, keep_deferred=True))


def _vr(found: RawDataElement) -> str:
    if found.VR is not None and found.VR != "UN":
        return found.VR
    try:
        return dictionary_VR(found.tag)
    except KeyError:
        return "UN"


def _typed(value: bytes, kind: str, little_endian: bool) -> np.ndarray:
    order = np.dtype(kind).newbyteorder("<" if little_endian else ">")
    return np.frombuffer(value, order, len(value) // order.itemsize).astype(kind, copy=False)


def _texts(value: bytes) -> list[str]:
    return [part.strip(" \0\r\n\t") for part in value.decode("latin-1").split("\\")]


def _listed(value: Any) -> Sequence[Any]:
    if value is None or value == "":
        return ()
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        return (value,)
    return value


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
