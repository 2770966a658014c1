"""Decode compressed frames: the decoder for each transfer syntax, and the checks before it runs."""

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
"""Syntaxes that preserve every bit of a cell; in others, bits beyond the stored ones are an overshoot."""
EOI = b"\xff\xd9"
FILLER = b"\xfe" * 256
"""Plausible entropy-coded data of a JPEG frame: not a marker, and not the zeros that a decoder fills in."""


@dataclass(frozen=True, slots=True)
class Codec:
    """How to decode the frames of a transfer syntax.

    kinds: frames allowed in it. halve: decodes 2^n times smaller at a lower cost; returns None if it cannot.
    """

    parse: Callable[[bytes], Codestream]
    decode: Callable[[Codestream, ImageHeader], Samples]
    kinds: frozenset[str]
    halve: Callable[[Codestream, int], np.ndarray | None] | None = None


def decode_frame(data: bytes, header: ImageHeader, limits: DatasetLimits, halvings: int = 0) -> Samples:
    """Decode one compressed frame, after checking that its own header agrees with the data set.

    Parameters
    ----------
    data : joined fragments of the frame
    header : from the data set; the caller must have checked its size
    limits : on the tiles and scans of the codestream
    halvings : how often rows and columns may be halved, if the codestream and its decoder support it

    Returns
    -------
    (rows, columns[, 3]) stored values, halved or not, and their photometric interpretation after decoding

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
    # If only one of the two is signed, -1 is stored as the largest sample; its mean with 1 is meaningless.
    halvings = min(halvings, stream.levels) if stream.signed == header.signed else 0
    if halvings and codec.halve is not None and (halved := codec.halve(stream, halvings)) is not None:
        samples = clip_overshoot(halved, stream, high_bit)
        if samples is not None:
            return stored_values(samples, header, high_bit), _unmixed(stream, header)
    samples, photometric = _decoded(codec, stream, header)
    return stored_values(samples, header, high_bit), photometric


def decode_octets(data: bytes, header: ImageHeader, limits: DatasetLimits) -> tuple[bytes, str]:
    """Decode one compressed frame to its bytes in Explicit VR Little Endian.

    Parameters, Raises : as `decode_frame`

    Returns
    -------
    cells of BitsAllocated bits, colour by pixel, and their photometric interpretation after decoding. A
    lossless frame keeps every bit of a cell, including those outside the stored value

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
    """Decode a PNG written by `encode_png`: (rows, columns) or (rows, columns, 3), uint8."""
    image: np.ndarray = imagecodecs.png_decode(data)
    return image


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
    """Encode (rows, columns) or (rows, columns, 3) samples, uint8, as a JPEG with a quality of 1 to 100.

    It is in this module because the container image keeps only the codecs named here.
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
        raise unrenderable(PreviewError.BAD_CODESTREAM, "the decoded frame has the wrong shape")
    return samples, photometric


def _high_bit(stream: Codestream, header: ImageHeader) -> int | None:
    """Return the high bit of the values in a frame with more bits than BitsStored, None if it has no others.

    An encoder that compressed whole cells included the bits outside the values: old overlays, or anything.
    """
    precision = stream.precision or header.bits_allocated  # not parsed for JPEG XL
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
        raise unrenderable(PreviewError.BAD_CODESTREAM, "the frame and the data set differ in dimensions")
    if stream.components not in (0, header.samples):
        raise unrenderable(PreviewError.BAD_CODESTREAM, "the frame and the data set differ in components")


def _check_parts(stream: Codestream, limits: DatasetLimits) -> None:
    """Refuse a frame with so many parts that decoding takes long although the frame is small."""
    if stream.tiles > limits.tiles:
        raise over_limit("the frame has more tiles than limits.tiles", limits.tiles)
    if stream.scans > limits.scans:
        raise over_limit("the frame has more scans than limits.scans", limits.scans)


def _decode_jpeg(stream: Codestream, header: ImageHeader) -> Samples:
    if header.samples == 1:
        return _whole(stream, imagecodecs.jpeg8_decode), header.photometric
    # If the codestream declares its colour space, it is right, even if the data set contradicts it.
    mixed = stream.mixed if stream.mixed is not None else header.photometric.startswith("YBR")
    source = "YCBCR" if mixed else "RGB"
    return _whole(stream, partial(imagecodecs.jpeg8_decode, colorspace=source, outcolorspace="RGB")), "RGB"


def _decode_lossless_jpeg(stream: Codestream, header: ImageHeader) -> Samples:
    if stream.kind != "SOF3" or header.samples == 1:
        return _decode_jpeg(stream, header)
    # A lossless frame holds samples in the colour space of the data set, whatever its markers declare.
    decode = partial(imagecodecs.jpeg8_decode, colorspace="RGB", outcolorspace="RGB")
    return _whole(stream, decode), header.photometric


def _whole(stream: Codestream, decode: Callable[[bytes], np.ndarray]) -> np.ndarray:
    """Decode a JPEG frame; one without an end marker only if no sample is missing.

    The decoder fills the rest of a truncated frame with grey and reports success. A frame is complete if
    appending more data does not change the result.
    """
    if stream.ended:
        return decode(stream.data)
    # FF FE would be a marker, FF 00 is data.
    filler = b"\0" + FILLER if stream.data.endswith(b"\xff") else FILLER
    samples = decode(stream.data + EOI)
    # A progressive frame can lack whole scans, which this check would not detect.
    if stream.kind == "SOF2" or not np.array_equal(samples, decode(stream.data + filler + EOI)):
        raise unrenderable(PreviewError.TRUNCATED_PIXEL_DATA, "the frame ends early")
    return samples


def _decode_jpegls(stream: Codestream, header: ImageHeader) -> Samples:
    # CharLS detects missing samples itself, but without an end marker it searches for one for seconds.
    return imagecodecs.jpegls_decode(stream.data if stream.ended else stream.data + EOI), header.photometric


def _decode_j2k(stream: Codestream, header: ImageHeader) -> Samples:
    # HTJ2K too: OpenJPH is twice as fast, but lets bright samples of lossy frames wrap around to black.
    return imagecodecs.jpeg2k_decode(stream.data), _unmixed(stream, header)


def _unmixed(stream: Codestream, header: ImageHeader) -> str:
    """Return the photometric interpretation after J2K's colour transform or subsampling has been undone."""
    undone = stream.mixed or stream.subsampled or header.photometric in ("YBR_ICT", "YBR_RCT")
    return "RGB" if undone and header.samples == 3 else header.photometric


