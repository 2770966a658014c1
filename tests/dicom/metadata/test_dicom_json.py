"""DICOM JSON: literal shapes of PS3.18 Annex F, nothing lost, and agreement with DCMTK on real files."""

import base64
import math
import re
import struct

import orjson
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from app.dicom.metadata.dicom_json import to_metadata
from app.model.values import DatasetWarning
from tests import data

LATIN1, JAPANESE = b"ISO_IR 100", b"ISO 2022 IR 13\\ISO 2022 IR 87"


def metadata(*elements: bytes, syntax: str = data.ExplicitVRLittleEndian):
    return to_metadata(data.parse(data.raw(*elements, syntax=syntax)), "gs://b/o?generation=17")


def entry(tag: int, vr: str, value: bytes, *before: bytes):
    """Return the JSON of one element, and the codes of the warnings it gave."""
    found = metadata(*before, data.element(tag, vr, value))
    return found.dataset[f"{tag:08X}"], [warning.code for warning in found.warnings]


def charset(value: bytes) -> bytes:
    return data.element(0x00080005, "CS", value)


@pytest.mark.parametrize(
    ("tag", "vr", "raw", "expected"),
    [
        (0x00080060, "CS", b"CT", {"vr": "CS", "Value": ["CT"]}),
        (0x00080060, "CS", b"", {"vr": "CS"}),
        (0x00080060, "CS", b"  ", {"vr": "CS"}),
        (0x00080008, "CS", b"A\\\\B ", {"vr": "CS", "Value": ["A", None, "B"]}),
        (0x00200011, "IS", b"+5", {"vr": "IS", "Value": [5]}),
        (0x00200011, "IS", b"1\\\\3 ", {"vr": "IS", "Value": [1, None, 3]}),
        (0x00180050, "DS", b"1.50", {"vr": "DS", "Value": [1.5]}),
        (0x00180050, "DS", b"-1e-3 ", {"vr": "DS", "Value": [-0.001]}),
        (0x00180050, "DS", b"0e5 ", {"vr": "DS", "Value": [0.0]}),
        (0x00180050, "DS", b"1e-400", {"vr": "DS", "Value": ["1e-400"]}),
        (0x00180050, "DS", b"0.1\\2\\ -3", {"vr": "DS", "Value": [0.1, 2, -3]}),
        (0x00180050, "DS", b"007 ", {"vr": "DS", "Value": [7]}),
        (0x00180050, "DS", b"-0.50 ", {"vr": "DS", "Value": [-0.5]}),
        (0x00200011, "IS", b"2147483647", {"vr": "IS", "Value": [2147483647]}),
        (0x00180050, "DS", b"3.14159265358979", {"vr": "DS", "Value": [3.14159265358979]}),
        (0x00204000, "LT", b" a\\b ", {"vr": "LT", "Value": [" a\\b"]}),
        (0x00280010, "US", b"\x00\x02", {"vr": "US", "Value": [512]}),
        (0x00189219, "SS", b"\xff\xff", {"vr": "SS", "Value": [-1]}),
        (0x00280009, "AT", b"\x18\x00\x63\x10", {"vr": "AT", "Value": ["00181063"]}),
        (0x00189073, "FD", struct.pack("<d", 0.1), {"vr": "FD", "Value": [0.1]}),
        (0x0008040C, "UV", struct.pack("<QQ", 2**53, 2**63), {"vr": "UV", "Value": [2**53, str(2**63)]}),
        (
            0x00420011,
            "OB",
            b"%PDF",
            {"vr": "OB", "BulkDataURI": "gs://b/o?generation=17#offset=184&length=4"},
        ),
        (0x00282000, "OB", b"\1\2", {"vr": "OB", "InlineBinary": "AQI="}),
        (
            0x00100010,
            "PN",
            b"A^B=C=D",
            {"vr": "PN", "Value": [{"Alphabetic": "A^B", "Ideographic": "C", "Phonetic": "D"}]},
        ),
        (0x00081190, "UR", b"\\\\host\\a ", {"vr": "UR", "Value": ["\\\\host\\a"]}),
        (0x00100010, "PN", b"=C\\ ", {"vr": "PN", "Value": [{"Ideographic": "C"}, None]}),
    ],
)
def test_valid_values_have_the_shape_of_annex_f(tag, vr, raw, expected):
    assert entry(tag, vr, raw) == (expected, [])


