"""Draw all frames of an object as an animated GIF, with one frame in memory at a time (GIF89a)."""

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

MAX_FRAMES, MAX_SIDE = 256, 1024
SAMPLE_FRAMES = 9
"""Number of frames from which the window and the palette are computed."""
DEFAULT_DELAY_MS, MIN_DELAY_MS, MAX_DELAY_MS = 100.0, 20.0, 5000.0
"""The default, the minimum and the maximum. Browsers replace a shorter delay with a much longer one."""
SWATCH = 128
"""Side in pixels of the reduced frames from which the palette is computed."""
GREYS = bytes(level for level in range(256) for _ in range(3))


@dataclass(frozen=True, slots=True)
class Reel:
    """What all frames of a cine share. palette: None for greyscale."""

    options: PreviewOptions
    frames: range
    delay_ms: float
    voi: ValueOfInterest | None = None
    palette: Image.Image | None = None


def cine(dataset: Dataset, options: PreviewOptions) -> Iterator[bytes]:
    """Draw all frames with a common window; above 256 frames, every n-th with n times the delay.

    Parameters
    ----------
    dataset : the whole data set; a single frame, a slide or a document gives a still picture
    options : as for `preview`, but `frame` is not used and no side exceeds 1024 pixels

    Yields
    ------
    a GIF in chunks; the same data set and options give the same bytes

    Raises
    ------
    Unrenderable : as `preview`, for any frame

    References
    ----------
    PS3.3 C.7.6.5 (Cine), C.7.6.6 (Multi-frame)
    """
    side = min(options.max_side or MAX_SIDE, MAX_SIDE)
    options = replace(options, max_side=side, frame="representative")
    with rendering():
        if pixel_keyword(dataset) is None or is_tiled(dataset):
            pictures, reel = iter([picture(dataset, options)]), Reel(options, range(1), MAX_DELAY_MS)
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
    """Return the delay between frames.

    Parameters
    ----------
    dataset : may hold Recommended Display Frame Rate, Frame Time, Frame Time Vector or Cine Rate, which are
        used in this order

    Returns
    -------
    milliseconds, 20 to 5000; 100 if the data set declares none

    References
    ----------
    PS3.3 C.7.6.5.1.1 (the first entry of the vector is 0), C.7.6.6.1
    """
    vector = [step for step in numbers(dataset, "FrameTimeVector")[1:] if step > 0]
    declared = (
        1000 * _inverse(number(dataset, "RecommendedDisplayFrameRate", 0)),
        number(dataset, "FrameTime", 0),
        float(np.mean(vector)) if vector else 0.0,
        1000 * _inverse(number(dataset, "CineRate", 0)),
    )
    delay = next((time for time in declared if time > 0), DEFAULT_DELAY_MS)
    return min(max(delay, MIN_DELAY_MS), MAX_DELAY_MS)


def _inverse(rate: float) -> float:
    return 1 / rate if rate > 0 else 0.0


def _reel(dataset: Dataset, options: PreviewOptions) -> Reel:
    header = read_header(dataset)
    frames, step = header.frames, -(-header.frames // MAX_FRAMES)
    scale = options.max_side / max(header.rows, header.columns)
    chosen = choose_frame(dataset, "representative")
    sampled = [chosen, *range(0, frames, -(-frames // SAMPLE_FRAMES))]
    read = (read_reduced(dataset, index, scale, options.limits) for index in sampled)
    voi = common_window(dataset, read, options.window)
    delay = min(frame_delay(dataset) * step, MAX_DELAY_MS)
    return Reel(options, range(0, frames, step), delay, voi)


def _palette(dataset: Dataset, reel: Reel, first: np.ndarray) -> Image.Image:
    """Compute 256 colours for all frames from a sample of them."""
    swatches = [_swatch(first)]
    for index in reel.frames[:: -(-len(reel.frames) // SAMPLE_FRAMES)][1:]:
        swatches.append(_swatch(render(dataset, reel.options, index, reel.voi)))
    return Image.fromarray(np.vstack(swatches)).quantize(256)


def _swatch(image: np.ndarray) -> np.ndarray:
    return resize(image, (SWATCH, SWATCH))


def _head(image: np.ndarray, reel: Reel) -> bytes:
    """Return the GIF header, the common palette, and the extension for endless repetition."""
    colors = GREYS if reel.palette is None else bytes(reel.palette.getpalette() or ()).ljust(768, b"\0")
    rows, columns = image.shape[:2]
    screen = struct.pack("<6sHHBBB", b"GIF89a", columns, rows, 0xF7, 0, 0)
    return screen + colors + b"!\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00"


def _frame(image: np.ndarray, reel: Reel) -> bytes:
    shown = Image.fromarray(image)
    if reel.palette is not None:
        shown = shown.quantize(palette=reel.palette, dither=Image.Dither.NONE)
    # Not Image.save, which would keep all frames in memory until the last one is drawn.
    return b"".join(GifImagePlugin.getdata(shown, duration=round(reel.delay_ms / 10) * 10))
