"""Modality tables, rescale, dose (PS3.3 C.11.1)."""

import numpy as np
import pytest

from app.dicom.pixels.image_header import read_header
from app.dicom.render.modality_lut import modality_transform
from tests.dicom.pictures import picture, with_items


def transform(values: list[int], **elements: object) -> list[float]:
    dataset = picture(b"\0\0", 1, 2, **elements)
    return modality_transform(dataset, read_header(dataset), 0).apply(np.array(values)).tolist()


def test_rescale_is_slope_then_intercept():
    assert transform([0, 10], RescaleSlope=2, RescaleIntercept=-1024) == [-1024, -1004]


@pytest.mark.parametrize("slope", ["", "0", None])
def test_slope_that_makes_no_sense_is_one(slope):
    assert transform([5], RescaleSlope=slope, RescaleIntercept=-1) == [4]


def test_modality_table_goes_before_rescale():
    tables = with_items("ModalityLUTSequence", {"LUTDescriptor": [2, 1, 16], "LUTData": [700, 900]})
    assert transform([0, 1, 2, 3], RescaleSlope=2, RescaleIntercept=0, **tables) == [700, 700, 900, 900]


def test_logarithmic_angiography_is_shown_without_its_modality_table():
    tables = with_items("ModalityLUTSequence", {"LUTDescriptor": [2, 1, 16], "LUTData": [700, 900]})
    assert transform([1, 2], Modality="XA", PixelIntensityRelationship="LOG", **tables) == [1, 2]


def test_dose_is_scaled_to_its_units():
    assert transform([2000], Modality="RTDOSE", DoseGridScaling="0.001") == [2.0]


def test_transformation_of_the_frame_goes_before_the_shared_one():
    def rescale(slope: int) -> dict[str, object]:
        return with_items("PixelValueTransformationSequence", {"RescaleSlope": slope, "RescaleIntercept": 0})

    shared = with_items("SharedFunctionalGroupsSequence", rescale(3))
    own = with_items("PerFrameFunctionalGroupsSequence", rescale(5))
    assert transform([1], RescaleSlope=2, **shared) == [3]
    assert transform([1], RescaleSlope=2, **shared, **own) == [5]
