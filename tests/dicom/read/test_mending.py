"""Headers and lengths that are wrong: what follows is read, a warning names the tag, a cut stays an error."""

import io
import json
import struct
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.dicom import describe
from app.dicom.read.dataset import read_dataset
from app.model.errors import BadDataset, PermanentError
from app.model.options import DescribeOptions, PreviewOptions
from app.model.values import Content, ObjectRef
from tests import data

NO_PREVIEW = DescribeOptions(preview=PreviewOptions(enabled=False))
EXPLICIT, IMPLICIT = data.ExplicitVRLittleEndian, data.ImplicitVRLittleEndian

UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = (
    b"\xfe\xff\x00\xe0",
    b"\xfe\xff\x0d\xe0" + bytes(4),
    b"\xfe\xff\xdd\xe0" + bytes(4),
)


def implicit(tag: int, value: bytes, length: int | None = None) -> bytes:
    size = len(value) if length is None else length
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, size) + value


def element(syntax: str, tag: int, vr: str, value: bytes, length: int | None = None) -> bytes:
    return data.element(tag, vr, value, length) if syntax == EXPLICIT else implicit(tag, value, length)


def item(*elements: bytes, length: int | None = None) -> bytes:
    body = b"".join(elements)
    return ITEM + struct.pack("<L", len(body) if length is None else length) + body


def file(syntax: str, *middle: bytes, pixels: bytes | None = None) -> bytes:
    """Return a file with something odd in the middle, and elements before and after it."""
    before = (
        element(syntax, 0x00080018, "UI", b"1.2.3\0"),
        element(syntax, 0x00090010, "LO", b"MAKER "),
    )
    after = (
        element(syntax, 0x00100010, "PN", b"Doe^Jane"),
        element(syntax, 0x00100020, "LO", b"P-1 "),
        element(syntax, 0x00280010, "US", b"\x02\0"),
        element(syntax, 0x00280011, "US", b"\x02\0"),
        element(syntax, 0x7FE00010, "OW", bytes(8)) if pixels is None else pixels,
    )
    return data.raw(*before, *middle, *after, syntax=syntax)


def read(raw: bytes):
    """Return document and warnings; what follows the odd part must be there."""
    instance = describe(data.content(raw), NO_PREVIEW)
    assert (instance.columns["patient_id"], instance.columns["rows"]) == ("P-1", 2)
    assert instance.columns["patient_name"] == "Doe^Jane"
    warned = {(one.tag, one.code) for one in instance.warnings if one.tag[:4] != "0002"}
    return json.loads(instance.document), warned


def ref(syntax: str, uid: bytes) -> bytes:
    return element(syntax, 0x00081155, "UI", uid)


def klass(syntax: str) -> bytes:
    return element(syntax, 0x00081150, "UI", b"1.2.3\0")


def sequence(syntax: str, body: bytes, length: int | None = UNDEFINED, tag: int = 0x00081140) -> bytes:
    return element(syntax, tag, "SQ", body, length)


def uids(document: dict) -> list:
    """Return the UIDs in the items of the sequence."""
    items = document["00081140"].get("Value", [])
    return [entry.get("00081155", {}).get("Value", [None])[0] for entry in items]


BROKEN = ("00081140", "invalid_sequence")
BOTH = pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT], ids=["explicit", "implicit"])


# where items and sequences end


@BOTH
@pytest.mark.parametrize("defined", [True, False])
def test_a_delimiter_after_an_item_that_has_a_length(syntax, defined):
    first, second = item(klass(syntax), ref(syntax, b"4.5.6\0")), item(ref(syntax, b"7.8\0"))
    body = first + ITEM_END + second + ITEM_END
    odd = sequence(syntax, body, None) if defined else sequence(syntax, body + SEQUENCE_END)
    document, warned = read(file(syntax, odd))
    assert (uids(document), warned) == (["4.5.6", "7.8"], {BROKEN})


@BOTH
def test_a_delimiter_after_a_sequence_that_has_a_length(syntax):
    odd = sequence(syntax, item(ref(syntax, b"4.5.6\0")), None) + SEQUENCE_END
    document, warned = read(file(syntax, odd))
    assert (uids(document), warned) == (["4.5.6"], {BROKEN})


