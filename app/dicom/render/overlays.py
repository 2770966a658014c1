"""Overlay planes: one-bit graphics, drawn into the picture on request (PS3.3 C.9.2)."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset

from app.dicom.pixels.attributes import element, has_value, integer, numbers, octets, words
from app.dicom.pixels.frames import NATIVE, Frame
from app.dicom.pixels.native import read_native
from app.dicom.pixels.pixel_bytes import pixel_bytes

GROUPS = range(0x6000, 0x6020, 2)
ROWS, COLUMNS, FRAMES, ORIGIN = 0x0010, 0x0011, 0x0015, 0x0050
FIRST_FRAME, BITS_ALLOCATED, BIT_POSITION, DATA = 0x0051, 0x0100, 0x0102, 0x3000
WHITE = 255


def burn_overlays(dataset: Dataset, frame: Frame, image: np.ndarray) -> np.ndarray:
    """Draw every overlay plane of a frame in white.

    Parameters
    ----------
    dataset : holds the planes, in elements of their own or in unused bits of the pixels
    frame : the frame that was drawn
    image : its picture, (rows, columns) or (rows, columns, 3) uint8; not changed

    Returns
    -------
    the same shape

    References
    ----------
    PS3.3 C.9.2 (Overlay Plane), C.9.2.1.1 (Overlay Origin: row and column, 1-based, may be negative)
    """
    image = image.copy()
    for group in GROUPS:
        mask = _plane(dataset, group << 16, frame)
        if mask is None:
            continue
        origin = (*numbers(dataset, group << 16 | ORIGIN), 1.0, 1.0)
        top, left = (int(value) - 1 if np.isfinite(value) else 0 for value in origin[:2])
        mask = mask[max(0, -top) :, max(0, -left) :]
        target = image[max(0, top) :, max(0, left) :]
        rows, columns = (min(a, b) for a, b in zip(mask.shape, target.shape[:2], strict=True))
        target[:rows, :columns][mask[:rows, :columns].astype(bool)] = WHITE
    return image


def need_whole_frame(dataset: Dataset, *, drawn: bool) -> bool:
    """Return whether overlay planes require decoding a frame at full resolution.

    Parameters
    ----------
    dataset : may hold planes
    drawn : planes are drawn, pixel by pixel. If not, only planes in unused bits of the pixels matter, because
        a reduced pixel mixes them with the value

    References
    ----------
    PS3.5-2004 8.1.2 (planes in unused bits, retired since)
    """
    planes = [group << 16 for group in GROUPS if group << 16 | ROWS in dataset]
    return any(drawn or integer(dataset, plane | BIT_POSITION, 0) > 0 for plane in planes)


def _plane(dataset: Dataset, group: int, frame: Frame) -> np.ndarray | None:
    """Return the (rows, columns) bits of a plane for the frame, None if it has none."""
    rows, columns = integer(dataset, group | ROWS, 0), integer(dataset, group | COLUMNS, 0)
    found = element(dataset, group | DATA)
    if rows < 1 or columns < 1:
        return None
    if found is None or not has_value(dataset, group | DATA):
        return _embedded(dataset, group, frame)
    first = integer(dataset, group | FIRST_FRAME, 1) - 1
    index = frame.index - first if integer(dataset, group | FRAMES, 1) > 1 else 0
    if found.VR == "OB":
        data = np.frombuffer(octets(dataset, group | DATA), np.uint8)
    else:
        data = words(dataset, group | DATA, frame.header.little_endian).astype("<u2").view(np.uint8)
    begin = index * rows * columns
    if index < 0 or len(data) * 8 < begin + rows * columns:
        return None
    whole = np.unpackbits(data[begin // 8 : -(-(begin + rows * columns) // 8)], bitorder="little")
    return whole[begin % 8 :][: rows * columns].reshape(rows, columns)


def _embedded(dataset: Dataset, group: int, frame: Frame) -> np.ndarray | None:
    """Return a plane stored in unused bits of the pixels, as was allowed until 2004."""
    header, position = frame.header, integer(dataset, group | BIT_POSITION, -1)
    same_bits = integer(dataset, group | BITS_ALLOCATED, 0) == header.bits_allocated
    of_value = range(header.high_bit - header.bits_stored + 1, header.high_bit + 1)
    unused = 0 <= position < header.bits_allocated and position not in of_value
    if not same_bits or not unused or header.transfer_syntax not in NATIVE:
        return None
    cells = read_native(pixel_bytes(dataset, header.keyword), header, frame.index)
    mask: np.ndarray = (cells >> np.array(position, cells.dtype)) & np.array(1, cells.dtype)
    return mask
