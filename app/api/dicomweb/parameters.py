"""Pure: the path segments and query parameters of rendered resources and frames, checked (PS3.18 8.3.5)."""

from __future__ import annotations

import math
import re

from app.model.errors import DicomlakeError
from app.model.options import window_values

MAX_FRAMES = 1000
"""Frames of one request."""
_FUNCTIONS = ("linear", "linear-exact", "sigmoid")
_FRAMES = re.compile(r"[0-9]{1,9}(?:,[0-9]{1,9})*")


class BadParameter(DicomlakeError):
    """A path segment or query parameter is not valid for the resource."""

    code = "bad_parameter"


def frame_numbers(text: str) -> list[int]:
    """Return frame numbers, from 1, in the requested order; raises BadParameter."""
    if not _FRAMES.fullmatch(text):
        raise BadParameter("frames: write numbers from 1, separated by commas")
    numbers = [int(number) for number in text.split(",")]
    if len(numbers) > MAX_FRAMES:
        raise BadParameter(f"frames: at most {MAX_FRAMES} in one request")
    return numbers


def window_text(text: str) -> str:
    """Return a window as drawing takes it, `centre,width,function`; raises BadParameter.

    The function may be left out, although the standard requires it (PS3.18 8.3.5.1.4).
    """
    center, _, rest = text.partition(",")
    width, _, function = rest.partition(",")
    function = function.strip().lower() or "linear"
    if window_values(f"{center},{width}") is None or function not in _FUNCTIONS:
        names = ", ".join(_FUNCTIONS)
        raise BadParameter(f"window: write centre,width,function with a width above 0 and one of {names}")
    return f"{center},{width},{function}"


def viewport_values(text: str, max_side: int) -> tuple[tuple[int, int], tuple[int, int, int, int] | None]:
    """Return columns and rows of a viewport, and of the region shown in it, None for all of the image.

    Raises
    ------
    BadParameter : not `vw,vh` or `vw,vh,sx,sy,sw,sh`, or larger than `max_side`

    References
    ----------
    PS3.18 8.3.5.1.3
    """
    parts = text.split(",")
    good = len(parts) in (2, 6) and all(re.fullmatch(r"[0-9]{1,9}", part) for part in parts[:2])
    numbers = [_number(part) for part in parts]
    if not good or not all(math.isfinite(number) for number in numbers) or min(numbers[:4]) < 0:
        raise BadParameter("viewport: write vw,vh or vw,vh,sx,sy,sw,sh, in pixels")
    width, height = int(numbers[0]), int(numbers[1])
    if not (1 <= width <= max_side and 1 <= height <= max_side):
        raise BadParameter(f"viewport: columns and rows must be from 1 to {max_side}")
    if len(numbers) == 2 or not any(numbers[2:]):
        return (width, height), None
    left, top, columns, rows = (round(number) for number in numbers[2:])
    return (width, height), (left, top, columns, rows)


def quality_value(text: str) -> int:
    """Return the quality of a JPEG, 1 to 100; raises BadParameter."""
    if not re.fullmatch(r"[0-9]{1,3}", text) or not 1 <= int(text) <= 100:
        raise BadParameter("quality: write a number from 1 to 100")
    return int(text)


def _number(text: str) -> float:
    """Return a decimal number, 0 for an empty text, nan for text that is no number or an absurd one."""
    if not text:
        return 0.0
    return float(text) if re.fullmatch(r"-?[0-9]{1,9}(\.[0-9]{1,9})?", text) else math.nan
