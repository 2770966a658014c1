"""Pixel data and colour profiles with nothing but picture: no comments, thumbnails, padding, hidden bits."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from app.dicom.pixels.codestream import BOXED, parse_j2k
from app.dicom.pixels.decoders import BYTEWISE, CODECS
from app.dicom.pixels.frame_bytes import FrameLayout
from app.dicom.pixels.image_header import ImageHeader
from app.dicom.pixels.native import frame_span
from app.dicom.read.vr import ITEM
from app.model.errors import CannotDeidentify

MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")
"""What ends entropy-coded data of a JPEG or JPEG-LS frame; restarts do not."""
ADOBE, JFIF, COLOUR = 0xEE, 0xE0, 0xE8
"""Application segments that a decoder needs for colours; COLOUR is HP's transform in JPEG-LS."""
SOI, EOI, SOS, COMMENT = 0xD8, 0xD9, 0xDA, 0xFE
MOST_RUN = 128
"""Bytes that one code of RLE makes at most."""
PICTURE_TYPES = (
    *(b"XYZ ", b"curv", b"para", b"mft1", b"mft2", b"mAB ", b"mBA ", b"sf32", b"uf32", b"ui08", b"ui16"),
    *(b"chrm", b"sig ", b"meas", b"view", b"clrt", b"mpet", b"dtim"),
)
"""Types of ICC tags that hold numbers (ICC.1 10); the others hold text."""
ICC_HEADER = 128


@dataclass(frozen=True, slots=True)
class EncapsulatedFrames:
    """The codestreams of all frames, each cleaned."""

    frames: tuple[bytes, ...]

    def value(self) -> bytes:
        """Return the value of Pixel Data up to its delimiter: an offset table, then one fragment a frame.

        References
        ----------
        PS3.5 A.4
        """
        padded = [frame + b"\0" * (len(frame) % 2) for frame in self.frames]
        table = b""
        if len(padded) > 1 and sum(len(frame) + 8 for frame in padded) < 1 << 32:
            sizes = np.array([0, *(len(frame) + 8 for frame in padded[:-1])], "<u8")
            table = np.cumsum(sizes).astype("<u4").tobytes()
        return b"".join(_fragment(part) for part in (table, *padded))


def _fragment(data: bytes) -> bytes:
    return struct.pack("<HHI", ITEM >> 16, ITEM & 0xFFFF, len(data)) + data


