"""A data set from the bytes of an object: recognised, checked to its end, large values left in place."""

from __future__ import annotations

import io
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from struct import unpack

from pydicom import config
from pydicom.charset import default_encoding
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.tag import BaseTag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)

from app.dicom.read.byte_reader import Source, open_source
from app.dicom.read.charset import ASCII, charset
from app.dicom.read.collector import collector_paused
from app.dicom.read.nesting import Node
from app.dicom.read.scanner import Scanner
from app.dicom.read.vr import EXTENDED_OFFSET_TABLE, UNDEFINED, VRS, public_vr
from app.model.errors import BadDataset, LimitExceeded, PermanentError, permanent
from app.model.not_dicom import HEAD_BYTES, not_dicom
from app.model.options import DEFAULT_LIMITS, DatasetLimits
from app.model.values import Content

DEFERRED = 1 << 16
"""Values longer than this stay in the object until they are asked for; in bytes."""
DEFERRED_SEQUENCE = 16 << 20
"""The same for sequences; in bytes."""
INFLATED_AT_ONCE, PACKED_AT_ONCE = 1 << 20, 1 << 16
RATIO_FROM = 32 << 20
"""A deflated data set may inflate to that many bytes by any ratio."""

# pydicom's warnings quote values of the data set; this room speaks for it. (app/telemetry/log.py
# mutes its log.)
warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
config.settings.reading_validation_mode = config.IGNORE


class ObjectDataset(FileDataset):
    """A data set as read from an object.

    nodes: tag -> where the value lies in `buffer` and how it was read; only for elements not changed since.
    faults: tag and code of what is not written as it should be. Of a tag that occurs twice the last counts.
    deflated: positions are then those in the inflated stream, not in the object.
    """

    nodes: dict[int, Node]
    faults: tuple[tuple[int, str], ...]
    deflated: bool


def read_dataset(
    content: Content, limits: DatasetLimits = DEFAULT_LIMITS, frame_offsets: bytes = b""
) -> ObjectDataset:
    """Return the data set of an object whose elements all lie inside it.

    Values over 64 KiB and sequences over 16 MiB are not read: their element holds None, and pydicom reads
    them from `buffer` when asked. frame_offsets: the Extended Offset Table that the data set should have, as
    it was found out before; then the fragments of the frames are not visited.

    Raises
    ------
    NotDicom : the bytes are not DICOM
    BadDataset : cut off (code `truncated`), or not made as PS3.5 says
    LimitExceeded : it is nested too deep, has too many elements or fragments, or inflates to too much

    References
    ----------
    PS3.10 7.1 (file meta), PS3.5 7 (data set), PS3.5 A.5 (deflated)
    """
    with permanent(BadDataset), collector_paused():
        dataset, _ = _read(open_source(content), limits, may_be_broken=False, frame_offsets=frame_offsets)
        return dataset


def read_head(
    content: Content, limits: DatasetLimits = DEFAULT_LIMITS
) -> tuple[ObjectDataset, PermanentError | None]:
    """Return the data set up to the first fault that costs the object, and that fault, None if there is none.

    Raises NotDicom, BadDataset or LimitExceeded, as `read_dataset`, where nothing could be read.
    """
    with permanent(BadDataset), collector_paused():
        return _read(open_source(content), limits, may_be_broken=True)


def _read(
    source: Source, limits: DatasetLimits, may_be_broken: bool, frame_offsets: bytes = b""
) -> tuple[ObjectDataset, PermanentError | None]:
    head, cut = source.value(0, 132), None
    magic = 132 if head[128:] == b"DICM" else 4 if head[:4] == b"DICM" else 0
    meta, start, faults = _file_meta(source, magic, limits)
    syntax = text_of(meta, 0x00020010)
    deflated = syntax == DeflatedExplicitVRLittleEndian
    if deflated:
        inflated, cut = _inflate(source, start, limits)
        source, start = Source(io.BytesIO(inflated), len(inflated), inflated), 0
    first = source.value(start, 8)
    if magic and not first:
        raise BadDataset("nothing follows the file meta information", code="truncated")
    implicit, little = _encoding(first, syntax)
    if not meta and not _plausible(first, implicit, little):
        raise not_dicom(source.value(0, HEAD_BYTES))
    scanner = Scanner(source, little, limits, frame_offsets)
    nodes, fault = scanner.scan_head(start, source.size, implicit)
    fault = cut or fault
    # Before anything is made of the nodes: of a million elements that would take hundreds of MiB.
    if fault is not None and not (nodes and may_be_broken):
        raise fault
    if misplaced := [(node.tag, "misplaced") for node in nodes if node.tag >> 16 == 2]:
        faults += misplaced
        nodes = [node for node in nodes if node.tag >> 16 != 2]
    # pydicom would ask the stream for a name, which not every one has, and open that file again.
    dataset = ObjectDataset(io.BytesIO(), _elements(source, nodes, little), None, meta, implicit, little)
    dataset.buffer, dataset.fileobj_type = source.stream, type(source.stream)
    dataset.preamble = head[:128] if magic == 132 else None
    dataset.nodes, dataset.deflated = {node.tag: node for node in nodes}, deflated
    if frame_offsets:
        tag = BaseTag(EXTENDED_OFFSET_TABLE)
        dataset[tag] = RawDataElement(tag, "OV", len(frame_offsets), frame_offsets, 0, False, True)
    duplicates = _duplicates(nodes) if len(dataset.nodes) < len(nodes) else ()
    dataset.faults = (*faults, *duplicates, *scanner.warnings)
    codecs = charset(text_of(dataset, 0x00080005).encode("latin-1")).codecs
    dataset.set_original_encoding(
        implicit, little, [default_encoding if codec == ASCII else codec for codec in codecs]
    )
    return dataset, fault


