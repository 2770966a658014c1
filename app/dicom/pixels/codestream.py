"""Parse the header of a compressed frame before any decoder sees it.

A kilobyte may declare an image of gigabytes. The dimensions parsed here must equal those of the data set,
which are checked against the limits, so no decoder allocates memory or loops for any other size.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from app.dicom.pixels.preview_error import PreviewError, unrenderable

BOXED = b"\x00\x00\x00\x0cJXL \r\n\x87\n"


@dataclass(frozen=True, slots=True)
class Codestream:
    """The header of a compressed frame.

    data: the bytes to decode. kind: `SOF0`..`SOF15`, `SOF55` (JPEG-LS), `J2K`, `HTJ2K`, `JXL`.
    components: 0 for JPEG XL, which is not parsed that far. mixed: the components are luminance and two
    colour differences (or J2K has a colour transform); None if the codestream does not declare it. ended: it
    has an end marker. signed, levels, subsampled: J2K only; levels: how often it can be halved during
    decoding; subsampled: the colour differences have fewer samples than the luminance. scans: SOF2 only.
    """

    data: bytes
    kind: str
    rows: int
    columns: int
    components: int
    precision: int = 0
    tiles: int = 1
    mixed: bool | None = None
    ended: bool = True
    signed: bool = False
    levels: int = 0
    scans: int = 1
    subsampled: bool = False


def parse_jpeg(data: bytes) -> Codestream:
    """Parse the frame header of a JPEG or JPEG-LS codestream, and the markers that declare its colour space.

    Parameters
    ----------
    data : from SOI on

    Raises
    ------
    Unrenderable : bad_codestream

    References
    ----------
    ISO 10918-1 B.2.2 (SOFn), ISO 14495-1 C.2.2 (SOF55), ISO 10918-6 6.5.3 (APP14), JFIF 1.02 (APP0)
    """
    jfif, transform = False, None
    for marker, body in _jpeg_segments(data):
        if marker == 0xE0 and body.startswith(b"JFIF\0"):
            jfif = True
        elif marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12:
            transform = body[11]
        elif _is_frame_header(marker):
            return _jpeg_frame(data, marker, body, jfif, transform)
    raise _bad("no frame header")


def parse_j2k(data: bytes) -> Codestream:
    """Parse the SIZ and COD segments of a JPEG 2000 codestream, bare or inside a JP2 file.

    Parameters
    ----------
    data : the frame

    Returns
    -------
    Codestream whose `data` begin at SOC; `mixed` is True if the decoder undoes a colour transform

    Raises
    ------
    Unrenderable : bad_codestream

    References
    ----------
    ISO 15444-1 A.5.1 (SIZ), A.6.1 (COD), ISO 15444-15 A.3 (CAP)
    """
    start = data.find(b"\xff\x4f\xff\x51")
    if start < 0:
        raise _bad("no JPEG 2000 codestream")
    data = data[start:]
    kind, size, transform, levels = "J2K", b"", False, 0
    for marker, body in _j2k_segments(data):
        if marker == 0xFF51:
            size = body
        elif marker == 0xFF50:
            kind = "HTJ2K"
        elif marker == 0xFF52 and len(body) >= 6:
            transform, levels = body[4] == 1, body[5]
    if len(size) < 39:
        raise _bad("image size is cut off")
    _, x1, y1, x0, y0, tile_x, tile_y, tile_x0, tile_y0, components = struct.unpack(">H8IH", size[:36])
    if not (x0 < x1 and y0 < y1 and tile_x and tile_y and tile_x0 <= x0 and tile_y0 <= y0):
        raise _bad("impossible image or tile size")
    if len(size) < 36 + 3 * components:
        raise _bad("image size is cut off")
    subsampled = _is_subsampled(size[36 : 36 + 3 * components])
    tiles = -(-(x1 - tile_x0) // tile_x) * -(-(y1 - tile_y0) // tile_y)
    return Codestream(
        data,
        kind,
        rows=y1 - y0,
        columns=x1 - x0,
        components=components,
        precision=(size[36] & 0x7F) + 1,
        tiles=tiles,
        mixed=transform,
        signed=size[36] > 0x7F,
        # Halving is not used if the image has an offset: the reduced pixels would lie on another grid.
        levels=0 if x0 or y0 or subsampled else levels,
        subsampled=subsampled,
    )


def parse_jxl(data: bytes) -> Codestream:
    """Parse the size header of a JPEG XL codestream, bare or in its container.

    Parameters
    ----------
    data : the frame

    Raises
    ------
    Unrenderable : bad_codestream

    References
    ----------
    ISO 18181-1 (SizeHeader), ISO 18181-2 (boxes)
    """
    code = _jxl_box(data) if data.startswith(BOXED) else data
    if not code.startswith(b"\xff\x0a") or len(code) < 12:
        raise _bad("no JPEG XL codestream")
    bits = _Bits(int.from_bytes(code[2:18], "little"))
    small = bits.take(1)
    rows = 8 * (bits.take(5) + 1) if small else bits.size()
    ratio = bits.take(3)
    if ratio:
        over, under = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio - 1]
        columns = rows * over // under
    else:
        columns = 8 * (bits.take(5) + 1) if small else bits.size()
    return Codestream(data, "JXL", rows, columns, components=0)


@dataclass(slots=True)
class _Bits:
    """Bits of a little endian number, least significant first."""

    value: int

    def take(self, count: int) -> int:
        taken = self.value & ((1 << count) - 1)
        self.value >>= count
        return taken

    def size(self) -> int:
        return self.take((9, 13, 18, 30)[self.take(2)]) + 1


def _jpeg_frame(data: bytes, marker: int, body: bytes, jfif: bool, transform: int | None) -> Codestream:
    if len(body) < 6 or len(body) < 6 + 3 * body[5]:
        raise _bad("frame header is cut off")
    precision, rows, columns, components = struct.unpack(">BHHB", body[:6])
    kind = "SOF55" if marker == 0xF7 else f"SOF{marker - 0xC0}"
    mixed: bool | None = None
    if body[6::3][:components] == b"RGB":
        mixed = False
    elif transform is not None:
        mixed = transform == 1
    elif jfif:
        mixed = True
    if kind == "SOF3":
        data = _with_plain_scans(data, precision)
    ended = data.rfind(b"\xff\xd9") > 0
    scans = data.count(b"\xff\xda") if kind == "SOF2" else 1
    return Codestream(data, kind, rows, columns, components, precision, mixed=mixed, ended=ended, scans=scans)


def _with_plain_scans(data: bytes, precision: int) -> bytes:
    """Clear Se and Ah in the scan headers of a lossless frame: some writers set them, decoders refuse that.

    They have no meaning in lossless frames. Al is the point transform and is kept (ISO 10918-1 B.2.3, H.1.2).
    """
    plain, start = bytearray(data), data.find(b"\xff\xda")
    while start >= 0:
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if end <= len(data) and end == start + 8 + 2 * data[start + 4]:
            transform = data[end - 1] & 0x0F
            plain[end - 2 : end] = bytes((0, transform if transform < precision else 0))
        start = data.find(b"\xff\xda", start + 2)
    return bytes(plain)


def _is_frame_header(marker: int) -> bool:
    return marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC))


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the marker segments up to the first scan."""
    if not data.startswith(b"\xff\xd8"):
        raise _bad("no JPEG codestream")
    offset = 2
    while offset + 4 <= len(data):
        if data[offset] != 0xFF:
            raise _bad("no marker where one must be")
        marker = data[offset + 1]
        if marker == 0xFF:  # fill byte
            offset += 1
            continue
        length = int.from_bytes(data[offset + 2 : offset + 4], "big")
        if marker == 0xDA or length < 2:
            return
        yield marker, data[offset + 4 : offset + 2 + length]
        offset += 2 + length