@BOTH
@pytest.mark.parametrize("delimiters", [ITEM_END, SEQUENCE_END])
def test_delimiters_after_a_nested_sequence_that_has_a_length(syntax, delimiters):
    inner = sequence(syntax, item(ref(syntax, b"1.1\0")), None, 0x00081199) + delimiters
    after = element(syntax, 0x0008119A, "SQ", b"")
    body = (
        item(ref(syntax, b"4.5.6\0"), inner, after, length=UNDEFINED) + ITEM_END + item(ref(syntax, b"7.8\0"))
    )
    document, warned = read(file(syntax, sequence(syntax, body + SEQUENCE_END)))
    assert uids(document) == ["4.5.6", "7.8"]
    assert list(document["00081140"]["Value"][0]) == ["00081155", "00081199", "0008119A"]
    assert warned & {BROKEN, ("00081199", "invalid_sequence")}


@BOTH
@pytest.mark.parametrize("stray", [ITEM_END, SEQUENCE_END, SEQUENCE_END + ITEM_END])
def test_a_delimiter_where_there_is_no_sequence(syntax, stray):
    document, _ = read(file(syntax, stray))
    assert document["00090010"]["Value"] == ["MAKER"]


@BOTH
@pytest.mark.parametrize("off", [-14, -8, -6, -3, 3, 8, 14, 200, 100_000])
@pytest.mark.parametrize("defined", [True, False])
def test_an_item_shorter_or_longer_than_it_says(syntax, off, defined):
    body = klass(syntax) + ref(syntax, b"4.5.6\0")
    items = item(body, length=len(body) + off) + item(ref(syntax, b"7.8\0"))
    odd = sequence(syntax, items, None) if defined else sequence(syntax, items + SEQUENCE_END)
    document, warned = read(file(syntax, odd))
    assert uids(document) == ["4.5.6", "7.8"]
    assert warned == {BROKEN}


@BOTH
@pytest.mark.parametrize("off", [-22, -14, -8, -5])
def test_a_sequence_longer_than_it_says(syntax, off):
    items = item(ref(syntax, b"4.5.6\0")) + item(ref(syntax, b"7.8\0"))
    document, warned = read(file(syntax, sequence(syntax, items, len(items) + off)))
    assert uids(document) == ["4.5.6", "7.8"]
    assert warned == {BROKEN}


@BOTH
def test_a_sequence_without_its_end(syntax):
    for closed in (b"", ITEM_END):
        first = item(ref(syntax, b"4.5.6\0"), length=UNDEFINED if closed else None) + closed
        document, warned = read(file(syntax, sequence(syntax, first)))
        assert (uids(document), warned) == (["4.5.6"], {BROKEN})


@BOTH
def test_an_item_without_its_end(syntax):
    items = item(ref(syntax, b"4.5.6\0"), length=UNDEFINED) + item(ref(syntax, b"7.8\0"), length=UNDEFINED)
    document, warned = read(file(syntax, sequence(syntax, items + SEQUENCE_END)))
    assert (uids(document), warned) == (["4.5.6", "7.8"], {BROKEN})


@BOTH
@pytest.mark.parametrize("junk", [b"junk", b"junk in a sequence", bytes(7), b"\xff" * 40])
@pytest.mark.parametrize("defined", [True, False])
def test_junk_in_a_sequence_costs_no_more_than_the_sequence(syntax, junk, defined):
    items = item(ref(syntax, b"4.5.6\0")) + junk
    odd = sequence(syntax, items, None) if defined else sequence(syntax, items + SEQUENCE_END)
    document, warned = read(file(syntax, odd))
    assert (uids(document)[0], warned) == ("4.5.6", {BROKEN})


# the form of an element


def explicit_private() -> bytes:
    """Return a private sequence whose items are explicit, with one more in it."""
    inner = item(ref(EXPLICIT, b"4.5.6\0"))
    return item(data.element(0x00080104, "LO", b"meaning "), data.element(0x00081140, "SQ", inner))


