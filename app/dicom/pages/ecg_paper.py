"""Draw a waveform as strips on millimetre paper: 25 mm/s, voltages at 10 mm/mV."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset

from app.dicom.pages.text import font, writable
from app.dicom.pages.waveform import Channel, Recording, read_recording

SECONDS, MIN_SAMPLES, MAX_CHANNELS = 10.0, 500, 16
"""What is drawn: 10 s, but at least 500 samples of slow recordings, of the first 16 channels."""
MM = 6  # pixels per millimetre
PER_SECOND, PER_MILLIVOLT = 25 * MM, 10 * MM
LEFT, TOP, BOTTOM = 8 * MM, 12 * MM, 4 * MM
STRIP = 25 * MM
PAPER, FINE, COARSE, INK = (255, 252, 250), (250, 228, 224), (240, 190, 182), (20, 20, 40)
TEXT_SIZE, SUPERSAMPLING = 22, 2
"""Height of text in pixels; factor by which traces are drawn larger and then reduced, for smooth lines."""
TWELVE = ("I", "AVR", "V1", "V4", "II", "AVL", "V2", "V5", "III", "AVF", "V3", "V6")
RHYTHM = "II"

Box = tuple[float, float, float, float]
"""Left edge, vertical middle, width and height of one trace, in pixels."""


def draw_waveform(dataset: Dataset, max_side: int) -> np.ndarray:
    """Draw the beginning of a recording.

    A 12-lead ECG has the usual layout: four columns of 2.5 s, and lead II below them. Other recordings have
    one strip per channel.

    Parameters
    ----------
    dataset : holds the Waveform Sequence
    max_side : not used, because the scale is fixed

    Returns
    -------
    (rows, columns, 3) uint8

    Raises
    ------
    Unrenderable : bad_waveform

    References
    ----------
    PS3.3 A.34 (Waveform IODs), C.10.9 (Waveform module)
    """
    return draw_recording(read_recording(dataset, SECONDS, MIN_SAMPLES, MAX_CHANNELS))


def draw_recording(recording: Recording) -> np.ndarray:
    """Draw the channels of a recording on paper.

    Parameters
    ----------
    recording : at least one channel of at least one sample

    Returns
    -------
    (rows, columns, 3) uint8
    """
    by_label = {channel.label.upper(): channel for channel in recording.channels}
    shown_s = len(recording.channels[0].values) / recording.frequency
    paper_s = min(shown_s, SECONDS)
    width = LEFT + round(max(paper_s, 2.5) * PER_SECOND) + LEFT
    clinical = set(TWELVE) <= set(by_label) and shown_s >= SECONDS
    strips = 4 if clinical else len(recording.channels)
    height = TOP + strips * STRIP + BOTTOM
    canvas = Image.fromarray(_millimetre_paper(height, width))
    trace = Image.new("L", (width * SUPERSAMPLING, height * SUPERSAMPLING))
    pen, text = ImageDraw.Draw(trace), ImageDraw.Draw(canvas)
    for channel, box in _leads(by_label, recording) if clinical else _stack(recording, paper_s):
        _draw_line(pen, channel, box)
        _write(text, (box[0] + MM, box[1] - STRIP / 2 + MM), _caption(channel))
    canvas.paste(INK, mask=trace.reduce(SUPERSAMPLING))
    _write(ImageDraw.Draw(canvas), (LEFT, 3 * MM), _heading(recording, shown_s))
    return np.asarray(canvas)


def _leads(by_label: dict[str, Channel], recording: Recording) -> Iterable[tuple[Channel, Box]]:
    """Yield each of the twelve leads for a quarter of the time, then lead II for all of it."""
    quarter = round(SECONDS / 4 * recording.frequency)
    width = SECONDS / 4 * PER_SECOND
    for place, label in enumerate(TWELVE):
        row, column = divmod(place, 4)
        channel = by_label[label]
        part = channel.values[column * quarter : (column + 1) * quarter]
        box = LEFT + column * width, TOP + (row + 0.5) * STRIP, width, STRIP
        yield Channel(channel.label, channel.unit, part), box
    whole = by_label[RHYTHM]
    yield (
        Channel(whole.label, whole.unit, whole.values[: 4 * quarter]),
        (LEFT, TOP + 3.5 * STRIP, 4 * width, STRIP),
    )


def _stack(recording: Recording, paper_s: float) -> Iterable[tuple[Channel, Box]]:
    for row, channel in enumerate(recording.channels):
        yield channel, (LEFT, TOP + (row + 0.5) * STRIP, paper_s * PER_SECOND, STRIP)


def _draw_line(pen: ImageDraw.ImageDraw, channel: Channel, box: Box) -> None:
    """Draw one trace, with gaps where there are no values."""
    left, middle, width, height = (SUPERSAMPLING * length for length in box)
    x = left + np.arange(len(channel.values)) * (width / max(1, len(channel.values)))
    y = middle - _deflection(channel, height)
    known = np.flatnonzero(np.isfinite(y))
    for part in np.split(known, np.flatnonzero(np.diff(known) > 1) + 1) if len(known) else ():
        points = np.stack(_peaks(x[part], y[part]), axis=-1)
        pen.line(np.vstack([points, points[-1] + (1, 0)]).ravel().tolist(), 255, 3, "curve")


def _deflection(channel: Channel, height: float) -> np.ndarray:
    """Return the height of each value above the middle: to scale for voltages, else fitted to the strip."""
    low, high = _ends(channel.values)
    if channel.unit == "mV":
        # Subtract the median: a constant offset would move the trace off the paper.
        level = np.median(channel.values[np.isfinite(channel.values)]) if high > low else low
        return (channel.values - level) * (PER_MILLIVOLT * SUPERSAMPLING)
    return (channel.values - (low + high) / 2) * (0.7 * height / max(high - low, 1e-9))


def _peaks(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reduce dense samples to the first, least, greatest and last point of every pixel column.

    The extremes are kept so that no peak is lost.
    """
    if len(x) < 4 * max(1.0, x[-1] - x[0]):
        return x, y
    column = x.astype(np.intp)
    starts = np.flatnonzero(np.diff(column, prepend=column[0] - 1))
    ends = np.append(starts[1:], len(x)) - 1
    lows, highs = np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts)
    return np.repeat(x[starts], 4), np.stack([y[starts], lows, highs, y[ends]], axis=-1).ravel()


def _caption(channel: Channel) -> str:
    if channel.unit == "mV":
        return channel.label
    low, high = _ends(channel.values)
    return f"{channel.label}  {low:.4g} .. {high:.4g} {channel.unit}"


def _ends(values: np.ndarray) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)


def _heading(recording: Recording, shown_s: float) -> str:
    parts = [recording.label, f"{shown_s:.4g} s of {recording.seconds:.4g} s"]
    if shown_s <= SECONDS:
        parts.append("25 mm/s")
    if any(channel.unit == "mV" for channel in recording.channels):
        parts.append("10 mm/mV")
    return "   ".join([*filter(None, parts), f"{recording.frequency:.4g} Hz"])


def _write(pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str) -> None:
    pen.text(place, writable(text), INK, font(TEXT_SIZE))


def _millimetre_paper(height: int, width: int) -> np.ndarray:
    paper = np.full((height, width, 3), PAPER, np.uint8)
    for step, color in ((MM, FINE), (5 * MM, COARSE)):
        paper[TOP % step :: step] = color
        paper[:, LEFT % step :: step] = color
    return paper
