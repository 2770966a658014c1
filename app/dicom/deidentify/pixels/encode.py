"""All frames of a data set as samples, and samples as pixel data again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from app.dicom.pixels.attributes import text
from app.dicom.pixels.decoders import encode_rle
from app.dicom.pixels.frames import NATIVE, Frame, read_frame
from app.dicom.pixels.image_header import read_header
from app.dicom.pixels.pixel_bytes import pixel_bytes
from app.dicom.render.color import rgb
from app.model.errors import CannotDeidentify
from app.model.options import DEFAULT_LIMITS, DatasetLimits

MAX_BYTES = 1 << 29
"""Maximum size of all decoded frames of an object: they are in memory at once."""
METHODS = {
    **dict.fromkeys((50, 51, 53, 55), "ISO_10918_1"),
    **dict.fromkeys((81,), "ISO_14495_1"),
    **dict.fromkeys((91, 93), "ISO_15444_1"),
    **dict.fromkeys((203,), "ISO_15444_15"),
    **dict.fromkeys((111, 112), "ISO_18181_1"),
}
"""Last number of a transfer syntax that may lose detail -> Lossy Image Compression Method (C.7.6.1.1.5.1)."""
JPEG_FAMILY = "1.2.840.10008.1.2.4."


@dataclass(frozen=True, slots=True)
class Frames:
    """Decoded frames: (n, rows, columns[, 3]) stored values, and the colour space that they have."""

    pixels: np.ndarray
    photometric: str


@dataclass(frozen=True, slots=True)
class EncodedFrames:
    """Pixel data as they will be written, and the elements that describe them.

    elements: tag -> VR and value, little endian. Encapsulated pixel data are complete but for the sequence
    delimiter. removed: elements that have no meaning any more.
    """

    transfer_syntax: str
    elements: Mapping[int, tuple[str, bytes]]
    removed: frozenset[int] = frozenset((0x7FE00001, 0x7FE00002, 0x7FE00003))

    @property
    def encapsulated(self) -> bool:
        """Whether the pixel data are written with an undefined length."""
        return self.transfer_syntax not in NATIVE


def read_frames(dataset: Dataset, limits: DatasetLimits = DEFAULT_LIMITS) -> Frames:
    """Decode all frames of a data set.

    Raises
    ------
    Unrenderable : with a code of PreviewError
    CannotDeidentify : they are too much, or not all of one kind
    """
    header = read_header(dataset)
    size = header.pixels * header.samples * header.frames * -(-header.bits_allocated // 8)
    if size > MAX_BYTES:
        raise CannotDeidentify(f"the frames take more than {MAX_BYTES} bytes, too much to look for text")
    frames = [_usual(dataset, read_frame(dataset, index, limits)) for index in range(header.frames)]
    if len({(frame.photometric, frame.pixels.shape, frame.pixels.dtype) for frame in frames}) > 1:
        raise CannotDeidentify("the frames are not all of one kind")
    return Frames(np.stack([frame.pixels for frame in frames]), frames[0].photometric)


def _usual(dataset: Dataset, frame: Frame) -> Frame:
    """Return a frame in RGB if its colour space is only defined with subsampled colours."""
    if not frame.photometric.startswith("YBR_PARTIAL"):
        return frame
    return Frame(rgb(dataset, frame), "RGB", frame.header, frame.index)


def encode(dataset: Dataset, frames: Frames) -> EncodedFrames:
    """Return frames as pixel data of a data set that had them, without loss.

    What was native is native again, in little endian; what was compressed is compressed by RLE if its cells
    have 8 or 16 bits, else native. The history of lossy compression is kept, or written if it is missing.

    Parameters
    ----------
    dataset : as read, with its own pixel data; not changed
    frames : as from `read_frames`, some of their samples replaced

    References
    ----------
    PS3.5 8.1.1, 8.2.2 and G (RLE), A.4.2, PS3.3 C.7.6.1.1.5 (Lossy Image Compression)
    """
    header = read_header(dataset)
    compressed = header.transfer_syntax not in NATIVE
    use_rle = compressed and header.bits_allocated in (8, 16)
    elements: dict[str, tuple[str, bytes]] = {"PhotometricInterpretation": ("CS", _code(frames.photometric))}
    if header.samples == 3:
        elements["PlanarConfiguration"] = ("US", _word(1 if use_rle else 0))
    if header.keyword == "PixelData":
        elements["HighBit"] = ("US", _word(header.bits_stored - 1))
    if compressed:
        elements |= _lossy_history(dataset, header.transfer_syntax, frames.pixels.nbytes)
    if use_rle:
        value = encapsulate([encode_rle(frame) for frame in frames.pixels])
        elements[header.keyword] = ("OB", value)
    else:
        elements[header.keyword] = _native(frames.pixels, header.keyword, header.bits_allocated)
    syntax = RLELossless if use_rle else ExplicitVRLittleEndian
    return EncodedFrames(str(syntax), {tag_for_keyword(word) or 0: kept for word, kept in elements.items()})


def _native(pixels: np.ndarray, keyword: str, allocated: int) -> tuple[str, bytes]:
    vr = {"FloatPixelData": "OF", "DoubleFloatPixelData": "OD"}.get(keyword, "OW" if allocated > 8 else "OB")
    if allocated == 1:  # PS3.5 8.1.1: frames of bits follow each other without padding
        value = np.packbits(pixels.reshape(-1).astype(bool), bitorder="little").tobytes()
    else:
        value = np.ascontiguousarray(pixels).astype(f"<{pixels.dtype.kind}{allocated // 8}").tobytes()
    return vr, value + b"\0" * (len(value) % 2)


def _lossy_history(dataset: Dataset, syntax: str, size: int) -> dict[str, tuple[str, bytes]]:
    """Return what says that frames were once compressed with loss, where the data set does not say it."""
    last = syntax.removeprefix(JPEG_FAMILY)
    method = METHODS.get(int(last)) if last.isdigit() else None
    if method is None or text(dataset, "LossyImageCompression"):
        return {}
    ratio = max(1.0, size / max(1, pixel_bytes(dataset, "PixelData").size))
    return {
        "LossyImageCompression": ("CS", b"01"),
        "LossyImageCompressionRatio": ("DS", _code(f"{ratio:.2f}")),
        "LossyImageCompressionMethod": ("CS", _code(method)),
    }


def _word(number: int) -> bytes:
    return number.to_bytes(2, "little")


def _code(word: str) -> bytes:
    return (word + " " * (len(word) % 2)).encode()
