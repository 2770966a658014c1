"""What is masked without a look: outside of ultrasound regions, and by rules for devices."""

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from app.dicom.deidentify.pixels.boxes import Box
from app.dicom.deidentify.pixels.regions import device_rules, region_boxes

SHAPE = (600, 800)


def region(left: int, top: int, right: int, bottom: int) -> Dataset:
    item = Dataset()
    item.RegionLocationMinX0, item.RegionLocationMinY0 = left, top
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = right, bottom
    return item


def described(**elements: object) -> Dataset:
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def ultrasound(*regions: Dataset) -> Dataset:
    return described(Modality="US", SequenceOfUltrasoundRegions=Sequence(regions))


def test_only_the_inside_of_ultrasound_regions_is_kept():
    # PS3.3 C.8.5.5.1.1: the corners are pixels of the region.
    boxes = region_boxes(ultrasound(region(100, 50, 699, 549)), SHAPE)
    assert set(boxes) == {
        Box(0, 0, 800, 50),
        Box(0, 50, 100, 550),
        Box(700, 50, 800, 550),
        Box(0, 550, 800, 600),
    }


def test_regions_that_fill_the_picture_mask_nothing():
    assert region_boxes(ultrasound(region(0, 0, 799, 599)), SHAPE) == ()


@pytest.mark.parametrize(
    "corners", [(0, 0, 0, 0), (0, 0, 20, 20), (900, 700, 1000, 800), (500, 400, 100, 100)]
)
def test_regions_that_cannot_be_meant_are_ignored(corners):
    assert region_boxes(ultrasound(region(*corners)), SHAPE) == ()


def test_regions_past_the_edge_are_cut():
    assert region_boxes(ultrasound(region(0, 40, 4000, 4000)), SHAPE) == (Box(0, 0, 800, 40),)


def test_a_device_rule_masks_where_that_device_writes():
    # pydicom/deid, `Philips IU22`, 600 rows: ctpcoordinates 0,0,800,59
    dataset = described(Modality="US", Manufacturer="Philips Medical Systems", ManufacturerModelName="iU22")
    dataset.Rows, dataset.Columns = 600, 800
    assert region_boxes(dataset, SHAPE) == (Box(0, 0, 800, 59),)


@pytest.mark.parametrize(
    "other",
    [{"Rows": 601}, {"Modality": "CT"}, {"Manufacturer": "NotPhilips"}, {"ManufacturerModelName": ""}],
)
def test_a_device_rule_needs_all_of_its_words(other):
    elements = {"Modality": "US", "Manufacturer": "Philips", "ManufacturerModelName": "iU22", "Rows": 600}
    assert region_boxes(described(**elements | other), SHAPE) == ()


def test_the_label_of_a_slide_is_masked_whole():
    label = described(Modality="SM", ImageType=["ORIGINAL", "PRIMARY", "LABEL", "NONE"])
    assert region_boxes(label, SHAPE) == (Box(0, 0, 800, 600),)
    volume = described(Modality="SM", ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])
    assert region_boxes(volume, SHAPE) == ()


def test_every_rule_is_well_formed():
    for rule in device_rules():
        assert rule["when"].keys() >= {"Modality"} or rule["when"].keys() >= {"Rows"}
        assert len(rule["when"]) >= 2
        assert rule["boxes"] == "all" or all(len(box) == 4 and min(box) >= 0 for box in rule["boxes"])
        assert all(isinstance(values, list) and values for values in rule["when"].values())
