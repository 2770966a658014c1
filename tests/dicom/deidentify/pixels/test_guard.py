"""What is text and what only looks like it."""

import pytest

from app.dicom.deidentify.pixels.boxes import Box
from app.dicom.deidentify.pixels.guard import plausible
from app.dicom.deidentify.pixels.text import Line

SHAPE = (512, 512)


def line(text: str, width: int, height: int, score: float = 0.95) -> Line:
    return Line(Box(5, 7, 5 + width, 7 + height), text, score)


@pytest.mark.parametrize(
    "found",
    [
        line("SMITH, ANNA", 100, 18),
        line("ID: 12345", 75, 18, 0.41),
        line("山田太郎", 80, 20),
        line("DOB 12/11/1962", 18, 120),  # upright
        line("HOSPITAL NORTH", 500, 120),
        line("7", 60, 14, 0.4),  # one glyph was read where several stand
        line("12:05", 40, 12),
    ],
)
def test_text_is_masked(found):
    assert plausible(found, SHAPE)


@pytest.mark.parametrize(
    "found",
    [
        line("の", 492, 374, 0.87),  # a body in cross section
        line("O", 235, 184, 0.9),  # a head
        line("R", 14, 18),  # a side marker
        line("-", 60, 12),  # an edge
        line("40", 20, 15, 0.59),  # folds of a brain
        line("re", 90, 94, 0.43),  # ribs
        line("là", 86, 86, 0.99),  # a bone
        line("1D", 300, 200, 0.95),  # as high as an organ and hardly any letters
        line("ABCDE", 480, 150, 0.5),  # large and unsure
        line("SMITH, ANNA", 100, 18, 0.1),
        line("CITY HOSPITAL", 512, 256),  # a quarter of the picture
        line("AB", 400, 12),  # a line with two ends
        line("", 50, 12),
    ],
)
def test_shapes_of_the_picture_stay(found):
    assert not plausible(found, SHAPE)
