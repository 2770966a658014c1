"""Write any data set as a file in Explicit VR Little Endian, in chunks.

Values are copied, not converted, so invalid ones stay as they are. Only what the encoding requires changes:
headers, byte order, and compressed pixel data.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, cast

import numpy as np
from pydicom.datadict import tag_for_keyword

from app.dicom.metadata.values import SIZES, WORDS, turned
from app.dicom.pixels.attributes import integer, text
from app.dicom.pixels.decoders import decode_octets
from app.dicom.pixels.fragments import read_codestream
from app.dicom.pixels.frame_bytes import EXPLICIT_LITTLE
from app.dicom.pixels.frames import NATIVE, check_size
from app.dicom.pixels.image_header import ImageHeader, pixel_keyword, read_header
from app.dicom.pixels.pixel_bytes import has_fragments, pixel_bytes
from app.dicom.pixels.preview_error import PreviewError, rendering, unrenderable
from app.dicom.read.byte_reader import Source
from app.dicom.read.dataset import ObjectDataset
from app.dicom.read.nesting import Node
from app.dicom.read.vr import EXTENDED_OFFSET_TABLE, ITEM, ITEM_END, LONG, PIXEL_DATA, SEQUENCE_END, UNDEFINED
from app.dicom.write.elements import element, head, settled_vr
from app.model.names import IMPLEMENTATION_UID
from app.model.options import DatasetLimits

PIECE = 1 << 20
"""Bytes of a value copied at once, a multiple of every word; smaller pieces are put together."""
REPLACED = {0x00020000, 0x00020001, 0x00020002, 0x00020003, 0x00020010, 0x00020012, 0x00020013}
"""Elements of the file meta information that describe the file itself, so the writer replaces them."""
OFFSETS = {EXTENDED_OFFSET_TABLE, 0x7FE00002, 0x7FE00003}
"""Extended offset table, its lengths, the total length: meaningless without fragments (PS3.3 C.7.6.3)."""
PHOTOMETRIC, PLANAR = 0x00280004, 0x00280006
WORD = {**SIZES, **WORDS, "AT": 2}
"""VR -> size of a word whose bytes are swapped for the other byte order."""


@dataclass(frozen=True, slots=True)
class DecodedPixels:
    """Decoded pixel data: the first frame, and what is needed to decode the others one at a time."""

    dataset: ObjectDataset
    header: ImageHeader
    limits: DatasetLimits
    first: bytes
    photometric: str

    @property
    def size(self) -> int:
        """Total bytes of all frames."""
        if self.header.bits_allocated == 1:
            return -(-self.header.pixels * self.header.frames // 8)
        return len(self.first) * self.header.frames

    def value(self) -> Iterator[bytes]:
        """Yield the value of Pixel Data in pieces; no padding between one-bit frames (PS3.5 8.1.1)."""
        if self.header.bits_allocated > 1 or self.header.pixels % 8 == 0:
            yield from self.frames()
            return
        left = np.empty(0, np.uint8)
        for frame in self.frames():
            bits = np.unpackbits(np.frombuffer(frame, np.uint8), bitorder="little")[: self.header.pixels]
            bits = np.concatenate([left, bits])
            whole = len(bits) - len(bits) % 8
            yield np.packbits(bits[:whole], bitorder="little").tobytes()
            left = bits[whole:]
        yield np.packbits(left, bitorder="little").tobytes()

    def frames(self) -> Iterator[bytes]:
        """Yield the frames in order."""
        yield self.first
        for index in range(1, self.header.frames):
            data, photometric = _decode(self.dataset, self.header, index, self.limits)
            if len(data) != len(self.first) or photometric != self.photometric:
                raise unrenderable(PreviewError.BAD_CODESTREAM, "frames differ in size or colour space")
            yield data


def explicit_file(dataset: ObjectDataset, limits: DatasetLimits, max_bytes: int) -> Iterator[bytes]:
    """Write a data set as a file in Explicit VR Little Endian; compressed pixel data are decoded.

    Parameters
    ----------
    dataset : as read, in any transfer syntax
    limits : on samples, frames, fragments and the parts of a codestream
    max_bytes : maximum size of the decoded pixel data

    Yields
    ------
    the file in chunks of about 1 MiB

    Raises
    ------
    Unrenderable : the pixel data cannot be decoded or are too large. Raised before the first chunk, except
        for a fault in a later frame

    References
    ----------
    PS3.10 7 (file), PS3.5 7 and A.2 (Explicit VR Little Endian)
    """
    decoded = None
    with rendering():
        keyword = pixel_keyword(dataset)
        if keyword is not None and has_fragments(dataset, keyword):
            decoded = _decoded(dataset, limits)
            if decoded.size > max_bytes:
                text = f"the decoded pixel data would take more than {max_bytes} bytes"
                raise unrenderable(PreviewError.LIMIT_EXCEEDED, text)
    piece = bytearray()
    for part in _parts(dataset, decoded):
        piece += part
        if len(piece) >= PIECE:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece)


def _parts(dataset: ObjectDataset, decoded: DecodedPixels | None) -> Iterator[bytes]:
    yield (dataset.preamble or b"").ljust(128, b"\0") + b"DICM" + _file_meta(dataset)
    little = dataset.original_encoding[1] is not False
    stream = cast(BinaryIO, dataset.buffer)
    source = Source(stream, stream.seek(0, 2))
    writer = _Writer(source, little, signed=integer(dataset, "PixelRepresentation", 0) == 1)
    writer.cell = cell_bytes(dataset)
    changed: dict[int, bytes] = {}
    if decoded is not None:
        changed = dict.fromkeys(OFFSETS, b"")
        changed[PHOTOMETRIC] = element(PHOTOMETRIC, "CS", decoded.photometric.encode())
        if decoded.header.samples > 1:
            changed[PLANAR] = element(PLANAR, "US", b"\0\0")
    for tag in sorted({*dataset.nodes, *changed}):
        if tag in changed:
            yield changed[tag]
        elif tag == PIXEL_DATA and decoded is not None:
            yield head(
                tag, "OW" if decoded.header.bits_allocated > 8 else "OB", decoded.size + decoded.size % 2
            )
            yield from decoded.value()
            yield b"\0" * (decoded.size % 2)
        else:
            yield from writer.element(dataset.nodes[tag])


def _file_meta(dataset: ObjectDataset) -> bytes:
    """Return group 0002: new elements for this file, the other elements as they were."""
    elements = {
        0x00020001: element(0x00020001, "OB", b"\0\1"),
        0x00020002: element(0x00020002, "UI", text(dataset, "SOPClassUID").encode("latin-1")),
        0x00020003: element(0x00020003, "UI", text(dataset, "SOPInstanceUID").encode("latin-1")),
        0x00020010: element(0x00020010, "UI", EXPLICIT_LITTLE.encode()),
        0x00020012: element(0x00020012, "UI", IMPLEMENTATION_UID.encode()),
        0x00020013: element(0x00020013, "SH", b"DICOMLAKE"),
    }
    for tag, kept in (dataset.file_meta or {}).items():
        if tag not in REPLACED and isinstance(kept.value, bytes) and kept.VR:
            elements[int(tag)] = element(int(tag), kept.VR, kept.value)
    body = b"".join(elements[tag] for tag in sorted(elements))
    return element(0x00020000, "UL", struct.pack("<I", len(body))) + body


def _decoded(dataset: ObjectDataset, limits: DatasetLimits) -> DecodedPixels:
    header = read_header(dataset)
    if header.transfer_syntax in NATIVE:
        text = "the pixel data are in fragments, which the transfer syntax does not allow"
        raise unrenderable(PreviewError.BAD_ENCAPSULATION, text)
    check_size(header, 0, limits)
    first, photometric = _decode(dataset, header, 0, limits)
    return DecodedPixels(dataset, header, limits, first, photometric)


def _decode(
    dataset: ObjectDataset, header: ImageHeader, frame_index: int, limits: DatasetLimits
) -> tuple[bytes, str]:
    with rendering():
        pixels = pixel_bytes(dataset, header.keyword)
        data = read_codestream(pixels, dataset, frame_index, header.frames, limits)
        return decode_octets(data, header, limits)


def cell_bytes(dataset: ObjectDataset) -> int:
    """Return the word size of pixel data for byte swapping: a 32-bit cell is one word, not two."""
    return max(WORD["OW"], integer(dataset, "BitsAllocated", 0) // 8)


class _Writer:
    """Copies elements from a source. signed: Pixel Representation of the current data set or item.

    cell: word size of its pixel data for byte swapping.
    """

    cell = WORD["OW"]

    def __init__(self, source: Source, little: bool, signed: bool) -> None:
        self.source, self.little, self.signed = source, little, signed

    def element(self, node: Node) -> Iterator[bytes]:
        """Yield one element. Sequences get delimiters, because their length is not known in advance."""
        if not node.tag & 0xFFFF:  # group lengths are retired and mostly wrong
            return
        little = self.little or node.swapped
        if node.vr == "SQ":
            yield head(node.tag, "SQ", UNDEFINED)
            for item in node.items:
                yield from self.item(item, little)
            yield struct.pack("<HHI", SEQUENCE_END >> 16, SEQUENCE_END & 0xFFFF, 0)
            return
        if node.undefined:  # compressed pixel data of an icon: Explicit VR Little Endian cannot hold them
            return
        vr = settled_vr(node.vr, self.signed)
        length = node.length + node.length % 2
        if length > 0xFFFF and vr not in LONG:
            vr = "UN"  # PS3.5 6.2.2 note: too long for its own VR
        yield head(node.tag, vr, length)
        size = 1 if little else self.cell if (node.tag, vr) == (PIXEL_DATA, "OW") else WORD.get(vr, 1)
        for position in range(node.offset, node.offset + node.length, PIECE):
            value = self.source.value(position, min(PIECE, node.offset + node.length - position))
            yield turned(value, size)
        if node.length % 2:
            yield b"\0" if vr in ("UI", "OB", "UN") else b" "

    def item(self, nodes: Sequence[Node], little: bool) -> Iterator[bytes]:
        """Yield one item with its elements in ascending order; if a tag occurs twice, the last counts."""
        outer = self.little, self.signed, self.cell
        self.little, self.cell = little, WORD["OW"]
        elements = {node.tag: node for node in nodes}
        if (sign := elements.get(tag_for_keyword("PixelRepresentation") or 0)) is not None:
            value = self.source.value(sign.offset, min(2, sign.length))
            self.signed = value in (b"\1\0", b"\0\1", b"\1")
        yield struct.pack("<HHI", ITEM >> 16, ITEM & 0xFFFF, UNDEFINED)
        for tag in sorted(elements):
            yield from self.element(elements[tag])
        yield struct.pack("<HHI", ITEM_END >> 16, ITEM_END & 0xFFFF, 0)
        self.little, self.signed, self.cell = outer
