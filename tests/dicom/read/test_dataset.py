"""Bytes to data set: what is recognised, what is refused, and that nothing is read past its end."""

import csv
import io
import struct
import zlib
from contextlib import suppress

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from app.dicom.read.dataset import read_dataset
from app.model.errors import BadDataset, LimitExceeded, NotDicom, PermanentError
from app.model.values import Content, ObjectRef
from tests import data
from tests.parts import shared

NAME = data.element(0x00100010, "PN", b"Doe^Jane")
PIXELS = data.element(0x7FE00010, "OW", bytes(8))
ITEM, ITEM_END, SEQUENCE_END = (
    b"\xfe\xff\x00\xe0",
    b"\xfe\xff\x0d\xe0" + bytes(4),
    b"\xfe\xff\xdd\xe0" + bytes(4),
)
OPEN = b"\xff\xff\xff\xff"


def nested(depth: int) -> bytes:
    """Return a content sequence of undefined lengths, `depth` sequences deep."""
    return (data.element(0x0040A730, "SQ", length=0xFFFFFFFF) + ITEM + OPEN) * depth + (
        ITEM_END + SEQUENCE_END
    ) * depth


@pytest.mark.parametrize("syntax", data.NATIVE)
def test_every_native_syntax_is_read(syntax):
    dataset = data.parse(data.ct(syntax))
    assert dataset.PatientName == "Doe^Jane"
    assert dataset.pixel_array[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert dataset.file_meta.TransferSyntaxUID == syntax


@pytest.mark.parametrize("syntax", data.NATIVE[:3])
def test_a_data_set_without_preamble_and_meta_is_read(syntax):
    dataset = data.parse(data.bare(data.ct_dataset(syntax), syntax))
    assert (dataset.PatientID, dataset.Rows) == ("P-1", 16)
    assert dataset.original_encoding == (syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian)


def test_magic_at_the_beginning_is_read():
    assert data.parse(data.ct()[128:]).PatientID == "P-1"


def test_file_meta_without_preamble_is_read():
    dataset = data.parse(data.ct()[132:])
    assert (dataset.PatientID, dataset.file_meta.TransferSyntaxUID) == ("P-1", "1.2.840.10008.1.2.1")


def test_acr_nema_recognition_code_is_read():
    group = struct.pack("<HHLL", 8, 0, 4, 20)
    code = struct.pack("<HHL", 8, 0x10, 12) + b"ACR-NEMA 2.0"
    assert data.parse(group + code)[0x00080010].value == "ACR-NEMA 2.0"


@pytest.mark.parametrize(
    ("declared", "real"),
    [
        (data.ImplicitVRLittleEndian, data.ExplicitVRLittleEndian),
        (data.ExplicitVRLittleEndian, data.ImplicitVRLittleEndian),
        (data.ExplicitVRLittleEndian, data.ExplicitVRBigEndian),
        (data.ExplicitVRBigEndian, data.ExplicitVRLittleEndian),
    ],
)
def test_the_first_element_is_believed_over_the_declared_syntax(declared, real):
    dataset = data.parse(data.raw(data.bare(data.ct_dataset(real), real), syntax=declared))
    assert (dataset.PatientName, dataset.Rows) == ("Doe^Jane", 16)


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"x",
        b"plain text, long enough to be something else",
        bytes(5000),
        bytes(128) + b"DICM" + b"%PDF-1.7",
    ],
)
def test_what_is_not_dicom_is_said_so(junk):
    with pytest.raises(NotDicom):
        data.parse(junk)


def test_nothing_after_the_file_meta_is_truncated():
    with pytest.raises(BadDataset) as caught:
        data.parse(data.raw())
    assert caught.value.code == "truncated"


