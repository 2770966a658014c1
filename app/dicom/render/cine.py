"""All frames of an object as an animated GIF, one frame in memory at a time (GIF89a)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from PIL import GifImagePlugin, Image
from pydicom.dataset import Dataset

from app.dicom.pixels.attributes import number, numbers
from app.dicom.pixels.image_header import pixel_keyword, read_header
from app.dicom.pixels.preview_error import rendering
from app.dicom.pixels.reduced import read_reduced
from app.dicom.render.geometry import resize
from app.dicom.render.grayscale import common_window
from app.dicom.render.preview import choose_frame, picture, render
from app.dicom.render.slide import is_tiled
from app.dicom.render.window import ValueOfInterest
from app.model.options import PreviewOptions

MOST_FRAMES, LONGEST_SIDE = 256, 1024
SAMPLED = 9
"""Frames that decide the window and the colours."""
DELAY_MS, SHORTEST_MS, LONGEST_MS = 100.0, 20.0, 5000.0
"""Where the object does not say; browsers show a shorter delay as a much longer one; for a single picture."""
SWATCH = 128
"""Pixels of the side of a picture among those that the colours are chosen from."""
GREYS = bytes(level for level in range(256) for _ in range(3))


@dataclass(frozen=True, slots=True)
class Reel:
    """What is the same for all frames of a cine. palette: for colours, else None."""

    options: PreviewOptions
    frames: range
    delay_ms: float
    voi: ValueOfInterest | None = None
    palette: Image.Image | None = None


def cine(dataset: Dataset, options: PreviewOptions) -> Iterator[bytes]:
    """Draw all frames with one window; of more than 256 every n-th, at n times the delay.

    Parameters
    ----------
    dataset : the whole data set; of one frame, a slide or a document the GIF stands still
    options : as for `preview`; `frame` is not used and no side is longer than 1024 pixels

    Yields
    ------
    a GIF in pieces; the same data set and options give the same bytes

    Raises
    ------
    Unrenderable : as `preview`; a frame that cannot be drawn ends it all

    References
    ----------
    PS3.3 C.7.6.5 (Cine), C.7.6.6 (Multi-frame)
    """
    side = min(options.max_side or LONGEST_SIDE, LONGEST_SIDE)
    options = replace(options, max_side=side, frame="representative")
    with rendering():
        if pixel_keyword(dataset) is None or is_tiled(dataset):
            pictures, reel = iter([picture(dataset, options)]), Reel(options, range(1), LONGEST_MS)
        else:
            reel = _reel(dataset, options)
            pictures = (render(dataset, options, index, reel.voi) for index in reel.frames)
        first = next(pictures)
        if first.ndim == 3:
            reel = replace(reel, palette=_palette(dataset, reel, first))
        yield _head(first, reel)
        yield _frame(first, reel)
        for image in pictures:
            yield _frame(resize(image, (first.shape[0], first.shape[1])), reel)
        yield b";"


def frame_delay(dataset: Dataset) -> float:
    """Return for how long one frame is shown.

    Parameters
    ----------
    dataset : the first of Recommended Display Frame Rate, Frame Time, Frame Time Vector and Cine Rate counts

    Returns
    -------
    milliseconds, 20 to 5000; 100 where the data set does not say

    References
    ----------
    PS3.3 C.7.6.5.1.1 (the first entry of the vector is 0), C.7.6.6.1
    """
    vector = [step for step in numbers(dataset, "FrameTimeVector")[1:] if step > 0]
    said = (
        1000 * _inverse(number(dataset, "RecommendedDisplayFrameRate", 0)),
        number(dataset, "FrameTime", 0),
        float(np.mean(vector)) if vector else 0.0,
        1000 * _inverse(number(dataset, "CineRate", 0)),
    )
    delay = next((time for time in said if time > 0), DELAY_MS)
    return min(max(delay, SHORTEST_MS), LONGEST_MS)


def _inverse(rate: float) -> float:
    return 1 / rate if rate > 0 else 0.0


def _reel(dataset: Dataset, options: PreviewOptions) -> Reel:
    header = read_header(dataset)
    frames, step = header.frames, -(-header.frames // MOST_FRAMES)
    scale = options.max_side / max(header.rows, header.columns)
    chosen = choose_frame(dataset, "representative")
    sampled = [chosen, *range(0, frames, -(-frames // SAMPLED))]
    read = (read_reduced(dataset, index, scale, options.limits) for index in sampled)
    voi = common_window(dataset, read, options.window)
    delay = min(frame_delay(dataset) * step, LONGEST_MS)
    return Reel(options, range(0, frames, step), delay, voi)


def _palette(dataset: Dataset, reel: Reel, first: np.ndarray) -> Image.Image:
    """Choose 256 colours that serve all frames, from some of them."""
    swatches = [_swatch(first)]
    for index in reel.frames[:: -(-len(reel.frames) // SAMPLED)][1:]:
        swatches.append(_swatch(render(dataset, reel.options, index, reel.voi)))
    return Image.fromarray(np.vstack(swatches)).quantize(256)


def _swatch(image: np.ndarray) -> np.ndarray:
    return resize(image, (SWATCH, SWATCH))


def _head(image: np.ndarray, reel: Reel) -> bytes:
    """Return the header, the colours for all frames, and the wish to be repeated for ever."""
    colors = GREYS if reel.palette is None else bytes(reel.palette.getpalette() or ()).ljust(768, b"\0")
    rows, columns = image.shape[:2]
    screen = struct.pack("<6sHHBBB", b"GIF89a", columns, rows, 0xF7, 0, 0)
    return screen + colors + b"!\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00"


def _frame(image: np.ndarray, reel: Reel) -> bytes:
    shown = Image.fromarray(image)
    if reel.palette is not None:
        shown = shown.quantize(palette=reel.palette, dither=Image.Dither.NONE)
    # Saving would hold all frames until the last is drawn.
    return b"".join(GifImagePlugin.getdata(shown, duration=round(reel.delay_ms / 10) * 10))
