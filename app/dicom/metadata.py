"""A data set as DICOM JSON (PS3.18 Annex F), and as the simpler JSON of a row.

The document is the data set and nothing else, as a DICOMweb server gives it: group 0002 belongs to the file
and is left out there. The row keeps it, in an object of its own named `FileMetaInformation`.

Numbers: IS and DS become JSON numbers where a double holds exactly their decimal value, else they stay text.
A value that is not valid for its VR stays text, word for word, and gives a warning. Binary values that do not
divide into numbers of their VR become UN.
"""

from __future__ import annotations

import gc
from binascii import b2a_base64
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import Any, NamedTuple, cast

import orjson
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element

from app.dicom.charset import Charset, charset
from app.dicom.elements import Node, Scanner, Source, public_vr
from app.dicom.json_values import BINARY, CONVERTERS, SIZES, Converter, Reading, to_little
from app.errors import BadDataset, permanent
from app.types import DatasetWarning

Element = DataElement | RawDataElement

SPECIFIC_CHARACTER_SET, PIXEL_REPRESENTATION = 0x00080005, 0x00280103
UTF8 = {"vr": "CS", "Value": ["ISO_IR 192"]}
BULK = {0x7FE00008, 0x7FE00009, 0x7FE00010, 0x00420011, 0x54001010, 0x56000020}
"""Float, double and integer pixel data, encapsulated document, waveform data, spectroscopy data."""
REPEATED_BULK = {0x60003000, 0x50003000, 0x5000200C}
"""Overlay data, curve data, audio sample data: in the groups 60xx and 50xx."""
KINDS = {
    **dict.fromkeys(("US", "SS", "UL", "SL", "UV", "SV"), "integers"),
    **dict.fromkeys(("FL", "FD"), "floats"),
    **dict.fromkeys(("OB", "OD", "OF", "OL", "OV", "OW"), "bytes"),
    **dict.fromkeys(("SQ", "AT"), "structure"),
}


class Form(NamedTuple):
    """How elements of one tag and VR become JSON.

    size: bytes of one value. mismatch: the dictionary has another kind of value. binary: never text or
    numbers. bulk: left in the object whatever its length.
    """

    convert: Converter | None
    size: int
    mismatch: bool
    binary: bool
    bulk: bool

    def is_bulk(self, length: int, threshold: int) -> bool:
        """Say whether a value of this length in bytes stays in the object."""
        return self.bulk or (self.binary and length > threshold)


@lru_cache(maxsize=1 << 16)
def form(tag: int, vr: str) -> Form:
    """Return how elements of a tag and VR become JSON."""
    public, expected = not tag & 0x10000, public_vr(tag)
    known = vr not in expected and "UN" not in (vr, expected)
    kinds = {KINDS.get(one, "text") for one in expected.split(" or ")}
    bulk = tag in BULK or (public and tag & 0xFF00FFFF in REPEATED_BULK)
    return Form(
        convert=CONVERTERS.get(vr),
        size=SIZES.get(vr, 1),
        mismatch=public and known and KINDS.get(vr, "text") not in kinds,
        binary=bulk or vr in BINARY or "OW" in vr,
        bulk=bulk,
    )


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
    with permanent(BadDataset), _collector_paused():
        walker = _Walker(source, bulk_threshold)
        meta = walker.root(getattr(dataset, "file_meta", None) or Dataset(), {})
        walker.located = not getattr(dataset, "deflated", False)
        found = walker.root(dataset, getattr(dataset, "nodes", {}))
        for tag in getattr(dataset, "duplicates", ()):
            walker.reading.warn_of(tag, "duplicate_tag")
        return Metadata(found, meta, walker.reading.found())


def to_document(metadata: Metadata) -> bytes:
    """Return the JSON text of the data set, UTF-8."""
    return orjson.dumps(metadata.dataset)


