"""Reasons for a missing preview: the codes of the column `preview_error`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

from app.model.errors import LimitExceeded, Unrenderable, permanent


class PreviewError(StrEnum):
    """Stable codes, part of the contract.

    no_pixel_data                  nothing to draw: plan, contours, key objects, a document other than PDF
    no_such_frame                  the frame asked for is not in the object
    bad_image_header               rows, columns, samples or bits are missing or impossible
    unsupported_transfer_syntax    pixels are encoded in a way this version does not decode, as video
    unsupported_photometric        the colour space is not drawn by this version
    image_too_large                one frame has more samples than `workers.max_pixels`
    truncated_pixel_data           the pixel data end before the frame does
    bad_encapsulation              the fragments of compressed frames cannot be followed
    bad_codestream                 the compressed frame contradicts the data set or its own format
    bad_palette                    the palette of a PALETTE COLOR image is missing or broken
    bad_window                     the window asked for is not `centre,width`
    bad_viewport                   the region asked for lies outside of the image
    tiled_level                    a level of a slide too big to be drawn whole; a tile is, if asked for
    bad_document                   the encapsulated PDF is broken, empty or locked by a password
    document_too_large             the encapsulated PDF is larger than 64 MiB
    bad_waveform                   samples of the waveform are missing, or of a kind that is not drawn
    decode_failed                  the decoder refused the frame
    limit_exceeded                 over one of the settings `limits`, or too much time, memory or data to draw
    out_of_memory                  the frame did not fit in the memory of the worker
    """

    NO_PIXEL_DATA = "no_pixel_data"
    NO_SUCH_FRAME = "no_such_frame"
    BAD_IMAGE_HEADER = "bad_image_header"
    UNSUPPORTED_TRANSFER_SYNTAX = "unsupported_transfer_syntax"
    UNSUPPORTED_PHOTOMETRIC = "unsupported_photometric"
    IMAGE_TOO_LARGE = "image_too_large"
    TRUNCATED_PIXEL_DATA = "truncated_pixel_data"
    BAD_ENCAPSULATION = "bad_encapsulation"
    BAD_CODESTREAM = "bad_codestream"
    BAD_PALETTE = "bad_palette"
    BAD_WINDOW = "bad_window"
    BAD_VIEWPORT = "bad_viewport"
    TILED_LEVEL = "tiled_level"
    BAD_DOCUMENT = "bad_document"
    DOCUMENT_TOO_LARGE = "document_too_large"
    BAD_WAVEFORM = "bad_waveform"
    DECODE_FAILED = "decode_failed"
    LIMIT_EXCEEDED = "limit_exceeded"
    OUT_OF_MEMORY = "out_of_memory"


class DecodeFailed(Unrenderable):
    """A decoder refused the frame, or rendering failed in a way that has no code of its own."""

    code = PreviewError.DECODE_FAILED.value


class EmptyFrame(Unrenderable):
    """The frame has no bytes, such as a tile that a scanner left out."""

    code = PreviewError.TRUNCATED_PIXEL_DATA.value


def unrenderable(code: PreviewError, text: str) -> Unrenderable:
    """Return the error to raise for `code`; `text` names the fault, never a value of the data set."""
    return Unrenderable(text, code=code.value)


def over_limit(text: str, limit: int) -> Unrenderable:
    """Return the error to raise above a limit; `text` ends with the name of the setting."""
    return unrenderable(PreviewError.LIMIT_EXCEEDED, f"{text} ({limit})")


@contextmanager
def rendering() -> Iterator[None]:
    """Convert every failure inside to Unrenderable, so that a bad frame never loses the metadata."""
    try:
        with permanent(DecodeFailed):
            yield
    except LimitExceeded:
        raise unrenderable(PreviewError.OUT_OF_MEMORY, "the frame did not fit in memory") from None
