"""Hostile files made in code: of each kind that has ended, blocked or filled a DICOM service somewhere."""

import struct
import tarfile

import imagecodecs
import numpy as np
from pydicom.uid import DeflatedExplicitVRLittleEndian

from tests.archives import deflated_zeros, gzip_bomb, overlapping, tar_special, zip_raw, zipped
from tests.data import SOP, apply, ct, ct_dataset, element, part10, raw
from tests.dicom.pictures import (
    J2K,
    JPEG_BASELINE,
    JPEG_LOSSLESS,
    JPEG_LS,
    JPEG_PROGRESSIVE,
    RLE,
    encapsulated,
    picture,
    rle,
)

SIDE = 96
BLACK = np.zeros((SIDE, SIDE), np.uint8)
UID = element(0x00080018, "UI", SOP.encode())
OPEN = element(0x0040A730, "SQ", length=0xFFFFFFFF) + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
"""A sequence and an item, both without an end."""
COUNT = 1_000_001

Kind = tuple[bytes, str, str | None]
"""A file and its end: `row` with its preview_error, `dead` or `both` with the letter's code, or `none`."""


def kinds() -> dict[str, Kind]:
    """Return all of them by name."""
    return not_dicom() | structure() | values() | pixels() | codestreams() | archives()


def not_dicom() -> dict[str, Kind]:
    return {
        "empty.dcm": (b"", "dead", "not_dicom"),
        "text.dcm": (b"not a picture\n" * 100, "dead", "not_dicom"),
        "preamble.dcm": (bytes(128), "dead", "not_dicom"),
        "magic.dcm": (bytes(128) + b"DICM", "dead", "truncated"),
        "program.dcm": (b"MZ".ljust(128, b"\0") + ct()[128:], "row", None),
    }


def structure() -> dict[str, Kind]:
    deflated = DeflatedExplicitVRLittleEndian
    head = raw(syntax=deflated)[:-2]
    million = b"".join(struct.pack("<HH2sH", 9 + 2 * (n >> 16), n & 0xFFFF, b"LO", 0) for n in range(COUNT))
    whole, end = image(b"", JPEG_BASELINE), b"\xfe\xff\xdd\xe0\0\0\0\0"
    items = b"\xfe\xff\0\xe0\0\0\0\0" * COUNT
    return {
        "cut.dcm": (ct()[:-50], "dead", "truncated"),
        "depth.dcm": (raw(OPEN * 100_000), "dead", "limit_exceeded"),
        "length.dcm": (raw(element(0x00100010, "UT", b"x", length=0xFFFFFFF0)), "dead", "truncated"),
        "elements.dcm": (raw(million), "dead", "limit_exceeded"),
        "deflated_elements.dcm": (raw(million, syntax=deflated), "dead", "limit_exceeded"),
        "deflate_bomb.dcm": (head + deflated_zeros(1024)[0], "dead", "limit_exceeded"),
        "not_deflated.dcm": (head + UID, "dead", "bad_dataset"),
        "fragments.dcm": (whole[: whole.index(end)] + items, "dead", "limit_exceeded"),
        "items_after_the_pixels.dcm": (whole + items, "row", "truncated_pixel_data"),
    }


def values() -> dict[str, Kind]:
    codec = element(0x00080005, "CS", b"zlib_codec"), element(0x00100010, "PN", b"x\x9cK\4\0\0b\0b")
    escapes = (
        element(0x00080005, "CS", b"\\ISO 2022 IR 87"),
        element(0x00100010, "PN", b"\x1b$B\x1b(B" * 8000),
    )
    made = {
        "uid_long.dcm": [element(0x00080018, "UI", b"1." * 500)],
        "uid_line.dcm": [element(0x00080018, "UI", b'1.2\n{"3":4}')],
        "nan.dcm": [UID, element(0x00280030, "DS", b"nan\\inf ")],
        "infinite.dcm": [UID, element(0x00189087, "FD", b"\0\0\0\0\0\0\xf0\x7f")],
        "digits.dcm": [UID, element(0x00200013, "IS", b"9" * 60_000)],
        "codec.dcm": [codec[0], UID, codec[1]],
        "escapes.dcm": [escapes[0], UID, escapes[1]],
    }
    found: dict[str, Kind] = {name: (raw(*made[name]), "row", "no_pixel_data") for name in made}
    return found | {"uid.dcm": (ct(SOPInstanceUID="../../../etc/passwd"), "row", None)}


def pixels() -> dict[str, Kind]:
    # UL where US is due: the product of both sizes is 0 in 32 bits.
    wrap = [element(tag, "UL", b"\0\0\1\0") for tag in (0x00280010, 0x00280011)]
    wrapped = raw(UID, *wrap, element(0x00280100, "US", b"\x08\0"), element(0x7FE00010, "OW", bytes(64)))
    palette: dict[str, object] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour in ("Red", "Green", "Blue"):
        palette[f"{colour}PaletteColorLookupTableDescriptor"] = [0, 0, 16]
        palette[f"{colour}PaletteColorLookupTableData"] = bytes(10)
    short = picture(bytes(SIDE * SIDE), SIDE, SIDE, SOPInstanceUID=SOP, **palette)
    return {
        "rows.dcm": (part10(apply(ct_dataset(), Rows=65535, Columns=65535)), "row", "image_too_large"),
        "rows_wrap.dcm": (wrapped, "row", "bad_image_header"),
        "frames.dcm": (ct(NumberOfFrames="2147483647"), "row", "limit_exceeded"),
        "palette.dcm": (part10(short), "row", "bad_palette"),
    }


