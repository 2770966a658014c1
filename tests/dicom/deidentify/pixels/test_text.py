"""How a picture is divided before text is looked for in it."""

from itertools import pairwise

import numpy as np
import pytest

from app.dicom.deidentify.pixels.boxes import Box, cover
from app.dicom.deidentify.pixels.text import OVERLAP, TILE, near, tiles


@pytest.mark.parametrize("shape", [(1, 1), (256, 384), (512, 512), (385, 64), (2022, 1736)])
def test_tiles_cover_a_picture_and_overlap(shape):
    parts = list(tiles(shape))
    assert cover(parts, shape).all()
    assert max(max(box.width, box.height) for box in parts) <= TILE
    lefts = sorted({(box.left, box.right) for box in parts})
    for (_, right), (left, _) in pairwise(lefts):
        assert right - left >= OVERLAP - 1


def test_tiles_of_a_picture_a_bit_larger_are_of_one_size():
    # 512 = 288 + 288 - 64
    assert list(tiles((300, 512))) == [Box(0, 0, 288, 300), Box(224, 0, 512, 300)]


def test_only_what_lies_around_a_change_is_looked_at_again():
    changed = np.zeros((1000, 1000), bool)
    changed[500:510, 300:400] = True
    tile = Box(256, 256, 640, 640)
    assert near(changed, tile) == Box(300 - 64, 500 - 64, 400 + 64, 510 + 64)
    assert near(changed, Box(600, 600, 984, 984)) is None
    changed[:] = False
    changed[0:5, 0:5] = True
    assert near(changed, Box(0, 0, 384, 384)) == Box(0, 0, 69, 69)
