"""Return the bytes of single frames, as stored or in Explicit VR Little Endian (PS3.18 8.7.3.3).

A layout records where the frames of an object are. It is computed once; with it a frame is read without
parsing the data set, because a slide may have 100,000 frames and as many items before its pixel data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import BinaryIO, cast

import numpy as np
import orjson
from pydicom.datadict import tag_for_keyword

from app.dicom.pixels.decoders import decode_octets
from app.dicom.pixels.fragments import frame_offsets, read_fragments
from app.dicom.pixels.frames import NATIVE, check_size
from app.dicom.pixels.image_header import ImageHeader, read_header
from app.dicom.pixels.native import frame_span, read_octets
from app.dicom.pixels.pixel_bytes import PixelBytes, has_fragments
from app.dicom.pixels.preview_error import PreviewError, rendering, unrenderable
from app.dicom.read.dataset import ObjectDataset
from app.model.options import DatasetLimits

EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
"""Transfer syntax of uncompressed frames: DICOMweb never uses Implicit VR or big endian (PS3.18 8.7.3)."""


@dataclass(frozen=True, slots=True)
class FrameLayout:
    """The position of the frames of an object.

    start, size: position of the pixel data value in the data set's stream. words: its VR is OW, a string of
    16-bit words. in_place: the stream is the stored object itself, not inflated. offsets: from
    `frame_offsets`, for encapsulated pixel data; empty for native ones.
    """

    header: ImageHeader
    start: int
    size: int
    words: bool
    in_place: bool
    offsets: np.ndarray

    @property
    def extended_offsets(self) -> bytes:
        """The layout as an Extended Offset Table, empty for native pixel data."""
        table: np.ndarray = self.offsets[:-1] - self.offsets[:1]
        return table.astype("<u8").tobytes()

    def to_bytes(self) -> bytes:
        """Serialise the layout: a line of JSON, then the offsets."""
        head = {
            "header": asdict(self.header),
            "place": [self.start, self.size, self.words, self.in_place],
        }
        return orjson.dumps(head) + b"\n" + self.offsets.tobytes()

    @classmethod
    def from_bytes(cls, serialised: bytes) -> FrameLayout:
        """Return the layout that `to_bytes` serialised."""
        head, _, offsets = serialised.partition(b"\n")
        fields = orjson.loads(head)
        start, size, words, in_place = fields["place"]
        header = ImageHeader(**fields["header"])
        return cls(header, start, size, words, in_place, np.frombuffer(offsets, "<u8"))


def frame_layout(dataset: ObjectDataset, wanted: Sequence[int], limits: DatasetLimits) -> FrameLayout:
    """Compute the layout of an object.

    Parameters
    ----------
    dataset : the whole data set; the pixel data may still be in the file
    wanted : 0-based frames that will be read now; `frame_offsets` checks an offset table for them
    limits : on frames, fragments and samples

    Raises
    ------
    Unrenderable : with a code of PreviewError
    """
    with rendering():
        header = read_header(dataset)
        for index in wanted or (0,):
            check_size(header, index, limits)
        node = dataset.nodes[tag_for_keyword(header.keyword) or 0]
        fragments = [position - node.offset for position in node.fragments]
        words = node.written == "OW"
        pixels = PixelBytes(node.length, None, cast(BinaryIO, dataset.buffer), node.offset, words, fragments)
        offsets = np.empty(0, "<u8")
        if has_fragments(dataset, header.keyword):
            if header.transfer_syntax in NATIVE:
                text = "the pixel data are in fragments, which the transfer syntax does not allow"
                raise unrenderable(PreviewError.BAD_ENCAPSULATION, text)
            offsets = frame_offsets(pixels, dataset, header.frames, wanted, limits)
        return FrameLayout(header, node.offset, node.length, words, not dataset.deflated, offsets)


def place_of_frame(layout: FrameLayout, frame_index: int, limits: DatasetLimits) -> tuple[int, int] | None:
    """Return offset and length of a native frame whose bytes in the object can be sent unchanged.

    Returns
    -------
    None if the bytes must be joined, swapped, shifted or inflated first

    Raises
    ------
    Unrenderable : no_such_frame, limit_exceeded, truncated_pixel_data
    """
    header = layout.header
    check_size(header, frame_index, limits)
    if len(layout.offsets) or not (layout.in_place and header.little_endian):
        return None
    first_bit, bits = frame_span(layout.size, header, frame_index)
    if (first_bit | bits) % 8:
        return None
    if first_bit + bits > 8 * layout.size:
        raise unrenderable(PreviewError.TRUNCATED_PIXEL_DATA, "the pixel data end before the frame does")
    return layout.start + first_bit // 8, bits // 8


def read_frame_bytes(
    layout: FrameLayout, stream: BinaryIO, frame_index: int, native: bool, limits: DatasetLimits
) -> tuple[str, bytes]:
    """Return the transfer syntax and the bytes of one frame.

    Parameters
    ----------
    layout : of the object
    stream : the bytes that the layout refers to
    frame_index : 0-based
    native : decode a compressed frame
    limits : on fragments, tiles and scans

    Raises
    ------
    Unrenderable : with a code of PreviewError

    References
    ----------
    PS3.5 A.4, PS3.18 8.7.3.3
    """
    header = layout.header
    with rendering():
        check_size(header, frame_index, limits)
        pixels = PixelBytes(layout.size, None, stream, layout.start, layout.words)
        if not len(layout.offsets):
            return EXPLICIT_LITTLE, read_octets(pixels, header, frame_index)
        if frame_index + 1 >= len(layout.offsets):
            raise unrenderable(PreviewError.TRUNCATED_PIXEL_DATA, "fewer frames than the data set declares")
        begin, end = map(int, layout.offsets[frame_index : frame_index + 2])
        data = read_fragments(pixels, begin, end, limits)
        if not native:
            return header.transfer_syntax, data
        return EXPLICIT_LITTLE, decode_octets(data, header, limits)[0]
