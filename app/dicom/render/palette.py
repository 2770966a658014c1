"""Apply the palette of a PALETTE COLOR image (PS3.3 C.7.6.3.1.5, C.7.9)."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset

from app.dicom.pixels.attributes import numbers, words
from app.dicom.pixels.frames import Frame
from app.dicom.pixels.preview_error import PreviewError, unrenderable
from app.dicom.render.grayscale import look_up

COLORS = ("Red", "Green", "Blue")
DISCRETE, LINEAR, INDIRECT = range(3)


def apply_palette(dataset: Dataset, frame: Frame) -> np.ndarray:
    """Replace palette indices by their colours.

    Parameters
    ----------
    dataset : holds the three lookup tables, plain or segmented
    frame : (rows, columns) integer indices

    Returns
    -------
    (rows, columns, 3) uint8

    Raises
    ------
    Unrenderable : bad_palette

    References
    ----------
    PS3.3 C.7.6.3.1.5 (descriptor), C.7.6.3.1.6 (data)
    """
    if frame.pixels.dtype.kind == "f" or frame.pixels.dtype.itemsize > 2:
        raise unrenderable(PreviewError.BAD_PALETTE, "palette indices are wider than 16 bits")
    first, table = _read_palette(dataset, frame)
    low, high = int(frame.pixels.min()), int(frame.pixels.max())
    used = np.clip(np.arange(low, high + 1) - first, 0, len(table) - 1)
    return look_up(table[used], frame.pixels, low)


def expand_segments(data: np.ndarray, count: int) -> np.ndarray:
    """Expand a segmented lookup table.

    Parameters
    ----------
    data : (n,) uint16 or uint8 words: a series of opcode, length, arguments
    count : number of entries of the expanded table; more are dropped

    Returns
    -------
    (m,) uint16, m <= count

    Raises
    ------
    Unrenderable : bad_palette, also for a segment that adds no entry: a short table could repeat it endlessly

    References
    ----------
    PS3.3 C.7.9.2 (an indirect offset counts bytes from the start, its less significant word first)
    """
    words, out = data.tolist(), list[int]()

    def expand(position: int, segments: int, nested: bool) -> None:
        while position + 1 < len(words) and segments > 0 and len(out) < count:
            opcode, length = words[position : position + 2]
            segments, position, before = segments - 1, position + 2, len(out)
            if opcode == DISCRETE:
                out.extend(words[position : position + length])
                position += length
            elif opcode == LINEAR and out and position < len(words):
                last, rise, position = out[-1], words[position] - out[-1], position + 1
                out.extend(round(last + rise * n / length) for n in range(1, length + 1))
            elif opcode == INDIRECT and not nested and position + 1 < len(words):
                expand((words[position] | words[position + 1] << 16) // 2, length, True)
                position += 2
            if len(out) == before:
                raise unrenderable(PreviewError.BAD_PALETTE, "a segment of the palette is broken or empty")

    expand(0, len(words), False)
    return np.array(out[:count], np.uint16)


def _read_palette(dataset: Dataset, frame: Frame) -> tuple[int, np.ndarray]:
    """Return the first mapped value and the (n, 3) uint8 colours."""
    channels, first, bits = [], 0, 16
    for color in COLORS:
        descriptor = numbers(dataset, f"{color}PaletteColorLookupTableDescriptor")
        if len(descriptor) != 3 or not np.isfinite(descriptor).all():
            raise unrenderable(PreviewError.BAD_PALETTE, "a palette descriptor is missing")
        count, first, bits = (int(value) for value in descriptor)
        count = count & 0xFFFF or 65536  # always unsigned, even if the VR is SS because of the second value
        channel = _read_channel(dataset, frame, color, count, bits)
        if not 8 <= bits <= 16 or len(channel) < count:
            raise unrenderable(PreviewError.BAD_PALETTE, "the palette contradicts its descriptor")
        channels.append(channel)
    if len({len(channel) for channel in channels}) != 1:
        raise unrenderable(PreviewError.BAD_PALETTE, "the colours have tables of different lengths")
    table = np.stack(channels, axis=-1)
    # Take the high byte, except from writers that declare 16 bits and store 8.
    if bits > 8 and table.max() > 255:
        table >>= 8
    if frame.header.signed and first > 0x7FFF:
        first -= 0x10000
    return first, table.astype(np.uint8)


def _read_channel(dataset: Dataset, frame: Frame, color: str, count: int, bits: int) -> np.ndarray:
    little_endian = frame.header.little_endian
    data = words(dataset, f"{color}PaletteColorLookupTableData", little_endian)
    if len(data):
        # Two 8-bit entries may share a word, the first in the low byte.
        return _bytewise(data)[:count] if bits <= 8 and len(data) < count else data[:count]
    data = words(dataset, f"Segmented{color}PaletteColorLookupTableData", little_endian)
    return expand_segments(_bytewise(data) if bits <= 8 else data, count)


def _bytewise(data: np.ndarray) -> np.ndarray:
    return data.astype("<u2").view(np.uint8).astype(np.uint16)
