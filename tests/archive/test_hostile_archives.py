import gzip
import io
import random
import stat
import struct
import tarfile
import time
import tracemalloc
import zipfile

import pytest

from app import archive
from app.model.errors import PermanentError
from app.model.options import ArchiveLimits
from app.workers import messages
from tests import data
from tests.archives import (
    MIB,
    content,
    deflated_zeros,
    gzip_bomb,
    overlapping,
    patched,
    refused,
    tar_file,
    tar_special,
    tarred,
    tgz,
    unpacked,
    zip_raw,
    zipped,
)

CT = data.ct()
TWO = [("a/1.dcm", CT), ("a/2.dcm", data.minimal())]
ONE = zipped([("1.dcm", CT)], zipfile.ZIP_STORED)
CRC = struct.pack("<L", zipfile.ZipFile(io.BytesIO(ONE)).infolist()[0].CRC)
SIZE = struct.pack("<L", len(CT))
ZEROS, ZEROS_CRC = deflated_zeros(64)


def linked(mode):
    buffer, link = io.BytesIO(), zipfile.ZipInfo("1.dcm")
    link.create_system, link.external_attr = 3, (mode | 0o777) << 16
    with zipfile.ZipFile(buffer, "w") as made:
        made.writestr(link, "/etc/passwd")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("packed", "code"),
    [
        (patched(ONE, (CRC, b"\1\2\3\4")), "bad_checksum"),
        (ONE[: ONE.index(b"PK\1\2") - 1] + b"\1" + ONE[ONE.index(b"PK\1\2") :], "bad_checksum"),
        (patched(ONE, (b"PK\1\2\x14\3\x14\0\0\0", b"PK\1\2\x14\3\x14\0\1\0")), "encrypted"),
        (patched(ONE, (b"PK\3\4\x14\0\0\0", b"PK\3\4\x14\0\1\0")), "encrypted"),
        (patched(ONE, (b"PK\3\4\x14\0\0\0\0\0", b"PK\3\4\x14\0\0\0\x08\0")), "header_mismatch"),
        (patched(zipped([("1.dcm", CT)]), (b"\0\0\x08\0", b"\0\0\x63\0")), "unsupported_compression"),
        (zip_raw("1.dcm", ZEROS, 1000, ZEROS_CRC), "size_mismatch"),
        (zip_raw("1.dcm", zipped([("x", CT)])[31:500], len(CT), 0), "truncated"),
        (zip_raw("1.dcm", b"\xff" * 400, 400, 0), "bad_data"),
        (linked(stat.S_IFLNK), "not_a_file"),
        (linked(stat.S_IFIFO), "not_a_file"),
        (linked(stat.S_IFCHR), "not_a_file"),
        (zipped([("1.dcm", zipped(TWO))]), "nested_archive"),
        (zipped([("1.dcm", tarred(TWO))]), "nested_archive"),
        (zipped([("1.dcm", gzip.compress(CT))]), "nested_archive"),
        (zipped([("1.dcm", b"7z\xbc\xaf\x27\x1c" * 100)]), "nested_archive"),
        (zipped([("1.dcm", b"no image")]), "not_dicom"),
        (zipped([("1.dcm", b"")]), "not_dicom"),
    ],
)
def test_a_bad_member_of_a_zip_has_its_code(packed, code):
    (found,) = unpacked(packed)[0].values()
    assert found == code


def test_members_that_share_bytes_are_refused_but_for_the_last():
    found, fault = unpacked(overlapping(50))
    assert [*found.values()][:-1] == ["overlapping_members"] * 49
    assert fault == ""