@pytest.mark.parametrize("header", ["implicit", "explicit", "undefined"])
def test_an_explicit_private_sequence_among_implicit_elements(header):
    body = explicit_private()
    creator = implicit(0x20010010, b"Philips Imaging DD 001")
    odd = {
        "implicit": implicit(0x2001105F, body),
        "explicit": data.element(0x2001105F, "SQ", body),
        "undefined": data.element(0x2001105F, "SQ", body + SEQUENCE_END, UNDEFINED),
    }[header]
    pixels = creator + odd + implicit(0x7FE00010, bytes(8))
    document, warned = read(file(IMPLICIT, pixels=pixels))
    (found,) = document["2001105F"]["Value"]
    assert found["00080104"] == {"vr": "LO", "Value": ["meaning"]}
    assert found["00081140"]["Value"] == [{"00081155": {"vr": "UI", "Value": ["4.5.6"]}}]
    assert warned
    assert document["7FE00010"]["vr"] == "OW"


@pytest.mark.parametrize(
    ("vr", "value", "expected"),
    [
        ("LO", b"text", "text"),
        ("LO", b"", None),
        ("DS", b"1.5 ", 1.5),
        ("US", b"\7\0", 7),
        ("SH", b"x ", "x"),
        ("UT", b"text", "text"),
        ("FD", struct.pack("<d", 0.5), 0.5),
    ],
)
def test_an_explicit_element_among_implicit_ones(vr, value, expected):
    document, warned = read(file(IMPLICIT, data.element(0x00091001, vr, value)))
    assert document["00091001"] == ({"vr": vr} if expected is None else {"vr": vr, "Value": [expected]})
    assert warned == {("00091001", "invalid_vr")}


@pytest.mark.parametrize("value", [b"", b"text", b"a longer text than others have "])
def test_an_implicit_element_among_explicit_ones(value):
    document, warned = read(file(EXPLICIT, implicit(0x00081030, value)))
    assert document["00081030"].get("Value", [""]) == [value.decode().strip()]
    assert warned == {("00081030", "invalid_vr")}


def test_implicit_items_in_an_explicit_sequence():
    body = item(klass(IMPLICIT), ref(IMPLICIT, b"4.5.6\0"))
    document, warned = read(file(EXPLICIT, sequence(EXPLICIT, body + SEQUENCE_END)))
    assert uids(document) == ["4.5.6"]
    assert warned


@pytest.mark.parametrize("vr", [b"??", b"\0\0", b"  ", b"zz", b"\xff\xff", b"ZZ"])
@pytest.mark.parametrize("long", [True, False])
@pytest.mark.parametrize("value", [b"", b"ab", b"abcdef"])
def test_a_vr_that_is_none(vr, long, value):
    size = struct.pack("<HL", 0, len(value)) if long else struct.pack("<H", len(value))
    odd = struct.pack("<HH", 0x0008, 0x1030) + vr + size + value
    document, warned = read(file(EXPLICIT, odd))
    assert document["00081030"].get("Value", [""]) == [value.decode()]
    assert warned == {("00081030", "invalid_vr")}


@pytest.mark.parametrize(("vr", "value"), [("OB", b"abcd"), ("UN", b"ab"), ("UT", b"text")])
def test_two_bytes_of_length_where_four_should_be(vr, value):
    odd = struct.pack("<HH2sH", 0x0009, 0x1001, vr.encode(), len(value)) + value
    document, warned = read(file(EXPLICIT, odd))
    assert document["00091001"]["vr"] == vr
    assert len(document["00091001"].get("InlineBinary", "")) in (8, 4, 0)
    assert warned == {("00091001", "invalid_vr")}


@pytest.mark.parametrize(
    ("vr", "value", "expected"), [("LO", b"text", "text"), ("US", b"\7\0", 7), ("IS", b"12", 12)]
)
def test_four_bytes_of_length_where_two_should_be(vr, value, expected):
    odd = struct.pack("<HH2sHL", 0x0009, 0x1001, vr.encode(), 0, len(value)) + value
    document, warned = read(file(EXPLICIT, odd))
    assert document["00091001"] == {"vr": vr, "Value": [expected]}
    assert warned == {("00091001", "invalid_vr")}


def test_reserved_bytes_that_are_not_zero():
    odd = struct.pack("<HH2sHL", 0x0009, 0x1001, b"OB", 0x2020, 4) + b"abcd"
    document, _ = read(file(EXPLICIT, odd))
    assert document["00091001"] == {"vr": "OB", "InlineBinary": "YWJjZA=="}


