"""Text burned into pixels: where it stands, and frames without it.

views -> pictures     text, guard -> lines     regions -> boxes     clean -> frames     encode -> pixel data
"""

from app.dicom.deidentify.pixels.clean import CleanedFrames, PixelOptions, clean_frames
from app.dicom.deidentify.pixels.encode import EncodedFrames, Frames, encode, read_frames

__all__ = [
    "CleanedFrames",
    "EncodedFrames",
    "Frames",
    "PixelOptions",
    "clean_frames",
    "encode",
    "read_frames",
]
