"""Rectangles of a picture: joined along a line, and what lies outside of them."""

import numpy as np

from app.dicom.deidentify.pixels.boxes import Box, cover, joined, outside


def test_parts_of_one_line_are_joined_in_whatever_order_they_come():
    parts = [Box(0, 10, 60, 20), Box(55, 11, 90, 21), Box(90, 10, 120, 20)]
    assert joined(parts) == joined(parts[::-1]) == (Box(0, 10, 120, 21),)


def test_lines_one_below_the_other_are_not_joined():
    lines = (Box(0, 10, 60, 20), Box(0, 19, 60, 29))
    assert joined(lines) == lines


def test_a_box_is_cut_at_the_edges_of_the_picture():
    assert Box(-5, 2, 4, 99).within((10, 8)) == Box(0, 2, 4, 10)
    assert Box(8, 0, 12, 4).within((10, 8)) is None


def test_outside_covers_all_but_the_kept_boxes_once():
    kept = (Box(2, 1, 5, 4), Box(4, 3, 7, 6))
    rest = outside(kept, (8, 9))
    assert sum(box.area for box in rest) == 8 * 9 - (9 + 9 - 1)
    assert (cover(rest, (8, 9)) ^ cover(kept, (8, 9))).all()


def test_without_kept_boxes_all_is_outside():
    assert outside((), (3, 4)) == (Box(0, 0, 4, 3),)


def test_cover_of_nothing_is_empty():
    assert not cover((), (3, 4)).any()
    assert np.argwhere(cover([Box(1, 0, 2, 2)], (3, 4))).tolist() == [[0, 1], [1, 1]]
