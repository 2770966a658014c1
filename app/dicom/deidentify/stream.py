"""Reduce pixel data and colour profiles to the picture: no comments, thumbnails, padding, hidden bits."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise

import numpy as np

from app.dicom.deidentify.clean_file import Part, kept, literal
from app.dicom.metadata.values import turned
from app.dicom.pixels.codestream import BOXED, parse_j2k
from app.dicom.pixels.decoders import BYTEWISE, CODECS
from app.dicom.pixels.fragments import ITEM_HEADER, fragment_spans, join_spans
from app.dicom.pixels.frame_bytes import FrameLayout
from app.dicom.pixels.image_header import ImageHeader
from app.dicom.pixels.native import frame_span
from app.dicom.pixels.pixel_bytes import PixelBytes
from app.dicom.read.vr import EXTENDED_OFFSET_TABLE, ITEM
from app.dicom.write.elements import element
from app.model.errors import CannotDeidentify
from app.model.options import DatasetLimits

CHUNK = 4 << 20
"""Bytes of native pixel data that are processed at once; a multiple of every word."""
EXTENDED_LENGTHS = 0x7FE00002

MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")
"""What ends entropy-coded data of a JPEG or JPEG-LS frame; restarts do not."""
ADOBE, JFIF, COLOUR = 0xEE, 0xE0, 0xE8
"""Application segments that a decoder needs for colours; COLOUR is HP's transform in JPEG-LS."""
SOI, EOI, SOS, COMMENT = 0xD8, 0xD9, 0xDA, 0xFE
MOST_RUN = 128
"""Maximum bytes that one RLE code expands to."""
PICTURE_TYPES = (
    *(b"XYZ ", b"curv", b"para", b"mft1", b"mft2", b"mAB ", b"mBA ", b"sf32", b"uf32", b"ui08", b"ui16"),
    *(b"chrm", b"sig ", b"meas", b"view", b"clrt", b"mpet", b"dtim"),
)
"""Types of ICC tags that hold numbers (ICC.1 10); the others hold text."""
ICC_HEADER = 128