@contextmanager
def _collector_paused() -> Iterator[None]:
    # A data set of many items makes the collector run again and again over objects that are all alive.
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Walker:
    """Turns elements into JSON values; `data` holds the bytes of the object from `base` on."""

    def __init__(self, source: str, threshold: int) -> None:
        self.source, self.threshold = source, threshold
        self.reading = Reading(little=True)
        self.signed, self.located = False, True
        self.data, self.base = b"", 0

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
                found[f"{tag:08X}"] = self.entry(node)
            else:
                found[f"{tag:08X}"] = self.element(element, node, dataset)
        return found

    def element(self, element: Element, node: Node | None, dataset: Dataset) -> dict[str, Any]:
        """Return one element of the data set itself: from its bytes, or written anew where it was changed."""
        if not isinstance(element, RawDataElement):
            return self.written(element)
        node = node or _leaf(element)
        if node is None:
            return self.written(dataset[element.tag])
        self.data, self.base = element.value or b"", node.offset
        if element.value is None and not form(node.tag, node.vr).is_bulk(node.length, self.threshold):
            self.data = _deferred(dataset, node)
        return self.entry(node)

    def written(self, element: DataElement) -> dict[str, Any]:
        """Return an element that is not as it was read, by way of its bytes."""
        buffer = DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, False
        write_data_element(buffer, element, ["utf8"])
        data = buffer.getvalue()
        before = self.reading.little, self.reading.charset, self.located
        self.reading.little, self.reading.charset, self.located = True, Charset(("utf-8",)), False
        self.data, self.base = data, 0
        nodes = Scanner(Source(BytesIO(data), len(data), data), little=True).scan(
            0, len(data), implicit=False
        )
        found = self.entry(nodes[0])
        self.reading.little, self.reading.charset, self.located = before
        return found

    def item(self, nodes: list[Node]) -> dict[str, Any]:
        """Return one item of a sequence; its own character set holds inside it."""
        outer, signed = self.reading.charset, self.signed
        found: dict[str, Any] = {}
        for node in sorted(nodes):
            tag = node.tag
            if tag == SPECIFIC_CHARACTER_SET:
                self.reading.tag = tag
                self.set_charset(self.raw(node))
            elif tag == PIXEL_REPRESENTATION:
                self.set_signed(self.raw(node))
            if tag & 0xFFFF:
                key = f"{tag:08X}"
                if key in found:
                    self.reading.warn_of(tag, "duplicate_tag")
                found[key] = self.entry(node)
        self.reading.charset, self.signed = outer, signed
        return found

    def entry(self, node: Node) -> dict[str, Any]:
        """Return the JSON object of one element."""
        tag, vr, offset, length, written, _, items = node
        if tag == SPECIFIC_CHARACTER_SET:
            return UTF8
        if len(vr) > 2:
            vr = self.one_of(vr, node)
        if vr == "SQ":
            return {"vr": vr, "Value": [self.item(item) for item in items]} if items else {"vr": vr}
        if not length:
            return {"vr": vr}
        self.reading.tag = tag
        how = form(tag, vr)
        if how.mismatch and written is not None:
            self.reading.warn("vr_mismatch")
        if how.binary and how.is_bulk(length, self.threshold):
            return {"vr": vr, "BulkDataURI": self.uri(node)}
        at = offset - self.base
        raw = self.data[at : at + length]
        if how.convert is None or len(raw) % how.size:
            return self.inline(vr, raw)
        values = how.convert(vr, raw, self.reading)
        return {"vr": vr, "Value": values} if values != [None] else {"vr": vr}

    def raw(self, node: Node) -> bytes:
        """Return the bytes of a value."""
        at = node.offset - self.base
        return self.data[at : at + node.length]

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
            self.reading.charset = charset(value)
            if not self.reading.charset.known:
                self.reading.warn("unknown_charset")

    def set_signed(self, value: bytes | None) -> None:
        """Take over the pixel representation of a data set or item."""
        if value:
            self.signed = value[0 if self.reading.little else -1] == 1


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


def _deferred(dataset: Dataset, node: Node) -> bytes:
    """Read a value that was left in the object."""
    buffer = cast(Any, dataset).buffer
    buffer.seek(node.offset)
    data: bytes = buffer.read(node.length)
    return data