def _decode_jxl(stream: Codestream, header: ImageHeader) -> Samples:
    return imagecodecs.jpegxl_decode(
        stream.data, index=0
    ), "RGB" if header.samples == 3 else header.photometric


def _decode_rle(data: bytes, header: ImageHeader) -> np.ndarray:
    """Decode RLE: one segment per byte of a sample, most significant first, plane by plane (PS3.5 G)."""
    width = max(1, header.bits_allocated // 8)
    size = -(-header.pixels // 8) if header.bits_allocated == 1 else header.pixels
    if len(data) < 64:
        raise unrenderable(PreviewError.BAD_CODESTREAM, "the RLE header is cut off")
    table = np.frombuffer(data[:64], "<u4").tolist()
    count = header.samples * width
    if table[0] != count or count > 15:
        raise unrenderable(PreviewError.BAD_CODESTREAM, "the RLE header has the wrong number of segments")
    bounds = [*table[1 : count + 1], len(data)]
    if bounds != sorted(bounds) or bounds[0] < 64:
        raise unrenderable(PreviewError.BAD_CODESTREAM, "the RLE segments overlap")
    cells = np.empty((header.samples, size, width), np.uint8)
    for index in range(count):
        # Segments may be padded, and the padding may decode as one more run: hence the spare 256 bytes.
        plane = imagecodecs.packbits_decode(data[bounds[index] : bounds[index + 1]], out=size + 256)
        if len(plane) < size:
            raise unrenderable(PreviewError.TRUNCATED_PIXEL_DATA, "an RLE segment ends early")
        cells[index // width, :, width - 1 - index % width] = np.frombuffer(plane, np.uint8, size)
    return cells_from_bytes(cells.reshape(-1), header, planar=True)


def _inflate(data: bytes, header: ImageHeader) -> np.ndarray:
    """Decode Deflated Image Frame Compression: native little endian bytes, deflated (PS3.5 A.4.13)."""
    size = -(-frame_bits(header) // 8)
    plain = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size)
    if len(plain) < size:
        raise unrenderable(PreviewError.TRUNCATED_PIXEL_DATA, "the deflated frame ends early")
    return cells_from_bytes(np.frombuffer(plain, np.uint8), header, planar=header.planar)


BYTEWISE: dict[str, Callable[[bytes, ImageHeader], np.ndarray]] = {
    "1.2.840.10008.1.2.5": _decode_rle,
    "1.2.840.10008.1.2.8.1": _inflate,
}
"""Syntaxes whose frames have no image header of their own: the data set describes them."""


def _codec(parse: Callable[[bytes], Codestream], decode: Callable[..., Samples], *kinds: str) -> Codec:
    return Codec(parse, decode, frozenset(kinds))


_DCT = _codec(parse_jpeg, _decode_jpeg, "SOF0", "SOF1")
_PROGRESSIVE = _codec(parse_jpeg, _decode_jpeg, "SOF2")
# Some writers declare lossless JPEG and store a sequential DCT frame, which is decoded as such.
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
"""Syntaxes whose frames have an image header of their own."""
