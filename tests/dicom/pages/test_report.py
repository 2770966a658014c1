"""Structured reports as a page of text."""

import struct
import time

import numpy as np
import pytest
from pydicom.dataset import Dataset

from app.dicom.pages.report import KEY_OBJECT_SELECTION, Item, content, draw_page, value
from app.dicom.pages.text import is_writable, width_of, wrap, writable
from app.dicom.pixels.attributes import readable
from app.dicom.render.preview import picture as draw_picture
from app.model.errors import Unrenderable
from app.model.options import PreviewOptions
from tests.data import apply, element, parse, raw, sr
from tests.dicom.pictures import with_items


def item(kind: str, **elements: object) -> Dataset:
    return apply(Dataset(), ValueType=kind, **elements)


def code(meaning: str) -> dict[str, object]:
    return with_items("ConceptCodeSequence", {"CodeMeaning": meaning})


def measured(amount: str, unit: str) -> dict[str, object]:
    units = with_items("MeasurementUnitsCodeSequence", {"CodeValue": unit})
    return with_items("MeasuredValueSequence", {"NumericValue": amount, **units})


CT = "1.2.840.10008.5.1.4.1.1.2"


@pytest.mark.parametrize(
    ("kind", "elements", "expected"),
    [
        ("TEXT", {"TextValue": "no finding"}, "no finding"),
        ("CODE", code("Left"), "Left"),
        ("NUM", measured("12.5", "mm"), "12.5 mm"),
        ("NUM", measured("3", "1"), "3"),
        (
            "NUM",
            with_items("NumericValueQualifierCodeSequence", {"CodeMeaning": "Not measured"}),
            "Not measured",
        ),
        ("PNAME", {"PersonName": "Doe^Jane^^Dr."}, "Doe Jane Dr."),
        ("DATE", {"Date": "20240131"}, "20240131"),
        ("UIDREF", {"UID": "1.2.3"}, "1.2.3"),
        ("IMAGE", with_items("ReferencedSOPSequence", {"ReferencedSOPClassUID": CT}), "CT Image"),
        ("SCOORD", {"GraphicType": "POLYLINE"}, "POLYLINE"),
        ("", {"ReferencedContentItemIdentifier": [1, 2, 3]}, "see item 1.2.3"),
        ("CONTAINER", {}, ""),
        ("TABLE", {}, "table"),
        ("TEXT", {}, ""),
    ],
)
def test_each_kind_of_item_says_its_value(kind, elements, expected):
    assert value(item(kind, **elements)) == expected


def test_items_are_read_depth_first():
    assert list(content(parse(sr(depth=3)))) == [
        Item(depth, "Finding", f"finding at level {depth + 1}") for depth in range(3)
    ]


def page(*items: Item, title: str = "Report") -> np.ndarray:
    return draw_page(title, "", iter(items))


def lines_of(image: np.ndarray) -> list[tuple[int, int]]:
    """Return (top, left) of each line of ink."""
    rows = (image < 128).any(axis=1)
    tops = np.flatnonzero(np.diff(rows.astype(int), prepend=0) == 1)
    return [(int(top), int((image[top : top + 20] < 128).any(axis=0).argmax())) for top in tops]


def test_deeper_items_are_indented():
    drawn = lines_of(page(Item(0, "H", "x"), Item(1, "H", "x"), Item(2, "H", "x")))[1:]
    assert [left - drawn[0][1] for _, left in drawn] == [0, 36, 72]
    assert drawn[2][0] - drawn[1][0] == drawn[1][0] - drawn[0][0]


def test_equal_neighbours_are_written_once():
    same = Item(0, "H", "x")
    assert np.array_equal(page(same, same, same), page(Item(0, "H", "x (x 3)")))


def test_what_does_not_fit_is_counted_at_the_foot():
    items = [Item(0, "H", str(n)) for n in range(100)]
    full = page(*items)
    assert (full[1600:] < 255).any()
    assert not (page(*items[:10])[1600:] < 255).any()
    assert not np.array_equal(full, page(*items, Item(0, "H", "100")))  # the number differs


def words_at_the_foot(image: np.ndarray) -> int:
    return int((image[1600:] < 255).sum())


def test_of_a_long_report_a_thousand_items_are_looked_at():
    numbered = [Item(0, "H", str(n)) for n in range(1001)]
    asked = iter(numbered * 60)
    cut = draw_page("Report", "", asked)
    assert next(asked) == numbered[0]  # 1001 were taken, to see whether there are more than 1000
    whole = page(*numbered[:1000])
    assert np.array_equal(cut[:1600], whole[:1600])
    assert words_at_the_foot(cut) > words_at_the_foot(whole)  # `more than` so many
    same = Item(0, "H", "x")
    assert np.array_equal(page(*[same] * 5000)[:1600], page(Item(0, "H", "x (x 1000 or more)"))[:1600])


