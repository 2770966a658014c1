"""Objects of 4 GB, of which a disk only holds what is not zero, and what it takes to describe one."""

from __future__ import annotations

import resource
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import imagecodecs
import numpy as np

from app.dicom import describe
from app.model.options import DescribeOptions
from app.model.values import Content, Instance, ObjectRef
from app.storage.local.file_version import VersionStream
from app.workers.pool import PRELOAD, Workers

MIB = 1 << 20
OPEN = 0xFFFFFFFF
EXPLICIT, DEFLATED, JPEG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.50"
ITEM = b"\xfe\xff\x00\xe0"
ITEM_END, SEQUENCE_END = b"\xfe\xff\x0d\xe0" + bytes(4), b"\xfe\xff\xdd\xe0" + bytes(4)
LONG = ("OB", "OV", "OW", "SQ", "UN", "UT")
FRAMES, FRAGMENT = 10_400, 400 * 1024
"""Compressed frames and the bytes of each: as many as a basic offset table can tell."""
FEW, SIDE = 511, 2048
"""Native frames of 16-bit samples, as many as a value can hold, and their rows and columns."""


PARTS = (*PRELOAD, "benchmarks.huge")


class Described(NamedTuple):
    """What became of an object: its bytes that were read, seconds of CPU, most bytes of memory held."""

    taken: int
    instance: Instance
    seconds: float
    peak: int


class Counted(VersionStream):
    """The stream of the local storage, which counts the bytes that are read from the file."""

    taken = 0

    def read(self, size: int | None = -1) -> bytes:
        """Read, and count what came."""
        found = super().read(size)
        self.taken += len(found)
        return found


def described(workers: Workers, path: Path) -> Described:
    """Describe an object in a worker, which reads it through this process."""
    stream = Counted(path.parent, path.name)
    content = Content(ObjectRef("b", path.name, 1), path.as_uri(), path.stat().st_size, opener=lambda: stream)
    instance, seconds, peak = workers.run(timed, content)
    return Described(stream.taken, instance, seconds, peak)


def timed(content: Content) -> tuple[Instance, float, int]:
    """Describe an object in this process; seconds of CPU and most bytes of memory come with the instance."""
    began = time.process_time()
    instance = describe(content, DescribeOptions())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return instance, time.process_time() - began, peak


def write(path: Path, kind: str) -> None:
    """Write an object of one of the KINDS."""
    with path.open("wb") as file:
        KINDS[kind](file)


def element(tag: int, vr: str, value: bytes = b"", length: int | None = None) -> bytes:
    """Return an explicit little endian element; `length` may be that of a value yet to come."""
    size = len(value) if length is None else length
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    return head + (struct.pack("<HI", 0, size) if vr in LONG else struct.pack("<H", size)) + value


def number(tag: int, value: int) -> bytes:
    return element(tag, "US", struct.pack("<H", value))


def head(syntax: str) -> bytes:
    """Return what comes before the data set."""
    meta = element(0x00020010, "UI", syntax.encode() + b"\0" * (len(syntax) % 2))
    return bytes(128) + b"DICM" + element(0x00020000, "UL", struct.pack("<I", len(meta))) + meta


def image(frames: int, side: int, bits: int) -> bytes:
    """Return the elements before the pixel data."""
    count = str(frames).encode()
    return b"".join(
        (
            element(0x00100020, "LO", b"P-1 "),
            number(0x00280002, 1),
            element(0x00280004, "CS", b"MONOCHROME2 "),
            element(0x00280008, "IS", count + b" " * (len(count) % 2)),
            *(number(tag, side) for tag in (0x00280010, 0x00280011)),
            *(number(tag, bits) for tag in (0x00280100, 0x00280101)),
            number(0x00280102, bits - 1),
            number(0x00280103, 0),
        )
    )


TRAILING = element(0x7FE10010, "LO", b"MAKER TEST") + element(0x7FE11001, "LO", b"behind")
"""Elements that come after the pixel data."""


