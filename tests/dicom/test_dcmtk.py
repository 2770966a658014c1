"""Our DICOM JSON of real files, element by element against that of DCMTK 3.6.7."""

import base64
import hashlib
import json
import math
import re
from collections import Counter
from decimal import Decimal

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.values import convert_value

from app.dicom.metadata.dicom_json import to_document, to_metadata
from tests import data
from tests.parts import shared

# What may differ from DCMTK 3.6.7, and why we are right to.
RULES = {
    "private": "DCMTK knows fewer private elements and leaves them UN; the value is the same bytes",
    "settled": "a public element written as UN is read by the dictionary",
    "digits": "DCMTK prints FL with 9 and FD with 16 digits, we those that give back the same number",
    "stripped": "DCMTK got a copy that ends before the encapsulated pixel data",
    "by reference": "pixel data are never inlined; the bytes are the same",
    "in the inflated stream": "a value in a deflated data set has no place in the object",
    "byte order": "DCMTK hashes words in the order of its machine; ours point at the file, big endian",
    "odd": "DCMTK pads a value of odd length",
    "trailing ^": "DCMTK drops empty trailing components of a name; we keep the value as it is",
    "utf-8": "the text of an item is UTF-8 as well, so its character set is ISO_IR 192 (PS3.18 F.2)",
    "padding": "NULs at the end of a text or number are padding",
    "number": "a DS of 16 digits that a double holds exactly is a number",
    "empty values": "several empty values are not the same as none",
}


def explain(ours: dict | None, theirs: dict | None, tag: str, raw: bytes, dataset: Dataset) -> str:
    """Return the rule by which one element differs from DCMTK's, `same` or `unexplained`."""
    if ours == theirs:
        return "same"
    if theirs is None:
        cut = tag >= "7FE00010" and dataset.nodes[0x7FE00010].undefined
        return "stripped" if cut else "unexplained"
    if ours is None:
        return "unexplained"
    if "BulkDataURI" in ours:
        return explain_bulk(ours["BulkDataURI"], theirs, raw, dataset)
    if tag == "00080005":
        return "utf-8"
    if theirs["vr"] == "UN" != ours["vr"]:
        rule = "private" if int(tag[3], 16) % 2 else "settled"
        return rule if same_bytes(ours, theirs, dataset) else "unexplained"
    return explain_values(ours, theirs)


def same_bytes(ours: dict, theirs: dict, dataset: Dataset) -> bool:
    """Say whether pydicom reads DCMTK's bytes, under our VR, as the values we have."""
    if ours["vr"] == "SQ" or "InlineBinary" in ours:
        return theirs["InlineBinary"] == ours.get("InlineBinary", theirs["InlineBinary"])
    raw, vr = base64.b64decode(theirs.get("InlineBinary", "")), ours["vr"]
    element = RawDataElement(BaseTag(0x00091001), vr, len(raw), raw, 0, False, True)
    value = convert_value(vr, element, list(dataset.original_character_set))
    values = list(value) if isinstance(value, list | MultiValue) else [value]
    mine = [None if value == "" else value for value in values]
    if vr in ("DS", "IS"):
        mine = [value if value is None else float(value) for value in mine]
    return [None if value is None else str(value).rstrip("\0 ") for value in mine] == [
        None if value is None else str(float(value) if vr in ("DS", "IS") else value)
        for value in ours.get("Value", [None])
    ]


def explain_bulk(uri: str, theirs: dict, raw: bytes, dataset: Dataset) -> str:
    place = re.search(r"#offset=(\d+)&length=(\d+)", uri)
    if place is None:
        return "in the inflated stream" if dataset.deflated else "unexplained"
    offset, length = int(place[1]), int(place[2])
    value = raw[offset : offset + length]
    swapped = b"".join(value[at : at + 2][::-1] for at in range(0, length, 2))
    for rule, candidate in (("by reference", value), ("odd", value + b"\0"), ("byte order", swapped)):
        if "InlineBinary" in theirs and base64.b64decode(theirs["InlineBinary"]) == candidate:
            return rule
        if hashlib.sha256(candidate).hexdigest() in theirs.get("BulkDataURI", ""):
            return rule
    return "unexplained"


def explain_values(ours: dict, theirs: dict) -> str:
    if ours["vr"] != theirs["vr"]:
        return "unexplained"
    if "InlineBinary" in ours:
        same = base64.b64decode(ours["InlineBinary"]) + b"\0" == base64.b64decode(theirs["InlineBinary"])
        return "odd" if same else "unexplained"
    mine, other = ours["Value"], theirs.get("Value", [])
    if ours["vr"] in ("FL", "FD"):
        digits = {"FL": 1e-8, "FD": 1e-15}[ours["vr"]]
        close = (math.isclose(a, b, rel_tol=digits) for a, b in zip(mine, other, strict=True))
        return "digits" if all(close) else "unexplained"
    if ours["vr"] == "PN":
        trimmed = [{kind: text.rstrip("^") for kind, text in (name or {}).items()} for name in mine]
        trimmed = [{kind: text for kind, text in name.items() if text} for name in trimmed]
        return "trailing ^" if [name for name in trimmed if name] == other else "unexplained"
    if set(mine) == {None} and not other:
        return "empty values"
    if ours["vr"] == "DS" and [Decimal(repr(value)) for value in mine] == [Decimal(value) for value in other]:
        return "number"
    same = [str(value) for value in mine] == [str(value).rstrip("\0") for value in other]
    return "padding" if same else "unexplained"


def compare(ours: dict, theirs: dict, raw: bytes, dataset: Dataset) -> Counter[str]:
    """Count by which rules two data sets differ, items included."""
    found: Counter[str] = Counter()
    for tag in ours.keys() | theirs.keys():
        mine, other = ours.get(tag), theirs.get(tag)
        if mine and other and mine["vr"] == other["vr"] == "SQ" and mine != other:
            for a, b in zip(mine["Value"], other["Value"], strict=True):
                found += compare(a, b, raw, dataset)
        else:
            found[explain(mine, other, tag, raw, dataset)] += 1
    return found


def test_real_files_differ_from_dcmtk_only_by_the_rules():
    corpus, truth = shared("corpus"), shared("truth", "dcmtk-rendered-dev")
    total: Counter[str] = Counter()
    whole = 0
    for path in sorted(truth.glob("*.json")):
        raw = (corpus / f"{path.stem}.dcm").read_bytes()
        dataset = data.parse(raw)
        found = compare(
            json.loads(to_document(to_metadata(dataset))), json.loads(path.read_bytes()), raw, dataset
        )
        total += found
        whole += found.keys() <= {"same", "by reference"}
        assert "unexplained" not in found, path.stem
    for rule, count in total.most_common():
        print(f"{count:7} {rule}: {RULES.get(rule, '')}")
    assert total.keys() - {"same"} <= RULES.keys()
    assert total["same"] > 10_000
    assert whole > 70