@pytest.mark.parametrize(
    ("packed", "code"),
    [
        (ONE[:-40], "archive_truncated"),
        (ONE[: len(ONE) // 2], "archive_truncated"),
        (ONE[:-6] + struct.pack("<L", 0xFFFFFF) + ONE[-2:], "bad_directory"),
        (ONE[:-18] + b"\1\0" + ONE[-16:], "bad_directory"),
        (b"Rar!\x1a\7\1\0" + bytes(600), "unsupported_archive"),
        (gzip.compress(CT)[:-300], "archive_truncated"),
        (gzip.compress(CT)[:-8] + b"\1\2\3\4" + gzip.compress(CT)[-4:], "archive_damaged"),
        (tgz(TWO)[:-8] + b"\1\2\3\4" + tgz(TWO)[-4:], "archive_damaged"),
    ],
)
def test_an_archive_that_cannot_be_read_at_all_has_its_code(packed, code):
    assert refused(packed) == code


@pytest.mark.parametrize(
    ("packed", "fault"),
    [
        (ONE[:-14] + struct.pack("<HH", 65000, 65000) + ONE[-10:], "bad_directory"),
        (tarred([("1.dcm", CT)])[: 512 + -(-len(CT) // 512) * 512], "archive_truncated"),
    ],
)
def test_an_archive_that_may_hold_more_says_so(packed, fault):
    found, told = unpacked(packed)
    assert (CT in found.values(), told) == (True, fault)


def test_a_cut_tar_keeps_what_came_before_the_cut():
    whole = tarred(TWO)
    second = whole.index(b"a/2.dcm")
    assert unpacked(whole[: second + 700]) == ({"a/1.dcm": CT, "a/2.dcm": "truncated"}, "archive_truncated")
    assert unpacked(whole[:second]) == ({"a/1.dcm": CT}, "archive_truncated")
    assert unpacked(gzip.compress(whole)[:-400])[1] == "archive_truncated"


def test_a_tar_does_not_end_at_a_header_that_was_lost_to_zeros():
    whole = tarred([("1.dcm", CT), ("2.dcm", CT)], tarfile.USTAR_FORMAT)
    second = whole.index(b"2.dcm")
    lost = whole[:second] + bytes(512) + whole[second + 512 :]
    assert unpacked(lost) == ({"1.dcm": CT}, "bad_header")
    assert unpacked(gzip.compress(lost)) == ({"1.dcm": CT}, "bad_header")


def test_a_damaged_tar_header_is_not_taken_for_the_end():
    whole = bytearray(tarred(TWO))
    whole[whole.index(b"a/2.dcm")] ^= 1
    assert unpacked(bytes(whole)) == ({"a/1.dcm": CT}, "bad_header")


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (tarfile.SYMTYPE, "not_a_file"),
        (tarfile.LNKTYPE, "not_a_file"),
        (tarfile.CHRTYPE, "not_a_file"),
        (tarfile.BLKTYPE, "not_a_file"),
        (tarfile.FIFOTYPE, "not_a_file"),
        (tarfile.GNUTYPE_SPARSE, "sparse_file"),
    ],
)
def test_what_is_no_file_in_a_tar_has_its_code_and_the_next_is_read(kind, code):
    found, fault = unpacked(tar_special(kind, "../../etc/passwd"))
    assert found == {"special.dcm": code, "good.dcm": data.minimal()}
    assert fault == ""


def test_names_longer_than_a_tar_header_are_read_from_the_extended_ones():
    name = "d/" * 120 + "1.dcm"
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        assert unpacked(tarred([(name, CT)], form)) == ({name: CT}, "")
    ustar = "d" * 90 + "/" + "e" * 90 + ".dcm"
    assert unpacked(tarred([(ustar, CT)], tarfile.USTAR_FORMAT)) == ({ustar: CT}, "")


def pax(**headers):
    buffer, file = io.BytesIO(), tar_file("1.dcm", len(CT))
    file.pax_headers = {name.replace("__", "."): value for name, value in headers.items()}
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as made:
        made.addfile(file, io.BytesIO(CT))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("packed", "found", "fault"),
    [
        (pax(comment="hello"), {"1.dcm": CT}, ""),
        (pax(comment="A" * 2 * MIB), {}, "bad_header"),
        (patched(pax(comment="hello"), (b"17 comment", b"00 comment")), {}, "bad_header"),
        (patched(pax(comment="hello"), (b"17 comment", b"99 comment")), {}, "bad_header"),
        (patched(pax(comment="hello"), (b"17 comment", b"-7 comment")), {}, "bad_header"),
        (pax(GNU__sparse__major="1", GNU__sparse__realsize=str(1 << 40)), {"1.dcm": "sparse_file"}, ""),
    ],
)
def test_extended_headers_are_read_within_bounds(packed, found, fault):
    assert unpacked(packed) == (found, fault)


def tar_of_size(size):
    packed = bytearray(tarred([("1.dcm", CT)], tarfile.GNU_FORMAT))
    packed[124:136] = b"\x80" + size.to_bytes(11, "big")
    packed[148:156] = b" " * 8
    packed[148:156] = b"%06o\0 " % sum(packed[:512])
    return bytes(packed)


def test_a_tar_that_claims_exabytes_is_cut_off_where_it_ends():
    packed = tar_of_size(1 << 62)
    for whole in (packed, gzip.compress(packed)):
        assert unpacked(whole) == ({"1.dcm": "truncated"}, "archive_truncated")


@pytest.mark.parametrize("packed", [tar_of_size(1 << 63), tar_of_size(1 << 70), pax(size=str(1 << 63))])
def test_a_size_that_no_file_can_have_is_a_damaged_header(packed):
    for whole in (packed, gzip.compress(packed)):
        found = archive.list_members(content(whole), ArchiveLimits())
        assert (found.entries, found.fault) == ((), "bad_header")


@pytest.mark.parametrize("packed", [tar_of_size((1 << 63) - 1), pax(size=str((1 << 63) - 1))])
def test_the_largest_size_that_a_header_can_have_is_told_by_a_worker(packed):
    for whole in (packed, gzip.compress(packed)):
        found = archive.list_members(content(whole), ArchiveLimits())
        assert messages.read_packed(io.BytesIO(messages.packed(found)), MIB) == found


def test_the_limits_hold():
    hundred = [(f"{number}.dcm", CT) for number in range(100)]
    small = ArchiveLimits(max_members=99)
    for packed in (zipped(hundred), tarred(hundred), tgz(hundred)):
        assert refused(packed, small) == "too_many_members"
        assert refused(packed, ArchiveLimits(max_total_bytes=99 * len(CT))) == "archive_too_large"
        assert unpacked(packed, ArchiveLimits(max_members=100))[0]["99.dcm"] == CT
    assert unpacked(zipped(TWO), ArchiveLimits(max_member_bytes=len(CT) - 1))[0] == {
        "a/1.dcm": "member_too_large",
        "a/2.dcm": data.minimal(),
    }


def test_a_large_member_that_is_not_dicom_is_not_too_large():
    packed = zipped([("film.avi", b"RIFF" + bytes(5000)), *TWO])
    assert unpacked(packed, ArchiveLimits(max_member_bytes=len(CT)))[0]["film.avi"] == "not_dicom"


def test_many_empty_gzip_members_are_refused():
    assert refused(gzip.compress(b"") * 20_000) == "too_many_members"


def bomb(kind):
    if kind == "zip":
        packed, crc = deflated_zeros(1024)
        return zip_raw("1.dcm", packed, 1 << 30, crc)
    head = tar_file("1.dcm", 1 << 30).tobuf(tarfile.USTAR_FORMAT) if kind == "tgz" else CT
    return gzip_bomb(1024, head)


@pytest.mark.parametrize("kind", ["zip", "tgz", "gz"])
def test_a_bomb_of_one_gib_is_refused_at_once_and_in_little_memory(kind):
    packed = bomb(kind)
    tracemalloc.start()
    begin = time.process_time()
    code = refused(packed)
    cpu_s, (_, peak) = time.process_time() - begin, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert code == "compression_ratio"
    assert peak < 4 * MIB
    assert cpu_s < 5


def test_a_zip_whose_directory_hides_how_far_it_inflates_is_read_no_further_than_it_says():
    packed, crc = deflated_zeros(1024)
    lie = zip_raw("1.dcm", packed, len(CT), crc)
    tracemalloc.start()
    found, _ = unpacked(lie)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == {"1.dcm": "size_mismatch"}
    assert peak < 8 * MIB


def test_a_zip64_of_more_than_65535_members_is_read():
    packed = zipped((f"{number}", b"") for number in range(65_540))
    found = archive.list_members(content(packed), ArchiveLimits(max_members=70_000))
    assert (len(found.entries), found.fault) == (65_540, "")
    assert refused(packed) == "too_many_members"


def test_a_zip64_with_wide_sizes_and_offsets_is_read(monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    packed = zipped(TWO)
    assert b"PK\6\6" in packed
    assert unpacked(packed) == ({"a/1.dcm": CT, "a/2.dcm": data.minimal()}, "")


def codes(packed):
    try:
        found, fault = unpacked(packed)
    except PermanentError as error:
        return {error.code}
    return {fault, *(one for one in found.values() if isinstance(one, str))}


@pytest.mark.parametrize(
    "packed", [zipped(TWO), tarred(TWO), tgz(TWO), overlapping(5)], ids=["zip", "tar", "tgz", "overlapping"]
)
def test_no_mutation_does_more_than_fail_for_good(packed):
    chance = random.Random(5)
    for _ in range(400):
        mutant = bytearray(packed)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(mutant))
            mutant[at : at + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 4))
        if archive.is_archive(content(bytes(mutant))):
            # An error that nobody foresaw has no code of its own, or comes out as it is.
            assert "bad_archive" not in codes(bytes(mutant))