@pytest.mark.parametrize("vr", ["UT", "OB", "UN", "OW"])
def test_a_value_of_undefined_length_that_is_no_sequence(vr):
    odd = data.element(0x00091001, vr, b"some text " + SEQUENCE_END, UNDEFINED)
    document, warned = read(file(EXPLICIT, odd))
    assert "Value" in document["00091001"] or "InlineBinary" in document["00091001"]
    assert ("00091001", "invalid_length") in warned


@pytest.mark.parametrize("vr", ["UT", "OB"])
def test_a_sequence_of_undefined_length_under_another_vr(vr):
    body = item(ref(EXPLICIT, b"4.5.6\0"), length=UNDEFINED) + ITEM_END + SEQUENCE_END
    document, _ = read(file(EXPLICIT, data.element(0x00091001, vr, body, UNDEFINED)))
    assert document["00091001"]["Value"] == [{"00081155": {"vr": "UI", "Value": ["4.5.6"]}}]


def test_a_public_text_that_is_a_sequence_in_implicit_vr():
    body = item(ref(IMPLICIT, b"4.5.6\0"), length=UNDEFINED) + ITEM_END + SEQUENCE_END
    document, _ = read(file(IMPLICIT, implicit(0x00081030, body, UNDEFINED)))
    assert document["00081030"]["Value"] == [{"00081155": {"vr": "UI", "Value": ["4.5.6"]}}]


# group 0002


@BOTH
def test_a_second_group_0002(syntax):
    meta = data.element(0x00020010, "UI", b"1.2.840.10008.1.2.2\0") + data.element(
        0x00020013, "SH", b"NEWER "
    )
    raw = file(syntax)
    at = raw.index(struct.pack("<HH", 0x0008, 0x0018))
    for odd in (meta, meta * 2):
        instance = describe(data.content(raw[:at] + odd + raw[at:]), NO_PREVIEW)
        assert instance.columns["transfer_syntax_uid"] == syntax
        assert not [tag for tag in json.loads(instance.document) if tag.startswith("0002")]
        assert ("00020010", "duplicate_tag") in {(one.tag, one.code) for one in instance.warnings}


@BOTH
def test_group_0002_among_the_elements_of_the_data_set(syntax):
    instance = describe(data.content(file(syntax, element(syntax, 0x00020010, "UI", b"1.2.3\0"))), NO_PREVIEW)
    assert instance.columns["transfer_syntax_uid"] == syntax
    assert not [tag for tag in json.loads(instance.document) if tag.startswith("0002")]
    assert [(one.tag, one.code) for one in instance.warnings if one.code == "misplaced"] == [
        ("00020010", "misplaced")
    ]


# UN in Big Endian


def test_un_is_little_endian_in_a_big_endian_data_set():
    dataset = data.ct_dataset(data.ExplicitVRBigEndian)
    raw = data.part10(dataset, data.ExplicitVRBigEndian)
    at = raw.index(b"\x00\x18\x00\x50DS")
    spread = b"\x00\x18\x90\x87UN\0\0\0\0\0\x08" + struct.pack("<d", 1000)
    raw = raw[:at] + spread + raw[at:]
    found = json.loads(describe(data.content(raw), NO_PREVIEW).document)
    assert found["00189087"] == {"vr": "FD", "Value": [1000.0]}
    parsed = data.parse(raw)
    assert (parsed.DiffusionBValue, parsed.Rows) == (1000, 16)


@pytest.mark.parametrize("length", ["undefined", "defined"])
@pytest.mark.parametrize("form", [EXPLICIT, IMPLICIT])
def test_un_that_is_a_sequence_in_a_big_endian_data_set(length, form):
    raw = data.part10(data.ct_dataset(data.ExplicitVRBigEndian), data.ExplicitVRBigEndian)
    at = raw.index(b"\x00\x18\x00\x50DS")
    body = item(element(form, 0x00080100, "SH", b"CODE"), element(form, 0x00280010, "US", b"\7\0")) * 2
    if length == "undefined":
        un = b"\x00\x08\x10\x32UN\0\0\xff\xff\xff\xff" + body + SEQUENCE_END
    else:
        un = b"\x00\x08\x10\x32UN\0\0" + struct.pack(">L", len(body)) + body
    instance = describe(data.content(raw[:at] + un + raw[at:]), NO_PREVIEW)
    one = {"00080100": {"vr": "SH", "Value": ["CODE"]}, "00280010": {"vr": "US", "Value": [7]}}
    assert json.loads(instance.document)["00081032"] == {"vr": "SQ", "Value": [one, one]}
    assert (instance.columns["rows"], instance.columns["slice_thickness"]) == (16, 2.5)


