"""Convert greyscale frames to 8 bits: modality, value of interest, inversion (PS3.4 N.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from pydicom.dataset import Dataset

from app.dicom.pixels.attributes import items, number, text
from app.dicom.pixels.frames import Frame
from app.dicom.render.modality_lut import ModalityTransform, modality_transform
from app.dicom.render.window import ValueOfInterest, Window, parse_window, value_of_interest

FROM_ZERO = ("PT", "NM", "RTDOSE")
"""Modalities whose values are amounts, so the window starts at zero."""
MAX_SAMPLE = 1 << 20
"""Maximum pixels from which an automatic window is computed."""
BAND = 1 << 16
"""Pixels to convert at a time."""
MIN_LABEL_LEVEL = 64
MIN_SHADES = 16
"""Minimum number of different values of a picture; fewer are a plain background with noise."""
CALIBRATED = ("CT", "PT")
"""Modalities whose window fits all slices of a series: a slice of air only is rightly black."""
GLANCE = 1 << 10
"""Number of pixels for the quick check of whether a window is unusable."""
END, ALMOST_ALL, ALL_BUT_ONE_PERCENT = 1.0, 0.9, 0.99
"""Grey levels that cannot be told from black or white; shares of the pixels at those levels."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Frequencies of modality values, without padding.

    values, counts: (n,) float64, ascending, and integer. ends: the minimum and maximum that the frame's bits
    can represent. measured: integers of more than eight bits. Frames of eight bits were made for viewing, for
    example text and drawings, so nothing in them may be dropped as a mark.
    """

    values: np.ndarray
    counts: np.ndarray
    ends: tuple[float, float]
    measured: bool


def grey(dataset: Dataset, frame: Frame, window: str | ValueOfInterest = "auto") -> np.ndarray:
    """Render a frame with one sample per pixel.

    Parameters
    ----------
    dataset : the whole data set
    frame : (rows, columns) stored values, integer or float
    window : `auto`, `centre,width` in modality units, or the result of `common_window`

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
    """Choose one window for many frames, so that a cine does not flicker and a slide has no seams.

    Parameters
    ----------
    dataset : the whole data set
    frames : a sample, read one by one; a window of the data set for the first is used for all
    window : `auto`, or `centre,width` in modality units

    Returns
    -------
    the window for `grey`; None for colours and segments, which need none

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
    """Choose a window from the pixels: percentiles 1 to 99.5, without padding and marks.

    Parameters
    ----------
    dataset : holds padding values, modality, and the modality transformation
    frames : at least one, with one sample per pixel; large ones are sampled every n-th row and column

    Returns
    -------
    Window in modality units. A constant frame gets a window of the whole range that its bits can represent.

    References
    ----------
    PS3.3 C.7.5.1.1.2 (Pixel Padding Value and Range Limit)
    """
    return _window_over(dataset, _histogram(dataset, frames))


def _window_over(dataset: Dataset, histogram: Histogram) -> Window:
    values, counts = histogram.values, histogram.counts
    if not len(values):
        return Window(0.0, 1.0, "LINEAR_EXACT")
    from_zero = text(dataset, "Modality") in FROM_ZERO
    if histogram.measured and not from_zero:
        values, counts = _without_marks(values, counts)
    low, high = _quantiles(values, counts, np.array([0.01, 0.995]))
    if from_zero and values[0] >= 0:
        low = 0.0
    if low >= high:
        low, high = values[0], values[-1]
    if low >= high:
        low, high = min(low, histogram.ends[0]), max(low, histogram.ends[1])
    return Window((low + high) / 2, max(high - low, 1e-9), "LINEAR_EXACT")


def _without_marks(values: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Drop marks from either end of a histogram: lead markers, burnt-in letters.

    A mark is sparse, its distance from the rest exceeds the width of the rest, and most of it has about one
    value. The rest must have enough shades to be a picture; otherwise the letters are the picture.
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
        if concentrated and kept.sum() >= MIN_SHADES:
            values, counts = ascending[kept][::side] * side, often[kept][::side]
    return values, counts


def _quantiles(values: np.ndarray, counts: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return the quantiles of a histogram at these shares; its values must ascend."""
    below = np.cumsum(counts)
    reached: np.ndarray = values[np.searchsorted(below, shares * below[-1]).clip(max=len(values) - 1)]
    return reached


def _voi(dataset: Dataset, frames: Iterable[Frame], window: str) -> ValueOfInterest:
    left = iter(frames)
    frame = next(left)
    modality = modality_transform(dataset, frame.header, frame.index)
    if window != "auto":
        voi: ValueOfInterest | None = parse_window(window)
    else:
        signed = frame.header.signed or modality.intercept < 0
        voi = value_of_interest(dataset, frame.header, frame.index, signed=signed)
    if isinstance(voi, Window) and voi.function == "LINEAR" and frame.pixels.dtype.kind == "f":
        # LINEAR is defined for integers: it would show float values from 0 to 1 as black and white only.
        voi = replace(voi, function="LINEAR_EXACT")
    if window == "auto" and isinstance(voi, Window):
        # A check of about a thousand pixels decides whether to look at all of them.
        step = 1 + int((frame.pixels.size / GLANCE) ** 0.5)
        shown = voi.apply(modality.apply(frame.pixels[::step, ::step]))
        at_an_end = max(np.count_nonzero(shown <= END), np.count_nonzero(shown >= 255 - END))
        if at_an_end < ALMOST_ALL * shown.size:
            return voi
        histogram = _histogram(dataset, chain([frame], left))
        automatic = _window_over(dataset, histogram)
        unusable = _shows_nothing(voi, automatic, histogram, text(dataset, "Modality"))
        return replace(automatic, replaces_unusable=True) if unusable else voi
    return voi or automatic_window(dataset, chain([frame], left))