def _j2k_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the segments of the main header."""
    offset = 2
    while offset + 4 <= len(data):
        marker, length = struct.unpack(">HH", data[offset : offset + 4])
        if marker in (0xFF90, 0xFF93) or length < 2:
            return
        yield marker, data[offset + 4 : offset + 2 + length]
        offset += 2 + length


def _is_subsampled(parts: bytes) -> bool:
    """Return whether the colour differences are subsampled as 4:2:2 or 4:2:0.

    parts: for each component, precision and sign, horizontal and vertical sample separation
    """
    distances = [parts[n + 1 : n + 3] for n in range(0, len(parts), 3)]
    if all(distance == b"\1\1" for distance in distances):
        return False
    halved = distances[1:] in ([b"\2\1"] * 2, [b"\2\2"] * 2) and distances[0] == b"\1\1"
    if not halved or max(parts[::3]) > 0x7F:
        raise _bad("components subsampled in an unusual way")
    return True


def _jxl_box(data: bytes) -> bytes:
    offset = len(BOXED)
    while offset + 8 <= len(data):
        length, name = struct.unpack(">I4s", data[offset : offset + 8])
        if name == b"jxlc":
            return data[offset + 8 :]
        if name == b"jxlp":  # partial codestream: its index comes first
            return data[offset + 12 :]
        if length < 8:
            break
        offset += length
    raise _bad("no codestream in the container")


def _bad(text: str) -> Exception:
    return unrenderable(PreviewError.BAD_CODESTREAM, text)
