"""Files of which every value is a canary, each on its way to another error; and how a canary is recognised.

Every VR, standard and private, in sequences, in the file meta information and the preamble. Numbers of
sixteen bits are planted and not searched for: they could be anything.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping

import imagecodecs
import numpy as np
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from tests import data
from tests.archives import overlapping, patched, tar_special, tarred, tgz, zip_raw, zipped
from tests.data import element
from tests.dicom.pictures import J2K, JPEG_BASELINE, JPEG_LS, JPEG_XL, RLE, encapsulated, item

WORD = b"Qzxjvkw^pyfbgQ"
"""No text of ours, no code, no hexadecimal and no number has five of these letters in a row."""
NUMBER = 1234567936
"""One that a float of 32 bits holds."""
REFUSED, KEPT, NO_BUS = "REFUSED!", "kept.dcm", "nobus.dcm"
"""A study description and names of objects at which the database of the test fails."""
_RING = WORD * 2
_WINDOWS = [_RING[at : at + 5] for at in range(len(WORD))]
_TAGS = [b"%02X%02X%02X%02X" % (b, a, d, c) for a, b, c, d, _ in _WINDOWS]
_FORMS = (
    *_WINDOWS,
    *_TAGS,
    *(window.hex().encode() for window in _WINDOWS),
    *(base64.b64encode(bytes(shift) + WORD * 2)[4:16] for shift in range(3)),
    *(str(NUMBER).encode(), b"1.23456", f"{NUMBER:x}".encode()),
)
CANARY = re.compile(b"|".join(map(re.escape, _FORMS)), re.IGNORECASE)

LINE = re.compile(r"2\d{3}-\d\d-\d\dT[\d:.]+Z (DEBUG   |INFO    |WARNING |ERROR   |CRITICAL) [ -~]+")

VALUES = {
    **dict.fromkeys(("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM"), WORD),
    **dict.fromkeys(("UC", "UI", "UR", "UT", "OB", "OW", "UN"), WORD),
    **{"FD": struct.pack("<d", NUMBER), "FL": struct.pack("<f", NUMBER), "OD": struct.pack("<d", NUMBER)},
    **{"SL": struct.pack("<l", NUMBER), "UL": struct.pack("<L", NUMBER), "OL": struct.pack("<L", NUMBER)},
    **{"SV": struct.pack("<q", NUMBER), "UV": struct.pack("<Q", NUMBER), "OV": struct.pack("<Q", NUMBER)},
    **{"OF": struct.pack("<f", NUMBER), "SS": b"Qz", "US": b"Qz", "AT": b"Qzxj"},
}
COLUMNS = {  # tag -> VR of elements that become columns of the row
    **{0x00080016: "UI", 0x00080018: "UI", 0x00080020: "DA", 0x00080021: "DA", 0x00080030: "TM"},
    **{0x00080050: "SH", 0x00080060: "CS", 0x00080070: "LO", 0x00080080: "LO", 0x00080090: "PN"},
    **{0x00081030: "LO", 0x0008103E: "LO", 0x00100010: "PN", 0x00100020: "LO", 0x00100030: "DA"},
    **{0x00100040: "CS", 0x00180015: "CS", 0x00180050: "DS", 0x0020000D: "UI", 0x0020000E: "UI"},
    **{0x00200010: "SH", 0x00200011: "IS", 0x00200013: "IS", 0x00280030: "DS"},
}
SAMPLES, PHOTOMETRIC, FRAMES, ROWS, BITS = 0x00280002, 0x00280004, 0x00280008, 0x00280010, 0x00280100
IMAGE = {SAMPLES: 1, ROWS: 8, 0x00280011: 8, BITS: 8, 0x00280101: 8, 0x00280102: 7, 0x00280103: 0}
PIXELS = 0x7FE00010
EXPLICIT = "1.2.840.10008.1.2.1"

Elements = dict[int, tuple[str, bytes]]


def us(value: int) -> tuple[str, bytes]:
    """Return an element of one 16-bit number."""
    return "US", struct.pack("<H", value)


def dataset(changes: Mapping[int, tuple[str, bytes] | None] | None = None) -> Elements:
    """Return the elements of an image of 8 x 8, by tag; None takes one out."""
    every = {0x00091000 + number: (vr, value) for number, (vr, value) in enumerate(VALUES.items())}
    private = {0x00090010: ("LO", WORD), **every}
    found: Elements = {tag: (vr, VALUES[vr]) for tag, vr in COLUMNS.items()}
    found |= {tag: us(value) for tag, value in IMAGE.items()} | {PHOTOMETRIC: ("CS", b"MONOCHROME2 ")}
    found |= private | {0x00081140: ("SQ", item(explicit(private))), PIXELS: ("OB", WORD * 5)}
    wanted = found | dict(changes or {})
    return {tag: what for tag, what in sorted(wanted.items()) if what is not None}


def explicit(elements: Elements) -> bytes:
    """Return the elements in Explicit VR Little Endian; compressed pixels have no length."""
    return b"".join(
        element(tag, vr, value, 0xFFFFFFFF if tag == PIXELS and value[:2] == b"\xfe\xff" else None)
        for tag, (vr, value) in elements.items()
    )


def implicit(elements: Elements) -> bytes:
    """Return the elements in Implicit VR Little Endian."""
    return b"".join(
        struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(value)) + value
        for tag, (_, value) in elements.items()
    )


def file(body: bytes, syntax: str = EXPLICIT) -> bytes:
    """Return a file with canaries before its data set, too."""
    uid = syntax.encode()
    meta = element(0x00020010, "UI", uid + b"\0" * (len(uid) % 2))
    meta += element(0x00020013, "SH", WORD) + element(0x00020016, "AE", WORD)
    meta += element(0x00020100, "UI", WORD) + element(0x00020102, "OB", WORD)
    head = (WORD * 10)[:128] + b"DICM" + element(0x00020000, "UL", struct.pack("<L", len(meta))) + meta
    return head + body


def image(syntax: str = EXPLICIT, changes: Mapping[int, tuple[str, bytes] | None] | None = None) -> bytes:
    """Return the file of an image with some elements changed."""
    return file(explicit(dataset(changes)), syntax)


def frames(*fragments: bytes) -> dict[int, tuple[str, bytes]]:
    """Return compressed pixels."""
    return {PIXELS: ("OB", encapsulated(*fragments))}


WHOLE = image()


def large() -> bytes:
    """Return the file of a document over 64 MiB."""
    return image(
        changes={PIXELS: None, 0x00420011: ("OB", WORD * (5 << 20)), 0x00420012: ("LO", b"application/pdf ")}
    )


def data_sets() -> dict[str, bytes]:
    """Return files that cannot be read, or not by the book."""
    deflated = zlib.compress(explicit(dataset()), wbits=-zlib.MAX_WBITS)
    deep = element(0x0040A730, "SQ", length=0xFFFFFFFF) + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    made = {f"cut{n}": WHOLE[: -len(WHOLE) * n // 12] for n in range(1, 12)}
    made |= {f"short{n}": WHOLE[:-n] for n in (1, 9, 40, 75)}
    return made | {
        "whole": WHOLE,
        "text": WORD * 50,
        KEPT.removesuffix(".dcm"): WORD * 50,
        NO_BUS.removesuffix(".dcm"): WORD * 50,
        "refused": image(changes={0x00081030: ("LO", REFUSED.encode())}),
        "unknown-charset": image(changes={0x00080005: ("CS", WORD)}),
        "japanese": image(
            changes={0x00080005: ("CS", b"\\ISO 2022 IR 87 "), 0x00100010: ("PN", b"\x1b$B" + WORD)}
        ),
        "implicit": file(implicit(dataset()), ImplicitVRLittleEndian),
        "not-implicit": file(explicit(dataset()), ImplicitVRLittleEndian),
        "not-big-endian": file(explicit(dataset()), ExplicitVRBigEndian),
        "deflated": file(deflated, DeflatedExplicitVRLittleEndian),
        "half-deflated": file(deflated[:-90], DeflatedExplicitVRLittleEndian),
        "not-deflated": file(explicit(dataset()), DeflatedExplicitVRLittleEndian),
        "unordered": file(explicit(dict(reversed(dataset().items())))),
        "deep": file(deep * 300),
        "no-item": file(element(0x0040A730, "SQ", WORD, length=0xFFFFFFFF)),
        "no-fragment": file(element(PIXELS, "OB", item(b"") + WORD, length=0xFFFFFFFF)),
        "no-dictionary": WHOLE[132:],
        "mistaken": file(element(0x00100010, "PN", WORD * 3, length=len(WORD))),
    }


def pictures() -> dict[str, bytes]:
    """Return files whose pictures cannot be drawn, by the code why."""
    made = {f"codec{s}": image(s, frames(WORD * 20)) for s in (RLE, JPEG_BASELINE, JPEG_LS, J2K, JPEG_XL)}
    codestream = imagecodecs.jpegxl_encode(np.arange(64, dtype=np.uint8).reshape(8, 8) * 3, lossless=True)
    claimed = struct.pack("<16I", 1, 64, *[0] * 14) + WORD
    waveform = item(explicit({0x003A0005: us(1), 0x54001010: ("OW", WORD)}))
    huge = {ROWS: us(20_000), ROWS + 1: us(10_000)}
    return made | {
        "no_pixel_data": image(changes={PIXELS: None}),
        "bad_image_header": image(changes={BITS: us(7)}),
        "unsupported_transfer_syntax": image(WORD.decode()),
        "unsupported_photometric": image(
            changes={SAMPLES: us(3), PHOTOMETRIC: ("CS", WORD), PIXELS: ("OB", WORD * 20)}
        ),
        "image_too_large": image(changes={ROWS: us(0xFFFF), ROWS + 1: us(0xFFFF)}),
        "truncated_pixel_data": image(changes={ROWS: us(64)}),
        "bad_encapsulation": image(JPEG_LS, frames(WORD, WORD) | {FRAMES: ("IS", b"3 ")}),
        "bad_palette": image(changes={PHOTOMETRIC: ("CS", b"PALETTE COLOR ")}),
        "tiled_level": image(
            changes={FRAMES: ("IS", b"2 "), 0x00480006: ("UL", b"\0\0\1\0"), 0x00480007: ("UL", b"\0\0\1\0")}
        ),
        "bad_document": image(
            changes={
                PIXELS: None,
                0x00420011: ("OB", b"%PDF" + WORD),
                0x00420012: ("LO", b"application/pdf "),
            }
        ),
        "bad_waveform": image(changes={PIXELS: None, 0x54000100: ("SQ", waveform)}),
        "decode_failed": image(JPEG_XL, frames(codestream[:20] + WORD * 9)),
        "out_of_memory": image(RLE, frames(claimed) | huge),
        "report": image(
            changes={PIXELS: None, 0x0040A730: ("SQ", item(explicit({0x0040A160: ("UT", WORD)})))}
        ),
    }


def archives() -> dict[str, bytes]:
    """Return archives that are broken, or whose members are."""
    one = zipped([("1.dcm", WHOLE)], zipfile.ZIP_STORED)
    crc = struct.pack("<L", zlib.crc32(WHOLE))
    packed = gzip.compress(WHOLE)
    tar = bytearray(tarred([("1.dcm", WHOLE), ("2.dcm", WHOLE)]))
    tar[tar.index(b"2.dcm")] ^= 1
    made = {
        "mixed": zipped([("a.dcm", WHOLE), ("b.dcm", WHOLE[:-9]), ("c.dcm", WORD * 9)]),
        "same-names": zipped([("x.dcm", WHOLE)] * 2),
        "bad_checksum": patched(one, (crc, b"\1\2\3\4")),
        "encrypted": patched(one, (b"PK\1\2\x14\3\x14\0\0\0", b"PK\1\2\x14\3\x14\0\1\0")),
        "header_mismatch": patched(one, (b"PK\3\4\x14\0\0\0\0\0", b"PK\3\4\x14\0\0\0\x08\0")),
        "unsupported_compression": patched(zipped([("1.dcm", WHOLE)]), (b"\0\0\x08\0", b"\0\0\x63\0")),
        "size_mismatch": zip_raw("1.dcm", zlib.compress(WHOLE, wbits=-15), 900, 0),
        "bad_data": zip_raw("1.dcm", b"\xff" + WORD * 40, 400, 0),
        "compression_ratio": zip_raw("1.dcm", WORD * 9, 1 << 30, 0),
        "overlapping_members": overlapping(5),
        "nested_archive": zipped([("1.dcm", one)]),
        "not_a_file": tar_special(tarfile.SYMTYPE, WORD.decode()),
        "sparse_file": tar_special(tarfile.GNUTYPE_SPARSE, WORD.decode()),
        "archive_truncated": one[: len(one) // 2],
        "bad_directory": one[:-14] + struct.pack("<HH", 65000, 65000) + one[-10:],
        "unsupported_archive": b"Rar!\x1a\7\1\0" + WORD * 60,
        "archive_damaged": packed[:-8] + b"\1\2\3\4" + packed[-4:],
        "bad_header": bytes(tar),
    }
    return {f"{name}.zip": content for name, content in made.items()} | {
        "members.tar.gz": tgz([("a.dcm", WHOLE), ("b.dcm", WHOLE[:-9])])
    }


def files() -> dict[str, bytes]:
    """Return all of them, but the large one, by the name of their object."""
    single = data_sets() | pictures()
    return {f"{name}.dcm": content for name, content in single.items()} | archives()


def tight() -> tuple[dict[str, bytes], dict[str, object]]:
    """Return what is over limits, and settings with these limits; the rest fails for being strict."""
    over = {
        "too_many_members.zip": zipped([(f"{n}.dcm", WORD) for n in range(5)]),
        "member_too_large.zip": zipped([("a.dcm", WHOLE)]),
        "archive_too_large.zip": zipped([(f"{n}.dcm", WHOLE) for n in range(3)]),
        "object_too_large.dcm": image(changes={PIXELS: ("OB", WORD * 4000)}),
        "valid.dcm": data.minimal(),
        **{f"{name}.dcm": content for name, content in data_sets().items()},
    }
    limits = {
        "archive__max_members": 4,
        "archive__max_member_bytes": len(WHOLE) - 1,
        "archive__max_total_bytes": 3 * len(WHOLE) - 1,
        "source__max_object_bytes": len(WORD) * 4000,
        "metadata__strict": "true",
    }
    return over, limits


def leaks(texts: Mapping[str, bytes]) -> list[tuple[str, bytes]]:
    """Return where canaries are, and what is around them."""
    return [
        (where, text[max(0, one.start() - 80) : one.end() + 20])
        for where, text in texts.items()
        for one in CANARY.finditer(text)
    ]


def check_lines(text: bytes, form: str) -> set[str]:
    """Check that a log holds nothing but lines of ours, in printable ASCII; return how severe they are."""
    lines = text.decode("ascii").split("\n")
    assert lines.pop() == ""
    assert all(line.isprintable() for line in lines)
    if form == "json":
        return {json.loads(line)["severity"] for line in lines}
    assert [line for line in lines if not LINE.fullmatch(line)] == []
    return {line.split()[1] for line in lines}