def native_parts(value: PixelBytes, header: ImageHeader, word: int = 1) -> Iterator[Part]:
    """Yield native pixel data that end with the last frame and contain nothing but the stored bits.

    Parameters
    ----------
    value : cells of `header.bits_allocated` bits
    word : bytes of a word that is in big endian; 1 if nothing has to be turned

    Raises
    ------
    CannotDeidentify : they end before the last frame does

    References
    ----------
    PS3.5 8.1.1 (unused bits)
    """
    first_bit, bits = frame_span(value.size, header, header.frames - 1)
    size = -(-(first_bit + bits) // 8)
    if value.size - value.size % word < size:
        raise CannotDeidentify("the pixel data end before the last frame does")
    mask = (1 << (first_bit + bits) % 8) - 1 if header.bits_allocated == 1 else 0
    extended: bool | None = None
    for position in range(0, size, CHUNK):
        length = min(CHUNK, size - position)
        raw = _read(value, position, length, word)
        if extended is None:
            extended = _sign_is_extended(raw, header)
        last = mask if position + length == size else 0
        clean = _clean_cells(raw, header, extended is True, last)
        if word == 1 and clean == raw:
            yield kept(value, [(position, length)], raw)
        else:
            again = partial(_cells, value, position, length, word, header, extended is True, last)
            yield Part(length, again)
    yield literal(b"\0" * (size % 2))


def _read(value: PixelBytes, position: int, length: int, word: int) -> bytes:
    """Return bytes of a value in little endian; `position` is a multiple of `word`."""
    return turned(bytes(value.read(position, -(-length // word) * word)), word)[:length]


def _cells(
    value: PixelBytes, position: int, length: int, word: int, header: ImageHeader, extended: bool, mask: int
) -> bytes:
    return _clean_cells(_read(value, position, length, word), header, extended, mask)


def _clean_cells(data: bytes, header: ImageHeader, extended: bool, mask: int) -> bytes:
    """Return cells whose unused bits are zero, or of signed values copies of their sign if `extended`.

    mask: the bits of the last byte that one-bit frames use, 0 for all.
    """
    if mask:
        return data[:-1] + bytes((data[-1] & mask,))
    if not _has_unused_bits(header):
        return data
    kind, used, unused = _bits(header)
    cells = _as_cells(data, header)
    if not (cells & unused).any() and not extended:
        return data
    clean = cells & used
    if header.signed and extended:
        every = int(used) | int(unused)
        above = every ^ ((1 << (header.high_bit + 1)) - 1)
        negative = (cells & np.array(1 << header.high_bit, kind)) != 0
        clean = np.where(negative, clean | np.array(above, kind), clean)
    return bytes(clean.astype(f"<{kind}").tobytes())


def _sign_is_extended(data: bytes, header: ImageHeader) -> bool | None:
    """Return whether unused bits of signed values are copies of the sign, judged by the first negative value.

    None if there is no negative value.
    """
    if not (_has_unused_bits(header) and header.signed):
        return False
    kind, _, unused = _bits(header)
    cells = _as_cells(data, header)
    negative = np.flatnonzero(cells & np.array(1 << header.high_bit, kind))
    return bool(cells[negative[0]] & unused) if len(negative) else None


def _has_unused_bits(header: ImageHeader) -> bool:
    return header.bits_allocated in (8, 16, 32) and header.bits_stored < header.bits_allocated


def _bits(header: ImageHeader) -> tuple[str, np.ndarray, np.ndarray]:
    """Return the type of a cell, its used bits and its unused bits."""
    kind = f"u{header.bits_allocated // 8}"
    used = ((1 << header.bits_stored) - 1) << (header.high_bit - header.bits_stored + 1)
    every = (1 << header.bits_allocated) - 1
    return kind, np.array(used & every, kind), np.array(every ^ (used & every), kind)


def _as_cells(data: bytes, header: ImageHeader) -> np.ndarray:
    size = header.bits_allocated // 8
    return np.frombuffer(data[: len(data) - len(data) % size], f"<u{size}")


def frame_parts(
    layout: FrameLayout, value: PixelBytes, limits: DatasetLimits
) -> tuple[list[Part], list[int]]:
    """Return the declared number of encapsulated frames, reduced to the picture.

    Parameters
    ----------
    layout : where the frames lie
    value : the value of Pixel Data
    limits : on fragments

    Returns
    -------
    the value up to its delimiter: an offset table, then one fragment a frame; and the length of each fragment

    Raises
    ------
    CannotDeidentify : the transfer syntax is not read, or a codestream cannot be followed
    Unrenderable : fragments that cannot be followed

    References
    ----------
    PS3.5 A.4
    """
    header = layout.header
    if header.transfer_syntax not in CODECS and header.transfer_syntax not in BYTEWISE:
        raise CannotDeidentify("frames in a transfer syntax that is not read cannot be checked")
    frames = []
    for begin, end in pairwise(layout.offsets.tolist()):
        spans = fragment_spans(value, begin, end, limits)
        raw = join_spans(value, spans)
        clean = _padded(clean_frame(raw, header))
        again = partial(_frame, value, spans, header)
        frames.append(kept(value, spans, raw) if clean == raw else Part(len(clean), again))
    lengths = [frame.length for frame in frames]
    table = b"" if len(frames) < 2 or _end(lengths) >= 1 << 32 else frame_starts(lengths, "<u4")
    parts = [literal(_item(len(table)) + table)]
    for frame in frames:
        parts += [literal(_item(frame.length)), frame]
    return parts, lengths


def frame_starts(lengths: Sequence[int], kind: str) -> bytes:
    """Return an offset table: where each fragment begins after the table."""
    sizes = np.array([0, *(length + ITEM_HEADER.size for length in lengths[:-1])], "<u8")
    return bytes(np.cumsum(sizes).astype(kind).tobytes())


def extended_offsets(lengths: Sequence[int]) -> dict[int, bytes]:
    """Return the extended offset table of frames that are too long for a basic one; empty for others.

    References
    ----------
    PS3.3 C.7.6.3.1.8
    """
    if len(lengths) < 2 or _end(lengths) < 1 << 32:
        return {}
    sizes = np.array(lengths, "<u8").tobytes()
    return {
        EXTENDED_OFFSET_TABLE: element(EXTENDED_OFFSET_TABLE, "OV", frame_starts(lengths, "<u8")),
        EXTENDED_LENGTHS: element(EXTENDED_LENGTHS, "OV", sizes),
    }


def _end(lengths: Sequence[int]) -> int:
    return sum(lengths) + ITEM_HEADER.size * len(lengths)


def _frame(value: PixelBytes, spans: Sequence[tuple[int, int]], header: ImageHeader) -> bytes:
    return _padded(clean_frame(join_spans(value, spans), header))


def _padded(frame: bytes) -> bytes:
    return frame + b"\0" * (len(frame) % 2)


def _item(length: int) -> bytes:
    return ITEM_HEADER.pack(ITEM >> 16, ITEM & 0xFFFF, length)


def clean_frame(data: bytes, header: ImageHeader) -> bytes:
    """Return one compressed frame without comments, application data and bytes past its end.

    Raises
    ------
    CannotDeidentify : it is not of its declared transfer syntax
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
    """Return the part of an application segment that a decoder needs; nothing for a comment."""
    if marker == ADOBE and body.startswith(b"Adobe") and len(body) >= 12:
        return struct.pack(">BBH", 0xFF, marker, 14) + b"Adobe\0\x64\0\0\0\0" + body[11:12]
    if marker == JFIF and body.startswith(b"JFIF\0") and len(body) >= 14:
        return struct.pack(">BBH", 0xFF, marker, 16) + body[:12] + b"\0\0"
    if marker == COLOUR and body.startswith(b"mrfx") and len(body) >= 5:
        return struct.pack(">BBH", 0xFF, marker, 7) + body[:5]
    return b""


def _j2k_parts(data: bytes) -> Iterator[bytes]:
    """Yield a JPEG 2000 codestream without comments and without the lengths of tile-parts (ISO 15444-1 A)."""
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
