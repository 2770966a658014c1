"""Overlay planes."""

import pytest
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian

from tests.dicom.pictures import drawn, picture, words

HALF = {"WindowCenter": 128, "WindowWidth": 256}
"""A linear window over eight bits: grey is the value itself."""


def test_overlays_are_drawn_only_when_asked_for():
    dataset = picture(bytes(4), 2, 2, **HALF)
    dataset.add_new(0x60000010, "US", 2)
    dataset.add_new(0x60000011, "US", 2)
    dataset.add_new(0x60000050, "SS", [1, 2])
    dataset.add_new(0x60003000, "OW", b"\x0d\0")
    assert drawn(dataset) == [[0, 0], [0, 0]]
    # Bits 1 0 / 1 1, one column to the right: the right column of the plane falls off.
    assert drawn(dataset, overlays=True) == [[0, 255], [0, 255]]


def embedded(position: int, *cells: int, syntax: str = ExplicitVRLittleEndian, **elements: object):
    """Return one row of 12-bit values from 0 to 4095 with an overlay in bit `position` of the cells."""
    said = {"BitsAllocated": 16, "BitsStored": 12, "WindowCenter": 2048, "WindowWidth": 4096, **elements}
    dataset = picture(words(*cells, syntax=syntax), 1, len(cells), syntax, **said)
    dataset.add_new(0x60000010, "US", 1)
    dataset.add_new(0x60000011, "US", len(cells))
    dataset.add_new(0x60000050, "SS", [1, 1])
    dataset.add_new(0x60000100, "US", 16)
    dataset.add_new(0x60000102, "US", position)
    return dataset


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("high_bit", [11, 12, 13, 14, 15])
def test_overlay_in_any_unused_bit_is_drawn_and_is_no_part_of_the_value(high_bit, syntax):
    lowest = high_bit - 11
    for position in set(range(16)) - set(range(lowest, high_bit + 1)):
        cells = (1 << position, 0, 4095 << lowest, (4095 << lowest) | 1 << position)
        dataset = embedded(position, *cells, syntax=syntax, HighBit=high_bit)
        assert drawn(dataset) == [[0, 0, 255, 255]]
        assert drawn(dataset, window="8192,16384", overlays=True) == [[255, 0, 64, 255]]


@pytest.mark.parametrize(("high_bit", "position"), [(11, 0), (11, 11), (15, 4), (15, 15)])
def test_bits_of_the_value_are_no_overlay(high_bit, position):
    cells = (0xFFFF, 0)
    dataset = embedded(position, *cells, HighBit=high_bit)
    assert drawn(dataset, window="8192,16384", overlays=True) == [[64, 0]]


def test_overlay_data_that_are_empty_lie_in_the_pixels():
    dataset = embedded(0, 0x0001, 0, HighBit=15)
    dataset.add_new(0x60003000, "OW", b"")
    assert drawn(dataset, overlays=True) == [[255, 0]]


def test_overlay_in_unused_bits_is_that_of_the_frame():
    dataset = embedded(0, 1, 0, HighBit=15)
    dataset.NumberOfFrames, dataset.PixelData = 2, words(1, 0, 0, 1)
    assert drawn(dataset, 0, overlays=True) == [[255, 0]]
    assert drawn(dataset, 1, overlays=True) == [[0, 255]]
