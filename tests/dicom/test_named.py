"""Attributes by the names that people give them."""

import pytest

from app.browse import tasks
from app.model.options import DEFAULT_LIMITS
from tests import data


def named(raw: bytes, *paths: str) -> tuple[list[dict[str, object]], list[str]]:
    return tasks.attributes(data.content(raw), DEFAULT_LIMITS, list(paths))


def test_keyword_tag_and_digits_are_the_same_attribute():
    wanted = {"VM": 1, "VR": "US", "keyword": "Rows", "name": "Rows", "tag": "(0028,0010)", "value": 16}
    found, unknown = named(data.ct(), "Rows", "(0028,0010)", "00280010", "0028,0010")
    assert (found, unknown) == ([wanted] * 4, [])


@pytest.mark.parametrize(
    ("path", "count", "value"),
    [
        ("ImageType", 3, ["ORIGINAL", "PRIMARY", "AXIAL"]),
        ("PatientName", 1, "Doe^Jane"),
        ("PixelSpacing", 2, [0.5, 0.25]),
        ("StudyComments", 0, None),
        ("PixelData", 1, None),
        ("TransferSyntaxUID", 1, "1.2.840.10008.1.2.1"),
        ("(0002,0010)", 1, "1.2.840.10008.1.2.1"),
        ("ReferencedStudySequence[0].ReferencedSOPInstanceUID", 0, None),
    ],
)
def test_values_and_their_number(path, count, value):
    ((found,), unknown) = named(data.ct(), path)
    assert (found["VM"], found["value"], unknown) == (count, value, [])


def test_private_attributes_are_found_by_their_creator():
    found, unknown = named(
        data.with_private(), "(0029,MAKER TEST,01)", "(0029,MAKER TEST,02)", "00291001", "(0029,OTHER,01)"
    )
    assert [(one["value"], one["tag"]) for one in found] == [
        ("secret", "(0029,MAKER TEST,01)"),
        (1.5, "(0029,MAKER TEST,02)"),
        ("secret", "(0029,1001)"),
    ]
    assert unknown == ["(0029,OTHER,01)"]


def test_paths_lead_into_items():
    path = "ContentSequence[0].ContentSequence[0].TextValue"
    found, unknown = named(
        data.sr(depth=2), path, "(0040,a730)[0].(0040,a160)", "ContentSequence[7].TextValue"
    )
    assert [(one["tag"], one["value"]) for one in found] == [
        ("(0040,a730)[0].(0040,a730)[0].(0040,a160)", "finding at level 2"),
        ("(0040,a730)[0].(0040,a160)", "finding at level 1"),
        ("(0040,a730)[7].(0040,a160)", None),
    ]
    assert unknown == []


@pytest.mark.parametrize(
    "path",
    ["(2222,2222)", "NoSuchKeyword", "", "Rows.", "Rows Columns", "(0028,0010", "(0028,X,10)", "(09,x)"],
)
def test_a_name_of_nothing_is_told(path):
    assert named(data.ct(), path) == ([], [path])
