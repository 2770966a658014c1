"""What bytes that are not DICOM are instead: nothing, plain text, or what a damaged file looks like."""

import pytest

from app import config
from app.model.errors import NotDicom, PlainText
from app.model.not_dicom import HEAD_BYTES, is_expected, not_dicom


@pytest.mark.parametrize(
    "text",
    [
        b"x",
        b"Creative Commons Attribution 4.0\r\n\tInternational\x0c\n",
        b"\xef\xbb\xbfVersion 1",  # with a byte order mark
        "Universität Zürich 胸部".encode(),
        b"\x1b[1mbold\x1b[0m",
        b"x" * (HEAD_BYTES - 1) + "é".encode(),  # cut in the middle of a character
        b"x" * (HEAD_BYTES - 3) + "🩻".encode(),
        b"DIC M",
    ],
)
def test_utf_8_without_control_characters_is_plain_text(text):
    assert isinstance(not_dicom(text[:HEAD_BYTES]), PlainText)


@pytest.mark.parametrize(
    "head",
    [
        b"\0",
        b"text and a zero\0",
        bytes(128),
        b"\x08\x05\x10\x00",
        b"\x01\x02\x03\x04",
        b"\x7fELF",
        b"caf\xe9 in Latin-1",
        "in UTF-16".encode("utf-16"),
        b"cut in a character that is whole nowhere \xc3",
        b"x" * (HEAD_BYTES - 2) + b"\xff\xff",
        b"DICM is how a file announces itself",
        b"x" * 128 + b"DICM and then text",
    ],
)
def test_anything_else_is_not(head):
    error = not_dicom(head)
    assert type(error) is NotDicom
    assert error.text == "the bytes do not begin as a data set"


def test_nothing_is_no_text_but_an_upload_that_failed():
    error = not_dicom(b"")
    assert type(error) is NotDicom
    assert error.text == "the object is empty (0 bytes)"


@pytest.mark.parametrize(
    ("name", "bytes_are_missed", "text_is_missed"),
    [
        ("a.dcm", True, True),
        ("a.b/IM1", True, False),
        ("LICENSE", True, False),
        ("x.zip", True, True),
        ("notes.txt", False, False),
        (".profile", False, False),
    ],
)
def test_text_without_an_extension_is_not_expected_to_be_dicom(name, bytes_are_missed, text_is_missed):
    pattern = config.load({}).settings.source.expect
    assert is_expected(name, pattern, is_text=False) == bytes_are_missed
    assert is_expected(name, pattern, is_text=True) == text_is_missed


def test_the_code_is_the_same_for_all():
    assert {not_dicom(head).code for head in (b"", b"text", b"\0")} == {"not_dicom"}