def halves(side: int, kind: type) -> np.ndarray:
    """Return a frame whose left half is black and whose right half is white."""
    pixels = np.zeros((side, side), kind)
    pixels[:, side // 2 :] = 255
    return pixels


def native(file: BinaryIO) -> None:
    """Write frames that are not compressed; only the middle one has other samples than zero."""
    size = SIDE * SIDE * 2
    file.write(head(EXPLICIT) + image(FEW, SIDE, 16) + element(0x7FE00010, "OW", length=FEW * size))
    start = file.tell()
    file.seek(start + FEW // 2 * size)
    file.write(halves(SIDE, np.uint16).tobytes())
    file.seek(start + FEW * size)
    file.write(TRAILING)


def compressed(file: BinaryIO, table: bytes = b"", extended: bytes = b"", pieces: int = 1) -> None:
    """Write JPEG frames, of which only the middle one is there, each in as many fragments as `pieces`."""
    codestream = imagecodecs.jpeg8_encode(halves(256, np.uint8))
    file.write(head(JPEG) + image(FRAMES, 256, 8))
    if extended:
        file.write(element(0x7FE00001, "OV", extended))
    file.write(element(0x7FE00010, "OB", ITEM + struct.pack("<I", len(table)) + table, OPEN))
    length = FRAGMENT // pieces
    for index in range(FRAMES * pieces):
        file.write(ITEM + struct.pack("<I", length))
        after = file.tell() + length
        if index == FRAMES // 2 * pieces:
            file.write(codestream)
        elif index % pieces == 0:
            file.write(codestream[:4])
        file.seek(after)
    file.write(SEQUENCE_END + TRAILING)


def offsets() -> Iterator[int]:
    """Yield where the frames begin after the offset table."""
    return iter(range(0, FRAMES * (FRAGMENT + 8), FRAGMENT + 8))


def in_a_sequence(file: BinaryIO) -> None:
    """Write a private sequence whose only item has a large value and a text behind it."""
    size = FEW * SIDE * SIDE * 2
    file.write(head(EXPLICIT) + element(0x00100020, "LO", b"P-1 ") + element(0x00091001, "SQ", length=OPEN))
    file.write(ITEM + struct.pack("<I", OPEN) + element(0x00091002, "OB", length=size))
    file.seek(size, 1)
    file.write(element(0x00104000, "LT", b"behind") + ITEM_END + SEQUENCE_END)


def text(file: BinaryIO) -> None:
    """Write one text of 4 GB."""
    size = FEW * SIDE * SIDE * 2
    file.write(head(EXPLICIT) + element(0x00100020, "LO", b"P-1 ") + element(0x0040A160, "UT", length=size))
    file.seek(size - 1, 1)
    file.write(b"x")


def deflated(file: BinaryIO) -> None:
    """Write what inflates to a text of 300 MB, and then nothing up to 4 GB."""
    packer, megabyte = zlib.compressobj(1, wbits=-zlib.MAX_WBITS), bytes(MIB)
    file.write(head(DEFLATED) + packer.compress(element(0x0040A160, "UT", length=300 * MIB)))
    for _ in range(300):
        file.write(packer.compress(megabyte))
    file.write(packer.flush())
    file.truncate(FEW * SIDE * SIDE * 2)


KINDS: dict[str, Callable[[BinaryIO], None]] = {
    "native": native,
    "basic offset table": lambda file: compressed(file, struct.pack(f"<{FRAMES}I", *offsets())),
    "extended offset table": lambda file: compressed(file, extended=struct.pack(f"<{FRAMES}Q", *offsets())),
    "no offset table": compressed,
    "two fragments a frame": lambda file: compressed(file, pieces=2),
    "value in a sequence": in_a_sequence,
    "text": text,
    "deflated": deflated,
}
"""All of 4 GB; the deflated one is over the limit and refused."""
