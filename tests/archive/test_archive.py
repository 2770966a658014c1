import gzip
import io
import tarfile
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app import archive
from app.archive.labels import Labels, label
from app.archive.unpack import may_be_dicom
from app.dicom.read.dataset import read_dataset
from app.model.errors import LimitExceeded, NotDicom
from app.model.listing import Entry, Kind, Listing, Refused
from app.model.options import DescribeOptions
from app.model.values import Instance
from tests import data
from tests.archives import LIMITS, content, tar_file, tarred, tgz, unpacked, zipped

CT = data.ct()
TWO = [("a/1.dcm", CT), ("a/2.dcm", data.minimal())]


@pytest.mark.parametrize(
    "packed",
    [
        zipped(TWO),
        zipped(TWO, zipfile.ZIP_STORED),
        tarred(TWO),
        tarred(TWO, tarfile.GNU_FORMAT),
        tarred(TWO, tarfile.USTAR_FORMAT),
        tgz(TWO),
        gzip.compress(tarred(TWO)[:1024]) + gzip.compress(tarred(TWO)[1024:]),
    ],
    ids=["deflated", "stored", "pax", "gnu", "ustar", "tgz", "tgz of two gzip members"],
)
def test_every_kind_of_archive_gives_its_members_byte_for_byte(packed):
    assert archive.is_archive(content(packed))
    assert unpacked(packed) == ({"a/1.dcm": CT, "a/2.dcm": data.minimal()}, "")


def test_an_old_tar_without_magic_is_known_by_its_checksum():
    header = bytearray(tarred([("1.dcm", CT)], tarfile.USTAR_FORMAT))
    header[257:265] = bytes(8)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    assert unpacked(bytes(header)) == ({"1.dcm": CT}, "")


@pytest.mark.parametrize("name", ["scan.dcm.gz", "scan.dcm.GZ", "deep/scan.dcm.gz", "scan.dcm"])
def test_a_gzip_of_one_file_has_one_member_named_as_the_object(name):
    inside = io.BytesIO()
    with gzip.GzipFile("../../etc/passwd", "wb", fileobj=inside) as file:
        file.write(CT)
    assert unpacked(inside.getvalue(), name=name) == ({"scan.dcm": CT}, "")


@pytest.mark.parametrize("magic", [b"PK\3\4", b"\x1f\x8b\x08", b"Rar!\x1a\7", tarred(TWO)[:128]])
def test_dicom_is_no_archive_whatever_its_preamble_holds(magic):
    assert not archive.is_archive(content(magic.ljust(128, b"\0") + CT[128:]))


def test_ordinary_bytes_are_no_archive():
    for packed in (b"", b"P", CT, data.bare(data.ct_dataset()), bytes(512), b"text " * 200):
        assert not archive.is_archive(content(packed))


@pytest.mark.parametrize("syntax", data.NATIVE)
def test_what_is_dicom_is_worth_unpacking(syntax):
    for sample in (data.ct(syntax), data.ct(syntax)[128:], data.ct(syntax)[132:]):
        assert read_dataset(data.content(sample))
        assert may_be_dicom(sample)


@settings(max_examples=300)
@given(st.binary(min_size=0, max_size=12), st.binary(max_size=20))
def test_what_is_not_worth_unpacking_is_not_dicom(head, tail):
    if not may_be_dicom(head + tail):
        with pytest.raises(NotDicom):
            read_dataset(data.content(head + tail))


def test_directories_are_no_members():
    assert unpacked(zipped([("a/", b""), ("b\\", b""), *TWO]))[0].keys() == {"a/1.dcm", "a/2.dcm"}
    folder = tar_file("a", kind=tarfile.DIRTYPE).tobuf()
    assert unpacked(folder + tarred(TWO))[0].keys() == {"a/1.dcm", "a/2.dcm"}


def test_a_tar_that_was_appended_to_another_is_read_too():
    one, other = tarred([("1.dcm", CT)]), tarred([("2.dcm", CT)])
    for packed in (one + other, gzip.compress(one + other)):
        assert unpacked(packed) == ({"1.dcm": CT, "2.dcm": CT}, "")
    assert unpacked(one + b"filled up with something") == ({"1.dcm": CT}, "")


