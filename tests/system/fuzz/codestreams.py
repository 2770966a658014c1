"""Frames of every codec of the service, valid and small; most mutants pass the check of the header."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Sequence
from functools import cache, partial

import imagecodecs
import numpy as np
from PIL import Image
from pydicom.dataset import Dataset

from app.dicom.pixels.decoders import CODECS, decode_frame
from app.dicom.pixels.image_header import read_header
from app.dicom.pixels.preview_error import rendering
from app.dicom.render.preview import preview
from app.model.errors import Unrenderable
from app.model.options import DEFAULT_LIMITS, PreviewOptions
from tests.dicom.pictures import (
    DEFLATED_FRAMES,
    HTJ2K,
    J2K,
    JPEG_BASELINE,
    JPEG_LOSSLESS,
    JPEG_LS,
    JPEG_PROGRESSIVE,
    JPEG_XL,
    RLE,
    encapsulated,
    picture,
    rle,
)
from tests.system.fuzz.mutate import mutant
from tests.system.fuzz.subject import Subject

ROWS, COLUMNS = 40, 24
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
RLE_HEADER = 64
PNG = b"\x89PNG\r\n\x1a\n"

Encode = Callable[[np.ndarray], bytes]


def codec(
    syntax: str, decoders: Sequence[str], *encoders: Encode, bits: int = 8, samples: int = 1
) -> Subject:
    """Return a codec as a subject: a seed for each encoder."""
    return Subject(
        seeds=cache(lambda: tuple(bytes(encode(_cells(bits, samples))) for encode in encoders)),
        run=partial(draw, syntax=syntax, bits=bits, samples=samples),
        decoders=tuple(decoders),
        raises=("error",) if syntax == DEFLATED_FRAMES else (),  # zlib.error
        spoil=partial(mutant, head=partial(header_size, syntax)),
    )


def draw(codestream: bytes, syntax: str, bits: int, samples: int) -> str:
    """Draw a data set of one frame; every other one of JPEG 2000 is decoded to its half, if it can be."""
    dataset = framed(codestream, syntax, bits, samples)
    if syntax in (J2K, HTJ2K) and zlib.crc32(codestream) % 2:
        # A preview halves only frames of a megapixel, and those take a hundred times as long.
        return _halved(codestream, dataset)
    assert preview(dataset, PreviewOptions()).startswith(PNG)
    return "drawn"


def framed(codestream: bytes, syntax: str, bits: int, samples: int) -> Dataset:
    """Return the data set that a codestream was a frame of before it was spoilt."""
    elements: dict[str, object] = {"BitsAllocated": 8 if bits <= 8 else 16, "BitsStored": bits}
    if samples == 3:
        elements |= {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    return picture(encapsulated(codestream), ROWS, COLUMNS, syntax, **elements)


def _halved(codestream: bytes, dataset: Dataset) -> str:
    with rendering():
        samples, _ = decode_frame(codestream, read_header(dataset), DEFAULT_LIMITS, halvings=1)
    assert samples.shape[:2] in ((ROWS, COLUMNS), (ROWS // 2, COLUMNS // 2))
    return "halved" if samples.shape[0] < ROWS else "drawn"


@cache
def header_size(syntax: str, frame: bytes) -> int:
    """Return how many bytes of a valid frame the service reads before it calls the decoder, about."""
    if syntax not in CODECS:
        return RLE_HEADER if syntax == RLE else 0
    whole = _checked(syntax, frame)
    return next(size for size in range(len(frame)) if _checked(syntax, frame[:size]) == whole)


def _checked(syntax: str, frame: bytes) -> tuple[object, ...]:
    try:
        stream = CODECS[syntax].parse(frame)
    except Unrenderable:
        return ()
    return stream.kind, stream.rows, stream.columns, stream.components


def _cells(bits: int, samples: int) -> np.ndarray:
    """Return a ramp with noise on it, so that every part of a codec has something to do."""
    shape = (ROWS, COLUMNS) if samples == 1 else (ROWS, COLUMNS, samples)
    ramp = np.add.outer(np.arange(ROWS), np.arange(COLUMNS)) * ((1 << bits) // 80)
    noise = np.random.default_rng(bits).integers(0, 1 << (bits - 3), shape)
    whole = (ramp if samples == 1 else ramp[..., None]) + noise
    return np.clip(whole, 0, (1 << bits) - 1).astype(np.uint8 if bits <= 8 else np.uint16)


def _rle(cells: np.ndarray) -> bytes:
    """Return a segment for every byte of a sample, the most significant first (PS3.5 G.3.1)."""
    planes = cells.reshape(ROWS * COLUMNS, -1).T
    parts = [np.ascontiguousarray(plane).view(np.uint8).reshape(ROWS * COLUMNS, -1) for plane in planes]
    packed = [imagecodecs.packbits_encode(part.tobytes()) for plane in parts for part in plane.T[::-1]]
    return rle(*(segment + bytes(len(segment) % 2) for segment in packed))


def _deflated(cells: np.ndarray) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(cells.tobytes()) + packer.flush()


def _progressive(cells: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(cells).save(buffer, "JPEG", progressive=True)
    return buffer.getvalue()


def _j2k_tiled(cells: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    tiles = {"tile_size": (16, 16), "num_resolutions": 3, "no_jp2": True}
    Image.fromarray(cells).save(buffer, "JPEG2000", quality_layers=[20, 2], **tiles)
    return buffer.getvalue()


def _jxl_of_jpeg(cells: np.ndarray) -> bytes:
    return imagecodecs.jpegxl_encode_jpeg(imagecodecs.jpeg8_encode(cells), usecontainer=True)


jpeg, jpegls, htj2k = imagecodecs.jpeg8_encode, imagecodecs.jpegls_encode, imagecodecs.htj2k_encode
j2k, jxl = imagecodecs.jpeg2k_encode, imagecodecs.jpegxl_encode
lossless, plain_j2k = partial(jpeg, lossless=True), partial(j2k, codecformat="j2k", reversible=True, level=0)
LOSSLESS = (lossless, partial(lossless, predictor=4), partial(lossless, predictor=7))
WAVELETS = (plain_j2k, partial(j2k, codecformat="j2k", level=30), partial(j2k, codecformat="jp2"), _j2k_tiled)
HIGH = (partial(htj2k, reversible=True), htj2k, partial(htj2k, reversible=True, tile=(16, 16)))
IN_JXL = (
    partial(jxl, lossless=True),
    partial(jxl, distance=1.0),
    partial(jxl, lossless=True, usecontainer=True),
)
PACKBITS, ZLIB = ("imagecodecs:packbits_decode",), ("zlib:decompressobj",)
LIBJPEG, CHARLS, LIBJXL = (("imagecodecs:" + name + "_decode",) for name in ("jpeg8", "jpegls", "jpegxl"))
OPENJPEG = ("imagecodecs:jpeg2k_decode", "PIL._imaging:jpeg2k_decoder")

CODESTREAMS: dict[str, Subject] = {
    "rle 16 bit": codec(RLE, PACKBITS, _rle, bits=16),
    "rle colour": codec(RLE, PACKBITS, _rle, samples=3),
    "deflated frame": codec(DEFLATED_FRAMES, ZLIB, _deflated, bits=16),
    "jpeg": codec(JPEG_BASELINE, LIBJPEG, jpeg),
    "jpeg colour": codec(JPEG_BASELINE, LIBJPEG, jpeg, partial(jpeg, subsampling="444"), samples=3),
    "jpeg 12 bit": codec(JPEG_EXTENDED, LIBJPEG, partial(jpeg, bitspersample=12), bits=12),
    "jpeg progressive": codec(JPEG_PROGRESSIVE, LIBJPEG, _progressive),
    "jpeg lossless": codec(JPEG_LOSSLESS, LIBJPEG, *LOSSLESS, bits=16),
    "jpeg lossless colour": codec(JPEG_LOSSLESS, LIBJPEG, *LOSSLESS, samples=3),
    "jpeg-ls": codec(JPEG_LS, CHARLS, jpegls, partial(jpegls, level=3), bits=16),
    "jpeg-ls colour": codec(JPEG_LS, CHARLS, jpegls, partial(jpegls, level=3), samples=3),
    "j2k": codec(J2K, OPENJPEG, *WAVELETS, bits=16),
    "j2k colour": codec(J2K, OPENJPEG, *WAVELETS, samples=3),
    "htj2k": codec(HTJ2K, OPENJPEG, *HIGH, bits=16),
    "jpeg xl": codec(JPEG_XL, LIBJXL, *IN_JXL, bits=16),
    "jpeg xl colour": codec(JPEG_XL, LIBJXL, *IN_JXL, _jxl_of_jpeg, samples=3),
}
