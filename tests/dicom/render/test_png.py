"""PNG files, read back by another library."""

import io

import numpy as np
import pytest
from PIL import Image

from app.dicom.render.png import encode_png


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (64, 48), (1, 1, 3), (4, 1, 3), (33, 17, 3)])
def test_png_reads_back_as_it_was(shape):
    pixels = np.random.default_rng(3).integers(0, 256, shape, np.uint8)
    image = Image.open(io.BytesIO(encode_png(pixels)))
    image.verify()
    again = np.asarray(Image.open(io.BytesIO(encode_png(pixels))))
    assert np.array_equal(again, pixels)


def test_png_begins_with_its_header():
    # Width 2, height 1, eight bits, grey: ISO 15948 11.2.2.
    head = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\2\0\0\0\1\x08\0\0\0\0"
    assert encode_png(np.zeros((1, 2), np.uint8)).startswith(head)


def test_views_are_encoded_as_they_look():
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert encode_png(pixels[::-1, ::2]) == encode_png(pixels[::-1, ::2].copy())
