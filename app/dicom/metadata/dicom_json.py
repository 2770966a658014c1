"""Convert a data set to DICOM JSON (PS3.18 Annex F).

The document contains the data set only, like the response of a DICOMweb server; group 0002 belongs to the
file and is left out. The row has it, in an object of its own named `FileMetaInformation`.

Numbers: IS and DS become JSON numbers if a double holds their decimal value exactly, otherwise text. A value
that is invalid for its VR stays text, unchanged, and gives a warning. Binary values whose length is not a
multiple of their VR's size become UN. Bulk data become a BulkDataURI (PS3.18 F.2.2). So do text and numbers
above the threshold once 64 MiB of them are in the document, which bounds the memory for one object.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from operator import itemgetter
from sys import maxsize
from typing import Any, cast

import orjson
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element

from app.dicom.metadata.element_rules import form, key
from app.dicom.metadata.values import SIZES, Reading, to_little
from app.dicom.read.byte_reader import Source
from app.dicom.read.charset import Charset, charset
from app.dicom.read.collector import collector_paused
from app.dicom.read.nesting import Node
from app.dicom.read.scanner import Scanner
from app.model.errors import BadDataset, permanent
from app.model.options import DatasetLimits
from app.model.values import DatasetWarning

Element = DataElement | RawDataElement

SPECIFIC_CHARACTER_SET, PIXEL_REPRESENTATION = 0x00080005, 0x00280103
UTF8 = {"vr": "CS", "Value": ["ISO_IR 192"]}
MAX_LONG_BYTES = 64 << 20
"""Maximum total bytes of text and numbers above the threshold; further ones are left in the object."""
MAX_CACHED = 1 << 14
"""Maximum entries in the cache of `_Walker`."""
NOTHING = [None]
TAG = itemgetter(0)
UNLIMITED = DatasetLimits(depth=maxsize, elements=maxsize, fragments=maxsize)
"""For bytes encoded here: their contents were checked against the limits when they were read."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """A data set and its file meta information as in PS3.18 Annex F, and warnings for invalid values."""

    dataset: Mapping[str, Any]
    file_meta: Mapping[str, Any]
    warnings: tuple[DatasetWarning, ...]


def to_metadata(dataset: Dataset, source: str = "", bulk_threshold: int = 1024) -> Metadata:
    """Convert a data set to JSON values.

    Parameters
    ----------
    dataset : as read, or changed since; only unchanged values have a position in the object
    source : address of the object, percent-encoded; a BulkDataURI is this plus `#offset=..&length=..`
    bulk_threshold : bytes; longer binary values become a BulkDataURI, pixel data of any length do

    Raises
    ------
    BadDataset : an element that was changed cannot be written

    References
    ----------
    PS3.18 F.2 (DICOM JSON Model)
    """
    with permanent(BadDataset), collector_paused():
        walker = _Walker(source, bulk_threshold)
        meta = walker.root(getattr(dataset, "file_meta", None) or Dataset(), {})
        walker.located = not getattr(dataset, "deflated", False)
        found = walker.root(dataset, getattr(dataset, "nodes", {}))
        for tag, code in getattr(dataset, "faults", ()):
            walker.reading.warn_of(tag, code)
        return Metadata(found, meta, walker.reading.found())


def to_document(metadata: Metadata) -> bytes:
    """Return the JSON text of the data set, UTF-8."""
    return orjson.dumps(metadata.dataset)


class _Walker:
    """Converts elements to JSON values; `data` holds the bytes of the object from `base` on.

    deferred: the bytes instead, for an element that was left in the object. located: a position in `data` is
    one in the object. depth: number of items around the current element. cache: entries of elements inside
    items, because the items of a multi-frame image repeat most of them.
    """

    def __init__(self, source: str, threshold: int) -> None:
        self.source, self.threshold = source, threshold
        self.reading = Reading(little=True)
        self.signed, self.located = False, True
        self.data, self.base = b"", 0
        self.deferred: Source | None = None
        self.long_bytes_left, self.depth = MAX_LONG_BYTES, 0
        self.cache: dict[tuple[int, str, bytes], dict[str, Any]] = {}

    def root(self, dataset: Dataset, nodes: Mapping[int, Node]) -> dict[str, Any]:
        """Convert a whole data set, its elements in ascending order."""
        encoding = dataset.original_encoding
        self.reading.little = encoding[1] is not False
        elements = {int(tag): element for tag, element in dataset.items() if tag & 0xFFFF}
        self.reading.tag = SPECIFIC_CHARACTER_SET
        self.set_charset(_raw_value(elements.get(SPECIFIC_CHARACTER_SET)))
        self.set_signed(_raw_value(elements.get(PIXEL_REPRESENTATION)))
        found = {}
        for tag in sorted(elements):
            element, node = elements[tag], nodes.get(tag)
            if node is not None and isinstance(element, RawDataElement) and element.value is not None:
                self.data, self.base = element.value, node.offset
                found[key(tag)] = self.entry(node)
            else:
                found[key(tag)] = self.element(element, node, dataset)
        return found

    def element(self, element: Element, node: Node | None, dataset: Dataset) -> dict[str, Any]:
        """Convert one element of the top level: from its bytes, or by encoding it if it was changed."""
        if not isinstance(element, RawDataElement):
            return self.written(element)
        node = node or _leaf(element)
        if node is None:
            return self.written(dataset[element.tag])
        if element.value is None:
            self.deferred = Source(cast(Any, dataset).buffer, node.offset + node.length)
        else:
            self.data, self.base = element.value, node.offset
        found = self.entry(node)
        self.deferred = None
        return found

    def written(self, element: DataElement) -> dict[str, Any]:
        """Convert an element changed since it was read: encode it, then convert the bytes."""
        buffer = DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, False
        write_data_element(buffer, element, ["utf8"])
        data = buffer.getvalue()
        before = self.reading.little, self.reading.charset, self.located
        self.reading.little, self.reading.charset, self.located = True, Charset(("utf-8",)), False
        self.data, self.base = data, 0
        source = Source(BytesIO(data), len(data), data)
        nodes = Scanner(source, little=True, limits=UNLIMITED).scan(0, len(data), implicit=False)
        found = self.entry(nodes[0])
        self.reading.little, self.reading.charset, self.located = before
        return found

    def item(self, nodes: list[Node]) -> dict[str, Any]:
        """Convert one item of a sequence; its own character set applies inside it."""
        outer, signed = self.reading.charset, self.signed
        self.depth += 1
        found: dict[str, Any] = {}
        for node in sorted(nodes, key=TAG):  # a stable sort, so the last of a repeated tag counts
            tag = node.tag
            if tag == SPECIFIC_CHARACTER_SET:
                self.reading.tag = tag
                self.set_charset(self.raw(node))
            elif tag == PIXEL_REPRESENTATION:
                self.set_signed(self.raw(node))
            if tag & 0xFFFF:
                name = key(tag)
                if name in found:
                    self.reading.warn_of(tag, "duplicate_tag")
                found[name] = self.entry(node)
        if self.reading.charset is not outer:
            self.cache.clear()
        self.reading.charset, self.signed = outer, signed
        self.depth -= 1
        return found

    def entry(self, node: Node) -> dict[str, Any]:
        """Return the JSON object for one element."""
        tag, vr, offset, length, written, _, items, _, swapped = node
        if swapped:
            return self.little_entry(node)
        if tag == SPECIFIC_CHARACTER_SET:
            return UTF8
        if len(vr) > 2:
            vr = self.resolve_vr(vr, node)
        if vr == "SQ":
            if items and written is not None and form(tag, vr).mismatch:
                self.reading.warn_of(tag, "vr_mismatch")
            return {"vr": vr, "Value": [self.item(item) for item in items]} if items else {"vr": vr}
        if not length:
            return {"vr": vr}
        reading = self.reading
        reading.tag = tag
        convert, size, mismatch, binary, bulk = form(tag, vr)
        if mismatch and written is not None:
            reading.warn("vr_mismatch")
        if bulk or (length > self.threshold and (binary or self.exceeds_long_bytes(length))):
            return {"vr": vr, "BulkDataURI": self.uri(node)}
        at = offset - self.base
        raw = self.data[at : at + length] if self.deferred is None else self.deferred.value(offset, length)
        if self.depth and (found := self.cache.get((tag, vr, raw))):
            return found
        if convert is None or len(raw) % size:
            return self.inline(vr, raw)
        values = convert(vr, raw, reading)
        found = {"vr": vr, "Value": values} if values != NOTHING else {"vr": vr}
        if self.depth and len(self.cache) < MAX_CACHED:
            self.cache[tag, vr, raw] = found
        return found

    def little_entry(self, node: Node) -> dict[str, Any]:
        """Convert a little endian element of a big endian data set (PS3.5 6.2.2)."""
        self.reading.little = True
        self.cache.clear()
        found = self.entry(node._replace(swapped=False))
        self.reading.little = False
        self.cache.clear()
        return found

    def raw(self, node: Node) -> bytes:
        """Return the raw bytes of a value."""
        if self.deferred is not None:
            return self.deferred.value(node.offset, node.length)
        at = node.offset - self.base
        return self.data[at : at + node.length]

    def exceeds_long_bytes(self, length: int) -> bool:
        """Count a long value; return whether it exceeds the maximum for the document."""
        self.long_bytes_left -= length
        return self.long_bytes_left < 0

    def inline(self, vr: str, raw: bytes) -> dict[str, Any]:
        """Return a binary value in base64, as UN if its length does not fit its VR."""
        if vr in SIZES:
            self.reading.warn("invalid_length")
            vr = "UN"
        raw = to_little(vr, raw, self.reading)
        return {"vr": vr, "InlineBinary": b2a_base64(raw, newline=False).decode()}

    def uri(self, node: Node) -> str:
        """Return a BulkDataURI; without a position if the object does not hold the value as it is."""
        return f"{self.source}#offset={node.offset}&length={node.length}" if self.located else self.source

    def resolve_vr(self, vr: str, node: Node) -> str:
        """Resolve an ambiguous VR of the dictionary, such as `US or SS` (PS3.5 A.1, A.2)."""
        if "OB" in vr:
            return "OB" if node.undefined else "OW"
        if "OW" in vr:
            return "OW"
        return "SS" if self.signed else "US"

    def set_charset(self, value: bytes | None) -> None:
        """Apply the character set of a data set or item."""
        if value is not None:
            self.cache.clear()
            self.reading.charset = charset(value)
            if not self.reading.charset.known:
                self.reading.warn("unknown_charset")

    def set_signed(self, value: bytes | None) -> None:
        """Apply the pixel representation of a data set or item."""
        if value:
            self.signed = value[:2] in (b"\1", b"\1\0", b"\0\1")  # in either byte order


def _leaf(element: RawDataElement) -> Node | None:
    """Return a node for a raw element that was not scanned, None if its VR must be looked up first."""
    if element.VR in (None, "SQ", "UN") or element.value is None:
        return None
    return Node(element.tag, element.VR, element.value_tell, len(element.value), element.VR)


def _raw_value(element: Element | None) -> bytes | None:
    """Return the bytes of Specific Character Set or Pixel Representation, changed or not."""
    if element is None or isinstance(element, RawDataElement):
        return element.value if element is not None else None
    value = element.value
    if isinstance(value, int):
        return value.to_bytes(2, "little" if value <= 255 else "big")
    values = [value] if isinstance(value, str) else list(cast(Sequence[str], value or []))
    return "\\".join(values).encode()