@pytest.mark.parametrize(
    ("tag", "vr", "raw", "value", "code"),
    [
        (0x00200011, "IS", b"2.5 ", "2.5", "invalid_is"),
        (0x00200011, "IS", b"abc ", "abc", "invalid_is"),
        (0x00200011, "IS", b"99999999999999999999", "99999999999999999999", "too_long"),
        (0x00200011, "IS", b"3000000000", 3000000000, "invalid_is"),
        (0x00180050, "DS", b"1,5 ", "1,5", "invalid_ds"),
        (0x00180050, "DS", b"nan ", "nan", "invalid_ds"),
        (0x00180050, "DS", b"1_0 ", "1_0", "invalid_ds"),
        (0x00180050, "DS", b"0.12345678901234567", "0.12345678901234567", "too_long"),
        (0x00080020, "DA", b"20240230", "20240230", "invalid_da"),
        (0x00080020, "DA", b"today ", "today", "invalid_da"),
        (0x00080030, "TM", b"2575", "2575", "invalid_tm"),
        (0x0008002A, "DT", b"yesterday ", "yesterday", "invalid_dt"),
        (0x00101010, "AS", b"47", "47", "invalid_as"),
        (0x00080060, "CS", b"ct", "ct", "invalid_cs"),
        (0x00080018, "UI", b"../../etc/passwd", "../../etc/passwd", "invalid_ui"),
        (0x00080050, "SH", b"12345678901234567 ", "12345678901234567", "too_long"),
        (0x00189073, "FD", struct.pack("<d", math.nan), "NaN", "not_finite"),
        (0x00189073, "FD", struct.pack("<d", -math.inf), "-Infinity", "not_finite"),
    ],
)
def test_values_that_are_not_valid_stay_word_for_word_and_warn(tag, vr, raw, value, code):
    assert entry(tag, vr, raw) == ({"vr": vr, "Value": [value]}, [code])


def test_a_decimal_too_large_for_a_double_stays_text_and_is_json():
    assert entry(0x00180050, "DS", b"1e400 ") == ({"vr": "DS", "Value": ["1e400"]}, [])


def test_a_decimal_that_a_double_would_round_stays_text():
    assert entry(0x00180050, "DS", b"9007199254740993") == ({"vr": "DS", "Value": ["9007199254740993"]}, [])


def test_binary_numbers_of_a_broken_length_are_kept_as_bytes():
    found = entry(0x00280010, "US", b"\1\2\3")
    assert found == ({"vr": "UN", "InlineBinary": "AQID"}, ["invalid_length"])


def test_an_element_of_another_kind_than_the_dictionary_says_warns():
    assert entry(0x00280010, "LO", b"16") == ({"vr": "LO", "Value": ["16"]}, ["vr_mismatch"])


def test_a_sequence_where_the_dictionary_has_text_warns():
    item = b"\xfe\xff\x00\xe0\x08\0\0\0" + data.element(0x00100020, "LO", b"")
    value = {"vr": "SQ", "Value": [{"00100020": {"vr": "LO"}}]}
    assert entry(0x00100010, "SQ", item) == (value, ["vr_mismatch"])
    assert entry(0x00081140, "SQ", item) == (value, [])


@pytest.mark.parametrize(
    ("terms", "raw", "expected"),
    [
        (LATIN1, b"Buc^J\xe9r\xf4me", {"Alphabetic": "Buc^Jérôme"}),  # PS3.5 6.1.2.3
        (b"ISO_IR 144", b"\xbb\xee\xda", {"Alphabetic": "Люк"}),
        (b"ISO_IR 203", b"\xbcdipe^\xb8\xa8\xa4", {"Alphabetic": "Œdipe^žš€"}),  # ISO 8859-15
        (b"\\ISO 2022 IR 203", b"\x1b-b\xbcdipe^A", {"Alphabetic": "Œdipe^A"}),
        (b"ISO 2022 IR 203\\ISO 2022 IR 144", b"\xbd^\x1b-L\xbb", {"Alphabetic": "œ^Л"}),
        (
            b"ISO_IR 192",
            "Wang^XiaoDong=王^小東".encode(),
            {"Alphabetic": "Wang^XiaoDong", "Ideographic": "王^小東"},
        ),
        (
            b"GB18030",
            b"Wang=\xcd\xf5^\xd0\xa1\xb6\xab",
            {"Alphabetic": "Wang", "Ideographic": "王^小东"},
        ),  # Annex J.3
        (  # Annex H.3.2
            JAPANESE,
            b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
            {"Alphabetic": "ﾔﾏﾀﾞ^ﾀﾛｳ", "Ideographic": "山田^太郎", "Phonetic": "やまだ^たろう"},
        ),
        (  # Annex I.2
            b"\\ISO 2022 IR 149",
            b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
            {"Alphabetic": "Hong^Gildong", "Ideographic": "洪^吉洞", "Phonetic": "홍^길동"},
        ),
    ],
)
def test_names_in_every_kind_of_character_set(terms, raw, expected):
    assert entry(0x00100010, "PN", raw, charset(terms)) == ({"vr": "PN", "Value": [expected]}, [])


