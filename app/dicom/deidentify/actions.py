"""Apply a profile to a data set: the actions X, Z, D, U, K and C for each element at every depth."""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from enum import Enum
from typing import BinaryIO, cast

from pydicom._uid_dict import UID_dictionary
from pydicom.charset import convert_encodings, encode_string

from app.dicom.deidentify import sweep
from app.dicom.deidentify.profile import Profile
from app.dicom.deidentify.stream import clean_icc
from app.dicom.deidentify.sweep import STANDARD_UIDS, Known
from app.dicom.deidentify.table import ROWS, SAFE_PRIVATE, attribute_type, is_plane, resolved
from app.dicom.metadata.values import SIZES, WORDS, turned
from app.dicom.read.byte_reader import Source
from app.dicom.read.charset import Charset, charset
from app.dicom.read.dataset import ObjectDataset
from app.dicom.read.nesting import Node
from app.dicom.read.vr import LONG, PIXELS, private_vr, public_vr
from app.dicom.write.elements import element, head, sequence, settled_vr
from app.model.keys import Keys, shifted

TEXT = frozenset(("LO", "LT", "SH", "ST", "UC", "UT"))
STRINGS = frozenset((*TEXT, "PN"))
"""VRs whose text is in the character set of the data set."""
DATES = frozenset(("DA", "DT", "TM"))
SPECIAL = frozenset((*DATES, "AE", "PN", "UI", "UR"))
"""VRs that give a value its meaning: one of them counts, whether in the file or in the dictionary."""
BINARY = frozenset(("OB", "OW", "OF", "OD", "OL", "OV"))
WORD = {**SIZES, **WORDS, "AT": 2}
NUMERALS = frozenset(("DS", "IS"))
NUMERAL = re.compile(rb"[0-9+\-.eE \\\0]*")
HARMLESS = 3
"""Maximum bytes of a broken number that may stay: too few to name anyone."""
AGE = re.compile(r"\d{1,3}[DWMY]")
OLDEST = 90
"""Age in years from which ages are not released (45 CFR 164.514(b)(2)(i)(C))."""
CHARSET, CHARSET_VR = 0x00080005, "CS"
SOP_CLASS, SOP_INSTANCE = 0x00080016, 0x00080018
CODE_VALUE, SCHEME, MEANING = 0x00080100, 0x00080102, 0x00080104
CODE = frozenset((CODE_VALUE, 0x00080119, 0x00080120, SCHEME))
"""Attributes of a code, in short, long and URN form (PS3.3 8.1)."""
CODING_SCHEME_UID = 0x0008010C
HL7_SCHEMES = "2.16.840.1.113883.6."
"""Root of the UIDs of coding schemes; they are in every object that names one (PS3.16 8)."""
SCHEMES = frozenset(
    [
        "DCM",
        "SCT",
        "SRT",
        "SNM3",
        "99SDM",
        "LN",
        "UCUM",
        "FMA",
        "RADLEX",
        "NCIT",
        "UMLS",
        "MDC",
        "IBSI",
        "I10",
        "I9C",
        "NEU",
        "BARI",
        "ITIS_TSN",
        "PUBCHEM_CID",
        "RXNORM",
        "MSH",
        "NDC",
        "ISO3166_1",
        "RFC5646",
        "DCMUID",
        "ACR",
        "BI",
    ]
)
"""Coding schemes whose codes name no person."""
PATIENT_NAME, PATIENT_ID, ICC_PROFILE = 0x00100010, 0x00100020, 0x00282000
PIXEL_REPRESENTATION = 0x00280103
OFFSET_TABLES = frozenset((0x7FE00001, 0x7FE00002, 0x7FE00003))
STAMPED = frozenset((0x00120062, 0x00120063, 0x00120064, 0x00280303))
DUMMIES = {
    **dict.fromkeys(STRINGS, b"REMOVED"),
    **{"AE": b"REMOVED", "AS": b"000Y", "CS": b"REMOVED", "DA": b"19000101", "DT": b"19000101000000"},
    **{
        "DS": b"0",
        "IS": b"0",
        "TM": b"000000",
        "UR": b"removed:",
        "OB": b"\0\0",
        "OW": b"\0\0",
        "UN": b"\0\0",
    },
    **{vr: bytes(size) for vr, size in SIZES.items()},
}
"""VR -> a valid value without information."""
DUMMY_OF = {SCHEME: b"99REMOVED", 0x04000565: b"COERCE", 0x00080201: b"+0000"}
"""The same for attributes whose values are limited."""


