"""A data set as DICOM JSON (PS3.18 Annex F), and as the simpler JSON of a row.

The document is the data set and nothing else, as a DICOMweb server gives it: group 0002 belongs to the file
and is left out there. The row keeps it, in an object of its own named `FileMetaInformation`.

Numbers: IS and DS become JSON numbers where a double holds exactly their decimal value, else they stay text.
A value that is not valid for its VR stays text, word for word, and gives a warning. Binary values that do not
divide into numbers of their VR become UN. Bulk data are a BulkDataURI, and so are all long values past 64 MiB
of them, texts and numbers too (PS3.18 F.2.2): what one object takes in memory stays bounded.
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
MAX_LONG = 64 << 20
"""Bytes that the values longer than the threshold may have in all; what comes then is left in the object."""
MAX_ALIKE = 1 << 14
"""Entries that are kept, to be found again in further items."""
NOTHING = [None]
TAG = itemgetter(0)
WRITTEN = DatasetLimits(depth=maxsize, elements=maxsize, fragments=maxsize)
"""For bytes that we wrote ourselves: what is in them was within the limits when it was read."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """A data set and its file meta information in the shape of PS3.18 Annex F, and what is not valid."""

    dataset: Mapping[str, Any]
    file_meta: Mapping[str, Any]
    warnings: tuple[DatasetWarning, ...]


def to_metadata(dataset: Dataset, source: str = "", bulk_threshold: int = 1024) -> Metadata:
    """Return what a data set says, as JSON values.

    Parameters
    ----------
    dataset : as read, or changed since; only values that were not changed know their place in the object
    source : address of the object, percent-encoded; a BulkDataURI is that and `#offset=..&length=..`
    bulk_threshold : bytes; longer binary values become a BulkDataURI, and pixel data of any length do

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
    """Turns elements into JSON values; `data` holds the bytes of the object from `base` on.

    Of an element that was not read they are in `left`. long: bytes that further long values may have. depth:
    how many items the element at hand lies in. alike: entries inside of items; those of frames hardly differ.
    """

    def __init__(self, source: str, threshold: int) -> None:
        self.source, self.threshold = source, threshold
        self.reading = Reading(little=True)
        self.signed, self.located = False, True
        self.data, self.base = b"", 0
        self.left: Source | None = None
        self.long, self.depth = MAX_LONG, 0
        self.alike: dict[tuple[int, str, bytes], dict[str, Any]] = {}

    def root(self, dataset: Dataset, nodes: Mapping[int, Node]) -> dict[str, Any]:
        """Return a whole data set, its elements in ascending order."""
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
        """Return one element of the data set itself: from its bytes, or written anew where it was changed."""
        if not isinstance(element, RawDataElement):
            return self.written(element)
        node = node or _leaf(element)
        if node is None:
            return self.written(dataset[element.tag])
        if element.value is None:
            self.left = Source(cast(Any, dataset).buffer, node.offset + node.length)
        else:
            self.data, self.base = element.value, node.offset
        found = self.entry(node)
        self.left = None
        return found

    def written(self, element: DataElement) -> dict[str, Any]:
        """Return an element that is not as it was read, by way of its bytes."""
        buffer = DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, False
        write_data_element(buffer, element, ["utf8"])
        data = buffer.getvalue()
        before = self.reading.little, self.reading.charset, self.located
        self.reading.little, self.reading.charset, self.located = True, Charset(("utf-8",)), False
        self.data, self.base = data, 0
        source = Source(BytesIO(data), len(data), data)
        nodes = Scanner(source, little=True, limits=WRITTEN).scan(0, len(data), implicit=False)
        found = self.entry(nodes[0])
        self.reading.little, self.reading.charset, self.located = before
        return found

    def item(self, nodes: list[Node]) -> dict[str, Any]:
        """Return one item of a sequence; its own character set holds inside it."""
        outer, signed = self.reading.charset, self.signed
        self.depth += 1
        found: dict[str, Any] = {}
        for node in sorted(nodes, key=TAG):  # stable: of one tag the last counts
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
            self.alike.clear()
        self.reading.charset, self.signed = outer, signed
        self.depth -= 1
        return found

    def entry(self, node: Node) -> dict[str, Any]:
        """Return the JSON object of one element."""
        tag, vr, offset, length, written, _, items, _, swapped = node
        if swapped:
            return self.little_entry(node)
        if tag == SPECIFIC_CHARACTER_SET:
            return UTF8
        if len(vr) > 2:
            vr = self.one_of(vr, node)
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
        if bulk or (length > self.threshold and (binary or self.is_too_much(length))):
            return {"vr": vr, "BulkDataURI": self.uri(node)}
        at = offset - self.base
        raw = self.data[at : at + length] if self.left is None else self.left.value(offset, length)
        if self.depth and (found := self.alike.get((tag, vr, raw))):
            return found
        if convert is None or len(raw) % size:
            return self.inline(vr, raw)
        values = convert(vr, raw, reading)
        found = {"vr": vr, "Value": values} if values != NOTHING else {"vr": vr}
        if self.depth and len(self.alike) < MAX_ALIKE:
            self.alike[tag, vr, raw] = found
        return found

    def little_entry(self, node: Node) -> dict[str, Any]:
        """Return an element of a big endian data set that is little endian (PS3.5 6.2.2)."""
        self.reading.little = True
        self.alike.clear()
        found = self.entry(node._replace(swapped=False))
        self.reading.little = False
        self.alike.clear()
        return found

    def raw(self, node: Node) -> bytes:
        """Return the bytes of a value."""
        if self.left is not None:
            return self.left.value(node.offset, node.length)
        at = node.offset - self.base
        return self.data[at : at + node.length]

    def is_too_much(self, length: int) -> bool:
        """Count a long value, and say whether there is no room for it."""
        self.long -= length
        return self.long < 0

    def inline(self, vr: str, raw: bytes) -> dict[str, Any]:
        """Return a binary value in base64."""
        if vr in SIZES:
            self.reading.warn("invalid_length")
            vr = "UN"
        raw = to_little(vr, raw, self.reading)
        return {"vr": vr, "InlineBinary": b2a_base64(raw, newline=False).decode()}

    def uri(self, node: Node) -> str:
        """Return where the value lies in the object; of one that has no place there only which object."""
        return f"{self.source}#offset={node.offset}&length={node.length}" if self.located else self.source

    def one_of(self, vr: str, node: Node) -> str:
        """Settle a VR that the dictionary leaves open, such as `US or SS` (PS3.5 A.1, A.2)."""
        if "OB" in vr:
            return "OB" if node.undefined else "OW"
        if "OW" in vr:
            return "OW"
        return "SS" if self.signed else "US"

    def set_charset(self, value: bytes | None) -> None:
        """Take over the character set of a data set or item."""
        if value is not None:
            self.alike.clear()
            self.reading.charset = charset(value)
            if not self.reading.charset.known:
                self.reading.warn("unknown_charset")

    def set_signed(self, value: bytes | None) -> None:
        """Take over the pixel representation of a data set or item."""
        if value:
            self.signed = value[:2] in (b"\1", b"\1\0", b"\0\1")  # in either byte order


def _leaf(element: RawDataElement) -> Node | None:
    """Return where the value of a raw element is that was not scanned, None if its VR must be found first."""
    if element.VR in (None, "SQ", "UN") or element.value is None:
        return None
    return Node(element.tag, element.VR, element.value_tell, len(element.value), element.VR)


def _raw_value(element: Element | None) -> bytes | None:
    """Return the bytes of a short element that decides how others are read."""
    if element is None or isinstance(element, RawDataElement):
        return element.value if element is not None else None
    value = element.value
    if isinstance(value, int):
        return value.to_bytes(2, "little" if value <= 255 else "big")
    values = [value] if isinstance(value, str) else list(cast(Sequence[str], value or []))
    return "\\".join(values).encode()