def test_a_backslash_inside_a_multi_byte_character_does_not_split():
    # JIS X 0208 row 29, cell 60 is 3D 5C: its second byte is a backslash in ASCII.
    found = entry(0x00080080, "LO", b"\x1b$B=\x5c\x1b(J\\B", charset(JAPANESE))
    assert found == ({"vr": "LO", "Value": ["旬", "B"]}, [])


def test_after_a_delimiter_the_first_character_set_holds_again():
    raw = b"\x1b-L\xbb^\xe9"
    found = entry(0x00100010, "PN", raw, charset(b"ISO 2022 IR 100\\ISO 2022 IR 144"))
    assert found == ({"vr": "PN", "Value": [{"Alphabetic": "Л^é"}]}, [])


@pytest.mark.parametrize(
    ("terms", "raw", "text", "codes"),
    [
        (b"", b"J\xc3\xa9", "Jé", ["invalid_text"]),
        (b"", b"J\xe9", "Jé", ["invalid_text"]),
        (b"ISO_IR 192", b"J\xe9", "Jé", ["invalid_text"]),
        (b"ISO_IR 999", b"J\xe9", "Jé", ["unknown_charset", "invalid_text"]),
        (b"ISO-IR 100", b"J\xe9", "Jé", []),
    ],
)
def test_text_outside_its_character_set_is_never_lost(terms, raw, text, codes):
    assert entry(0x00080080, "LO", raw, charset(terms)) == ({"vr": "LO", "Value": [text]}, codes)


@pytest.mark.parametrize(
    ("terms", "raw", "text"),
    [
        (b"ISO_IR 192", "aЖЖ".encode()[:-1], "aЖ\ufffd"),
        (b"ISO_IR 192", "Ж小".encode()[:-1] + b" ", "Ж\ufffd"),
        (b"ISO_IR 192", "Жя".encode()[:-1] + b"=Z", "Ж\ufffd=Z"),
        (b"GB18030", b"\xcd\xf5^\xd0", "王^\ufffd"),  # Annex J.3
        (b"GB18030", b"\xcd\xf5\x81\x30\x81", "王\ufffd"),
        (b"GBK", b"\xcd\xf5\xd0 ", "王\ufffd"),
        (b"\\ISO 2022 IR 149", b"Hong=\x1b$)C\xfb\xf3^\x1b$)C\xd1", "Hong=洪^\ufffd"),  # Annex I.2
        (b"\\ISO 2022 IR 149", b"Hong=\x1b$)C\xfb\xf3^\x1b$)", "Hong=洪^\ufffd"),
        (b"ISO 2022 IR 149", b"\xfb\xf3\xd1", "洪\ufffd"),
        (b"\\ISO 2022 IR 58", b"Z=\x1b$)A\xcd\xf5\xd0", "Z=王\ufffd"),
        (b"\\ISO 2022 IR 87", b"Y=\x1b$B;3E", "Y=山\ufffd"),  # Annex H.3.1
        (b"\\ISO 2022 IR 87", b"Y=\x1b$B;3ED ", "Y=山田"),
        (b"\\ISO 2022 IR 87", b"Y=\x1b$B;3ED\x1b(", "Y=山田\ufffd"),
        (b"\\ISO 2022 IR 159", b"Y=\x1b$(D;3E", "Y=岦\ufffd"),
        (b"", "ЖЖ".encode()[:-1], "Ж\ufffd"),
    ],
)
@pytest.mark.parametrize(("tag", "vr"), [(0x00080080, "LO"), (0x00081030, "ST"), (0x00080050, "UT")])
def test_a_text_cut_inside_a_character_keeps_the_whole_ones(terms, raw, text, tag, vr):
    found, codes = entry(tag, vr, raw, charset(terms))
    assert (found, codes) == ({"vr": vr, "Value": [text]}, ["invalid_text"])