@pytest.mark.parametrize("make", [data.ct, data.enhanced, data.sr, data.with_private])
def test_a_cut_at_any_byte_is_never_read_as_whole(make):
    whole = make()
    body = 144 + struct.unpack("<I", whole[140:144])[0]
    ends = {node.offset + node.length for node in data.parse(whole).nodes.values()}
    for end in range(132, len(whole)):
        # A cut between two elements of the data set itself leaves a valid file: sizes and checksums tell.
        if end in ends and end > body:
            continue
        with pytest.raises(PermanentError):
            data.parse(whole[:end])


def test_a_cut_value_is_truncated_and_named():
    with pytest.raises(BadDataset) as caught:
        data.parse(data.raw(NAME, data.element(0x00100020, "LO", b"P-1", length=40)))
    assert (caught.value.code, caught.value.text) == ("truncated", "the value of 00100020 is cut off")


@pytest.mark.parametrize("padding", [bytes(1), bytes(700), data.element(0xFFFCFFFC, "OB", bytes(64))])
def test_trailing_padding_is_tolerated(padding):
    assert data.parse(data.ct() + padding).PatientID == "P-1"


@pytest.mark.parametrize("junk", [b"\x01", b"junk after the pixel data", bytes(128) + b"DICM\2\0\0\0UL"])
def test_junk_after_the_pixel_data_is_dropped(junk):
    assert data.parse(data.ct() + junk).keys() == data.parse(data.ct()).keys()


def test_nesting_of_64_is_read_and_65_is_too_deep():
    assert 0x0040A730 in data.parse(data.raw(NAME, nested(64)))
    with pytest.raises(LimitExceeded):
        data.parse(data.raw(NAME, nested(65)))


def test_nesting_of_a_hundred_thousand_ends_in_the_limit():
    with pytest.raises(LimitExceeded):
        data.parse(data.raw(NAME, nested(100_000)))


def test_more_than_a_million_elements_are_too_many():
    many = b"".join(struct.pack("<HH2sH", 9, n, b"LO", 0) for n in range(0x1000, 0x1000 + 50_000)) * 20
    with pytest.raises(LimitExceeded):
        data.parse(data.raw(NAME, many))


def test_un_of_undefined_length_is_a_sequence_in_implicit_vr():
    inner = struct.pack("<HHL", 0x0008, 0x0100, 6) + b"121071"
    item = ITEM + struct.pack("<L", len(inner)) + inner
    un = data.element(0x0040A043, "UN", item + SEQUENCE_END, length=0xFFFFFFFF)
    dataset = data.parse(data.raw(NAME, un, PIXELS))
    assert dataset.ConceptNameCodeSequence[0].CodeValue == "121071"


def test_an_unknown_vr_of_either_form_is_read_over():
    long = struct.pack("<HH2sHL", 0x18, 0x1030, b"ZZ", 0, 4) + b"abcd"
    short = struct.pack("<HH2sH", 0x18, 0x1031, b"zz", 4) + b"efgh"
    dataset = data.parse(data.raw(NAME, long, short, PIXELS))
    assert (dataset.ProtocolName, dataset.get_item(0x00181031).value) == ("abcd", b"efgh")


def test_encapsulated_pixels_without_an_end_are_truncated():
    open_pixels = data.element(0x7FE00010, "OB", ITEM + bytes(4), length=0xFFFFFFFF)
    assert data.parse(data.raw(NAME, open_pixels + SEQUENCE_END)).nodes[0x7FE00010].length == 8
    with pytest.raises(BadDataset) as caught:
        data.parse(data.raw(NAME, open_pixels))
    assert caught.value.code == "truncated"


def test_a_deflated_bomb_is_refused_before_it_is_inflated():
    packer = zlib.compressobj(9, wbits=-15)
    megabyte = bytes(1 << 20)
    bomb = b"".join(packer.compress(megabyte) for _ in range(300)) + packer.flush()
    head = data.raw(syntax=DeflatedExplicitVRLittleEndian)
    with pytest.raises(LimitExceeded):
        data.parse(head[: 144 + struct.unpack("<I", head[140:144])[0]] + bomb)


