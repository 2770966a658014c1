"""Single attributes, raw from the file or set in code, right or wrong."""

import math

import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from app.dicom.pixels import attributes
from tests.data import apply, element, identity, parse, part10, raw

ROWS, CENTER, DATA = 0x00280010, 0x00281050, 0x00283006


def read(*elements: bytes) -> Dataset:
    return parse(raw(element(0x00080060, "CS", b"CT"), *elements))


def made(**elements: object) -> Dataset:
    return apply(Dataset(), **elements)


@pytest.mark.parametrize(
    ("dataset", "keyword", "values"),
    [
        (read(element(CENTER, "DS", b"40\\ -1.5e2")), "WindowCenter", (40, -150)),
        (read(element(ROWS, "US", b"\x00\x02\x01\x00")), "Rows", (512, 1)),
        (read(element(ROWS, "UN", b"\x00\x02")), "Rows", (512,)),
        (read(element(CENTER, "DS", b"")), "WindowCenter", ()),
        (read(element(CENTER, "DS", b"1,5\\2 ")), "WindowCenter", (math.nan, 2)),
        (read(), "WindowCenter", ()),
        (made(WindowCenter=["40", "300"]), "WindowCenter", (40, 300)),
        (made(WindowCenter=40), "WindowCenter", (40,)),
        (made(WindowCenter=None), "WindowCenter", ()),
        (made(PatientID="abc"), "PatientID", (math.nan,)),
        (made(), "NoSuchKeyword", ()),
    ],
)
def test_numbers_are_read_and_what_is_none_is_nan(dataset, keyword, values):
    assert attributes.numbers(dataset, keyword) == pytest.approx(values, nan_ok=True)


def test_first_number_or_the_default():
    dataset = read(element(CENTER, "DS", b"x\\2 "))
    assert attributes.number(dataset, "WindowCenter", 7.5) == 7.5
    assert attributes.integer(made(Rows=12), "Rows", 0) == 12
    assert attributes.integer(made(), "Rows", 3) == 3


def test_code_strings_are_stripped_and_raised():
    assert attributes.text(read(), "Modality") == "CT"
    assert attributes.text(made(Modality="mr "), "Modality") == "MR"
    assert attributes.text(made(ImageType=["ORIGINAL", "PRIMARY"]), "ImageType") == "ORIGINAL"
    assert attributes.text(made(), "Modality") == ""


def test_words_come_in_their_byte_order():
    assert attributes.words(read(element(DATA, "OW", b"\1\0\2\0")), DATA, False).tolist() == [1, 2]
    assert attributes.words(made(LUTData=b"\0\1\0\2"), "LUTData", False).tolist() == [1, 2]
    assert attributes.words(made(LUTData=[1, 65535]), "LUTData", True).tolist() == [1, 65535]
    assert attributes.words(made(), "LUTData", True).tolist() == []


def test_octets_are_the_bytes_of_a_binary_value():
    assert attributes.octets(made(ICCProfile=b"ab"), "ICCProfile") == b"ab"
    assert attributes.octets(made(Modality="CT"), "Modality") == b""


def test_empty_elements_have_no_value():
    assert attributes.has_value(read(), "Modality")
    assert not attributes.has_value(read(element(CENTER, "DS", b"")), "WindowCenter")
    assert not attributes.has_value(made(WindowCenter=None), "WindowCenter")


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_items_come_one_by_one_in_the_character_set_of_the_data_set(syntax):
    inner = [
        apply(Dataset(), TextValue=f"größer {n}", ContentSequence=[made(TextValue="ß")]) for n in range(3)
    ]
    dataset = parse(part10(identity(SpecificCharacterSet="ISO_IR 100", ContentSequence=inner), syntax))
    one_by_one = attributes.each_item(dataset, "ContentSequence")
    assert next(one_by_one).TextValue == "größer 0"
    (deeper,) = attributes.each_item(next(one_by_one), "ContentSequence")
    assert deeper.TextValue == "ß"
    assert isinstance(dataset.get_item("ContentSequence"), RawDataElement)  # it was not read whole
    assert len(list(one_by_one)) == 1
    assert list(attributes.each_item(dataset, "WaveformSequence")) == []
    assert list(attributes.each_item(made(ContentSequence=inner), "ContentSequence")) == inner


def test_sequence_that_is_none_has_no_items():
    assert attributes.items(made(), "VOILUTSequence") == ()
    assert len(attributes.items(made(VOILUTSequence=[Dataset()]), "VOILUTSequence")) == 1
    assert list(attributes.items(made(Modality="CT"), "Modality")) == []


def test_value_left_in_the_object_is_read_only_when_asked_for():
    dataset = read(element(DATA, "OW", b"\1\0" * 40000))
    lies, asked = attributes.element_as_it_lies(dataset, DATA), attributes.element(dataset, DATA)
    assert lies is not None
    assert lies.value is None
    assert asked is not None
    assert len(asked.value) == 80000
