"""Decode JPEG 2000 frames at a lower resolution, because the highest ones cost the most time."""

from __future__ import annotations

import io
from functools import reduce

import numpy as np
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile

from app.dicom.pixels.codestream import Codestream


def halve_j2k(stream: Codestream, halvings: int) -> np.ndarray | None:
    """Decode without the highest resolutions. Pillow is used because imagecodecs cannot do that.

    Parameters
    ----------
    stream : the codestream of a frame
    halvings : number of resolutions to skip, at most `stream.levels`

    Returns
    -------
    (rows, columns[, 3]) samples, each side 2^-halvings of the frame's, rounded up; None if Pillow cannot
    """
    if not _can_be_halved(stream):
        return None
    try:
        samples = _HalvedFile(io.BytesIO(stream.data)).halved(halvings)
    except (OSError, SyntaxError, ValueError):
        return None  # Pillow is stricter than imagecodecs, which then decides whether the frame is valid
    bits = 8 * samples.itemsize  # Pillow scales samples to full bytes and makes them unsigned: undo both
    samples >>= bits - stream.precision
    if not stream.signed:
        return samples
    return (samples.astype(np.int32) - (1 << (stream.precision - 1))).astype(f"i{samples.itemsize}")


def clip_overshoot(samples: np.ndarray, stream: Codestream, high_bit: int | None) -> np.ndarray | None:
    """Clip reduced samples to the range of the values; return None if the frame has bits set above them.

    A reduced sample is a weighted mean of the samples around it, with weights that sum to 1. Bits above the
    values cannot be masked off a mean, but they are visible in it: each adds at least the whole range of the
    values, so the mean leaves the range. Bits below the values change the mean by about one value and need no
    check. The mean may stay in range for single pixels and thin lines with such bits in dark surroundings.
    Old overlays look like that, but they are declared, and a frame with declared overlays is never reduced.

    Parameters
    ----------
    samples : a reduced frame
    stream : its codestream
    high_bit : most significant bit of the values in a sample; None if samples have no other bits

    Returns
    -------
    samples in the range of the values

    References
    ----------
    ISO 15444-1 F.4.8 (the low-pass filters)
    """
    if high_bit is None or high_bit + 1 >= stream.precision:
        return samples  # no bits lie above the values
    least, most = (-(1 << high_bit), (1 << high_bit) - 1) if stream.signed else (0, (2 << high_bit) - 1)
    if least <= samples.min() and samples.max() <= most:
        return samples
    values = samples.astype(np.int32)
    if _exceeds(values, most) or _exceeds(-values, -least):
        return None
    return samples.clip(least, most)


def _exceeds(values: np.ndarray, most: int) -> bool:
    """Return whether samples exceed `most` by more than a nearby edge explains.

    Some weights of the mean are negative, so it overshoots near a sharp edge: by up to 0.46 of the contrast
    around text and markers of the maximum value. The filter spans two reduced samples on each side.
    """
    over = values > most
    if not over.any():
        return False
    darkest = np.pad(values, [(2, 2), (2, 2), (0, 0)][: values.ndim], mode="edge")
    rows, columns = values.shape[:2]
    darkest = reduce(np.minimum, (darkest[n : n + rows] for n in range(5)))
    darkest = reduce(np.minimum, (darkest[:, n : n + columns] for n in range(5)))
    return bool((values - most > (most - darkest) // 2)[over].any())


def _can_be_halved(stream: Codestream) -> bool:
    """Return whether Pillow preserves the samples: it converts colours to unsigned 8 bits."""
    if stream.components == 1:
        return stream.precision <= 16
    return stream.components == 3 and stream.precision == 8 and not stream.signed


class _HalvedFile(Jpeg2KImageFile):
    """A JPEG 2000 file decoded at a lower resolution.

    Pillow's own `reduce` rounds sizes to the nearest integer, while JPEG 2000 rounds up (ISO 15444-1 B-15).
    """

    def halved(self, times: int) -> np.ndarray:
        tile = self.tile[0]
        assert isinstance(tile.args, tuple)
        self._size = (-(-self.size[0] >> times), -(-self.size[1] >> times))
        args = (tile.args[0], times, *tile.args[2:])
        self.tile = [tile._replace(extents=(0, 0, *self._size), args=args)]
        return np.array(self)
