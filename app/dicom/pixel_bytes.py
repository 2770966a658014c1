"""The bytes of the pixel data, in memory or left where they are, read by ranges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, BinaryIO

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from app.dicom.attributes import element_as_it_lies
from app.dicom.unrenderable import PreviewError, unrenderable

UNDEFINED = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class PixelBytes:
    """A value of `size` bytes, either `memory` or `size` bytes of `stream` from `start` on.

    words: the value is a string of 16-bit words (OW), which big endian files keep with their bytes swapped.
    """

    size: int
    memory: memoryview | None = None
    stream: BinaryIO | None = None
    start: int = 0
    words: bool = False

    def read(self, offset: int, length: int) -> memoryview:
        """Return `length` bytes from `offset`, fewer where the value ends.

        Parameters
        ----------
        offset, length : bytes, not negative
        """
        length = max(0, min(length, self.size - offset))
        if self.memory is not None:
            return self.memory[offset : offset + length]
        assert self.stream is not None
        self.stream.seek(self.start + offset)
        return memoryview(self.stream.read(length))


def pixel_bytes(dataset: Dataset, keyword: str) -> PixelBytes:
    """Return the bytes of an element without reading what was left in the file.

    Parameters
    ----------
    dataset : the data set; a value that was deferred is read from its `buffer`
    keyword : PixelData, FloatPixelData or DoubleFloatPixelData

    Raises
    ------
    Unrenderable : no_pixel_data
    """
    found = element_as_it_lies(dataset, keyword)
    if isinstance(found, RawDataElement) and found.value is None:
        buffer = getattr(dataset, "buffer", None)
        if buffer is not None and not buffer.closed:
            return _ranges(buffer, found.value_tell, found.length, found.VR == "OW")
        found = dataset[keyword]
    if found is None or found.value is None:
        raise unrenderable(PreviewError.NO_PIXEL_DATA, "the data set has no pixel data")
    # Implicit VR is little endian, where it does not matter whether the value is made of words.
    words = found.VR == "OW"
    value: Any = found.value
    if hasattr(value, "read"):
        return _ranges(value, 0, UNDEFINED, words)
    return PixelBytes(len(value), memoryview(value).cast("B"), words=words)


def _ranges(stream: BinaryIO, start: int, length: int, words: bool) -> PixelBytes:
    # Where the length is undefined the items say where the value ends (PS3.5 A.4).
    end = stream.seek(0, 2)
    size = max(0, end - start)
    return PixelBytes(size if length == UNDEFINED else min(length, size), None, stream, start, words)
