"""Is a file clean? An independent reader, pydicom, goes through what was written and reports what is left.

It shares no code with the cleaner: neither the scanner nor the walk. Findings name places, not values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from pydicom import dcmread
from pydicom._uid_dict import UID_dictionary
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from app.dicom.deidentify.actions import (
    BINARY,
    CODE,
    DATES,
    DUMMIES,
    DUMMY_OF,
    MEANING,
    PATIENT_ID,
    PATIENT_NAME,
    SCHEME,
    SCHEMES,
    STAMPED,
    STRINGS,
)
from app.dicom.deidentify.profile import Profile
from app.dicom.deidentify.sweep import GLUED, STANDARD_UIDS, Known
from app.dicom.deidentify.table import SAFE_PRIVATE, VOCABULARY, is_plane
from app.model.errors import BadDataset, permanent
from app.model.keys import is_replacement

PSEUDONYM_LENGTH = 16
MAX_READ = 16 << 20
"""Values up to this size are read at once; longer ones only when they are checked."""
MAX_SEARCHED = 1 << 20
"""Bytes of a binary value that are searched for text; pixel data are checked as pictures."""
STAMPS = (0x00120062, 0x00120063, 0x00120064)
FILE_META = frozenset((0x00020000, 0x00020001, 0x00020002, 0x00020003, 0x00020010, 0x00020012, 0x00020013))
PIXEL_DATA = (0x7FE00008, 0x7FE00009, 0x7FE00010)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a clean file would not have. tag: eight hex digits; code: what is wrong with it.

    known_identifier   an identifier or date of the original stands in a text, or in the file's bytes
    to_remove          an attribute that the profile removes
    to_empty           an attribute that the profile empties has a value
    to_replace         an attribute whose value the profile replaces has one that is no dummy
    original_uid       a UID that was not made from a key
    private            a private attribute that the profile does not keep
    hidden             a preamble, file meta information, overlay or padding that may hold anything
    not_stamped        the object does not say that it was de-identified
    """

    tag: str
    code: str


def findings(stream: BinaryIO, profile: Profile, known: Known | None = None) -> tuple[Finding, ...]:
    """Return what is left in a file that should be clean by a profile, in the order of the file.

    Parameters
    ----------
    stream : the file; its pixel data are not read
    known : identifiers of the original, where it is at hand

    Raises
    ------
    BadDataset : pydicom cannot read it
    """
    with permanent(BadDataset):
        dataset = dcmread(_Stream(stream), force=True, defer_size=MAX_READ)
        return tuple(dict.fromkeys(_Checker(profile, known or Known()).file(dataset, stream)))


class _Stream:
    """A stream that pydicom accepts as it is: it would try to reopen the file of a BufferedReader."""

    def __init__(self, stream: BinaryIO) -> None:
        self.read, self.seek, self.tell = stream.read, stream.seek, stream.tell