class Words(Enum):
    """The result of cleaning a text that the table does not list."""

    SWEPT = "known identifiers go"
    CLEANED = "words that are not in the vocabulary go too"
    REPLACED = "all of it goes, a dummy comes"


@dataclass(slots=True)
class Scope:
    """The context of the elements of one item. parent: tag of the sequence, 0 for the data set itself.

    coded: the item is a code of a public coding scheme, so its code and meaning may stay.
    """

    parent: int
    little: bool
    signed: bool
    charset: Charset
    terms: bytes
    words: Words = Words.SWEPT
    coded: bool = False
    creators: Mapping[int, str] = field(default_factory=dict)


@dataclass(slots=True)
class Cleaner:
    """Cleans the elements of one data set. counts: how often each action was applied."""

    source: Source
    profile: Profile
    keys: Keys
    known: Known
    subject: str
    sop_class: str
    counts: Counter[str] = field(default_factory=Counter)
    _actions: Mapping[int, str] = field(init=False)
    _dates: str = field(init=False)
    _days: int = field(init=False)

    def __post_init__(self) -> None:
        self._actions, self._dates = self.profile.actions(), self.profile.dates
        self._days = self.keys.days(self.subject)

    def elements(self, nodes: Iterable[Node], scope: Scope) -> list[tuple[int, bytes]]:
        """Return the elements of a data set or item that stay, as tag and bytes, in order of their tags."""
        found = {node.tag: node for node in nodes}
        if (node := found.get(CHARSET)) is not None:
            terms = self._value(node, scope).strip(b" \0")
            scope = replace(scope, charset=charset(terms), terms=terms)
        if (node := found.get(PIXEL_REPRESENTATION)) is not None:
            scope = replace(scope, signed=self._value(node, scope)[:1] == b"\1")
        scope.creators = {
            tag: self._text(found[tag], scope).strip()
            for tag in found
            if tag >> 16 & 1 and 0x10 <= tag & 0xFFFF <= 0xFF
        }
        scope.coded = scope.parent != 0 and self._is_public_code(found, scope)
        kept = []
        for tag in sorted(found):
            data = self._element(found[tag], scope)
            if data:
                kept.append((tag, data))
        used = {
            tag & 0xFFFF0000 | tag >> 8 & 0xFF for tag, _ in kept if tag >> 16 & 1 and tag & 0xFFFF > 0xFF
        }
        return [(tag, data) for tag, data in kept if not tag >> 16 & 1 or tag & 0xFFFF > 0xFF or tag in used]

    def _element(self, node: Node, scope: Scope) -> bytes:
        """Return one element in the form in which it may stay, empty if it may not."""
        tag, group = node.tag, node.tag >> 16
        if group < 8 or not tag & 0xFFFF or tag in PIXELS or tag in OFFSET_TABLES or tag in STAMPED:
            return b""
        if group & 1:
            return self._private(node, scope)
        if is_plane(tag) or group == 0xFFFC or group == 0xFFFE:
            return self._removed("removed")
        if node.undefined and node.vr != "SQ":  # an encapsulated icon
            return self._removed("removed")
        action = self._actions.get(tag)
        if action is None:
            return self._unlisted(node, scope)
        if action in ("K", "C"):
            if (kept := self._retained(node, scope, action)) is not None:
                return kept
            action = ROWS[tag].action if tag in ROWS else "X"
        return self._listed(node, scope, resolved(action, attribute_type(self.sop_class, scope.parent, tag)))

    def _listed(self, node: Node, scope: Scope, action: str) -> bytes:
        """Apply X, Z, D or U to an attribute of the table, or of an override."""
        tag = node.tag
        vr = _one_vr(node, scope)
        if action == "X":
            return self._removed("removed")
        if tag in (PATIENT_ID, PATIENT_NAME):
            self.counts["replaced"] += 1
            return element(tag, vr, self.keys.pseudonym(self.subject).encode())
        if action == "Z":
            self.counts["emptied"] += 1
            return head(tag, vr, 0)
        if vr == "SQ":
            self.counts["replaced"] += 1
            return self._sequence(node, scope, Words.REPLACED)
        if vr == "UI":
            return self._uids(node, scope)
        self.counts["replaced"] += 1
        dummy = DUMMY_OF.get(tag) or DUMMIES.get(vr)
        return b"" if dummy is None else element(tag, vr, dummy)

    def _retained(self, node: Node, scope: Scope, action: str) -> bytes | None:
        """Keep or clean an attribute of the table; None if its value cannot be cleaned."""
        vr = _one_vr(node, scope)
        if vr in DATES:
            return self._date(node, vr, scope, action)
        if vr == "SQ":
            return self._sequence(node, scope, Words.CLEANED if action == "C" else Words.SWEPT)
        if vr == "UI":
            return self._copied(node, vr, scope)
        if vr == "AS":
            return self._age(node, scope)
        if vr in TEXT or vr == "PN":
            text = self._text(node, scope)
            cleaned = self._cleaned(text) if action == "C" else self.known.remove(text)
            if text.strip() and not cleaned:
                return None
            return self._changed(node, vr, scope, text, cleaned)
        if action == "C":
            return None
        return self._copied(node, vr, scope)

    def _unlisted(self, node: Node, scope: Scope) -> bytes:
        """Return an attribute that the table does not list, by its VR (see docs/deidentification.md)."""
        tag = node.tag
        known = public_vr(tag)
        if known == "UN" or node.vr == "UN":
            return self._removed("unknown")
        vr = _one_vr(node, scope)
        meant = known if known in SPECIAL else vr
        if vr == "SQ":
            return self._sequence(node, scope, scope.words)
        if meant in DATES:
            return (
                self._date(node, vr, scope, self._dates) or b"" if vr in DATES else self._removed("removed")
            )
        if meant == "UI":
            return (
                self._copied(node, vr, scope) if "uids" in self.profile.options else self._uids(node, scope)
            )
        if meant == "PN":
            self.counts["emptied"] += 1
            return head(tag, vr, 0)
        if meant in ("UR", "AE"):
            return self._removed("removed")
        if vr in TEXT:
            return self._unlisted_text(node, vr, scope)
        if vr == "CS":
            return self._code_string(node, scope)
        if vr in NUMERALS and not self._is_numeral(node, vr, scope):
            return self._removed("unparsable")
        if vr == "AS":
            return self._age(node, scope) or b""
        if vr in SIZES and node.length % SIZES[vr]:
            return self._removed("unparsable")
        if vr in BINARY:
            return self._binary(node, vr, scope)
        return self._copied(node, vr, scope)

    def _private(self, node: Node, scope: Scope) -> bytes:
        """Return a private element that the profile keeps, swept by its VR; others are removed."""
        tag = node.tag
        creator = scope.creators.get(tag & 0xFFFF0000 | tag >> 8 & 0xFF, "")
        if 0x10 <= tag & 0xFFFF <= 0xFF:  # `elements` drops it again if nothing of its block stays
            return element(tag, "LO", self._value(node, scope).strip(b" \0")) if self._keeps_private else b""
        attribute = creator, tag >> 16, tag & 0xFF
        safe = "safe_private" in self.profile.options and attribute in SAFE_PRIVATE
        if self.profile.private.get(attribute, "K" if safe else "X") == "X":
            return self._removed("private")
        vr = private_vr(tag, creator) if node.vr == "UN" else node.vr
        vr = settled_vr(vr, scope.signed)
        if vr == "UN" and attribute in self.profile.private:
            return self._binary(node, vr, scope)
        if vr == "UN" or (vr in SIZES and node.length % SIZES[vr]):
            return self._removed("private")
        plain = node._replace(vr=vr)
        if vr == "SQ":
            return self._sequence(plain, scope, Words.REPLACED)
        if vr in DATES:
            return self._date(plain, vr, scope, self._dates) or b""
        if vr == "UI":
            return self._uids(plain, scope)
        if vr in ("PN", "AE", "UR"):
            return self._removed("private")
        if vr in TEXT or vr == "CS":
            text = self._text(plain, scope)
            return self._changed(plain, vr, scope, text, self.known.remove(text))
        if vr in NUMERALS and not self._is_numeral(plain, vr, scope):
            return self._removed("private")
        return self._binary(plain, vr, scope) if vr in BINARY else self._copied(plain, vr, scope)

    @property
    def _keeps_private(self) -> bool:
        return "safe_private" in self.profile.options or "K" in self.profile.private.values()

    def _sequence(self, node: Node, scope: Scope, words: Words) -> bytes:
        """Return a sequence, its items cleaned by the same rules."""
        if node.vr != "SQ":  # a value where items must be
            return self._removed("unparsable")
        within = replace(scope, parent=node.tag, words=words, little=scope.little or node.swapped)
        items = [
            b"".join(data for _, data in self.elements(nodes, replace(within, creators={})))
            for nodes in node.items
        ]
        return sequence(node.tag, items)

    def _unlisted_text(self, node: Node, vr: str, scope: Scope) -> bytes:
        text = self._text(node, scope)
        words = Words.SWEPT if scope.coded else scope.words
        if words is Words.REPLACED or (words is Words.CLEANED and node.tag in CODE):
            self.counts["replaced"] += 1
            return (
                element(node.tag, vr, DUMMY_OF.get(node.tag, DUMMIES[vr]))
                if text.strip(" \0")
                else head(node.tag, vr, 0)
            )
        if node.tag in CODE or (scope.coded and node.tag == MEANING):
            spans = self.known.spans(text, code=True, days=node.tag == MEANING)
            return self._changed(node, vr, scope, text, sweep.without(text, spans))
        if words is Words.CLEANED and not scope.coded:
            return self._changed(node, vr, scope, text, self._cleaned(text))
        cleaned = self.known.remove(text)
        if "uids" not in self.profile.options:
            cleaned = sweep.replace_uids(cleaned, self.keys.uid)
        return self._changed(node, vr, scope, text, cleaned)

    def _cleaned(self, text: str) -> str:
        """Return a description without identifiers, addresses, dates and unknown words."""
        text = sweep.remove_addresses(self.known.remove(text))
        return sweep.keep_known_words(text if self._dates == "K" else sweep.remove_days(text))

    def _code_string(self, node: Node, scope: Scope) -> bytes:
        raw = self._value(node, scope)
        text = raw.decode("latin-1").strip(" \0")
        parts = text.split("\\")
        kept = ["" if self.known.spans(part, code=True, days=False) else part for part in parts]
        if kept == parts:
            return element(node.tag, "CS", raw)
        self.counts["swept"] += 1
        return element(node.tag, "CS", "\\".join(kept).encode("latin-1"))

    def _uids(self, node: Node, scope: Scope) -> bytes:
        """Return UIDs, each replaced unless the standard defines it."""
        values = [part.strip(" \0") for part in self._value(node, scope).decode("latin-1").split("\\")]
        if node.tag == SOP_CLASS:
            return element(node.tag, "UI", values[0].encode("latin-1"))
        self.counts["uids"] += 1
        others = [self.replaced_uid(node.tag, uid) for uid in values]
        return element(node.tag, "UI", "\\".join(others).encode("latin-1", "replace"))

    def replaced_uid(self, tag: int, uid: str) -> str:
        """Return the replacement of a UID; the same UID if it names no object.

        DICOM's own root does not prove that: some writers make UIDs of objects below it.
        """
        public = (
            not uid
            or uid in UID_dictionary
            or (tag == CODING_SCHEME_UID and uid.startswith(HL7_SCHEMES))
            or (tag not in self._actions and uid.startswith(STANDARD_UIDS))
        )
        return uid if public else self.keys.uid(uid)

    def _date(self, node: Node, vr: str, scope: Scope, action: str) -> bytes | None:
        """Keep (K), move (C) or remove (X) dates and times; None or nothing if one is not a date."""
        if action == "X":
            return self._removed("removed")
        if action == "K":
            return self._copied(node, vr, scope)
        if vr == "TM":
            return self._copied(node, vr, scope)
        values = self._value(node, scope).decode("latin-1").strip(" \0").split("\\")
        moved = [self._moved(value.strip()) if value.strip() else "" for value in values]
        if None in moved:
            return None if self._actions.get(node.tag) else self._removed("unparsable")
        self.counts["shifted"] += 1
        return element(node.tag, vr, "\\".join(one or "" for one in moved).encode("latin-1"))

    def _moved(self, value: str) -> str | None:
        """Return a date, or a date and time, some days earlier; None if it is not one."""
        digits = value.replace(".", "", 2) if re.fullmatch(r"\d{4}\.\d\d\.\d\d", value) else value
        if not re.fullmatch(r"\d{8}(\d{2,6})?(\.\d{1,6})?([+-]\d{4})?", digits):
            return None
        try:
            day = shifted(date(int(digits[:4]), int(digits[4:6]), int(digits[6:8])), self._days)
        except ValueError:
            return None
        return None if day is None else f"{day:%Y%m%d}".rjust(8, "0") + digits[8:]

    def _is_numeral(self, node: Node, vr: str, scope: Scope) -> bool:
        raw = self._value(node, scope, vr)
        return len(raw) <= HARMLESS or NUMERAL.fullmatch(raw) is not None

    def _age(self, node: Node, scope: Scope) -> bytes | None:
        text = self._value(node, scope).decode("latin-1").strip(" \0").upper()
        if not text:
            return head(node.tag, "AS", 0)
        if not AGE.fullmatch(text):
            return None
        old = text.endswith("Y") and int(text[:-1]) > OLDEST - 1
        return element(node.tag, "AS", f"{OLDEST:03}Y".encode() if old else text.encode())

    def _binary(self, node: Node, vr: str, scope: Scope) -> bytes:
        """Return binary data that contain no identifier as text."""
        raw = self._value(node, scope, vr)
        if node.tag == ICC_PROFILE and not (raw := clean_icc(raw)):
            return self._removed("unparsable")
        lower = raw.lower()
        if any(name.encode() in lower for name in self.known.names if len(name) >= sweep.GLUED):
            return self._removed("swept")
        return element(node.tag, vr, raw)

    def _changed(self, node: Node, vr: str, scope: Scope, old: str, new: str) -> bytes:
        """Return a text element: as it is if nothing was taken from it, else in the character set at hand.

        A dummy stands for a text of which nothing is left: there are attributes that may not be empty.
        """
        if new == old:
            return self._copied(node, vr, scope)
        self.counts["swept"] += 1
        if old.strip(" \\") and not new.strip(" \\"):
            return element(node.tag, vr, DUMMY_OF.get(node.tag) or DUMMIES[vr])
        try:
            raw = new.encode("ascii" if new.isascii() else scope.charset.codecs[0])
        except UnicodeError:
            raw = _encoded(new, scope.terms)
        return element(node.tag, vr, raw)

    def _copied(self, node: Node, vr: str, scope: Scope) -> bytes:
        raw = self._value(node, scope, vr)
        if len(raw) > 0xFFFE and vr not in LONG:
            vr = "UN"  # PS3.5 6.2.2 note: too long for its own VR
        return element(node.tag, vr, raw)

    def _removed(self, why: str) -> bytes:
        self.counts[why] += 1
        return b""

    def _value(self, node: Node, scope: Scope, vr: str = "") -> bytes:
        raw = self.source.value(node.offset, node.length)
        if scope.little or node.swapped:
            return raw
        return turned(raw, WORD.get(vr or _one_vr(node, scope), 1))

    def _text(self, node: Node, scope: Scope) -> str:
        raw = self.source.value(node.offset, node.length).strip(b" \0")
        if raw.isascii() and b"\x1b" not in raw:
            return raw.decode("ascii")
        delimiters = b"\r\n\f\t" if node.vr in ("LT", "ST", "UT") else b"\\\r\n\f\t"
        return scope.charset.decode(raw, delimiters)[0]

    def _is_public_code(self, found: Mapping[int, Node], scope: Scope) -> bool:
        node = found.get(SCHEME)
        return node is not None and self._text(node, scope).upper() in SCHEMES


