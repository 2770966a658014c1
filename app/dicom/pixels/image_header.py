"""The image header: the description of the pixels in the data set (PS3.3 C.7.6.3)."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from app.dicom.pixels.attributes import element_as_it_lies, integer, text
from app.dicom.pixels.preview_error import PreviewError, unrenderable

PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """Size, sample layout and encoding of the frames. `photometric` is as declared, before any decoding."""

    keyword: str
    rows: int
    columns: int
    samples: int
    frames: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    planar: bool
    photometric: str
    transfer_syntax: str

    @property
    def little_endian(self) -> bool:
        """Whether native pixels are little endian."""
        return self.transfer_syntax != ExplicitVRBigEndian

    @property
    def pixels(self) -> int:
        """Number of pixels in one frame."""
        return self.rows * self.columns


def read_header(dataset: Dataset) -> ImageHeader:
    """Read the image header; missing elements get their only sensible value.

    Parameters
    ----------
    dataset : the whole data set, with file meta information if it has any

    Raises
    ------
    Unrenderable : no_pixel_data, bad_image_header

    References
    ----------
    PS3.3 C.7.6.3 (Image Pixel), C.7.6.24 and C.7.6.25 (Floating Point and Double Floating Point)
    """
    keyword = pixel_keyword(dataset)
    if keyword is None:
        raise unrenderable(PreviewError.NO_PIXEL_DATA, "the data set has no pixel data")
    samples = integer(dataset, "SamplesPerPixel", 1)
    allocated = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}.get(
        keyword, integer(dataset, "BitsAllocated", 0)
    )
    stored = allocated if keyword != "PixelData" else integer(dataset, "BitsStored", allocated)
    high_bit = integer(dataset, "HighBit", stored - 1)
    header = ImageHeader(
        keyword=keyword,
        rows=integer(dataset, "Rows", 0),
        columns=integer(dataset, "Columns", 0),
        samples=samples,
        frames=max(1, integer(dataset, "NumberOfFrames", 1)),
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=high_bit if stored - 1 <= high_bit < allocated else stored - 1,
        signed=integer(dataset, "PixelRepresentation", 0) == 1,
        planar=samples > 1 and integer(dataset, "PlanarConfiguration", 0) == 1,
        photometric=text(dataset, "PhotometricInterpretation") or ("MONOCHROME2" if samples == 1 else "RGB"),
        transfer_syntax=transfer_syntax(dataset),
    )
    _check(header)
    return header


def pixel_keyword(dataset: Dataset) -> str | None:
    """Return the keyword of the element that holds the pixels, None if there is none or it is empty."""
    return next((word for word in PIXEL_KEYWORDS if _has_pixels(dataset, word)), None)


def _check(header: ImageHeader) -> None:
    if not (1 <= header.rows <= 0xFFFF and 1 <= header.columns <= 0xFFFF):
        raise unrenderable(PreviewError.BAD_IMAGE_HEADER, "rows or columns are missing or out of range")
    if header.samples not in (1, 3):
        raise unrenderable(PreviewError.BAD_IMAGE_HEADER, "samples per pixel is neither 1 nor 3")
    if header.bits_allocated not in (1, 8, 16, 32, 64):
        raise unrenderable(PreviewError.BAD_IMAGE_HEADER, "bits allocated is not 1, 8, 16, 32 or 64")
    if not 1 <= header.bits_stored <= header.bits_allocated:
        raise unrenderable(PreviewError.BAD_IMAGE_HEADER, "more bits stored than allocated, or none")
    if header.bits_allocated == 1 and header.samples != 1:
        raise unrenderable(PreviewError.BAD_IMAGE_HEADER, "one bit allocated for several samples")


def _has_pixels(dataset: Dataset, keyword: str) -> bool:
    # Checks the length without reading, because pixel data may have been left in the file.
    if keyword not in dataset:
        return False
    found = element_as_it_lies(dataset, keyword)
    length = getattr(found, "length", None)
    return bool(length) if length is not None else bool(getattr(found, "value", None))


def transfer_syntax(dataset: Dataset) -> str:
    """Return the UID of the transfer syntax; if it is missing or wrong, one that fits the detected encoding.

    Native pixels have the byte order of the data set, whatever the file meta information declares.
    """
    meta = getattr(dataset, "file_meta", None)
    implicit, little_endian = dataset.original_encoding
    if meta is not None and (uid := text(meta, "TransferSyntaxUID")):
        known = uid in (ExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian)
        if not known or little_endian in (None, uid != ExplicitVRBigEndian):
            return uid
    if little_endian is False:
        return str(ExplicitVRBigEndian)
    return str(ExplicitVRLittleEndian if implicit is False else ImplicitVRLittleEndian)