class _Checker:
    def __init__(self, profile: Profile, known: Known) -> None:
        self.profile, self.known = profile, known
        self.actions = profile.actions()
        self.keeps_uids = "uids" in profile.options
        self.in_binary = [name.encode() for name in self.known.names if len(name) >= GLUED]
        self.in_file = [name.encode() for name in self.known.patient if _is_distinct(name)]

    def file(self, dataset: Dataset, stream: BinaryIO) -> Iterator[Finding]:
        if getattr(dataset, "preamble", None) and dataset.preamble.strip(b"\0"):
            yield Finding("00000000", "hidden")
        for element in getattr(dataset, "file_meta", None) or ():
            if element.tag not in FILE_META:
                yield Finding(f"{element.tag:08X}", "hidden")
        for tag in STAMPS:
            if tag not in dataset or not dataset[tag].value:
                yield Finding(f"{tag:08X}", "not_stamped")
        yield from self.elements(dataset, nested=False)
        pixels = dataset.get_item(PIXEL_DATA[2], keep_deferred=True) if PIXEL_DATA[2] in dataset else None
        if self.stands_in(stream, pixels.value_tell if isinstance(pixels, RawDataElement) else None):
            yield Finding("00000000", "known_identifier")

    def stands_in(self, stream: BinaryIO, end: int | None) -> bool:
        """Return whether an identifier stands in the bytes of a file up to its pixel data."""
        overlap = max(map(len, self.in_file), default=0)
        before = b""
        stream.seek(0)
        while self.in_file:
            left = MAX_READ if end is None else min(MAX_READ, end - stream.tell())
            data = before + stream.read(left).lower()
            if any(name in data for name in self.in_file):
                return True
            if len(data) == len(before):
                break
            before = data[-overlap:]
        return False

    def elements(self, dataset: Dataset, nested: bool) -> Iterator[Finding]:
        public = nested and SCHEME in dataset and str(dataset[SCHEME].value).upper() in SCHEMES
        codes = CODE | {MEANING} if public else CODE
        for tag in sorted(dataset.keys()):
            if tag in PIXEL_DATA or tag in STAMPED:
                continue
            element = dataset[tag]
            place = f"{element.tag:08X}"
            yield from (Finding(place, fault) for fault in self.faults(element, codes))
            if element.VR == "SQ":
                for item in element.value or ():
                    yield from self.elements(item, nested=True)

    def faults(self, element: DataElement, codes: frozenset[int]) -> Iterator[str]:
        tag = int(element.tag)
        if element.tag.is_private:
            if not element.tag.is_private_creator and not self.keeps(element):
                yield "private"
        elif is_plane(tag) or element.tag.group == 0xFFFC or element.tag.group < 8:
            yield "hidden"
        elif element.VR == "UI":
            if (
                not self.keeps_uids
                and self.actions.get(tag) != "K"
                and not all(map(_is_fresh, _values(element)))
            ):
                yield "original_uid"
        elif element.VR != "SQ" and element.value not in (None, "", b"") and not element.is_empty:
            yield from self.listed(element, self.actions.get(tag, ""))
        if element.VR in STRINGS or element.VR == "CS":
            days = element.VR != "CS" and tag not in CODE
            as_code = not days or tag in codes
            if any(self.known.spans(str(value), as_code, days) for value in _values(element)):
                yield "known_identifier"
        elif element.VR in BINARY and isinstance(element.value, bytes) and len(element.value) <= MAX_SEARCHED:
            lower = element.value.lower()
            if any(name in lower for name in self.in_binary):
                yield "known_identifier"

    def listed(self, element: DataElement, action: str) -> Iterator[str]:
        """Yield the fault of an element with a value, by the action for it."""
        tag = int(element.tag)
        if tag in (PATIENT_ID, PATIENT_NAME) and action not in ("K", "C"):
            if not _is_pseudonym(str(element.value)):
                yield "to_replace"
        elif action in ("K", "C") or (not action and (element.VR not in DATES or self.profile.dates != "X")):
            return
        elif not action or not self.is_dummy(element):
            yield {"X": "to_remove", "Z": "to_empty"}.get(action, "to_replace" if action else "to_remove")

    def is_dummy(self, element: DataElement) -> bool:
        """Return whether a value is a dummy, which every action may leave."""
        dummy = DUMMY_OF.get(int(element.tag)) or DUMMIES.get(element.VR, b"")
        if isinstance(element.value, bytes):
            return element.value.strip(b"\0") == dummy.strip(b"\0")
        if isinstance(element.value, int | float):
            return not element.value or str(element.value).encode() == dummy
        return all(str(value).encode() in (dummy, b"") for value in _values(element))

    def keeps(self, element: DataElement) -> bool:
        attribute = (element.private_creator or "", element.tag.group, element.tag.element & 0xFF)
        safe = "safe_private" in self.profile.options and attribute in SAFE_PRIVATE
        return self.profile.private.get(attribute, "K" if safe else "X") == "K"


def _values(element: DataElement) -> list[object]:
    if isinstance(element.value, MultiValue | list | tuple):
        return list(element.value)
    return [] if element.value is None else [element.value]


def _is_fresh(uid: object) -> bool:
    text = str(uid)
    return not text or text in UID_dictionary or text.startswith(STANDARD_UIDS) or is_replacement(text)


def _is_pseudonym(text: str) -> bool:
    rest = text[1:]
    return len(text) == PSEUDONYM_LENGTH and text[0] == "P" and rest.isalnum() and rest == rest.upper()


def _is_distinct(name: str) -> bool:
    """Return whether an identifier in the bytes of a file is unambiguous: no number, no usual word."""
    return len(name) > GLUED and not name.isdigit() and name not in VOCABULARY