def test_a_name_cut_inside_a_character_keeps_the_whole_ones():
    found = entry(0x00100010, "PN", "a=Жя".encode()[:-1], charset(b"ISO_IR 192"))
    value = {"Alphabetic": "a", "Ideographic": "Ж\ufffd"}
    assert found == ({"vr": "PN", "Value": [value]}, ["invalid_text"])


SINGLE = (100, 101, 109, 110, 144, 127, 126, 138, 148, 203, 13, 166)
TERMS = [f"ISO_IR {number}" for number in (*SINGLE, 192)] + ["GB18030", "GBK"]
TERMS += [f"ISO 2022 IR {number}" for number in (6, *SINGLE, 87, 159, 149, 58)]


@pytest.mark.parametrize("term", TERMS)
def test_every_defined_term_of_the_standard_is_known(term):
    """PS3.3 C.12.1.1.2, Tables C.12-2 to C.12-5."""
    value = {"vr": "LO", "Value": ["A"]}
    assert entry(0x00080080, "LO", b"A", charset(term.encode())) == (value, [])
    assert entry(0x00080080, "LO", b"A", charset(b"\\" + term.encode())) == (value, [])


def test_the_document_says_that_it_is_utf8():
    assert entry(0x00080005, "CS", LATIN1) == ({"vr": "CS", "Value": ["ISO_IR 192"]}, [])


def test_an_item_may_have_its_own_character_set():
    def item(*elements: bytes) -> bytes:
        body = b"".join(elements)
        return b"\xfe\xff\x00\xe0" + struct.pack("<L", len(body)) + body

    cyrillic = item(charset(b"ISO_IR 144"), data.element(0x00080080, "LO", b"\xbb\xee"))
    inherited = item(data.element(0x00080080, "LO", b"\xe9 "))
    found = metadata(charset(LATIN1), data.element(0x00081115, "SQ", cyrillic + inherited))
    values = [item["00080080"]["Value"] for item in found.dataset["00081115"]["Value"]]
    assert values == [["Лю"], ["é"]]


def test_the_same_bytes_in_items_of_other_character_sets_are_other_texts():
    meaning = data.element(0x00080104, "LO", b"\xe0 ")
    terms = (b"ISO_IR 100", b"ISO_IR 144", b"ISO_IR 126", b"ISO_IR 144")
    bodies = [charset(term) + meaning for term in terms] + [meaning, meaning]
    items = b"".join(b"\xfe\xff\x00\xe0" + struct.pack("<L", len(body)) + body for body in bodies)
    found = metadata(charset(b"ISO_IR 138"), data.element(0x00081115, "SQ", items))
    texts = [item["00080104"]["Value"][0] for item in found.dataset["00081115"]["Value"]]
    assert texts == ["\u00e0", "\u0440", "\u03b0", "\u0440", "\u05d0", "\u05d0"]


def test_long_texts_past_64_mib_in_all_stay_in_the_object():
    texts = [data.element(0x00091100 + n, "UT", b"x" * (1 << 20)) for n in range(66)]
    found = metadata(
        data.element(0x00090011, "LO", b"MAKER "), *texts, data.element(0x00100020, "LO", b"P-1 ")
    )
    forms = ["Value" if "Value" in entry else "URI" for entry in found.dataset.values()]
    assert forms == ["Value"] * 65 + ["URI"] * 2 + ["Value"]
    assert found.dataset["00091141"]["BulkDataURI"].endswith("&length=1048576")


def test_tags_are_upper_case_and_ascend_and_group_lengths_are_left_out():
    found = metadata(
        data.element(0x0020000D, "UI", b"1.2\0"),
        data.element(0x00080000, "UL", bytes(4)),
        data.element(0x0008103E, "LO", b"x "),
    )
    assert list(found.dataset) == ["0008103E", "0020000D"]