def clean_native(data: bytes, header: ImageHeader) -> bytes:
    """Return native pixel data that end with the last frame and hold nothing beside the stored bits.

    Parameters
    ----------
    data : little endian cells of `header.bits_allocated` bits

    Raises
    ------
    CannotDeidentify : they end before the last frame does

    References
    ----------
    PS3.5 8.1.1 (unused bits)
    """
    first_bit, bits = frame_span(len(data), header, header.frames - 1)
    size = -(-(first_bit + bits) // 8)
    if len(data) < size:
        raise CannotDeidentify("the pixel data end before the last frame does")
    data = data[:size]
    if header.bits_allocated in (8, 16, 32) and header.bits_stored < header.bits_allocated:
        data = _without_unused_bits(data, header)
    elif header.bits_allocated == 1 and (first_bit + bits) % 8:
        last = data[-1] & ((1 << (first_bit + bits) % 8) - 1)
        data = data[:-1] + bytes((last,))
    return data + b"\0" * (len(data) % 2)


def _without_unused_bits(data: bytes, header: ImageHeader) -> bytes:
    """Clear the unused bits if they hold anything but zeros, or of signed values copies of their sign."""
    kind, low = f"u{header.bits_allocated // 8}", header.high_bit - header.bits_stored + 1
    cells = np.frombuffer(data[: len(data) - len(data) % (header.bits_allocated // 8)], f"<{kind}")
    used = ((1 << header.bits_stored) - 1) << low
    every = (1 << header.bits_allocated) - 1
    unused = np.array(every ^ used, kind)
    if not (cells & unused).any():
        return data
    plain = cells & np.array(used, kind)
    if header.signed:
        above = every ^ ((1 << (header.high_bit + 1)) - 1)
        negative = (cells & np.array(1 << header.high_bit, kind)) != 0
        extended = np.where(negative, plain | np.array(above, kind), plain)
        if np.array_equal(extended, cells):
            return data
        plain = extended
    return bytes(plain.astype(f"<{kind}").tobytes())


def clean_frames(
    layout: FrameLayout, read: Callable[[int, int], bytes], header: ImageHeader
) -> EncapsulatedFrames:
    """Return the frames of encapsulated pixel data without what is no picture, and none beside the declared.

    Parameters
    ----------
    layout : where the frames lie
    read : joined fragments between two positions of the layout

    Raises
    ------
    CannotDeidentify : the transfer syntax is not read, or a codestream cannot be followed
    """
    syntax = header.transfer_syntax
    if syntax not in CODECS and syntax not in BYTEWISE:
        raise CannotDeidentify("frames in a transfer syntax that is not read cannot be checked")
    bounds = layout.offsets.tolist()
    frames = []
    for begin, end in pairwise(bounds):
        frames.append(clean_frame(read(begin, end), header))
    return EncapsulatedFrames(tuple(frames))


def clean_frame(data: bytes, header: ImageHeader) -> bytes:
    """Return one compressed frame without comments, application data and bytes past its end.

    Raises
    ------
    CannotDeidentify : it is not what its transfer syntax says
    """
    try:
        if header.transfer_syntax == "1.2.840.10008.1.2.5":
            return _clean_rle(data, header)
        if header.transfer_syntax in BYTEWISE:
            inflater = zlib.decompressobj(-zlib.MAX_WBITS)
            inflater.decompress(data)
            return data[: len(data) - len(inflater.unused_data)]
        if data.startswith(b"\xff\xd8"):
            return b"".join(_jpeg_parts(data))
        if data.startswith((BOXED, b"\xff\x0a")):
            return _clean_jxl(data)
        return b"".join(_j2k_parts(parse_j2k(data).data))
    except (struct.error, IndexError, zlib.error):
        raise CannotDeidentify("a compressed frame cannot be followed to its end") from None


def _jpeg_parts(data: bytes) -> Iterator[bytes]:
    """Yield the parts of a JPEG or JPEG-LS frame that a decoder needs (ISO 10918-1 B, ISO 14495-1 C)."""
    yield data[:2]
    position = 2
    while True:
        if data[position] != 0xFF:
            raise CannotDeidentify("a compressed frame has no marker where one must be")
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        if marker == EOI:
            yield data[position : position + 2]
            return
        (length,) = struct.unpack_from(">H", data, position + 2)
        end = position + 2 + length
        if length < 2 or end > len(data):
            raise CannotDeidentify("a segment of a compressed frame is cut off")
        if marker == COMMENT or 0xE0 <= marker <= 0xEF:
            yield _application(marker, data[position + 4 : end])
        else:
            yield data[position:end]
        position = end
        if marker == SOS:
            found = MARKER.search(data, position)
            if found is None:  # no end marker, which decoders forgive
                yield data[position:].rstrip(b"\0")
                return
            yield data[position : found.start()]
            position = found.start()


def _application(marker: int, body: bytes) -> bytes:
    """Return what a decoder needs of an application segment, nothing of a comment."""
    if marker == ADOBE and body.startswith(b"Adobe") and len(body) >= 12:
        return struct.pack(">BBH", 0xFF, marker, 14) + b"Adobe\0\x64\0\0\0\0" + body[11:12]
    if marker == JFIF and body.startswith(b"JFIF\0") and len(body) >= 14:
        return struct.pack(">BBH", 0xFF, marker, 16) + body[:12] + b"\0\0"
    if marker == COLOUR and body.startswith(b"mrfx") and len(body) >= 5:
        return struct.pack(">BBH", 0xFF, marker, 7) + body[:5]
    return b""


def _j2k_parts(data: bytes) -> Iterator[bytes]:
    """Yield a JPEG 2000 codestream without comments, nor the lengths of its tile-parts (ISO 15444-1 A)."""
    yield data[:2]
    position = 2
    for start, end, marker in _segments(data, position):
        position = start
        if marker == 0xFF90:
            break
        if marker not in (0xFF64, 0xFF55):
            yield data[start:end]
    while data[position : position + 2] == b"\xff\x90":
        head = data[position : position + 12]
        (length,) = struct.unpack_from(">I", head, 6)
        until = position + length if length else data.rfind(b"\xff\xd9")
        if until < position + 12 or until > len(data):
            raise CannotDeidentify("a tile of a compressed frame is cut off")
        kept, body = [], position + 12
        for start, end, marker in _segments(data, position + 12):
            body = start
            if marker == 0xFF93:
                break
            if marker != 0xFF64:
                kept.append(data[start:end])
        part = b"".join([*kept, data[body:until]])
        yield head[:6] + struct.pack(">I", len(part) + 12 if length else 0) + head[10:12] + part
        position = until
    yield b"\xff\xd9"


def _segments(data: bytes, position: int) -> Iterator[tuple[int, int, int]]:
    """Yield where marker segments begin and end; the last is SOT or SOD, which has no length of its own."""
    while True:
        (marker,) = struct.unpack_from(">H", data, position)
        if marker in (0xFF90, 0xFF93):
            yield position, position, marker
            return
        (length,) = struct.unpack_from(">H", data, position + 2)
        if marker < 0xFF00 or length < 2:
            raise CannotDeidentify("a compressed frame has no marker where one must be")
        yield position, position + 2 + length, marker
        position += 2 + length


def _clean_jxl(data: bytes) -> bytes:
    """Return the bare codestream of JPEG XL, out of its container (ISO 18181-2 9)."""
    if not data.startswith(BOXED):
        return data
    parts, position = [], len(BOXED)
    while position + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        start = position + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, start)
            start += 8
        end = position + length if length else len(data)
        if end < start:
            raise CannotDeidentify("a box of a compressed frame is cut off")
        if name in (b"jxlc", b"jxlp"):
            parts.append(data[start + (4 if name == b"jxlp" else 0) : end])
        position = end
    return b"".join(parts)


def _clean_rle(data: bytes, header: ImageHeader) -> bytes:
    """Return an RLE frame whose segments end with their last sample (PS3.5 G)."""
    count = struct.unpack_from("<I", data)[0]
    if not 1 <= count <= 15:
        raise CannotDeidentify("the header of an RLE frame is impossible")
    starts = [*struct.unpack_from(f"<{count}I", data, 4), len(data)]
    if starts != sorted(starts) or starts[0] < 64:
        raise CannotDeidentify("the segments of an RLE frame overlap")
    size = -(-header.pixels // 8) if header.bits_allocated == 1 else header.pixels
    segments = [data[start : _end_of_runs(data, start, end, size)] for start, end in pairwise(starts)]
    segments = [segment + b"\0" * (len(segment) % 2) for segment in segments]
    offsets, position = [], 64
    for segment in segments:
        offsets.append(position)
        position += len(segment)
    table = struct.pack("<16I", count, *offsets, *[0] * (15 - count))
    return table + b"".join(segments)


def _end_of_runs(data: bytes, position: int, end: int, size: int) -> int:
    """Return where the runs end that make up `size` bytes."""
    made = 0
    while made < size and position < end:
        code = data[position]
        if code < MOST_RUN:
            made += code + 1
            position += code + 2
        else:
            made += 257 - code if code > MOST_RUN else 0
            position += 2 if code > MOST_RUN else 1
    return min(position, end)


def clean_icc(profile: bytes) -> bytes:
    """Return an ICC profile whose texts are empty; its numbers, and so its colours, stay.

    Returns
    -------
    a profile of the same size; empty if it is none

    References
    ----------
    ICC.1:2022 7.2 (header), 7.3 (tag table), 10 (types)
    """
    if len(profile) < ICC_HEADER + 4 or profile[36:40] != b"acsp":
        return b""
    size, (count,) = len(profile), struct.unpack_from(">I", profile, ICC_HEADER)
    body = ICC_HEADER + 4 + 12 * count
    if body > size:
        return b""
    clean = bytearray(size)
    clean[:body] = profile[:body]
    clean[84:ICC_HEADER] = bytes(ICC_HEADER - 84)  # its checksum, and what is reserved
    for index in range(count):
        start, length = struct.unpack_from(">II", profile, ICC_HEADER + 8 + 12 * index)
        end = start + length
        if start < body or end > size or length < 8:
            return b""
        kind = profile[start : start + 4]
        if kind in PICTURE_TYPES:
            clean[start:end] = profile[start:end]
        else:
            clean[start:end] = _empty_text(kind, profile[start:end])
    return bytes(clean)


def _empty_text(kind: bytes, value: bytes) -> bytes:
    if kind == b"mluc" and len(value) >= 16:
        (records,) = struct.unpack_from(">I", value, 8)
        names = value[: min(16 + 12 * records, len(value))]
        return names.ljust(len(value), b"\0")
    if kind == b"desc" and len(value) >= 13:
        return (kind + bytes(4) + struct.pack(">I", 1)).ljust(len(value), b"\0")
    return b"text".ljust(len(value), b"\0")
