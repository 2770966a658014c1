"""The file meta information against the data set, and what neither says: a warning each, never a guess."""

import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)

from app.dicom.metadata.dicom_json import to_metadata
from app.dicom.metadata.file_meta import file_meta_warnings
from tests import data

IMAGE_UID = data.element(0x00080018, "UI", b"1.2.3\0")
GE_PRIVATE = "1.2.840.113619.5.2"


def warnings(raw: bytes) -> list[tuple[str, str]]:
    dataset = data.parse(raw)
    return [(one.tag, one.code) for one in file_meta_warnings(dataset, to_metadata(dataset))]


def with_meta(body: bytes, **uids: str) -> bytes:
    """Return a file whose file meta information has just these UIDs: group 0002, element -> value."""
    meta = b"".join(
        data.element(0x00020000 | int(number, 16), "UI", uid.encode() + b"\0" * (len(uid) % 2))
        for number, uid in ((name.removeprefix("e"), uid) for name, uid in uids.items())
    )
    return bytes(128) + b"DICM" + meta + body


@pytest.mark.parametrize("syntax", data.NATIVE)
def test_a_whole_file_gives_no_warning(syntax):
    assert warnings(data.ct(syntax)) == []


def test_a_file_said_to_be_another_instance_warns():
    raw = with_meta(IMAGE_UID, e0003="1.2.4", e0010=ExplicitVRLittleEndian)
    assert warnings(raw) == [("00020003", "meta_mismatch")]


def test_a_file_said_to_be_of_another_class_warns():
    body = data.element(0x00080016, "UI", data.CT_CLASS.encode() + b"\0") + IMAGE_UID
    raw = with_meta(body, e0002=data.BASIC_TEXT_SR_CLASS, e0003="1.2.3", e0010=ExplicitVRLittleEndian)
    assert warnings(raw) == [("00020002", "meta_mismatch")]


def test_padding_and_empty_values_are_no_mismatch():
    raw = with_meta(data.element(0x00080018, "UI", b"1.2.3 "), e0003="1.2.3", e0002="", e0010=GE_PRIVATE)
    assert warnings(raw) == []


@pytest.mark.parametrize(
    ("said", "written"),
    [
        (ImplicitVRLittleEndian, ExplicitVRLittleEndian),
        (ExplicitVRLittleEndian, ImplicitVRLittleEndian),
        (ExplicitVRBigEndian, ExplicitVRLittleEndian),
        (ExplicitVRLittleEndian, ExplicitVRBigEndian),
        (JPEGBaseline8Bit, ImplicitVRLittleEndian),
    ],
)
def test_a_data_set_in_another_encoding_than_said_is_read_and_warned_of(said, written):
    body = data.bare(data.identity(), written)
    raw = with_meta(body, e0003=data.SOP, e0010=said)
    assert data.parse(raw).PatientID == "P-1"
    assert warnings(raw) == [("00020010", "meta_mismatch")]


@pytest.mark.parametrize("said", [ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, JPEGBaseline8Bit])
def test_an_encoding_that_suits_what_is_said_gives_no_warning(said):
    raw = data.raw(IMAGE_UID, syntax=said)
    assert warnings(raw) == []


@pytest.mark.parametrize("said", [GE_PRIVATE, "NOT-A-UID", "1.2.840.10008.5.1.4.1.1.2"])
def test_a_syntax_whose_encoding_nobody_knows_contradicts_nothing(said):
    assert warnings(with_meta(data.bare(data.identity()), e0010=said)) == []


def test_a_data_set_without_a_transfer_syntax_warns():
    assert warnings(data.bare(data.identity())) == [("00020010", "missing")]
    assert warnings(with_meta(IMAGE_UID, e0010="")) == [("00020010", "missing")]


def test_a_data_set_that_does_not_name_its_instance_warns():
    assert warnings(data.raw(data.element(0x00100020, "LO", b"P-1 "))) == [("00080018", "missing")]
    assert warnings(data.raw(data.element(0x00080018, "UI", b""))) == [("00080018", "missing")]


def test_a_directory_is_no_instance_and_need_not_name_one():
    # PS3.10 8.6: a DICOMDIR has its SOP Instance UID in the file meta information alone
    assert warnings(data.raw(data.element(0x00041220, "SQ", b""))) == []
