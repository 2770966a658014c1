"""Text in a picture, found by rapidocr.

Its models come with its package, so nothing is fetched. They are loaded when the first picture is looked at,
in a worker, and run in one thread.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from app.dicom.deidentify.pixels.boxes import Box
from app.model.errors import ConfigError

TILE, OVERLAP = 384, 64
"""Longest side of a tile. It is cheaper by the pixel than the whole, and text is not small beside it."""
SMALL_PICTURE = 1024
"""A picture with a longer side is also looked at in a smaller size, for letters larger than a tile."""
SETTINGS = {
    "Global.log_level": "critical",
    "Global.use_cls": False,
    "Global.text_score": 0.0,
    "Global.use_vertical_padding": False,
    "Det.limit_side_len": 32,
    "Det.thresh": 0.2,
    "Det.box_thresh": 0.3,
    "Det.score_mode": "slow",
    "EngineConfig.onnxruntime.intra_op_num_threads": 1,
    "EngineConfig.onnxruntime.inter_op_num_threads": 1,
}
"""What is unsure is reported too, for `plausible` decides; tiles keep their size; one thread."""


@dataclass(frozen=True, slots=True)
class Line:
    """What may be a line of text. score: 0 to 1, how sure its letters are."""

    box: Box
    text: str
    score: float


def find_lines(picture: np.ndarray, changed: np.ndarray | None = None) -> list[Line]:
    """Look for text.

    Parameters
    ----------
    picture : (rows, columns, 3) uint8
    changed : (rows, columns) bool; only their surroundings are looked at. None: the whole picture

    Raises
    ------
    ConfigError : the extra `pixels` is not installed
    """
    rows, columns = picture.shape[:2]
    lines: list[Line] = []
    for tile in tiles((rows, columns)):
        box: Box | None = tile
        if changed is not None:
            box = near(changed, tile)
        if box is None:
            continue
        part = picture[box.top : box.bottom, box.left : box.right]
        if int(part.min()) != int(part.max()):
            lines += read_lines(part, box.left, box.top, 1.0)
    if changed is None and max(rows, columns) > SMALL_PICTURE:
        scale = TILE / max(rows, columns)
        size = max(1, round(columns * scale)), max(1, round(rows * scale))
        small = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))
        lines += read_lines(small, 0, 0, scale)
    return lines


def near(changed: np.ndarray, tile: Box) -> Box | None:
    """Return the part of a picture around the changed pixels of a tile, None if it has none."""
    rows, columns = np.nonzero(changed[tile.top : tile.bottom, tile.left : tile.right])
    if not len(rows):
        return None
    box = Box(int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
    return box.moved(tile.left, tile.top).grown(OVERLAP, OVERLAP).within((changed.shape[0], changed.shape[1]))


def read_lines(part: np.ndarray, left: int, top: int, scale: float) -> Iterator[Line]:
    """Look for text in a part that begins at a column and row, and is shown smaller by `scale`."""
    found = _engine()(np.ascontiguousarray(part))
    if found.boxes is None or not hasattr(found, "txts"):
        return
    for corners, text, score in zip(found.boxes, found.txts, found.scores, strict=True):
        ends = np.concatenate([np.floor(corners.min(axis=0) / scale), np.ceil(corners.max(axis=0) / scale)])
        yield Line(Box(*(int(end) for end in ends)).moved(left, top), str(text), float(score))


def tiles(shape: tuple[int, int]) -> Iterator[Box]:
    """Yield overlapping tiles of about one size that cover a picture of (rows, columns)."""
    for top, bottom in _spans(shape[0]):
        for left, right in _spans(shape[1]):
            yield Box(left, top, right, bottom)


def _spans(length: int) -> list[tuple[int, int]]:
    count = max(1, -(-(length - OVERLAP) // (TILE - OVERLAP)))
    size = -(-(length + (count - 1) * OVERLAP) // count)
    starts = [round(number * (length - size) / max(1, count - 1)) for number in range(count)]
    return [(start, start + size) for start in starts]


@lru_cache(maxsize=1)
def _engine() -> Any:
    try:
        import cv2
        from rapidocr import RapidOCR
    except ImportError:
        raise ConfigError("deidentify.pixels: needs dicomlake[pixels]") from None
    cv2.setNumThreads(1)
    return RapidOCR(params={**SETTINGS, "Global.max_side_len": sys.maxsize})
