"""Attributes by name, and the level that they belong to."""

import pytest

from app.dicom.metadata.dictionary import attribute, level_of
from app.model.values import Attribute


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("PatientID", Attribute("00100020", "LO", "PatientID")),
        ("00100020", Attribute("00100020", "LO", "PatientID")),
        ("0020000d", Attribute("0020000D", "UI", "StudyInstanceUID")),
        ("RequestAttributesSequence", Attribute("00400275", "SQ", "RequestAttributesSequence")),
        ("0009,GEMS_IDEN_01,04", Attribute("00090004", "SH", creator="GEMS_IDEN_01")),
        ("0009,Nobody knows,ab", Attribute("000900AB", "UN", creator="Nobody knows")),
    ],
)
def test_an_attribute_is_named_by_keyword_tag_or_creator(name, expected):
    assert attribute(name) == expected


@pytest.mark.parametrize(
    "name",
    [
        *("PatinetID", "patientid", "", "0010002", "00091001", "00099999", "60xx3000", "(0010,0020)"),
        *("0010,ACME,01", '0009,A"B,01', "0009,A\\B,01", "0009, ,01", "0009,,01", "00080000"),
    ],
)
def test_what_names_no_attribute(name):
    assert attribute(name) is None


def test_what_a_row_calls_an_attribute():
    assert attribute("PatientID").row_keys == ("PatientID", "00100020")
    assert attribute("0009,GEMS_IDEN_01,ab").row_keys == ("0009,GEMS_IDEN_01,AB",)


@pytest.mark.parametrize(
    ("keyword", "level"),
    [
        *((keyword, "study") for keyword in ("PatientName", "PatientWeight", "StudyDescription")),
        *((keyword, "study") for keyword in ("ModalitiesInStudy", "ProcedureCodeSequence")),
        *(
            (keyword, "series")
            for keyword in ("Modality", "InstitutionName", "SeriesDate", "BodyPartExamined")
        ),
        *((keyword, "series") for keyword in ("PerformedProcedureStepStartDate", "TimezoneOffsetFromUTC")),
        *((keyword, "instance") for keyword in ("SOPInstanceUID", "Rows", "ImageType", "ContentDate")),
    ],
)
def test_an_attribute_belongs_to_a_level(keyword, level):
    assert level_of(attribute(keyword).tag) == level