def test_the_file_meta_information_is_no_part_of_the_document():
    found = to_metadata(data.parse(data.ct()))
    assert not [tag for tag in found.dataset if tag.startswith("0002")]
    assert found.file_meta["00020010"] == {"vr": "UI", "Value": ["1.2.840.10008.1.2.1"]}


@pytest.mark.parametrize("syntax", data.NATIVE)
def test_a_bulk_data_uri_points_at_the_bytes(syntax):
    raw = data.with_private(syntax)
    dataset = data.parse(raw)
    uri = to_metadata(dataset, "x").dataset["7FE00010"]["BulkDataURI"]
    if syntax == data.DeflatedExplicitVRLittleEndian:
        assert uri == "x"  # inflated bytes have no place in the object
        return
    offset, length = map(int, re.fullmatch(r"x#offset=(\d+)&length=(\d+)", uri).groups())
    assert raw[offset : offset + length] == data.pixels(16, 8, syntax)


def test_every_native_syntax_gives_the_same_document():
    for make in (data.ct, data.enhanced, data.sr):
        plain = [to_metadata(data.parse(make(syntax)), "x").dataset for syntax in data.NATIVE]
        texts = {re.sub(rb"#offset=\d+&length=\d+", b"", orjson.dumps(one)) for one in plain}
        assert len(texts) == 1


def test_big_endian_words_are_inlined_little_endian():
    table = data.identity(RedPaletteColorLookupTableData=b"\x12\x34")
    found = to_metadata(data.parse(data.part10(table, data.ExplicitVRBigEndian)))
    assert found.dataset["00281201"] == {"vr": "OW", "InlineBinary": base64.b64encode(b"\x34\x12").decode()}


def test_binary_values_over_the_threshold_are_bulk():
    profile = data.element(0x00282000, "OB", bytes(2000))
    dataset = data.parse(data.raw(profile))
    assert "BulkDataURI" in to_metadata(dataset).dataset["00282000"]
    assert "InlineBinary" in to_metadata(dataset, bulk_threshold=2000).dataset["00282000"]


@pytest.mark.parametrize("tag", [0x60003000, 0x60023000, 0x54001010, 0x56000020, 0x7FE00008, 0x7FE00009])
def test_pixels_overlays_and_waveforms_are_never_inlined(tag):
    assert "BulkDataURI" in entry(tag, "OW", bytes(8))[0]


def test_implicit_vr_settles_what_the_dictionary_leaves_open():
    dataset = data.ct_dataset(PixelRepresentation=1, SmallestImagePixelValue=-5)
    found = to_metadata(data.parse(data.part10(dataset, data.ImplicitVRLittleEndian))).dataset
    assert found["00280106"] == {"vr": "SS", "Value": [-5]}
    assert found["7FE00010"]["vr"] == "OW"


def test_elements_changed_since_are_written_as_they_are_now():
    dataset = data.parse(data.with_private())
    dataset.PatientName = "山田^太郎"
    dataset.PatientID = "new"
    del dataset.AccessionNumber
    dataset.RequestAttributesSequence = Sequence([data.apply(Dataset(), ScheduledProcedureStepID="S")])
    found = to_metadata(dataset, "x").dataset
    assert found["00100010"] == {"vr": "PN", "Value": [{"Alphabetic": "山田^太郎"}]}
    assert found["00100020"] == {"vr": "LO", "Value": ["new"]}
    assert found["00400275"] == {"vr": "SQ", "Value": [{"00400009": {"vr": "SH", "Value": ["S"]}}]}
    assert "00080050" not in found
    assert found["7FE00010"]["BulkDataURI"].startswith("x#offset=")


def test_a_duplicate_counts_once_and_warns():
    found = metadata(data.element(0x00100020, "LO", b"A "), data.element(0x00100020, "LO", b"B "))
    assert found.dataset["00100020"]["Value"] == ["B"]
    assert found.warnings == (DatasetWarning("00100020", "duplicate_tag"),)


def test_in_an_item_too_the_last_of_a_tag_counts_whatever_its_vr():
    twice = data.element(0x00400007, "SH", b"A ") + data.element(0x00400007, "LO", b"B ")
    item = b"\xfe\xff\x00\xe0" + len(twice).to_bytes(4, "little") + twice
    found = metadata(data.element(0x00400275, "SQ", item))
    assert found.dataset["00400275"]["Value"] == [{"00400007": {"vr": "LO", "Value": ["B"]}}]