def _one_vr(node: Node, scope: Scope) -> str:
    """Return the VR to write: that of the dictionary if the VR is unknown."""
    vr = public_vr(node.tag) if node.vr == "UN" else node.vr
    return settled_vr(vr, scope.signed)


def _encoded(text: str, terms: bytes) -> bytes:
    """Return a text in one of several character sets; characters that none of them has are left out."""
    try:
        encodings = convert_encodings([term.strip() for term in terms.decode("latin-1").split("\\")])
        return bytes(encode_string(text, encodings))
    except (LookupError, UnicodeError):
        return text.encode("ascii", "ignore")


def cleaner_source(dataset: ObjectDataset) -> Source:
    """Return the bytes in which the nodes of a data set lie."""
    stream = cast(BinaryIO, dataset.buffer)
    return Source(stream, stream.seek(0, 2))


def file_meta(sop_class: str, sop_instance: str, transfer_syntax: str, implementation: str) -> bytes:
    """Return an empty preamble and new file meta information, in which nothing of the old one is left."""
    body = b"".join(
        (
            element(0x00020001, "OB", b"\0\1"),
            element(0x00020002, "UI", sop_class.encode("latin-1")),
            element(0x00020003, "UI", sop_instance.encode("latin-1")),
            element(0x00020010, "UI", transfer_syntax.encode("latin-1")),
            element(0x00020012, "UI", implementation.encode()),
            element(0x00020013, "SH", b"DICOMLAKE"),
        )
    )
    return bytes(128) + b"DICM" + element(0x00020000, "UL", struct.pack("<I", len(body))) + body


def stamps(profile: Profile, codes: Sequence[tuple[str, str]]) -> dict[int, bytes]:
    """Return the attributes that record the de-identification (PS3.15 E.1.1, PS3.3 C.7.1.1)."""
    dates = {"K": b"UNMODIFIED", "C": b"MODIFIED", "X": b"REMOVED"}[profile.dates]
    items = [
        element(CODE_VALUE, "SH", code.encode())
        + element(SCHEME, "SH", b"DCM")
        + element(MEANING, "LO", name.encode())
        for code, name in codes
    ]
    return {
        0x00120062: element(0x00120062, "CS", b"YES"),
        0x00120063: element(0x00120063, "LO", f"dicomlake {profile.name}".encode()),
        0x00120064: sequence(0x00120064, items),
        0x00280303: element(0x00280303, "CS", dates),
    }
