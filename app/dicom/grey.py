"""A frame of grey values to 8 bit: modality, value of interest, inversion (PS3.4 N.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain

import numpy as np
from pydicom.dataset import Dataset

from app.dicom.attributes import items, number, text
from app.dicom.frames import Frame
from app.dicom.modality import ModalityTransform, modality_transform
from app.dicom.window import ValueOfInterest, Window, parse_window, value_of_interest

FROM_ZERO = ("PT", "NM", "RTDOSE")
"""Modalities whose values count something, so black is nothing."""
SAMPLE = 1 << 20
"""Most pixels that decide an automatic window."""
BAND = 1 << 16
"""Pixels that are shaded at a time."""
DIMMEST_LABEL = 64
SHADES = 32
"""Fewest different values of a picture, as opposed to a plain ground and its noise."""


def grey(dataset: Dataset, frame: Frame, window: str | ValueOfInterest = "auto") -> np.ndarray:
    """Render a frame of one sample a pixel.

    Parameters
    ----------
    dataset : the whole data set
    frame : (rows, columns) stored values, integer or float
    window : `auto`, `centre,width` in modality units, or what `common_window` chose

    Returns
    -------
    (rows, columns) uint8

    Raises
    ------
    Unrenderable : bad_window

    References
    ----------
    PS3.4 N.2 (order of the steps), PS3.3 C.7.6.3.1.2 (MONOCHROME1), C.11.6 (Presentation LUT Shape)
    """
    kind = text(dataset, "SegmentationType")
    if kind and window == "auto":
        return _by_table(frame.pixels, _segment_scale(dataset, frame.pixels, kind))
    modality = modality_transform(dataset, frame.header, frame.index)
    voi = _voi(dataset, [frame], window) if isinstance(window, str) else window
    inverse = frame.photometric == "MONOCHROME1" or text(dataset, "PresentationLUTShape") == "INVERSE"

    def shade(values: np.ndarray) -> np.ndarray:
        shown = np.nan_to_num(voi.apply(modality.apply(values)), nan=0.0)
        level: np.ndarray = np.rint(255 - shown if inverse else shown).astype(np.uint8)
        return level

    return _by_table(frame.pixels, shade)


def common_window(dataset: Dataset, frames: Iterable[Frame], window: str) -> ValueOfInterest | None:
    """Choose one window for many frames, so that a cine does not flicker and a slide shows no seams.

    Parameters
    ----------
    dataset : the whole data set
    frames : a sample, read one by one; what the data set says for the first holds for all
    window : `auto`, or `centre,width` in modality units

    Returns
    -------
    what `grey` takes for its window; None where none is needed: for colours, and segments

    Raises
    ------
    Unrenderable : bad_window
    """
    left = iter(frames)
    first = next(left)
    colored = first.pixels.ndim == 3 or first.photometric == "PALETTE COLOR"
    if colored or (window == "auto" and text(dataset, "SegmentationType")):
        return None
    return _voi(dataset, chain([first], left), window)


def automatic_window(dataset: Dataset, frames: Iterable[Frame]) -> Window:
    """Choose a window from the pixels: percentile 1 to 99.5 without padding and marks.

    Parameters
    ----------
    dataset : tells padding values, modality, and what makes modality values of the pixels
    frames : of one sample a pixel, at least one; of big ones every n-th row and column is looked at

    Returns
    -------
    Window in modality units. Constant frames are shown as their share of what their bits can hold.

    References
    ----------
    PS3.3 C.7.5.1.1.2 (Pixel Padding Value and Range Limit)
    """
    values, counts, ends, measured = [], [], (0.0, 1.0), True
    for frame in frames:
        # Eight bits were made to be looked at: text and drawings, with nothing to be left out.
        measured = measured and frame.pixels.dtype.kind in "iu" and frame.header.bits_stored > 8
        step = 1 + int((frame.pixels.size / SAMPLE) ** 0.5)
        stored, often = _histogram(dataset, frame.pixels[::step, ::step])
        modality = modality_transform(dataset, frame.header, frame.index)
        values.append(modality.apply(stored))
        counts.append(often)
        ends = _range(frame, modality)
    shown, often = np.concatenate(values), np.concatenate(counts)
    if not len(shown):
        return Window(0.0, 1.0, "LINEAR_EXACT")
    order = np.argsort(shown, kind="stable")
    shown, often = shown[order], often[order]
    counts_something = text(dataset, "Modality") in FROM_ZERO
    if measured and not counts_something:
        shown, often = _without_marks(shown, often)
    low, high = _quantiles(shown, often, np.array([0.01, 0.995]))
    if counts_something and shown[0] >= 0:
        low = 0.0
    if low >= high:
        low, high = shown[0], shown[-1]
    if low >= high:
        low, high = min(low, ends[0]), max(low, ends[1])
    return Window((low + high) / 2, max(high - low, 1e-9), "LINEAR_EXACT")


def _without_marks(values: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Drop what lies far from the picture at either end of a histogram: lead markers, burnt-in letters.

    A mark is sparse, farther away than all the rest is wide, and most of it has about one value. Letters on
    a plain ground are the picture themselves: the rest must have the shades of one.
    """
    for side in (1, -1):
        ascending, often = values[::side] * side, counts[::side]
        shares = np.linspace(0, 1, 1001)
        steps = _quantiles(ascending, often, shares)
        jumps = np.diff(steps)
        far = np.flatnonzero(jumps[900:995] > steps[900:995] - steps[10])
        if not len(far):
            continue
        last = 900 + far[0]
        mark = steps[last + 1 :]
        half = len(mark) // 2
        concentrated = (mark[half:] - mark[: len(mark) - half]).min() <= jumps[last] / 10
        kept = ascending <= steps[last]
        if concentrated and kept.sum() >= SHADES:
            values, counts = ascending[kept][::side] * side, often[kept][::side]
    return values, counts


