"""Compressed frames to samples: which transfer syntax is read by what, and what must hold before."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import imagecodecs
import numpy as np

from app.dicom.codestream import MAX_TILES, Codestream, parse_j2k, parse_jpeg, parse_jxl
from app.dicom.header import ImageHeader
from app.dicom.native import cells_from_bytes, frame_bits
from app.dicom.unrenderable import PreviewError, unrenderable

Samples = tuple[np.ndarray, str]
"""(rows, columns[, 3]) samples and their photometric interpretation."""


@dataclass(frozen=True, slots=True)
class Codec:
    """How the frames of a transfer syntax are read: the header first, then the frame."""

    parse: Callable[[bytes], Codestream]
    decode: Callable[[Codestream, ImageHeader], Samples]
    kinds: frozenset[str]


def decode_frame(data: bytes, header: ImageHeader) -> Samples:
    """Decode one compressed frame whose own header agrees with the data set.

    Parameters
    ----------
    data : joined fragments of the frame
    header : what the data set says; its size must have been checked

    Returns
    -------
    (rows, columns[, 3]) samples, and the photometric interpretation that they have now

    Raises
    ------
    Unrenderable : unsupported_transfer_syntax, bad_codestream, truncated_pixel_data

    References
    ----------
    PS3.5 A.4, 8.2
    """
    if header.transfer_syntax in BYTEWISE:
        return BYTEWISE[header.transfer_syntax](data, header), header.photometric
    codec = CODECS.get(header.transfer_syntax)
    if codec is None:
        raise unrenderable(PreviewError.UNSUPPORTED_TRANSFER_SYNTAX, "no decoder for the transfer syntax")
    stream = codec.parse(data)
    _check(stream, header, codec.kinds)
    samples, photometric = codec.decode(stream, header)
    if samples.shape != (header.rows, header.columns, 3)[: 1 + max(1, header.samples - 1)]:
        raise unrenderable(PreviewError.BAD_CODESTREAM, "the decoded frame has another shape")
    return samples, photometric


def _check(stream: Codestream, header: ImageHeader, kinds: frozenset[str]) -> None:
    if stream.kind not in kinds:
        raise unrenderable(
            PreviewError.BAD_CODESTREAM, "the transfer syntax does not allow this kind of frame"
        )
    if (stream.rows, stream.columns) != (header.rows, header.columns):
        raise unrenderable(PreviewError.BAD_CODESTREAM, "the frame has other dimensions than the data set")
    if stream.components not in (0, header.samples):
        raise unrenderable(PreviewError.BAD_CODESTREAM, "the frame has other components than the data set")
    if stream.tiles > MAX_TILES:
        raise unrenderable(PreviewError.BAD_CODESTREAM, "too many tiles")


def _decode_jpeg(stream: Codestream, header: ImageHeader) -> Samples:
    if header.samples == 1:
        return imagecodecs.jpeg8_decode(stream.data), header.photometric
    # Where the codestream tells its own colour space, it is right and the data set is wrong.
    mixed = stream.mixed if stream.mixed is not None else header.photometric.startswith("YBR")
    source = "YCBCR" if mixed else "RGB"
    return imagecodecs.jpeg8_decode(stream.data, colorspace=source, outcolorspace="RGB"), "RGB"


def _decode_lossless_jpeg(stream: Codestream, header: ImageHeader) -> Samples:
    if stream.kind != "SOF3" or header.samples == 1:
        return _decode_jpeg(stream, header)
    # A lossless frame holds the samples of the data set's own colour space, whatever the markers say.
    samples = imagecodecs.jpeg8_decode(stream.data, colorspace="RGB", outcolorspace="RGB")
    return samples, header.photometric


def _decode_jpegls(stream: Codestream, header: ImageHeader) -> Samples:
    return imagecodecs.jpegls_decode(stream.data), header.photometric


def _decode_j2k(stream: Codestream, header: ImageHeader) -> Samples:
    samples = imagecodecs.jpeg2k_decode(stream.data)
    unmixed = stream.mixed or header.photometric in ("YBR_ICT", "YBR_RCT")
    return samples, "RGB" if unmixed and header.samples == 3 else header.photometric


def _decode_jxl(stream: Codestream, header: ImageHeader) -> Samples:
    return imagecodecs.jpegxl_decode(
        stream.data, index=0
    ), "RGB" if header.samples == 3 else header.photometric


def _decode_rle(data: bytes, header: ImageHeader) -> np.ndarray:
    """Undo RLE: one segment a byte of a sample, most significant first, plane after plane (PS3.5 G)."""
    width = max(1, header.bits_allocated // 8)
    size = -(-header.pixels // 8) if header.bits_allocated == 1 else header.pixels
    table = np.frombuffer(data[:64], "<u4").tolist()
    count = header.samples * width
    if len(table) < 16 or table[0] != count or count > 15:
        raise unrenderable(PreviewError.BAD_CODESTREAM, "the RLE header has another number of segments")
    bounds = [*table[1 : count + 1], len(data)]
    if bounds != sorted(bounds) or bounds[0] < 64:
        raise unrenderable(PreviewError.BAD_CODESTREAM, "the RLE segments overlap")
    cells = np.empty((header.samples, size, width), np.uint8)
    for index in range(count):
        # A segment may be padded, and the padding may look like one more run.
        plane = imagecodecs.packbits_decode(data[bounds[index] : bounds[index + 1]], out=size + 256)
        if len(plane) < size:
            raise unrenderable(PreviewError.TRUNCATED_PIXEL_DATA, "an RLE segment ends early")
        cells[index // width, :, width - 1 - index % width] = np.frombuffer(plane, np.uint8, size)
    return cells_from_bytes(cells.reshape(-1), header, planar=True)


def _inflate(data: bytes, header: ImageHeader) -> np.ndarray:
    """Undo Deflated Image Frame Compression: the frame as native little endian bytes (PS3.5 A.4.13)."""
    size = -(-frame_bits(header) // 8)
    plain = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size)
    if len(plain) < size:
        raise unrenderable(PreviewError.TRUNCATED_PIXEL_DATA, "the deflated frame ends early")
    return cells_from_bytes(np.frombuffer(plain, np.uint8), header, planar=header.planar)


BYTEWISE: dict[str, Callable[[bytes, ImageHeader], np.ndarray]] = {
    "1.2.840.10008.1.2.5": _decode_rle,
    "1.2.840.10008.1.2.8.1": _inflate,
}
"""Syntaxes without a header of their own: the data set says all."""


def _codec(parse: Callable[[bytes], Codestream], decode: Callable[..., Samples], *kinds: str) -> Codec:
    return Codec(parse, decode, frozenset(kinds))


_DCT = _codec(parse_jpeg, _decode_jpeg, "SOF0", "SOF1")
_PROGRESSIVE = _codec(parse_jpeg, _decode_jpeg, "SOF2")
# Some writers declare lossless and store a sequential DCT frame; it is decoded as what it is.
_LOSSLESS = _codec(parse_jpeg, _decode_lossless_jpeg, "SOF0", "SOF1", "SOF3")
_JPEG_LS = _codec(parse_jpeg, _decode_jpegls, "SOF55")
_J2K = _codec(parse_j2k, _decode_j2k, "J2K")
_HTJ2K = _codec(parse_j2k, _decode_j2k, "HTJ2K")
_JXL = _codec(parse_jxl, _decode_jxl, "JXL")

CODECS: dict[str, Codec] = {
    "1.2.840.10008.1.2.4.50": _DCT,
    "1.2.840.10008.1.2.4.51": _DCT,
    "1.2.840.10008.1.2.4.53": _PROGRESSIVE,
    "1.2.840.10008.1.2.4.55": _PROGRESSIVE,
    "1.2.840.10008.1.2.4.57": _LOSSLESS,
    "1.2.840.10008.1.2.4.70": _LOSSLESS,
    "1.2.840.10008.1.2.4.80": _JPEG_LS,
    "1.2.840.10008.1.2.4.81": _JPEG_LS,
    "1.2.840.10008.1.2.4.90": _J2K,
    "1.2.840.10008.1.2.4.91": _J2K,
    "1.2.840.10008.1.2.4.92": _J2K,
    "1.2.840.10008.1.2.4.93": _J2K,
    "1.2.840.10008.1.2.4.110": _JXL,
    "1.2.840.10008.1.2.4.111": _JXL,
    "1.2.840.10008.1.2.4.112": _JXL,
    "1.2.840.10008.1.2.4.201": _HTJ2K,
    "1.2.840.10008.1.2.4.202": _HTJ2K,
    "1.2.840.10008.1.2.4.203": _HTJ2K,
}
"""The transfer syntaxes whose frames carry their own header."""
