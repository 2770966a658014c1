"""Parse an object into a data set: detect the format, check it to its end, leave large values in place."""

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
"""Bytes; longer values stay in the object until they are accessed."""
DEFERRED_SEQUENCE = 16 << 20
"""The same for sequences."""
INFLATED_CHUNK, DEFLATED_CHUNK = 1 << 20, 1 << 16
RATIO_FROM = 32 << 20
"""Bytes; `limits.inflated_ratio` is checked only for data sets that inflate to more than this."""

# pydicom's warnings quote values of the data set, which must not reach a log; this package has warnings of
# its own. (app/telemetry/log.py mutes pydicom's logger.)
warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
config.settings.reading_validation_mode = config.IGNORE


class ObjectDataset(FileDataset):
    """A data set as read from an object. If a tag occurs twice, the last element counts.

    nodes: tag -> position of the value in `buffer`, and how it was read; only for elements not changed since.
    faults: tag and code of every deviation from the standard. deflated: positions refer to the inflated
    stream, not to the object.
    """

    nodes: dict[int, Node]
    faults: tuple[tuple[int, str], ...]
    deflated: bool


def read_dataset(
    content: Content, limits: DatasetLimits = DEFAULT_LIMITS, frame_offsets: bytes = b""
) -> ObjectDataset:
    """Read a complete data set.

    Values over 64 KiB and sequences over 16 MiB are deferred: their element holds None, and pydicom reads
    them from `buffer` on access. frame_offsets: Extended Offset Table of the pixel data from an earlier read;
    it replaces the scan of the fragments.

    Raises
    ------
    NotDicom : the bytes are not DICOM
    BadDataset : truncated (code `truncated`), or not encoded as PS3.5 requires
    LimitExceeded : nested too deeply, too many elements or fragments, or inflates to too many bytes

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
    """Read up to the first fatal fault; return the data set and that fault, None for an intact object.

    Raises NotDicom, BadDataset or LimitExceeded, as `read_dataset`, if no element can be read.
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
    # Refuse before building elements: for a million of them that takes hundreds of MiB.
    if fault is not None and not (nodes and may_be_broken):
        raise fault
    # Group 0002 belongs in the file meta information only (PS3.10 7.1).
    if misplaced := [(node.tag, "misplaced") for node in nodes if node.tag >> 16 == 2]:
        faults += misplaced
        nodes = [node for node in nodes if node.tag >> 16 != 2]
    # An empty stream for now: pydicom would ask ours for a file name, which not every stream has, and reopen
    # that file.
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
    """Return group 0002, the position of the data set, and the faults.

    The group length is ignored because it is often wrong. If an element occurs twice, the first counts: some
    programs prepend their own file meta information to the file's.
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
    """Return (implicit, little endian), by the first element; file meta information may be wrong."""
    big = syntax == ExplicitVRBigEndian
    if int.from_bytes(first[:2], "little" if big else "big") == 0x0008:
        big = not big  # in the declared byte order the group would be 0800, which does not exist
    explicit = first[4:6].isalpha() and first[4:6].isupper()
    return (syntax == ImplicitVRLittleEndian if len(first) < 8 else not explicit), not big


def _plausible(first: bytes, implicit: bool, little: bool) -> bool:
    """Return whether bytes without file meta information start like a data set or an ACR-NEMA message."""
    if len(first) < 8:
        return False
    group, number = unpack("<HH" if little else ">HH", first[:4])
    if group != 8:
        return False
    return first[4:6] in VRS if not implicit else public_vr(group << 16 | number) != "UN"


def _inflate(source: Source, start: int, limits: DatasetLimits) -> tuple[bytes, BadDataset | None]:
    """Inflate from `start`; return the data, as far as it goes, and the fault if the stream is truncated.

    A stream with a zlib header, which the standard does not allow, is accepted too.
    """
    for bits in (-zlib.MAX_WBITS, zlib.MAX_WBITS):
        unpacker, inflated = zlib.decompressobj(bits), io.BytesIO()
        try:
            for position in range(start, source.size, DEFLATED_CHUNK):
                packed = source.value(position, min(DEFLATED_CHUNK, source.size - position))
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
    """Inflate one chunk of input, in chunks of output."""
    full = True
    while (packed or full) and not unpacker.eof:
        plain = unpacker.decompress(packed, INFLATED_CHUNK)
        yield plain
        # After a full output chunk zlib may still hold output, even with no input left.
        packed, full = unpacker.unconsumed_tail, len(plain) == INFLATED_CHUNK


def _check_inflated(inflated: int, packed: int, limits: DatasetLimits) -> None:
    """Raise LimitExceeded if the inflated size or the ratio is over its limit."""
    most, ratio = limits.inflated_bytes, limits.inflated_ratio
    if inflated > most:
        raise LimitExceeded(f"the data set inflates to more than limits.inflated_bytes ({most})")
    if inflated > max(RATIO_FROM, ratio * packed):
        raise LimitExceeded(f"the data set inflates by more than limits.inflated_ratio ({ratio})")


def _elements(source: Source, nodes: list[Node], little: bool) -> dict[BaseTag, DataElement | RawDataElement]:
    """Return raw elements, which pydicom converts on access."""
    elements: dict[BaseTag, DataElement | RawDataElement] = {}
    for node in nodes:
        deferred = node.length > (DEFERRED_SEQUENCE if node.vr == "SQ" else DEFERRED)
        # pydicom rereads the header of a deferred value and refuses a VR other than the one written there.
        vr = "SQ" if node.vr == "SQ" else node.written if deferred or not node.written else node.vr
        length = UNDEFINED if node.undefined else node.length
        value = None if deferred else source.value(node.offset, node.length)
        tag = BaseTag(node.tag)
        order = little or node.swapped
        elements[tag] = RawDataElement(tag, vr, length, value, node.offset, not node.written, order)
    return elements


def text_of(dataset: Dataset, tag: int) -> str:
    """Return the text of an element without access through pydicom, which would replace the raw element."""
    element = dataset.get_item(tag)
    value = element.value if isinstance(element, RawDataElement) else None
    return (value or b"").decode("latin-1").strip(" \0")