def _quantiles(values: np.ndarray, counts: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return the values that are reached by these shares of a histogram; the values ascend."""
    below = np.cumsum(counts)
    reached: np.ndarray = values[np.searchsorted(below, shares * below[-1]).clip(max=len(values) - 1)]
    return reached


def _voi(dataset: Dataset, frames: Iterable[Frame], window: str) -> ValueOfInterest:
    left = iter(frames)
    frame = next(left)
    if window != "auto":
        said: ValueOfInterest | None = parse_window(window)
    else:
        signed = frame.header.signed or modality_transform(dataset, frame.header, frame.index).intercept < 0
        said = value_of_interest(dataset, frame.header, frame.index, signed=signed)
    if isinstance(said, Window) and said.function == "LINEAR" and frame.pixels.dtype.kind == "f":
        # LINEAR counts integers: a map from 0 to 1 with a width of 1 would be black and white.
        return replace(said, function="LINEAR_EXACT")
    return said or automatic_window(dataset, chain([frame], left))


def _histogram(dataset: Dataset, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct finite values that are no padding, ascending, and how often each occurs."""
    if pixels.dtype.kind in "iu" and pixels.dtype.itemsize <= 2:
        low = int(pixels.min())
        counts = np.bincount((pixels.astype(np.int32) - low).reshape(-1))
        values = np.flatnonzero(counts)
        counts, values = counts[values], values + low
    else:
        values, counts = np.unique(pixels[np.isfinite(pixels)], return_counts=True)
    first = number(dataset, "PixelPaddingValue", np.nan)
    last = number(dataset, "PixelPaddingRangeLimit", first)
    if np.isnan(first) or pixels.dtype.kind == "f":
        return values, counts
    first, last = (_as_stored(value, pixels.dtype) for value in sorted((first, last)))
    kept = (values < min(first, last)) | (values > max(first, last))
    return (values[kept], counts[kept]) if kept.any() else (values, counts)


def _range(frame: Frame, modality: ModalityTransform) -> tuple[float, float]:
    """Return the modality values of the least and the most that the frame's bits can hold."""
    if frame.pixels.dtype.kind == "f":
        return 0.0, 0.0
    header = frame.header
    least = -(1 << (header.bits_stored - 1)) if header.signed else 0
    ends = modality.apply(np.array([least, least + (1 << header.bits_stored) - 1]))
    return float(ends.min()), float(ends.max())


def _as_stored(value: float, dtype: np.dtype) -> float:
    # The VR of padding is ambiguous (US or SS): read it as the pixels are.
    return value - 65536 if dtype.kind == "i" and 32768 <= value < 65536 else value


def _segment_scale(dataset: Dataset, pixels: np.ndarray, kind: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return how segments become visible (PS3.3 C.8.20.2.3): on or off, by share, or by label."""
    if kind == "BINARY":
        return lambda values: np.where(values > 0, 255, 0).astype(np.uint8)
    if kind == "FRACTIONAL":
        most = max(1.0, number(dataset, "MaximumFractionalValue", 255.0))
        return lambda values: np.rint(np.clip(values / most, 0, 1) * 255).astype(np.uint8)
    labels = [number(item, "SegmentNumber", 0) for item in items(dataset, "SegmentSequence")]
    most = max([1.0, float(pixels.max()), *labels])
    background = number(dataset, "PixelPaddingValue", 0.0)
    step = (255 - DIMMEST_LABEL) / most

    def spread(values: np.ndarray) -> np.ndarray:
        level = np.clip(DIMMEST_LABEL + values * step, 0, 255)
        return np.where((values == 0) | (values == background), 0, level).astype(np.uint8)

    return spread


def _by_table(pixels: np.ndarray, shade: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Shade each value of the range once and look the pixels up; wide values are shaded one by one."""
    if pixels.dtype.kind in "iu" and pixels.dtype.itemsize <= 2:
        low, high = int(pixels.min()), int(pixels.max())
        return look_up(shade(np.arange(low, high + 1)), pixels, low)
    out = np.empty(pixels.shape, np.uint8)
    for band in _bands(pixels):
        out[band] = shade(pixels[band])
    return out


def look_up(table: np.ndarray, pixels: np.ndarray, first: int) -> np.ndarray:
    """Replace every pixel by its entry.

    Parameters
    ----------
    table : (n,) or (n, 3) uint8
    pixels : (rows, columns) integers from `first` to `first` + n - 1
    first : the value of the first entry

    Returns
    -------
    (rows, columns) or (rows, columns, 3) uint8
    """
    out = np.empty(pixels.shape + table.shape[1:], np.uint8)
    for band in _bands(pixels):
        index = pixels[band].astype(np.intp)
        index -= first
        np.take(table, index, axis=0, out=out[band], mode="clip")
    return out


def _bands(pixels: np.ndarray) -> Iterator[slice]:
    """Yield bands of rows whose eight-byte temporaries stay in the cache, however big the frame is."""
    height = max(1, BAND // pixels.shape[1])
    for row in range(0, pixels.shape[0], height):
        yield slice(row, row + height)