def test_a_deflated_data_set_cut_in_half_is_truncated():
    whole = data.ct(DeflatedExplicitVRLittleEndian)
    with pytest.raises(BadDataset) as caught:
        data.parse(whole[:-40])
    assert caught.value.code == "truncated"


def test_large_values_are_left_in_the_object():
    big = data.ct(Rows=256, Columns=256)
    dataset = data.parse(big)
    assert dataset.get_item("PixelData", keep_deferred=True).value is None
    node = dataset.nodes[0x7FE00010]
    assert big[node.offset : node.offset + node.length] == data.pixels(256, 256)
    assert dataset.PixelData == data.pixels(256, 256)


class Nameless(io.RawIOBase):
    """Bytes from elsewhere than a file."""

    def __init__(self, raw):
        self.held = io.BytesIO(raw)

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, offset, whence=io.SEEK_SET):
        return self.held.seek(offset, whence)

    def tell(self):
        return self.held.tell()

    def readinto(self, buffer):
        return self.held.readinto(buffer)


def test_a_buffered_stream_without_a_name_is_read_as_any_other():
    raw = data.ct()
    opener = lambda: io.BufferedReader(Nameless(raw))  # noqa: E731 - as a store makes them
    dataset = read_dataset(Content(ObjectRef("b", "n", 1), "gs://b/n", len(raw), opener=opener))
    assert dataset.PatientID == "P-1"
    assert dataset.pixel_array.shape == (dataset.Rows, dataset.Columns)


class Counting(io.BytesIO):
    """A stream that counts what is read from it."""

    total = 0

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(size)
        self.total += len(found)
        return found


def test_of_a_large_stream_only_the_head_is_read():
    big = data.ct(Rows=4096, Columns=4096)
    stream = Counting(big)
    content = Content(ObjectRef("b", "n", 1), "gs://b/n", len(big), opener=lambda: stream)
    dataset = read_dataset(content)
    assert dataset.PatientID == "P-1"
    assert len(big) > 33_000_000
    assert stream.total <= 1 << 19


def test_duplicate_elements_are_noted():
    dataset = data.parse(
        data.raw(NAME, data.element(0x00100020, "LO", b"A "), data.element(0x00100020, "LO", b"B "))
    )
    assert dataset.faults == ((0x00100020, "duplicate_tag"),)


@given(st.binary(max_size=400))
def test_random_bytes_after_a_valid_head_read_or_fail_permanently(junk):
    for syntax in data.NATIVE[:3]:
        head = data.raw(NAME if syntax == data.ExplicitVRLittleEndian else b"", syntax=syntax)
        with suppress(PermanentError):
            data.parse(head + junk)


@given(st.integers(132, 1139), st.binary(min_size=1, max_size=6))
def test_overwritten_bytes_read_or_fail_permanently(at, patch):
    whole = bytearray(data.enhanced())
    whole[at : at + len(patch)] = patch
    with suppress(PermanentError):
        data.parse(bytes(whole))


def test_nothing_that_dcmtk_reads_is_refused_and_the_elements_are_those_of_pydicom():
    corpus = shared("corpus")
    refused = {}
    for row in csv.DictReader((corpus / "MANIFEST.csv").open()):
        path = corpus / row["file"]
        try:
            dataset = data.parse(path.read_bytes())
        except PermanentError as exc:
            refused[row["file"]] = exc.code
            assert row["dcmtk_json"] != "yes", row["file"]
            continue
        assert dataset.keys() == pydicom.dcmread(path, force=True).keys(), row["file"]
    assert refused == {
        "mr_explicit_mono2_mr-truncated.dcm": "truncated",
        "rtplan_implicit_rtplan-truncated.dcm": "truncated",
        "xx_j2k-ll_emri-small-jpeg-2k-lossless-too-short.dcm": "truncated",
        "xx_nots_no-meta.dcm": "not_dicom",
    }
