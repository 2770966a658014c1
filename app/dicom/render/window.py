"""Map modality values to 8-bit grey by a window or a VOI lookup table (PS3.3 C.11.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from pydicom.dataset import Dataset

from app.dicom.pixels.attributes import items, number, text
from app.dicom.pixels.functional_groups import frame_item
from app.dicom.pixels.image_header import ImageHeader
from app.dicom.pixels.preview_error import PreviewError, unrenderable
from app.dicom.render.lut import LookupTable, read_lookup_table
from app.model.options import window_values

FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


class ValueOfInterest(Protocol):
    """Maps modality values (any shape, float64) to 0..255 (same shape, float64)."""

    def apply(self, values: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True, slots=True)
class Window:
    """Centre and width in modality units, and the VOI LUT function.

    replaces_unusable: it replaces the window of the data set, which would hide the picture.
    """

    center: float
    width: float
    function: str = "LINEAR"
    replaces_unusable: bool = False

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Map modality values to grey.

        Parameters
        ----------
        values : any shape, float64, in the units of the window

        Returns
        -------
        same shape, float64: 0 below the window, 255 above it

        References
        ----------
        PS3.3 C.11.2.1.2.1 (LINEAR), C.11.2.1.3.1 (SIGMOID), C.11.2.1.3.2 (LINEAR_EXACT)
        """
        if self.function == "SIGMOID":
            exponent = np.clip(-4 * (values - self.center) / self.width, -700, 700)
            return 255 / (1 + np.exp(exponent))
        if self.function == "LINEAR_EXACT":
            low, span = self.center - self.width / 2, self.width
        else:
            low, span = self.center - 0.5 - (self.width - 1) / 2, self.width - 1
        if span <= 0:  # a width of one is a threshold
            return np.where(values <= low, 0.0, 255.0)
        with np.errstate(over="ignore"):  # a tiny width overflows, and is then a threshold too
            return np.clip((values - low) / span, 0, 1) * 255


@dataclass(frozen=True, slots=True)
class Curve:
    """A VOI lookup table, scaled to grey by the bits that its entries use, at least eight.

    The bits in the descriptor are not used, because some writers put the cell size there: entries up to 4095
    scaled as 16 bits would be nearly black.
    """

    table: LookupTable

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Map modality values to grey.

        Parameters
        ----------
        values : any shape, float64

        Returns
        -------
        same shape, float64: 0..255

        References
        ----------
        PS3.3 C.11.2.1.1
        """
        bits = max(8, int(self.table.entries.max()).bit_length())
        return np.clip(self.table.apply(values) * (255 / ((1 << bits) - 1)), 0, 255)


def parse_window(window: str) -> Window:
    """Parse `centre,width` or `centre,width,function` (PS3.18 8.3.5.1.4).

    Raises
    ------
    Unrenderable : bad_window
    """
    center, _, rest = window.partition(",")
    width, _, function = rest.partition(",")
    name = function.strip().upper().replace("-", "_") or "LINEAR"
    values = window_values(f"{center},{width}")
    if values is None or name not in FUNCTIONS:
        raise unrenderable(PreviewError.BAD_WINDOW, "the window is not `centre,width`")
    return _window(*values, name)


def value_of_interest(
    dataset: Dataset, header: ImageHeader, frame_index: int, *, signed: bool
) -> ValueOfInterest | None:
    """Return the VOI transformation that the data set declares for a frame.

    The first lookup table has precedence over the first window, but an incomplete table is used only if there
    is no window.

    Parameters
    ----------
    dataset : the whole data set
    header : the byte order
    frame_index : 0-based
    signed : modality values may be negative, so the first mapped value of a table is signed

    Returns
    -------
    None if the data set declares none that is usable

    References
    ----------
    PS3.3 C.11.2.1, C.7.6.16.2.10 (Frame VOI LUT)
    """
    table = None
    for item in items(dataset, "VOILUTSequence")[:1]:
        table = read_lookup_table(item, signed=signed, little_endian=header.little_endian)
    if table is not None and table.complete:
        return Curve(table)
    return _declared_window(dataset, frame_index) or (Curve(table) if table is not None else None)


def _declared_window(dataset: Dataset, frame_index: int) -> Window | None:
    holder = frame_item(dataset, frame_index, "FrameVOILUTSequence", "WindowCenter")
    if holder is None:
        return None
    center, width = number(holder, "WindowCenter", math.nan), number(holder, "WindowWidth", math.nan)
    function = text(holder, "VOILUTFunction")
    if not (math.isfinite(center) and math.isfinite(width) and width > 0):
        return None
    return _window(center, width, function if function in FUNCTIONS else "LINEAR")


def _window(center: float, width: float, function: str) -> Window:
    # LINEAR is meant for integers and undefined for widths below 1. Files that declare it with such a width
    # mean LINEAR_EXACT.
    return Window(center, width, "LINEAR_EXACT" if function == "LINEAR" and width < 1 else function)