def _shows_nothing(declared: Window, automatic: Window, histogram: Histogram, modality: str) -> bool:
    """Return whether a window shows the picture as all black or all white although it has contrast.

    A dark frame must stay dark. There is contrast if the values span half the width of the window, or if they
    differ at all and the window is so wide that they all get the same grey.
    """
    values, counts = histogram.values, histogram.counts
    shown = declared.apply(values)
    total = counts.sum()
    dark = counts[shown <= END].sum() >= ALL_BUT_ONE_PERCENT * total
    bright = counts[shown >= 255 - END].sum() >= ALL_BUT_ONE_PERCENT * total
    if not (dark or bright) or len(values) < MIN_SHADES or (dark and modality in CALIBRATED):
        return False
    one_grey = values[-1] - values[0] <= declared.width / 255
    return bool(one_grey or automatic.width >= declared.width / 2)


def _histogram(dataset: Dataset, frames: Iterable[Frame]) -> Histogram:
    values, counts, ends, measured = [], [], (0.0, 1.0), True
    for frame in frames:
        measured = measured and frame.pixels.dtype.kind in "iu" and frame.header.bits_stored > 8
        step = 1 + int((frame.pixels.size / MAX_SAMPLE) ** 0.5)
        stored, often = _stored_histogram(dataset, frame.pixels[::step, ::step])
        modality = modality_transform(dataset, frame.header, frame.index)
        values.append(modality.apply(stored))
        counts.append(often)
        ends = _range(frame, modality)
    shown, often = np.concatenate(values), np.concatenate(counts)
    order = np.argsort(shown, kind="stable")
    return Histogram(shown[order], often[order], ends, measured)


def _stored_histogram(dataset: Dataset, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct finite values except padding, ascending, and their frequencies."""
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
    """Return the modality values of the minimum and maximum that the frame's bits can represent."""
    if frame.pixels.dtype.kind == "f":
        return 0.0, 0.0
    header = frame.header
    least = -(1 << (header.bits_stored - 1)) if header.signed else 0
    ends = modality.apply(np.array([least, least + (1 << header.bits_stored) - 1]))
    return float(ends.min()), float(ends.max())


def _as_stored(value: float, dtype: np.dtype) -> float:
    # The VR of Pixel Padding Value is ambiguous (US or SS): interpret it like the pixels.
    return value - 65536 if dtype.kind == "i" and 32768 <= value < 65536 else value


def _segment_scale(dataset: Dataset, pixels: np.ndarray, kind: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return the mapping of segment values to grey (PS3.3 C.8.20.2.3): binary, fractional or by label."""
    if kind == "BINARY":
        return lambda values: np.where(values > 0, 255, 0).astype(np.uint8)
    if kind == "FRACTIONAL":
        most = max(1.0, number(dataset, "MaximumFractionalValue", 255.0))
        return lambda values: np.rint(np.clip(values / most, 0, 1) * 255).astype(np.uint8)
    labels = [number(item, "SegmentNumber", 0) for item in items(dataset, "SegmentSequence")]
    most = max([1.0, float(pixels.max()), *labels])
    background = number(dataset, "PixelPaddingValue", 0.0)
    step = (255 - MIN_LABEL_LEVEL) / most

    def spread(values: np.ndarray) -> np.ndarray:
        level = np.clip(MIN_LABEL_LEVEL + values * step, 0, 255)
        return np.where((values == 0) | (values == background), 0, level).astype(np.uint8)

    return spread


def _by_table(pixels: np.ndarray, shade: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Apply `shade` through a lookup table; pixels wider than 16 bits are shaded directly."""
    if pixels.dtype.kind in "iu" and pixels.dtype.itemsize <= 2:
        low, high = int(pixels.min()), int(pixels.max())
        return look_up(shade(np.arange(low, high + 1)), pixels, low)
    out = np.empty(pixels.shape, np.uint8)
    for band in _bands(pixels):
        out[band] = shade(pixels[band])
    return out


def look_up(table: np.ndarray, pixels: np.ndarray, first: int) -> np.ndarray:
    """Replace every pixel by its entry in a table.

    Parameters
    ----------
    table : (n,) or (n, 3) uint8
    pixels : (rows, columns) integers from `first` to `first` + n - 1
    first : pixel value of the first entry

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
    """Yield bands of rows, small enough for their eight-byte temporaries to stay in the CPU cache."""
    height = max(1, BAND // pixels.shape[1])
    for row in range(0, pixels.shape[0], height):
        yield slice(row, row + height)
