"""Convert colour frames to 8-bit RGB (PS3.3 C.7.6.3.1.2)."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageCms
from pydicom.dataset import Dataset

from app.dicom.pixels.attributes import items, octets
from app.dicom.pixels.frames import Frame
from app.dicom.pixels.preview_error import PreviewError, unrenderable
from app.dicom.render.palette import apply_palette

PARTIAL = np.array([[1.1644, 0, 1.5960], [1.1644, -0.3917, -0.8130], [1.1644, 2.0173, 0]], np.float32)
"""Matrix from luminance 16..235 and colour differences 16..240 to RGB 0..255 (PS3.3 C.7.6.3.1.2)."""


def rgb(dataset: Dataset, frame: Frame, *, icc: bool = False) -> np.ndarray:
    """Render a colour frame.

    Parameters
    ----------
    dataset : holds the palette and the colour profile
    frame : palette indices, or three samples per pixel
    icc : convert to sRGB with the profile of the data set

    Returns
    -------
    (rows, columns, 3) uint8

    Raises
    ------
    Unrenderable : unsupported_photometric, bad_palette

    References
    ----------
    PS3.3 C.7.6.3.1.2, C.11.15 (ICC Profile)
    """
    if frame.photometric == "PALETTE COLOR":
        image = apply_palette(dataset, frame)
    elif frame.photometric in ("RGB", "YBR_ICT", "YBR_RCT"):
        image = _eight_bits(frame)
    elif frame.photometric in ("YBR_FULL", "YBR_FULL_422"):
        image = _from_ybr(_eight_bits(frame))
    elif frame.photometric.startswith("YBR_PARTIAL"):
        shifted = _eight_bits(frame).astype(np.float32) - np.array([16, 128, 128], np.float32)
        image = np.clip(np.rint(shifted @ PARTIAL.T), 0, 255).astype(np.uint8)
    else:
        raise unrenderable(PreviewError.UNSUPPORTED_PHOTOMETRIC, "the colour space is not supported")
    return _to_srgb(image, _profile(dataset)) if icc else image


def _eight_bits(frame: Frame) -> np.ndarray:
    """Scale samples of any width to eight bits."""
    if frame.pixels.dtype.kind == "f":
        raise unrenderable(PreviewError.UNSUPPORTED_PHOTOMETRIC, "floating point colours are not supported")
    stored = frame.header.bits_stored
    pixels = frame.pixels.view(np.dtype(f"u{frame.pixels.dtype.itemsize}"))
    if stored == 8:
        return pixels.astype(np.uint8, copy=False)
    if stored > 8:
        scaled: np.ndarray = pixels >> np.array(stored - 8, pixels.dtype)
    else:
        scaled = pixels.astype(np.uint16) * 255 // ((1 << stored) - 1)
    return scaled.astype(np.uint8)


def _from_ybr(pixels: np.ndarray) -> np.ndarray:
    size = (pixels.shape[1], pixels.shape[0])
    return np.asarray(Image.frombytes("YCbCr", size, np.ascontiguousarray(pixels).tobytes()).convert("RGB"))


def _profile(dataset: Dataset) -> bytes:
    holders = (dataset, *items(dataset, "OpticalPathSequence")[:1])
    return next((found for holder in holders if (found := octets(holder, "ICCProfile"))), b"")


def _to_srgb(image: np.ndarray, profile: bytes) -> np.ndarray:
    """Convert with an ICC profile; an unusable profile leaves the colours unchanged."""
    if not profile:
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        target = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(Image.fromarray(image), source, target, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return image
    return image if converted is None else np.asarray(converted)