def _file_meta(
    source: Source, start: int, limits: DatasetLimits
) -> tuple[FileMetaDataset, int, list[tuple[int, str]]]:
    """Return group 0002, where the data set begins, and what is wrong.

    The group length is not believed, it often lies. Of elements that occur twice the first holds: some
    programs put their own file meta information before what the file had.
    """
    if source.value(start, 2) != b"\x02\x00":
        return FileMetaDataset(), start, []
    scanner = Scanner(source, little=True, limits=limits)
    nodes = scanner.scan(start, source.size, implicit=False, only_group=2)
    last, first = nodes[-1], {node.tag: node for node in reversed(nodes)}
    meta = FileMetaDataset(_elements(source, [first[tag] for tag in sorted(first)], little=True))
    return meta, last.offset + last.length, [*_duplicates(nodes), *scanner.warnings]


def _duplicates(nodes: list[Node]) -> list[tuple[int, str]]:
    """Return a fault for each tag that occurs more than once."""
    tags = Counter(node.tag for node in nodes)
    return [(tag, "duplicate_tag") for tag, count in tags.items() if count > 1]


def _encoding(first: bytes, syntax: str) -> tuple[bool, bool]:
    """Return (implicit, little) by the first element, which knows better than the file meta information."""
    big = syntax == ExplicitVRBigEndian
    if int.from_bytes(first[:2], "little" if big else "big") == 0x0008:
        big = not big  # group 0008 read in the wrong order would be 0800, which does not exist
    explicit = first[4:6].isalpha() and first[4:6].isupper()
    return (syntax == ImplicitVRLittleEndian if len(first) < 8 else not explicit), not big


def _plausible(first: bytes, implicit: bool, little: bool) -> bool:
    """Say whether bytes without file meta information begin as a data set or an ACR-NEMA message does."""
    if len(first) < 8:
        return False
    group, number = unpack("<HH" if little else ">HH", first[:4])
    if group != 8:
        return False
    return first[4:6] in VRS if not implicit else public_vr(group << 16 | number) != "UN"


def _inflate(source: Source, start: int, limits: DatasetLimits) -> tuple[bytes, BadDataset | None]:
    """Return the deflated data set from `start` on, or as much as there is of it, and the fault.

    A stream with a zlib header is taken too.
    """
    for bits in (-zlib.MAX_WBITS, zlib.MAX_WBITS):
        unpacker, inflated = zlib.decompressobj(bits), io.BytesIO()
        try:
            for position in range(start, source.size, PACKED_AT_ONCE):
                packed = source.value(position, min(PACKED_AT_ONCE, source.size - position))
                for plain in _inflate_piece(unpacker, packed):
                    inflated.write(plain)
                    _check_inflated(inflated.tell(), source.size - start, limits)
                if unpacker.eof:
                    return inflated.getvalue(), None
        except zlib.error:
            continue
        return inflated.getvalue(), BadDataset("the deflated data set has no end", code="truncated")
    raise BadDataset("the data set is not deflated as the file meta information says")


def _inflate_piece(unpacker: zlib._Decompress, packed: bytes) -> Iterator[bytes]:
    """Yield what a piece inflates to."""
    full = True
    while (packed or full) and not unpacker.eof:
        plain = unpacker.decompress(packed, INFLATED_AT_ONCE)
        yield plain
        # Bytes may be left inside the unpacker when it filled all that it was given.
        packed, full = unpacker.unconsumed_tail, len(plain) == INFLATED_AT_ONCE


def _check_inflated(inflated: int, packed: int, limits: DatasetLimits) -> None:
    """Raise LimitExceeded if so many bytes are too much, or too much for what they are packed in."""
    most, ratio = limits.inflated_bytes, limits.inflated_ratio
    if inflated > most:
        raise LimitExceeded(f"the data set inflates to more than limits.inflated_bytes ({most})")
    if inflated > max(RATIO_FROM, ratio * packed):
        raise LimitExceeded(f"the data set inflates by more than limits.inflated_ratio ({ratio})")


def _elements(source: Source, nodes: list[Node], little: bool) -> dict[BaseTag, DataElement | RawDataElement]:
    """Return the elements as pydicom keeps them until they are asked for."""
    elements: dict[BaseTag, DataElement | RawDataElement] = {}
    for node in nodes:
        deferred = node.length > (DEFERRED_SEQUENCE if node.vr == "SQ" else DEFERRED)
        # pydicom reads a deferred value only if it meets the same VR again.
        vr = "SQ" if node.vr == "SQ" else node.written if deferred or not node.written else node.vr
        length = UNDEFINED if node.undefined else node.length
        value = None if deferred else source.value(node.offset, node.length)
        tag = BaseTag(node.tag)
        order = little or node.swapped
        elements[tag] = RawDataElement(tag, vr, length, value, node.offset, not node.written, order)
    return elements


def text_of(dataset: Dataset, tag: int) -> str:
    """Return the text of an element without converting it, which pydicom would do for good."""
    element = dataset.get_item(tag)
    value = element.value if isinstance(element, RawDataElement) else None
    return (value or b"").decode("latin-1").strip(" \0")
