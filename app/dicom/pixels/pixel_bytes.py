"""Access to the bytes of the pixel data, in memory or in the object, by ranges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from app.dicom.pixels.attributes import element_as_it_lies
from app.dicom.pixels.preview_error import PreviewError, unrenderable
from app.dicom.read.vr import UNDEFINED


@dataclass(frozen=True, slots=True)
class PixelBytes:
    """A value of `size` bytes, either in `memory` or in `stream` from `start`.

    words: the value is a string of 16-bit words (OW), whose bytes are swapped in big endian files. fragments:
    positions of the fragments' items in the value, then the end of the last; empty if unknown.
    """

    size: int
    memory: memoryview | None = None
    stream: BinaryIO | None = None
    start: int = 0
    words: bool = False
    fragments: Sequence[int] = ()

    def read(self, offset: int, length: int) -> memoryview:
        """Return `length` bytes from `offset`, fewer at the end of the value.

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
    """Return access to the bytes of an element; a value left in the file is not read yet.

    Parameters
    ----------
    dataset : the data set; a value that was deferred is read from its `buffer`
    keyword : PixelData, FloatPixelData or DoubleFloatPixelData

    Raises
    ------
    Unrenderable : no_pixel_data
    """
    found = element_as_it_lies(dataset, keyword)
    # Implicit VR has no VR to check, but words matter only in big endian, which is always explicit.
    words = found is not None and found.VR == "OW"
    if isinstance(found, RawDataElement) and found.value is None:
        node = getattr(dataset, "nodes", {}).get(found.tag)
        if node is not None:
            fragments = [position - node.offset for position in node.fragments]
            return PixelBytes(node.length, None, dataset.buffer, node.offset, words, fragments)
        found = dataset[keyword]
    if found is None or found.value is None:
        raise unrenderable(PreviewError.NO_PIXEL_DATA, "the data set has no pixel data")
    return PixelBytes(len(found.value), memoryview(found.value).cast("B"), words=words)


def has_fragments(dataset: Dataset, keyword: str) -> bool:
    """Return whether an element consists of fragments: its length is undefined (PS3.5 A.4)."""
    found = element_as_it_lies(dataset, keyword)
    return isinstance(found, RawDataElement) and found.length == UNDEFINED
