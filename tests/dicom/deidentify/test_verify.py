"""The check finds what a clean file would not have, and nothing in one that is clean."""

import io

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from app.dicom import check_clean, clean_copy
from app.dicom.deidentify.profile import PROFILES
from app.dicom.deidentify.sweep import Known
from app.dicom.deidentify.verify import Finding, findings
from app.model.errors import CannotDeidentify
from app.model.options import DescribeOptions
from tests.data import content, ct, with_private
from tests.dicom.deidentify.cleaned import SECRET, clean, clean_bytes

BASIC = PROFILES["basic"]


def written(dataset: Dataset) -> bytes:
    out = io.BytesIO()
    dataset.save_as(out)
    return out.getvalue()


@pytest.mark.parametrize("profile", ["basic", "research", "internal"])
def test_a_clean_file_is_clean(profile):
    assert findings(io.BytesIO(clean_bytes(ct(), profile)), PROFILES[profile]) == ()


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"PatientName": "Doe^Jane"}, Finding("00100010", "to_replace")),
        ({"InstitutionName": "General"}, Finding("00080080", "to_replace")),
        ({"PatientAge": "042Y"}, Finding("00101010", "to_remove")),
        ({"AccessionNumber": "A-17"}, Finding("00080050", "to_empty")),
        ({"StudyDate": "20240131"}, Finding("00080020", "to_empty")),
        ({"StudyInstanceUID": "1.2.3"}, Finding("0020000D", "original_uid")),
        ({"DeidentificationMethod": ""}, Finding("00120063", "not_stamped")),
    ],
)
def test_what_is_left_is_found(elements, expected):
    dataset = clean(ct())
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    assert expected in findings(io.BytesIO(written(dataset)), BASIC)


def test_private_overlay_preamble_and_padding_are_found():
    dataset = clean(ct())
    dataset.private_block(0x0029, "MAKER", create=True).add_new(1, "LO", "x")
    dataset.add_new(0x60003000, "OW", b"\0\0")
    dataset.add_new(0xFFFCFFFC, "OB", b"\0\0")
    dataset.preamble = b"x" * 128
    dataset.file_meta.SourceApplicationEntityTitle = "PACS"
    found = {(one.tag, one.code) for one in findings(io.BytesIO(written(dataset)), BASIC)}
    assert found == {
        ("00000000", "hidden"),
        ("00020016", "hidden"),
        ("00291001", "private"),
        ("60003000", "hidden"),
        ("FFFCFFFC", "hidden"),
    }


def test_a_known_identifier_is_found_in_any_text():
    dataset = clean(ct())
    dataset.ConvolutionKernel = "for quagmire"
    known = Known(("quagmire",), frozenset({"quagmire"}))
    assert Finding("00181210", "known_identifier") in findings(io.BytesIO(written(dataset)), BASIC, known)


def test_a_copy_is_made_checked_and_drawn():
    made = clean_copy(content(with_private()), BASIC, SECRET, DescribeOptions())
    assert dcmread(io.BytesIO(made.data)).PatientIdentityRemoved == "YES"
    assert made.counts["private"] == 3
    assert check_clean(content(made.data), BASIC, DescribeOptions()) == ()


def test_bytes_hidden_behind_the_pixels_are_found():
    dataset = clean(ct())
    dataset.PixelData += b"Doe^Jane"
    assert ("7FE00010", "hidden") in check_clean(content(written(dataset)), BASIC, DescribeOptions())


def test_an_object_whose_pixels_cannot_be_decoded_is_refused():
    with pytest.raises(CannotDeidentify, match="pixel"):
        clean_copy(content(ct(BitsAllocated=24)), BASIC, SECRET, DescribeOptions())


def test_a_code_that_a_device_is_called_like_does_not_fail_the_check():
    made = clean_copy(
        content(ct(StationName="SPECIALSCAN", ScanOptions="SPECIALSCAN")), BASIC, SECRET, DescribeOptions()
    )
    assert dcmread(io.BytesIO(made.data)).ScanOptions == "SPECIALSCAN"