# what follows the data set, and what is cut off


@BOTH
@pytest.mark.parametrize("padding", [b"\xff" * 9, b" " * 5000, b"\0" * 3, b"\r\n--boundary--\r\n"])
def test_what_fills_up_an_object_without_pixel_data(syntax, padding):
    read(file(syntax, pixels=b"") + padding)


ODDITIES = {
    "delimiter": lambda s: sequence(s, item(ref(s, b"4.5.6\0")) + ITEM_END + SEQUENCE_END),
    "short item": lambda s: sequence(s, item(ref(s, b"4.5.6\0"), length=8) + SEQUENCE_END),
    "long item": lambda s: sequence(s, item(ref(s, b"4.5.6\0"), length=30) + SEQUENCE_END),
    "other form": lambda s: element(IMPLICIT if s == EXPLICIT else EXPLICIT, 0x00091001, "LO", b"text"),
    "nested": lambda s: sequence(
        s,
        item(sequence(s, item(klass(s), ref(s, b"4.5.6\0"), length=UNDEFINED) + ITEM_END + SEQUENCE_END)) * 2,
        None,
    ),
}


@BOTH
@pytest.mark.parametrize("name", ODDITIES)
@pytest.mark.parametrize("last", [True, False])
def test_a_cut_is_an_error_all_the_same(syntax, name, last):
    odd = ODDITIES[name](syntax)
    whole = (
        file(syntax, pixels=odd.replace(b"\x08\0", b"\x32\0") if last else None)
        if last
        else file(syntax, odd)
    )
    parsed = read_dataset(data.content(whole))
    ends = {node.offset + node.length for node in parsed.nodes.values()}
    ends |= {end + 8 for end in ends}  # the delimiter of a sequence
    for end in range(parsed.nodes[0x00080018].offset + 1, len(whole)):
        if end in ends:
            continue
        with pytest.raises(PermanentError):
            read_dataset(data.content(whole[:end]))


@BOTH
def test_pixel_data_that_are_cut_off_are_truncated(syntax):
    for value in (bytes(70_000), b"\xff" * 70_000, b"\x00\x80" * 35_000, bytes(range(256)) * 300):
        whole = file(syntax, pixels=element(syntax, 0x7FE00010, "OW", value))
        for end in (1, 7, 9, 30_001, 69_000):
            with pytest.raises(BadDataset) as caught:
                read_dataset(data.content(whole[:-end]))
            assert caught.value.code == "truncated"


@BOTH
def test_a_stream_is_mended_as_bytes_are(syntax):
    raw = file(syntax, ODDITIES["short item"](syntax), ODDITIES["other form"](syntax))
    stream = Content(ObjectRef("b", "n", 1), "gs://b/n", len(raw), opener=lambda: io.BytesIO(raw))
    assert describe(stream, NO_PREVIEW).columns == describe(data.content(raw), NO_PREVIEW).columns


@BOTH
def test_a_sequence_after_the_pixel_data_that_is_cut_off_is_truncated(syntax):
    signatures = element(syntax, 0xFFFAFFFA, "SQ", item(klass(syntax), length=UNDEFINED), UNDEFINED)
    with pytest.raises(BadDataset) as caught:
        read_dataset(data.content(file(syntax) + signatures))
    assert caught.value.code == "truncated"


def inside(nodes, end: int) -> bool:
    """Say whether all values lie before an end."""
    return all(
        0 <= node.offset <= node.offset + node.length <= end and all(inside(one, end) for one in node.items)
        for node in nodes
    )


@BOTH
@settings(max_examples=300)
@given(st.integers(0, 1000), st.binary(min_size=1, max_size=6), st.integers(0, 1))
def test_no_value_lies_outside_whatever_is_overwritten(syntax, at, patch, insert):
    whole = bytearray(file(syntax, *(make(syntax) for make in ODDITIES.values())))
    at = 132 + at % (len(whole) - 132)
    whole[at : at + len(patch) * insert] = patch
    with suppress(PermanentError):
        assert inside(read_dataset(data.content(bytes(whole))).nodes.values(), len(whole))
