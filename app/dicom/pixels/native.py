"""Read uncompressed frames: locate one, and split its bytes into cells of BitsAllocated bits (PS3.5 8.1)."""

from __future__ import annotations

import numpy as np

from app.dicom.pixels.image_header import ImageHeader
from app.dicom.pixels.pixel_bytes import PixelBytes
from app.dicom.pixels.preview_error import PreviewError, unrenderable

SUBSAMPLED = ("YBR_FULL_422", "YBR_PARTIAL_422")


def frame_bits(header: ImageHeader) -> int:
    """Return the size of one native frame in bits; there is no padding between frames."""
    return header.pixels * header.samples * header.bits_allocated


def frame_span(size: int, header: ImageHeader, frame_index: int) -> tuple[int, int]:
    """Return the first bit and the length in bits of one native frame in a value of `size` bytes.

    References
    ----------
    PS3.5 8.1.1 (one-bit frames are packed without padding between them), 8.2 (YBR_FULL_422)
    """
    paired = _paired_lines(size, header)
    bits = frame_bits(header) if paired is None else 32 * paired[0] * -(-paired[1] // 2)
    return bits * frame_index, bits


def read_octets(pixels: PixelBytes, header: ImageHeader, frame_index: int) -> bytes:
    """Return one native frame in Explicit VR Little Endian; a one-bit frame is shifted to a byte boundary.

    Raises
    ------
    Unrenderable : truncated_pixel_data

    References
    ----------
    PS3.5 8.1.1 and D.1, PS3.18 8.7.3.3.1
    """
    first_bit, bits = frame_span(pixels.size, header, frame_index)
    begin, end = first_bit // 8, -(-(first_bit + bits) // 8)
    data = _bytes(pixels, begin, end, swap=pixels.words and not header.little_endian, header=header)
    if len(data) < end - begin:
        raise unrenderable(PreviewError.TRUNCATED_PIXEL_DATA, "the pixel data end before the frame does")
    if header.bits_allocated == 1 and (first_bit or bits) % 8:
        skip = first_bit % 8
        return np.packbits(
            np.unpackbits(data, bitorder="little")[skip : skip + bits], bitorder="little"
        ).tobytes()
    if not header.little_endian and header.bits_allocated > 8:
        return data.view(f">u{header.bits_allocated // 8}").byteswap().tobytes()
    return data.tobytes()


def read_native(pixels: PixelBytes, header: ImageHeader, frame_index: int) -> np.ndarray:
    """Return the cells of one native frame, without reading or copying the others.

    Parameters
    ----------
    pixels : the value of Pixel Data
    header : its layout
    frame_index : 0-based

    Returns
    -------
    (rows, columns[, 3]) of the width BitsAllocated, unsigned, or float for Float Pixel Data

    Raises
    ------
    Unrenderable : truncated_pixel_data

    References
    ----------
    PS3.5 8.1.1 and D (cells; one-bit frames are packed without padding), 8.2 (YBR_FULL_422)
    """
    paired = _paired_lines(pixels.size, header)
    first_bit, bits = frame_span(pixels.size, header, frame_index)
    begin, end = first_bit // 8, -(-(first_bit + bits) // 8)
    data = _bytes(pixels, begin, end, swap=pixels.words and not header.little_endian, header=header)
    if len(data) < end - begin:
        raise unrenderable(PreviewError.TRUNCATED_PIXEL_DATA, "the pixel data end before the frame does")
    if paired is not None:
        return _expand_422(data, header, *paired)
    return cells_from_bytes(data, header, planar=header.planar, skip_bits=first_bit % 8)


def cells_from_bytes(
    data: np.ndarray, header: ImageHeader, *, planar: bool, skip_bits: int = 0
) -> np.ndarray:
    """Convert the bytes of one frame to an array of cells.

    Parameters
    ----------
    data : (n,) uint8, exactly the frame, in the byte order of the transfer syntax
    header : layout of the frame
    planar : the components are stored as separate planes
    skip_bits : bits in the first byte that belong to the frame before; one-bit frames only

    Returns
    -------
    (rows, columns[, 3]) of the width BitsAllocated
    """
    if header.bits_allocated == 1:
        bits = np.unpackbits(data, bitorder="little")[skip_bits : skip_bits + header.pixels]
        return bits.reshape(header.rows, header.columns)
    kind = "u" if header.keyword == "PixelData" else "f"
    order = "<" if header.little_endian else ">"
    cells = data.view(f"{order}{kind}{header.bits_allocated // 8}")
    if header.samples == 1:
        return cells.reshape(header.rows, header.columns)
    if planar:
        return cells.reshape(header.samples, header.rows, header.columns).transpose(1, 2, 0)
    return cells.reshape(header.rows, header.columns, header.samples)


def stored_values(cells: np.ndarray, header: ImageHeader, high_bit: int | None) -> np.ndarray:
    """Drop the bits that are not part of the value, and extend the sign.

    Parameters
    ----------
    cells : cells of a frame, or decoded samples
    header : BitsStored and PixelRepresentation
    high_bit : most significant bit of the value in a cell; None if a decoder returned plain values

    Returns
    -------
    an array of the same shape, signed if PixelRepresentation is 1

    References
    ----------
    PS3.5 8.1.1
    """
    width, stored = cells.dtype.itemsize * 8, header.bits_stored
    if cells.dtype.kind == "f" or header.bits_allocated == 1:
        return cells
    unsigned = np.dtype(f"u{cells.dtype.itemsize}")
    kind = np.dtype(f"i{cells.dtype.itemsize}") if header.signed else unsigned
    if high_bit is None:
        if cells.dtype == kind:
            return cells
        high_bit = stored - 1
    if high_bit >= width:
        return cells
    cells = np.ascontiguousarray(cells, cells.dtype.newbyteorder("="))
    if stored == width:
        return cells.view(kind)
    raised: np.ndarray = cells.view(unsigned) << np.array(width - 1 - high_bit, unsigned)
    values: np.ndarray = raised.view(kind) >> np.array(width - stored, kind)
    return values


def _bytes(pixels: PixelBytes, begin: int, end: int, *, swap: bool, header: ImageHeader) -> np.ndarray:
    if not swap or header.bits_allocated > 8:
        return np.frombuffer(pixels.read(begin, end - begin), np.uint8)
    # Big endian OW keeps every pair of bytes swapped (PS3.5 8.1.1).
    even = begin - begin % 2
    pairs = np.frombuffer(pixels.read(even, end + end % 2 - even), np.uint8)
    whole = pairs[: len(pairs) - len(pairs) % 2].reshape(-1, 2)[:, ::-1].reshape(-1)
    return whole[begin - even : end - even]


def _paired_lines(size: int, header: ImageHeader) -> tuple[int, int] | None:
    """Return the lines and pixels per line of a 4:2:2 frame stored as pairs, None if it has every sample.

    Some writers declare 4:2:2 and store every sample. For an odd number of columns, which the standard
    forbids, writers either pad each row to a pair or let pairs continue in the next row. Only the length of
    the value shows which.
    """
    if header.photometric not in SUBSAMPLED or header.samples != 3 or header.bits_allocated != 8:
        return None
    if size >= 3 * header.pixels * header.frames:
        return None
    filled = 2 * header.rows * (header.columns + header.columns % 2) * header.frames
    if header.columns % 2 and size < filled:
        return 1, header.pixels
    return header.rows, header.columns


def _expand_422(data: np.ndarray, header: ImageHeader, lines: int, length: int) -> np.ndarray:
    """Repeat the shared colour differences for both pixels of a pair: Y1 Y2 Cb Cr -> Y1 Cb Cr, Y2 Cb Cr."""
    pairs = data.reshape(lines, -1, 4)
    cells = np.empty((*pairs.shape[:2], 2, 3), np.uint8)
    cells[..., 0] = pairs[..., :2]
    cells[..., 1:] = pairs[..., None, 2:]
    return cells.reshape(lines, -1, 3)[:, :length].reshape(header.rows, header.columns, 3)