def codestreams() -> dict[str, Kind]:
    j2k = imagecodecs.jpeg2k_encode(BLACK, codecformat="j2k", reversible=True, level=0)
    jpeg, png = imagecodecs.jpeg8_encode(BLACK), imagecodecs.png_encode(BLACK)
    jpeg_ls, lossless = imagecodecs.jpegls_encode(BLACK), imagecodecs.ljpeg_encode(BLACK)
    made = {
        "j2k_size.dcm": (at(j2k, b"\xff\x51", 6, b"\x7f\xff\xff\xff" * 2), J2K),
        "j2k_components.dcm": (with_components(j2k, 16384), J2K),
        "jpeg_width.dcm": (at(jpeg, b"\xff\xc0", 7, b"\xff\xff"), JPEG_BASELINE),
        "jpeg_height.dcm": (at(jpeg, b"\xff\xc0", 5, b"\0\0"), JPEG_BASELINE),
        "lossless_height.dcm": (at(lossless, b"\xff\xc3", 5, b"\0\0"), JPEG_LOSSLESS),
        "jpeg_ls_height.dcm": (at(jpeg_ls, b"\xff\xf7", 5, b"\0\0"), JPEG_LS),
        "jpeg_kind.dcm": (jpeg, JPEG_LS),
        "png.dcm": (png, JPEG_BASELINE),
        "rle_segments.dcm": (struct.pack("<16I", 0xFFFFFFFF, *[64] * 15), RLE),
        "rle_offset.dcm": (struct.pack("<16I", 1, 0xFFFFFFF0, *[0] * 14), RLE),
    }
    found: dict[str, Kind] = {name: (image(*made[name]), "row", "bad_codestream") for name in made}
    tiles = image(at(j2k, b"\xff\x51", 22, b"\0\0\0\1" * 2), J2K)
    scans = image(progressive(8192, 14_000), JPEG_PROGRESSIVE, 8192)
    return found | {
        "j2k_tiles.dcm": (tiles, "row", "limit_exceeded"),
        "jpeg_scans.dcm": (scans, "row", "limit_exceeded"),
        "rle_overrun.dcm": (image(rle(b"\x81\0" * 2_000_000), RLE), "row", "decode_failed"),
    }


def archives() -> dict[str, Kind]:
    zeros, crc = deflated_zeros(1024)
    nested = ct()
    for _ in range(6):
        nested = zipped([("inner.zip", nested)])
    return {
        "zip_slip.zip": (zipped([("../../../../opt/escaped/x.dcm", ct())]), "row", None),
        "zip_bomb.zip": (zip_raw("a.dcm", zeros, 1 << 30, crc), "dead", "compression_ratio"),
        "zip_lie.zip": (zip_raw("a.dcm", zeros, 1000, crc), "dead", "bad_archive"),
        "zip_overlap.zip": (overlapping(1000), "both", "bad_archive"),
        "zip_in_zip.zip": (nested, "dead", "bad_archive"),
        "gzip_bomb.dcm.gz": (gzip_bomb(1024, ct()[:400]), "dead", "compression_ratio"),
        "tar_link.tar": (tar_special(tarfile.SYMTYPE, "/etc/passwd"), "both", "bad_archive"),
        "tar_device.tar": (tar_special(tarfile.CHRTYPE), "both", "bad_archive"),
        "tar_pipe.tar": (tar_special(tarfile.FIFOTYPE), "both", "bad_archive"),
    }


def image(codestream: bytes, syntax: str, side: int = SIDE) -> bytes:
    """Return a file of grey pixels that a codestream is said to hold."""
    return part10(picture(encapsulated(codestream), side, side, syntax, SOPInstanceUID=SOP), syntax)


def at(codestream: bytes, marker: bytes, offset: int, value: bytes) -> bytes:
    """Return a codestream with other bytes behind a marker."""
    place = codestream.index(marker) + offset
    return codestream[:place] + value + codestream[place + len(value) :]


def with_components(j2k: bytes, count: int) -> bytes:
    """Return a JPEG 2000 codestream of one component that claims `count` of them."""
    place = j2k.index(b"\xff\x51")
    (length,) = struct.unpack_from(">H", j2k, place + 2)
    head = j2k[place + 4 : place + 38] + struct.pack(">H", count) + b"\7\1\1" * count
    return j2k[: place + 2] + struct.pack(">H", len(head) + 2) + head + j2k[place + 2 + length :]


def progressive(side: int, scans: int) -> bytes:
    """Return a progressive JPEG of so many scans over every block, each nothing but runs of zeros."""
    quantization = b"\xff\xdb\0\x43\0" + b"\1" * 64
    frame = b"\xff\xc2\0\x0b\x08" + struct.pack(">HH", side, side) + b"\1\1\x11\0"
    table = b"\xff\xc4\0\x14\x10\1" + bytes(15) + b"\xe0"  # its one code, a bit, begins a run: 14 bits follow
    bits = "011111111111111" * -(-side * side // 64 // 32767)
    bits += "1" * (-len(bits) % 8)
    packed = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    scan = b"\xff\xda\0\x08\1\1\0\1\x3f\0" + packed
    return b"\xff\xd8" + quantization + frame + table + scan * scans + b"\xff\xd9"
