"""Attributes of one frame in a file as it was read."""

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from app.dicom.pixels.attributes import element_as_it_lies, number
from app.dicom.pixels.functional_groups import frame_item
from tests.data import enhanced, parse, part10

SYNTAXES = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)


def found(data: bytes, frame_index: int, macro: str, keyword: str) -> float:
    item = frame_item(parse(data), frame_index, macro, keyword)
    return -1.0 if item is None else number(item, keyword, -2.0)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_each_frame_has_its_own_item(syntax):
    data = enhanced(syntax, frames=3)
    centers = [found(data, n, "FrameVOILUTSequence", "WindowCenter") for n in range(3)]
    assert centers == [8, 24, 40]


def test_shared_item_serves_every_frame():
    assert found(enhanced(), 2, "PixelMeasuresSequence", "PixelSpacing") == 0.75


def test_frame_without_an_item_falls_back_to_the_data_set():
    data = enhanced(WindowCenter="7", WindowWidth="3")
    assert found(data, 9, "FrameVOILUTSequence", "WindowCenter") == 7
    assert found(data, 0, "FrameVOILUTSequence", "WindowCenter") == 8


def test_attribute_that_is_nowhere_is_none():
    assert found(enhanced(), 0, "FrameVOILUTSequence", "RescaleSlope") == -1


def test_items_of_undefined_length_are_read_too():
    dataset = parse(enhanced())
    sequence = dataset["PerFrameFunctionalGroupsSequence"]
    sequence.is_undefined_length = True
    for item in sequence.value:
        item.is_undefined_length_sequence_item = True
    assert found(part10(dataset), 1, "FrameVOILUTSequence", "WindowCenter") == 24


def test_of_a_sequence_left_in_the_object_one_item_is_read():
    padding = Dataset()
    padding.TextValue = "x" * 9_000_000
    dataset = parse(enhanced())
    for group in dataset.PerFrameFunctionalGroupsSequence:
        group.ContentSequence = Sequence([padding])
    read = parse(part10(dataset))
    assert element_as_it_lies(read, "PerFrameFunctionalGroupsSequence").value is None
    item = frame_item(read, 2, "FrameVOILUTSequence", "WindowCenter")
    assert item is not None
    assert number(item, "WindowCenter", -1.0) == 40
    assert element_as_it_lies(read, "PerFrameFunctionalGroupsSequence").value is None
