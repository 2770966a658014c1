"""DICOM JSON of data sets nobody thought of: every VR, every nesting, valid values and junk."""

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dicom.metadata.dicom_json import to_document, to_metadata
from tests import data

TEXT = st.text(
    st.characters(codec="utf-8", exclude_characters="\\\0=^", categories=("L", "N", "P")), max_size=20
)
DAYS = st.dates().map(lambda day: f"{day.year:04}{day.month:02}{day.day:02}")
DECIMALS = st.floats(-1e6, 1e6).map("{:.6f}".format)
VALUES = {
    **dict.fromkeys(("LO", "LT", "PN", "SH", "ST", "UC", "UT"), TEXT),
    "AE": st.text("ABC ", max_size=16),
    "AS": st.sampled_from(["003W", "047Y"]),
    "CS": st.text("AB_ 9", max_size=16),
    "DA": DAYS,
    "DS": DECIMALS,
    "DT": st.just("20240131134501"),
    "IS": st.integers(-(2**31), 2**31 - 1).map(str),
    "TM": st.just("134501"),
    "UI": st.just("1.2.3"),
    "UR": st.just("a:b"),
}
BINARY = ["AT", "FD", "FL", "OB", "OD", "OF", "OL", "OV", "OW", "SL", "SS", "SV", "UL", "UN", "US", "UV"]
TEXTS = st.sampled_from(sorted(VALUES)).flatmap(
    lambda vr: st.tuples(st.just(vr), st.lists(VALUES[vr], max_size=3).map(lambda v: "\\".join(v).encode()))
)
BYTES = st.tuples(st.sampled_from(BINARY), st.binary(max_size=40))
JUNK = st.tuples(st.sampled_from(sorted(VALUES)), st.binary(max_size=40))
LEAVES = st.lists(st.one_of(TEXTS, BYTES, JUNK), max_size=6)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(st.one_of(TEXTS, st.lists(inner, max_size=3)), max_size=4), max_leaves=8
)


def encode(tree: list[object]) -> bytes:
    """Write a tree: a pair is an element, a list is a sequence of items."""
    out = [data.element(0x00080005, "CS", b"ISO_IR 192")]
    for number, node in enumerate(tree):
        tag = 0x00091000 + number
        if isinstance(node, tuple):
            out.append(data.element(tag, *node))
            continue
        items = [encode(item if isinstance(item, list) else [item]) for item in node]
        body = b"".join(b"\xfe\xff\x00\xe0" + struct.pack("<L", len(item)) + item for item in items)
        out.append(data.element(tag, "SQ", body))
    return b"".join(out)


@given(TREES)
def test_every_vr_at_every_depth_is_valid_json_and_survives(tree):
    found = json.loads(
        to_document(to_metadata(data.parse(data.raw(encode(tree))))), parse_constant=pytest.fail
    )

    def check(nodes: list[object], fields: dict[str, dict[str, object]]) -> None:
        for number, node in enumerate(nodes):
            got = fields[f"{0x00091000 + number:08X}"]
            if isinstance(node, list):
                assert got["vr"] == "SQ"
                for item, inner in zip(node, got.get("Value", []), strict=True):
                    check(item if isinstance(item, list) else [item], inner)
            elif node[0] in ("UC", "LO", "SH") and node[1].isascii():
                values = [value.rstrip(" ") or None for value in node[1].decode().rstrip("\0").split("\\")]
                assert got.get("Value", [None]) == values or b"\0" in node[1]

    check(tree, found)
