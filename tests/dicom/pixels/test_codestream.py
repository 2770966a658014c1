"""What compressed frames say about themselves, by bytes written out from the standards."""

import struct

import pytest

from app.dicom.pixels.codestream import parse_j2k, parse_jpeg, parse_jxl
from app.model.errors import Unrenderable

SOI, EOI = b"\xff\xd8", b"\xff\xd9"


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def sof(
    marker: int = 0xC0, rows: int = 480, columns: int = 640, ids: bytes = b"\1\2\3", precision: int = 8
) -> bytes:
    parts = b"".join(bytes([part, 0x11, 0]) for part in ids)
    return segment(marker, struct.pack(">BHHB", precision, rows, columns, len(ids)) + parts)


JFIF = segment(0xE0, b"JFIF\0\1\2\0\0\1\0\1\0\0")


def adobe(transform: int) -> bytes:
    return segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([transform]))


@pytest.mark.parametrize(
    ("marker", "kind"), [(0xC0, "SOF0"), (0xC1, "SOF1"), (0xC2, "SOF2"), (0xC3, "SOF3"), (0xF7, "SOF55")]
)
def test_jpeg_frame_header_is_read(marker, kind):
    stream = parse_jpeg(SOI + JFIF + sof(marker, precision=12) + EOI)
    assert (stream.kind, stream.rows, stream.columns, stream.components) == (kind, 480, 640, 3)
    assert stream.precision == 12


@pytest.mark.parametrize(
    ("segments", "mixed"),
    [
        (sof(), None),
        (JFIF + sof(), True),
        (adobe(0) + sof(), False),
        (adobe(1) + sof(), True),
        (JFIF + adobe(0) + sof(), False),
        (sof(ids=b"RGB"), False),
    ],
)
def test_jpeg_tells_its_colour_space(segments, mixed):
    assert parse_jpeg(SOI + segments + EOI).mixed is mixed


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "bad_codestream"),
        (SOI + EOI, "bad_codestream"),
        (SOI + segment(0xDA, b"") + sof() + EOI, "bad_codestream"),
        (SOI + b"\0\0\0\0" + EOI, "bad_codestream"),
        (SOI + segment(0xC0, b"\10\1\2\1\2") + EOI, "bad_codestream"),
    ],
)
def test_broken_jpeg_is_refused(data, code):
    with pytest.raises(Unrenderable) as caught:
        parse_jpeg(data)
    assert caught.value.code == code


def test_scans_of_a_progressive_jpeg_are_counted():
    scans = segment(0xDA, b"") * 1000
    assert [parse_jpeg(SOI + sof(marker) + scans + EOI).scans for marker in (0xC2, 0xC0)] == [1000, 1]


def test_jpeg_without_an_end_marker_says_so():
    assert parse_jpeg(SOI + sof() + EOI).ended
    assert not parse_jpeg(SOI + sof()).ended


def siz(
    rows: int = 100,
    columns: int = 200,
    tile: tuple[int, int] = (200, 100),
    parts: bytes = b"\7\1\1",
    x0: int = 0,
) -> bytes:
    count = len(parts) // 3
    body = struct.pack(">H8IH", 0, columns + x0, rows, x0, 0, *tile, 0, 0, count) + parts
    return b"\xff\x51" + struct.pack(">H", len(body) + 2) + body


def cod(transform: int) -> bytes:
    return b"\xff\x52" + struct.pack(">H", 12) + bytes([0, 0, 0, 1, transform, 5, 4, 4, 0, 1])


SOC, SOT = b"\xff\x4f", b"\xff\x90\0\0"


def test_jpeg_2000_size_is_read_from_inside_a_file():
    stream = parse_j2k(b"\0\0\0\x0cjP  \r\n\x87\n" + SOC + siz(x0=50, tile=(250, 100)) + cod(1) + SOT)
    assert (stream.kind, stream.rows, stream.columns, stream.components) == ("J2K", 100, 200, 1)
    assert (stream.precision, stream.tiles, stream.mixed) == (8, 1, True)
    assert stream.data.startswith(SOC)


def test_jpeg_2000_tells_how_often_it_can_be_halved_and_its_sign():
    stream = parse_j2k(SOC + siz(parts=b"\x8b\1\1") + cod(0) + SOT)
    assert (stream.levels, stream.precision, stream.signed) == (5, 12, True)
    assert parse_j2k(SOC + siz(x0=50, tile=(250, 100)) + cod(0) + SOT).levels == 0


def test_capabilities_tell_high_throughput():
    cap = b"\xff\x50\0\x08\0\2\0\0\0\0"
    assert parse_j2k(SOC + siz() + cap + cod(0) + SOT).kind == "HTJ2K"


def test_tiles_are_counted():
    assert parse_j2k(SOC + siz(tile=(3, 1)) + cod(0) + SOT).tiles == 67 * 100


@pytest.mark.parametrize("data", [b"", SOC, SOC + siz()[:30], SOC + siz(tile=(0, 1)) + SOT])
def test_broken_jpeg_2000_is_refused(data):
    with pytest.raises(Unrenderable) as caught:
        parse_j2k(data)
    assert caught.value.code == "bad_codestream"


@pytest.mark.parametrize(
    "parts",
    [
        b"\7\2\1",
        b"\7\1\1\7\1\2\7\1\2",
        b"\7\1\1\7\2\1\7\2\2",
        b"\7\2\2\7\2\2\7\2\2",
        b"\7\1\1\x87\2\1\x87\2\1",
    ],
    ids=["grey", "down only", "two ways", "all", "signed"],
)
def test_other_subsampling_than_of_both_colour_differences_is_refused(parts):
    with pytest.raises(Unrenderable) as caught:
        parse_j2k(SOC + siz(parts=parts) + cod(0) + SOT)
    assert caught.value.code == "bad_codestream"


def test_subsampled_jpeg_2000_is_not_halved():
    stream = parse_j2k(SOC + siz(parts=b"\7\1\1\7\2\1\7\2\1") + cod(0) + SOT)
    assert (stream.levels, stream.subsampled) == (0, True)


def bits(*fields: tuple[int, int]) -> bytes:
    """Pack (value, width) fields, least significant bit first."""
    number = position = 0
    for value, width in fields:
        number |= value << position
        position += width
    return b"\xff\x0a" + number.to_bytes(12, "little")


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (bits((1, 1), (1, 5), (0, 3), (4, 5)), (16, 40)),  # small: eighths less one
        (bits((1, 1), (1, 5), (1, 3)), (16, 16)),  # ratio 1 is 1:1
        (bits((0, 1), (0, 2), (9, 9), (0, 3), (1, 2), (999, 13)), (10, 1000)),
        (bits((0, 1), (1, 2), (1079, 13), (5, 3)), (1080, 1920)),  # ratio 5 is 16:9
    ],
)
def test_jpeg_xl_size_is_read(data, size):
    stream = parse_jxl(data)
    assert (stream.rows, stream.columns) == size


def test_jpeg_xl_size_is_read_from_its_container():
    box = b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0\0\0\x0cftypjxl "
    code = bits((1, 1), (1, 5), (0, 3), (4, 5))
    assert parse_jxl(box + b"\0\0\0\x16jxlc" + code).columns == 40
    assert parse_jxl(box + b"\0\0\0\x1ajxlp\0\0\0\0" + code).rows == 16


def test_what_is_no_jpeg_xl_is_refused():
    with pytest.raises(Unrenderable):
        parse_jxl(b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0\0\0\2abcd")