def test_the_label_of_a_tar_is_no_member():
    volume = tar_file("STUDY1", kind=b"V").tobuf(tarfile.GNU_FORMAT)
    assert unpacked(volume + tarred([("1.dcm", CT)])) == ({"1.dcm": CT}, "")


def test_the_same_name_twice_is_two_members():
    twice = [("1.dcm", CT), ("1.dcm", data.minimal()), ("1~2.dcm", CT), ("1.dcm", CT)]
    for packed in (zipped(twice), tarred(twice)):
        assert list(unpacked(packed)[0]) == ["1.dcm", "1~2.dcm", "1~2~2.dcm", "1~3.dcm"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("/etc/passwd", "/etc/passwd"),
        ("../../x.dcm", "../../x.dcm"),
        ("./a/./b.dcm", "a/./b.dcm"),
        ("C:\\x.dcm", "C:\\x.dcm"),
        ("a\nb\r\0\x1b[31m\u2028.dcm", "a\\x0ab\\x0d\\x00\\x1b[31m\\x2028.dcm"),
        ("胸部.dcm", "胸部.dcm"),
        ("./", "unnamed"),
        ("", "unnamed"),
    ],
)
def test_a_label_is_text_that_can_be_printed(name, expected):
    assert label(name) == expected


def test_a_name_that_is_not_utf_8_is_kept_escaped():
    assert Labels().add(b"caf\xe9.dcm") == "caf\\xe9.dcm"
    assert Labels().add(b"caf\x82.dcm", "cp437") == "café.dcm"


def test_long_names_that_differ_at_the_end_stay_different_and_short():
    first, second = label("d/" * 1000 + "1.dcm"), label("d/" * 1000 + "2.dcm")
    assert first != second
    assert all(len(one.encode()) <= 500 and one.endswith(".dcm") for one in (first, second))


def listing(kind, *sizes):
    entries, begin = [], 0
    for size in sizes:
        entries.append(Entry(f"{len(entries)}", begin, begin + size, size))
        begin += size
    return Listing(kind, tuple(entries))


def test_a_task_is_64_members_or_16_mib_and_never_none_and_all_of_a_gzip():
    assert [len(batch) for batch in archive.batches(listing(Kind.ZIP, *[1000] * 150))] == [64, 64, 22]
    mib = 1 << 20
    assert [len(one) for one in archive.batches(listing(Kind.TAR, 100 * mib, 15 * mib, mib, 1))] == [1, 2, 1]
    assert [len(one) for one in archive.batches(listing(Kind.GZIP, *[100 * mib] * 500))] == [500]
    assert list(archive.batches(listing(Kind.GZIP))) == []


def told(entry_label, error=None):
    return Instance({}, "", b"", preview_error=error, member=entry_label)


@pytest.mark.parametrize(
    ("pack", "ends", "labels"),
    [
        (zipped, ["decode_failed", None], "0"),
        (tgz, ["decode_failed", None], "01"),
        (tgz, ["decode_failed", "unsupported_transfer_syntax", "out_of_memory", None], "01"),
        (tgz, ["decode_failed", "limit_exceeded", None], "0"),
        (tgz, ["out_of_memory", None, "decode_failed", None], "0123"),
        (tgz, [None, LimitExceeded("limits.depth")], "01"),
        (tgz, ["decode_failed", LimitExceeded("out of memory"), None], "0"),
    ],
)
def test_what_a_decoder_leaked_costs_no_other_member_its_picture(pack, ends, labels):
    def describe(one, options):
        end = ends[int(one.member)]
        if isinstance(end, LimitExceeded):
            raise end
        return told(one.member, end)

    whole = content(pack((str(number), CT) for number in range(len(ends))))
    found = archive.list_members(whole, LIMITS)
    part = archive.part(whole, found.kind, found.entries)
    options = DescribeOptions().without_preview()
    came = archive.describe_members(describe, part, options, LIMITS)
    assert "".join(one.label if isinstance(one, Refused) else one.member for one in came) == labels


def test_a_worker_gets_only_the_bytes_of_its_own_members():
    whole = content(tarred(TWO))
    found = archive.list_members(whole, LIMITS)
    part = archive.part(whole, found.kind, found.entries[1:])
    assert part.content.data == data.minimal()
    assert part.entries[0].offset == 0