def report(text: str, items: int, length: int | None = None) -> bytes:
    """Return a report of text items; the length of their sequence is what it is, or 0xFFFFFFFF, undefined."""
    meaning = element(0x00080104, "LO", b"Finding ")
    concept = element(0x0040A043, "SQ", struct.pack("<HHI", 0xFFFE, 0xE000, len(meaning)) + meaning)
    content = bytearray()
    for number in range(items):
        value = text.format(number).encode()
        item = element(0x0040A040, "CS", b"TEXT") + concept
        item += element(0x0040A160, "UT", value + b" " * (len(value) % 2))
        content += struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item
    if length is not None:
        content += struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return raw(
        element(0x00080016, "UI", b"1.2.840.10008.5.1.4.1.1.88.11\0"),
        element(0x0040A730, "SQ", bytes(content), length),
    )


LONG = "finding {} " + "of some length " * 20


@pytest.mark.parametrize("length", [None, 0xFFFFFFFF])
@pytest.mark.parametrize("text", ["finding {}", "finding", LONG], ids=["short", "equal", "left in the file"])
def test_a_report_of_60000_items_costs_no_more_to_draw_than_its_page(text, length):
    drawn, spent = [], []
    for items in (1001, 60_000):
        dataset = parse(report(text, items, length))
        before = time.process_time()
        drawn.append(draw_picture(dataset, PreviewOptions(max_side=0)))
        spent.append(time.process_time() - before)
    assert spent[1] < 10 * spent[0]  # 60 times the items; other work on the machine falls on both
    assert np.array_equal(*drawn)


def test_a_text_is_read_up_to_what_a_page_holds():
    letters = element(0x0040A160, "UT", b"word " * 2_000_000)
    assert len(readable(parse(raw(letters)), "TextValue")) == 19_999


def test_report_is_a_page_and_a_key_object_selection_is_not():
    assert draw_picture(parse(sr()), PreviewOptions(max_side=0)).shape == (1754, 1240)
    assert draw_picture(parse(sr()), PreviewOptions(max_side=877)).shape == (877, 620)
    with pytest.raises(Unrenderable) as caught:
        draw_picture(parse(sr(SOPClassUID=KEY_OBJECT_SELECTION)), PreviewOptions())
    assert caught.value.code == "no_pixel_data"


def test_identity_of_the_patient_is_not_on_the_page():
    plain = draw_picture(parse(sr()), PreviewOptions())
    other = draw_picture(parse(sr(PatientName="Other^Name", PatientID="P-2")), PreviewOptions())
    assert np.array_equal(plain, other)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Läsion größer, façade, Łódź", "Lasion grosser, facade, Lodz"),
        ("5 µm ≤ 3 × 4 mm²", "5 um <= 3 x 4 mm2"),
        ("所見", "所見"),
        ("plain ASCII 123 (a/b) ±", "plain ASCII 123 (a/b) ±"),
    ],
)
def test_letters_that_the_font_lacks_are_spelled_or_left(text, expected):
    assert writable(text) == expected


def test_note_is_written_where_letters_are_lacking():
    def noted(text: str) -> bool:
        return bool((page(Item(0, "H", text))[1600:] < 255).any())

    assert noted("所見")
    assert noted("Läsion")
    assert not noted("plain text of two words")


def test_letters_of_the_font_are_known():
    assert is_writable("".join(map(chr, range(0x21, 0x7F))))
    assert not is_writable("日")


def test_text_is_wrapped_at_words_and_breaks_are_kept():
    assert wrap("one two\nthree", 20, width_of("one two", 20)) == ["one two", "three"]
    assert wrap("one two", 20, width_of("one two", 20) - 1) == ["one", "two"]
    assert wrap("", 20, 100) == [""]
    assert wrap("xxxxx", 20, 2.5 * width_of("x", 20)) == ["xx", "xx", "x"]


def test_text_is_read_by_its_character_set_and_without_controls():
    charset = element(0x00080005, "CS", b"ISO_IR 100")
    text = element(0x0040A160, "UT", b"L\xe4sion\r\nzwei\x1b\x00 ")
    assert readable(parse(raw(charset, text)), "TextValue") == "Läsion\nzwei"
    assert readable(parse(raw(charset)), "TextValue") == ""
