"""Overlay planes."""

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


def test_overlay_in_unused_bits_is_drawn():
    dataset = picture(
        words(0x8000, 0), 1, 2, BitsAllocated=16, BitsStored=12, WindowCenter=2048, WindowWidth=4096
    )
    dataset.add_new(0x60000010, "US", 1)
    dataset.add_new(0x60000011, "US", 2)
    dataset.add_new(0x60000050, "SS", [1, 1])
    dataset.add_new(0x60000100, "US", 16)
    dataset.add_new(0x60000102, "US", 15)
    assert drawn(dataset, overlays=True) == [[255, 0]]
