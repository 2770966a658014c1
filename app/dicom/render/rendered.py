"""Rendered resources of DICOMweb: a frame or page, with window, viewport and region (PS3.18 8.3.5)."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image, ImageOps
from pydicom.dataset import Dataset

from app.dicom.pages.pdf import draw_pdf
from app.dicom.pixels.decoders import decode_png, encode_jpeg
from app.dicom.pixels.image_header import pixel_keyword, read_header
from app.dicom.pixels.preview_error import PreviewError, rendering, unrenderable
from app.dicom.pixels.reduced import read_reduced
from app.dicom.render.cine import cine
from app.dicom.render.geometry import fitting_size, pixel_ratio, resize
from app.dicom.render.grayscale import common_window
from app.dicom.render.overlays import need_whole_frame
from app.dicom.render.png import encode_png
from app.dicom.render.preview import choose_frame, draw, picture
from app.dicom.render.slide import is_tiled
from app.model.options import PreviewOptions, RenderOptions


def render_image(dataset: Dataset, how: RenderOptions, options: PreviewOptions) -> bytes:
    """Draw one frame, a cine of all frames, or the first page of what has no pixels, and encode it.

    Parameters
    ----------
    dataset : the whole data set; the pixel data may still be in the file
    how : the parameters of the request
    options : window, overlays, colour profile, limits

    Returns
    -------
    a JPEG, PNG or GIF with 8 bits per sample

    Raises
    ------
    Unrenderable : with a code of PreviewError

    References
    ----------
    PS3.18 8.3.5.1 (Query Parameters for Rendered Resources), 8.7.4 (Rendered Media Types)
    """
    with rendering():
        if pixel_keyword(dataset) is None:
            if how.frame is not None:
                raise unrenderable(PreviewError.NO_PIXEL_DATA, "the data set has no pixel data")
            options = replace(options, frame="representative")
            return _encoded_page(lambda side: picture(dataset, replace(options, max_side=side)), how, options)
        moving = how.media_type == "image/gif" and how.frame is None and how.region is None
        if moving and read_header(dataset).frames > 1 and not is_tiled(dataset):
            side = options.max_side if how.viewport is None else min(how.viewport)
            return b"".join(cine(dataset, replace(options, max_side=side)))
        return encode_image(_drawn(dataset, how, options), how)


def render_pdf(pdf: bytes, how: RenderOptions, options: PreviewOptions) -> bytes:
    """Draw the first page of a PDF and encode it. The page is a program: call this within PAGE_LIMITS only.

    Raises
    ------
    Unrenderable : with a code of PreviewError
    """
    with rendering():
        return _encoded_page(lambda side: draw_pdf(pdf, side), how, options)


def _encoded_page(
    draw_page: Callable[[int], np.ndarray], how: RenderOptions, options: PreviewOptions
) -> bytes:
    """Encode a page as an image of `options.max_side`, of which a region and a viewport may be asked for."""
    whole = how.viewport is None or how.region is not None
    page = draw_page(options.max_side if whole else max(how.viewport or ()))
    page = resize(page, fitting_size(page.shape, 1.0, options.max_side if whole else 0))
    return encode_image(_fitted(_cropped(page, how.region), how.viewport, 1.0), how)


def shrink_picture(png: bytes, how: RenderOptions) -> bytes:
    """Shrink a PNG written by `encode_png` to fit a viewport, and encode it in the requested media type.

    Raises
    ------
    Unrenderable : decode_failed
    """
    with rendering():
        image = decode_png(png)
        width, height = how.viewport or (image.shape[1], image.shape[0])
        scale = min(1.0, width / image.shape[1], height / image.shape[0])
        return encode_image(resize(image, _scaled(image.shape[0], image.shape[1], scale)), how)


def animated(pictures: Sequence[bytes]) -> bytes:
    """Combine PNGs written by `encode_png` into one GIF of 10 frames per second, padded to the largest.

    Raises
    ------
    Unrenderable : decode_failed
    """
    with rendering():
        images = [Image.open(io.BytesIO(png)).convert("RGB") for png in pictures]
        size = max(image.width for image in images), max(image.height for image in images)
        padded = [ImageOps.pad(image, size) for image in images]
        buffer = io.BytesIO()
        padded[0].save(buffer, "GIF", save_all=True, append_images=padded[1:], duration=100, loop=0)
        return buffer.getvalue()


def encode_image(image: np.ndarray, how: RenderOptions) -> bytes:
    """Encode (rows, columns) grey or (rows, columns, 3) RGB, uint8, in the requested media type."""
    if how.media_type == "image/png":
        return encode_png(image)
    if how.media_type == "image/jpeg":
        return encode_jpeg(image, how.quality)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "GIF")
    return buffer.getvalue()


def _drawn(dataset: Dataset, how: RenderOptions, options: PreviewOptions) -> np.ndarray:
    if how.frame is None and is_tiled(dataset):
        side = options.max_side if how.viewport is None else max(how.viewport)
        whole = picture(dataset, replace(options, max_side=side, frame="representative"))
        return _fitted(_cropped(whole, how.region), how.viewport, 1.0)
    header = read_header(dataset)
    index = choose_frame(dataset, "representative") if how.frame is None else how.frame
    ratio = pixel_ratio(dataset, index)
    scale = 1.0
    if how.viewport and how.region is None and not need_whole_frame(dataset, drawn=options.overlays):
        scale = min(
            1.0,
            *(side / size for side, size in zip(how.viewport, (header.columns, header.rows), strict=True)),
        )
    frame = read_reduced(dataset, index, scale, options.limits)
    voi = common_window(dataset, [frame], options.window)
    image = draw(dataset, frame, options, voi)
    if how.region is not None:
        return _fitted(_cropped(image, how.region), how.viewport, ratio)
    shape = header.rows, header.columns
    return resize(image, shape if how.viewport is None else _size(shape, ratio, how.viewport))


def _cropped(image: np.ndarray, region: tuple[int, int, int, int] | None) -> np.ndarray:
    """Return a region of a picture; negative columns or rows flip it."""
    if region is None:
        return image
    left, top, columns, rows = region
    rows, columns = rows or image.shape[0] - top, columns or image.shape[1] - left
    part = image[top : top + abs(rows), left : left + abs(columns)]
    if not part.size:
        raise unrenderable(PreviewError.BAD_VIEWPORT, "the region of the viewport lies outside of the image")
    return part[:: -1 if rows < 0 else 1, :: -1 if columns < 0 else 1]


def _fitted(image: np.ndarray, viewport: tuple[int, int] | None, ratio: float) -> np.ndarray:
    shape = image.shape[0], image.shape[1]
    return image if viewport is None else resize(image, _size(shape, ratio, viewport))


def _size(shape: tuple[int, int], ratio: float, viewport: tuple[int, int]) -> tuple[int, int]:
    """Return the rows and columns that fit a viewport without distortion (PS3.18 8.3.5.1.3)."""
    height, width = shape[0] * max(ratio, 1.0), shape[1] * max(1 / ratio, 1.0)
    return _scaled(height, width, min(viewport[0] / width, viewport[1] / height))


def _scaled(height: float, width: float, scale: float) -> tuple[int, int]:
    return max(1, round(height * scale)), max(1, round(width * scale))
