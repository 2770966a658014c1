"""Compressed frames to samples: which transfer syntax is read by what, and what must hold before."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import imagecodecs
import numpy as np

from app.dicom.pixels.codestream import Codestream, parse_j2k, parse_jpeg, parse_jxl
from app.dicom.pixels.halving import clip_overshoot, halve_j2k
from app.dicom.pixels.image_header import ImageHeader
from app.dicom.pixels.native import cells_from_bytes, frame_bits, stored_values
from app.dicom.pixels.preview_error import PreviewError, over_limit, unrenderable
from app.model.options import DatasetLimits

Samples = tuple[np.ndarray, str]
"""(rows, columns[, 3]) samples and their photometric interpretation."""
LOSSLESS = frozenset(f"1.2.840.10008.1.2.4.{last}" for last in (57, 70, 80, 90, 92, 110, 201, 202))
"""Syntaxes that give back every bit of a cell; in others what lies past the stored bits is an overshoot."""
END = b"\xff\xd9"
MORE = b"\xfe" * 256
"""What could follow the entropy-coded data of a JPEG frame: no marker, nor the zeros a decoder fills in."""


@dataclass(frozen=True, slots=True)
class Codec:
    """How the frames of a transfer syntax are read: the header first, then the frame.

    halve: decodes 2^n times smaller, for less than the whole; gives None for a frame where it cannot.
    """

    parse: Callable[[bytes], Codestream]
    decode: Callable[[Codestream, ImageHeader], Samples]
    kinds: frozenset[str]
    halve: Callable[[Codestream, int], np.ndarray | None] | None = None


def decode_frame(data: bytes, header: ImageHeader, limits: DatasetLimits, halvings: int = 0) -> Samples:
    """Decode one compressed frame whose own header agrees with the data set.

    Parameters
    ----------
    data : joined fragments of the frame
    header : what the data set says; its size must have been checked
    limits : on what the codestream may be made of
    halvings : how often rows and columns may be halved, where the codestream and its decoder can

    Returns
    -------
    (rows, columns[, 3]) stored values, halved or whole, and the photometric interpretation that they have now

    Raises
    ------
    Unrenderable : unsupported_transfer_syntax, bad_codestream, limit_exceeded, truncated_pixel_data

    References
    ----------
    PS3.5 A.4, 8.2
    """
    if header.transfer_syntax in BYTEWISE:
        cells = BYTEWISE[header.transfer_syntax](data, header)
        return stored_values(cells, header, header.high_bit), header.photometric
    codec, stream = _parsed(data, header, limits)
    high_bit = _high_bit(stream, header)
    # Where only one of the two has a sign, -1 is the largest sample, and its mean with 1 means nothing.
    halvings = min(halvings, stream.levels) if stream.signed == header.signed else 0
    if halvings and codec.halve is not None and (halved := codec.halve(stream, halvings)) is not None:
        samples = clip_overshoot(halved, stream, high_bit)
        if samples is not None:
            return stored_values(samples, header, high_bit), _unmixed(stream, header)
    samples, photometric = _decoded(codec, stream, header)
    return stored_values(samples, header, high_bit), photometric


def decode_octets(data: bytes, header: ImageHeader, limits: DatasetLimits) -> tuple[bytes, str]:
    """Decode one compressed frame to the bytes that Explicit VR Little Endian has for it.

    Parameters, Raises : as `decode_frame`

    Returns
    -------
    cells of BitsAllocated bits, colours by pixel, and the photometric interpretation that they have now; of
    a lossless frame every bit of a cell, also those beside the stored value

    References
    ----------
    PS3.5 8.1.1, A.2
    """
    if header.transfer_syntax in BYTEWISE:
        cells, photometric = BYTEWISE[header.transfer_syntax](data, header), header.photometric
    else:
        codec, stream = _parsed(data, header, limits)
        cells, photometric = _decoded(codec, stream, header)
        if _high_bit(stream, header) is None:
            cells = stored_values(cells, header, None)
    if header.bits_allocated == 1:
        return np.packbits(cells.reshape(-1).astype(bool), bitorder="little").tobytes(), photometric
    width = header.bits_allocated // 8
    if cells.dtype.itemsize > width:
        raise unrenderable(PreviewError.BAD_CODESTREAM, "the decoded samples are wider than the cells")
    return np.ascontiguousarray(cells).astype(f"<{cells.dtype.kind}{width}").tobytes(), photometric


def decode_png(data: bytes) -> np.ndarray:
    """Return the samples of a PNG that we wrote: (rows, columns) or (rows, columns, 3), uint8."""
    image: np.ndarray = imagecodecs.png_decode(data)
    return image


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
    """Return (rows, columns) or (rows, columns, 3) samples, uint8, as a JPEG of a quality from 1 to 100.

    It stands here because the container image keeps only the codecs that this file names.
    """
    return bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(image), level=quality))


def encode_rle(cells: np.ndarray) -> bytes:
    """Return one frame compressed by RLE: a segment a byte of a sample, most significant first, row by row.

    Parameters
    ----------
    cells : (rows, columns[, 3]) of 8 or 16 bits

    References
    ----------
    PS3.5 G
    """
    width = cells.dtype.itemsize
    planes = cells[None] if cells.ndim == 2 else cells.transpose(2, 0, 1)
    octets = np.ascontiguousarray(planes).astype(cells.dtype.newbyteorder(">")).view(np.uint8)
    segments = []
    for plane in octets.reshape(*planes.shape, width):
        for place in range(width):
            segment = bytes(imagecodecs.packbits_encode(np.ascontiguousarray(plane[..., place]), axis=-1))
            segments.append(segment + b"\0" * (len(segment) % 2))
    offsets = np.zeros(16, "<u4")
    offsets[0] = len(segments)
    offsets[1 : len(segments) + 1] = 64 + np.cumsum([0, *map(len, segments[:-1])])
    return offsets.tobytes() + b"".join(segments)


def _parsed(data: bytes, header: ImageHeader, limits: DatasetLimits) -> tuple[Codec, Codestream]:
    codec = CODECS.get(header.transfer_syntax)
    if codec is None:
        raise unrenderable(PreviewError.UNSUPPORTED_TRANSFER_SYNTAX, "no decoder for the transfer syntax")
    stream = codec.parse(data)
    _check(stream, header, codec.kinds)
    _check_parts(stream, limits)
    return codec, stream


def _decoded(codec: Codec, stream: Codestream, header: ImageHeader) -> Samples:
    samples, photometric = codec.decode(stream, header)
    if samples.shape != (header.rows, header.columns, 3)[: 1 + max(1, header.samples - 1)]:
        raise unrenderable(PreviewError.BAD_CODESTREAM, "the decoded frame has another shape")
    return samples, photometric


def _high_bit(stream: Codestream, header: ImageHeader) -> int | None:
    """Return where the values lie in a frame of more bits than are stored, None where it holds but values.

    An encoder that took whole cells took what lies beside the values too: old overlays, or anything.
    """
    precision = stream.precision or header.bits_allocated  # JPEG XL hides it deep
    lossless = header.transfer_syntax in LOSSLESS and stream.kind not in ("SOF0", "SOF1")
    if not lossless or precision <= header.bits_stored:
        return None
    return header.high_bit if stream.precision > header.high_bit else header.bits_stored - 1


def _check(stream: Codestream, header: ImageHeader, kinds: frozenset[str]) -> None:
    if stream.kind not in kinds:
        raise unrenderable(
            PreviewError.BAD_CODESTREAM, "the transfer syntax does not allow this kind of frame"
        )
    if (stream.rows, stream.columns) != (header.rows, header.columns):
        raise unrenderable(PreviewError.BAD_CODESTREAM, "the frame has other dimensions than the data set")
    if stream.components not in (0, header.samples):
        raise unrenderable(PreviewError.BAD_CODESTREAM, "the frame has other components than the data set")


def _check_parts(stream: Codestream, limits: DatasetLimits) -> None:
    """Refuse a frame that would keep a decoder busy with its many parts, small though it is."""
    if stream.tiles > limits.tiles:
        raise over_limit("the frame has more tiles than limits.tiles", limits.tiles)
    if stream.scans > limits.scans:
        raise over_limit("the frame has more scans than limits.scans", limits.scans)


def _decode_jpeg(stream: Codestream, header: ImageHeader) -> Samples:
    if header.samples == 1:
        return _whole(stream, imagecodecs.jpeg8_decode), header.photometric
    # Where the codestream tells its own colour space, it is right and the data set is wrong.
    mixed = stream.mixed if stream.mixed is not None else header.photometric.startswith("YBR")
    source = "YCBCR" if mixed else "RGB"
    return _whole(stream, partial(imagecodecs.jpeg8_decode, colorspace=source, outcolorspace="RGB")), "RGB"


def _decode_lossless_jpeg(stream: Codestream, header: ImageHeader) -> Samples:
    if stream.kind != "SOF3" or header.samples == 1:
        return _decode_jpeg(stream, header)
    # A lossless frame holds the samples of the data set's own colour space, whatever the markers say.
    decode = partial(imagecodecs.jpeg8_decode, colorspace="RGB", outcolorspace="RGB")
    return _whole(stream, decode), header.photometric


def _whole(stream: Codestream, decode: Callable[[bytes], np.ndarray]) -> np.ndarray:
    """Decode a JPEG frame; one without an end marker only if no sample is missing.

    The decoder fills the rest of a truncated frame with grey and calls it a success. A frame is whole if
    other data behind it would change nothing.
    """
    if stream.ended:
        return decode(stream.data)
    more = b"\0" + MORE if stream.data.endswith(b"\xff") else MORE  # FF FE would be a marker, FF 00 is none
    samples = decode(stream.data + END)
    # Scans of a progressive frame can be missing without any trace in the others.
    if stream.kind == "SOF2" or not np.array_equal(samples, decode(stream.data + more + END)):
        raise unrenderable(PreviewError.TRUNCATED_PIXEL_DATA, "the frame ends early")
    return samples


def _decode_jpegls(stream: Codestream, header: ImageHeader) -> Samples:
    # CharLS notices missing samples, but without an end it looks for one for seconds.
    return imagecodecs.jpegls_decode(stream.data if stream.ended else stream.data + END), header.photometric


def _decode_j2k(stream: Codestream, header: ImageHeader) -> Samples:
    # HTJ2K too: OpenJPH is twice as fast, but lets bright samples of lossy frames wrap around to black.
    return imagecodecs.jpeg2k_decode(stream.data), _unmixed(stream, header)


def _unmixed(stream: Codestream, header: ImageHeader) -> str:
    """Return the colours after J2K's own colour transform was undone, or subsampled ones spread."""
    undone = stream.mixed or stream.subsampled or header.photometric in ("YBR_ICT", "YBR_RCT")
    return "RGB" if undone and header.samples == 3 else header.photometric


def _decode_jxl(stream: Codestream, header: ImageHeader) -> Samples:
    return imagecodecs.jpegxl_decode(
        stream.data, index=0
    ), "RGB" if header.samples == 3 else header.photometric


def _decode_rle(data: bytes, header: ImageHeader) -> np.ndarray:
    """Undo RLE: one segment a byte of a sample, most significant first, plane after plane (PS3.5 G)."""
    width = max(1, header.bits_allocated // 8)
    size = -(-header.pixels // 8) if header.bits_allocated == 1 else header.pixels
    if len(data) < 64:
        raise unrenderable(PreviewError.BAD_CODESTREAM, "the RLE header is cut off")
    table = np.frombuffer(data[:64], "<u4").tolist()
    count = header.samples * width
    if table[0] != count or count > 15:
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
_J2K = replace(_codec(parse_j2k, _decode_j2k, "J2K"), halve=halve_j2k)
_HTJ2K = replace(_codec(parse_j2k, _decode_j2k, "HTJ2K"), halve=halve_j2k)
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
