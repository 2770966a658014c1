"""Convert stored values to modality values: Hounsfield units, activity, dose (PS3.3 C.11.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from app.dicom.pixels.attributes import items, number, text
from app.dicom.pixels.functional_groups import frame_item
from app.dicom.pixels.image_header import ImageHeader
from app.dicom.render.lut import LookupTable, read_lookup_table

XRAY = ("XA", "RF", "XRF")
FOR_DISPLAY = ("LOG", "DISP")
"""For these the modality LUT maps back to X-ray intensity, which is not for display (PS3.3 C.8.7.1.1.2)."""


@dataclass(frozen=True, slots=True)
class ModalityTransform:
    """A lookup table if there is one, otherwise slope and intercept."""

    slope: float = 1.0
    intercept: float = 0.0
    table: LookupTable | None = None

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Map stored values (any shape) to modality values (same shape, float64)."""
        values = values.astype(np.float64)
        if self.table is not None:
            return self.table.apply(values)
        return values * self.slope + self.intercept


def modality_transform(dataset: Dataset, header: ImageHeader, frame_index: int) -> ModalityTransform:
    """Return the modality transformation of a frame.

    Parameters
    ----------
    dataset : the whole data set
    header : whether stored values are signed
    frame_index : 0-based

    Returns
    -------
    the identity if the data set has none; an invalid slope (0 or not a number) counts as 1

    References
    ----------
    PS3.3 C.11.1 (Modality LUT), C.7.6.16.2.9 (Pixel Value Transformation), C.8.8.3 (Dose Grid Scaling)
    """
    if text(dataset, "Modality") in XRAY and text(dataset, "PixelIntensityRelationship") in FOR_DISPLAY:
        return ModalityTransform()
    for item in items(dataset, "ModalityLUTSequence")[:1]:
        table = read_lookup_table(item, signed=header.signed, little_endian=header.little_endian)
        if table is not None:
            return ModalityTransform(table=table)
    if text(dataset, "Modality") == "RTDOSE":
        return ModalityTransform(number(dataset, "DoseGridScaling", 1.0) or 1.0)
    holder = frame_item(dataset, frame_index, "PixelValueTransformationSequence", "RescaleSlope")
    if holder is None:
        holder = frame_item(dataset, frame_index, "PixelValueTransformationSequence", "RescaleIntercept")
    if holder is None:
        return ModalityTransform()
    return ModalityTransform(
        number(holder, "RescaleSlope", 1.0) or 1.0, number(holder, "RescaleIntercept", 0.0)
    )
