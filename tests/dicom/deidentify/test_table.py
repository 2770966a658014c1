"""Tables of the standard: complete, and conditional actions resolved by the type of the attribute."""

import json

import pytest

from app.dicom.deidentify.table import BEYOND, ROWS, SAFE_PRIVATE, attribute_type, is_plane, resolved
from tests.parts import shared

CT, MG_FOR_PRESENTATION, GSPS = (f"1.2.840.10008.5.1.4.1.1.{last}" for last in ("2", "1.2", "11.1"))


def test_rows_are_those_of_the_standard():
    rows = json.loads(
        (shared("truth", "dicom-standard") / "confidentiality_profile_attributes.json").read_bytes()
    )
    expected = {
        int(row["id"], 16): row["basicProfile"] for row in rows if set(row["id"]) <= set("0123456789abcdef")
    }
    assert len(rows) == 621
    assert {tag: row.action for tag, row in ROWS.items() if tag not in BEYOND} == expected


@pytest.mark.parametrize(
    ("action", "kind", "expected"),
    [
        ("X/Z/D", "1", "D"),
        ("X/Z/D", "1C", "D"),
        ("X/Z/D", "2", "Z"),
        ("X/Z/D", "3", "X"),
        ("X/Z/D", "", "D"),
        ("X/Z", "2C", "Z"),
        ("X/D", "3", "X"),
        ("Z/D", "2", "Z"),
        ("Z/D", "1", "D"),
        ("X", "1", "D"),
        ("X", "2", "Z"),
        ("X", "1C", "X"),
        ("Z", "1", "D"),
        ("X/Z/U*", "2", "U"),
        ("U", "1", "U"),
        ("D", "3", "D"),
    ],
)
def test_conditional_actions_keep_the_object_valid(action, kind, expected):
    assert resolved(action, kind) == expected


def test_types_are_by_class_and_by_sequence():
    assert attribute_type(GSPS, 0, 0x00700082) == "1"  # Presentation Creation Date
    assert attribute_type(CT, 0, 0x00700082) == "3"
    assert attribute_type(CT, 0x0040A370, 0x00321060) == "2"  # in Referenced Request Sequence
    assert attribute_type(CT, 0x00081115, 0x00321060) == ""


def test_safe_private_attributes_have_their_creator():
    assert ("Philips PET Private Group", 0x7053, 0x00) in SAFE_PRIVATE
    assert ("SIEMENS MR HEADER", 0x0019, 0x0C) in SAFE_PRIVATE
    assert ("ACME", 0x7053, 0x00) not in SAFE_PRIVATE


def test_planes_are_the_repeating_groups():
    assert is_plane(0x60003000)
    assert is_plane(0x60023000)
    assert is_plane(0x50003000)
    assert not is_plane(0x7FE00010)
