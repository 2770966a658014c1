"""Modality values to 8-bit grey by a window or a VOI lookup table (PS3.3 C.11.2)."""

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
    """Centre and width in modality units, and the shape of the curve between.

    replaces_unusable: it stands in for the data set's own window, which shows nothing of the picture.
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
        with np.errstate(over="ignore"):  # a width that is next to nothing is a threshold too
            return np.clip((values - low) / span, 0, 1) * 255


@dataclass(frozen=True, slots=True)
class Curve:
    """A VOI lookup table, scaled to grey by the bits that its entries need, at least eight.

    What the descriptor says may be the size of a cell: by its 16 bits, entries up to 4095 are nearly black.
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
    """Read `centre,width` or `centre,width,function` as PS3.18 8.3.5.1.4 writes it.

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
    """Return what the data set says its frame should be shown with: its first table, else its first window.

    A table that lacks some of its entries comes last.

    Parameters
    ----------
    dataset : the whole data set
    header : tells the byte order
    frame_index : 0-based
    signed : modality values may be negative, so a table's first mapped value is signed

    Returns
    -------
    None if the data set does not say, or says nothing usable

    References
    ----------
    PS3.3 C.11.2.1, C.7.6.16.2.10 (Frame VOI LUT)
    """
    table = None
    for item in items(dataset, "VOILUTSequence")[:1]:
        table = read_lookup_table(item, signed=signed, little_endian=header.little_endian)
    if table is not None and table.complete:
        return Curve(table)
    return _said_window(dataset, frame_index) or (Curve(table) if table is not None else None)


def _said_window(dataset: Dataset, frame_index: int) -> Window | None:
    holder = frame_item(dataset, frame_index, "FrameVOILUTSequence", "WindowCenter")
    if holder is None:
        return None
    center, width = number(holder, "WindowCenter", math.nan), number(holder, "WindowWidth", math.nan)
    function = text(holder, "VOILUTFunction")
    if not (math.isfinite(center) and math.isfinite(width) and width > 0):
        return None
    return _window(center, width, function if function in FUNCTIONS else "LINEAR")


def _window(center: float, width: float, function: str) -> Window:
    # LINEAR is made for integers and not defined below a width of one; who writes that means LINEAR_EXACT.
    return Window(center, width, "LINEAR_EXACT" if function == "LINEAR" and width < 1 else function)
