"""What every storage keeps to. A backend subclasses this with three fixtures:

storage  an empty storage that takes writes
put      put(name, data) -> ObjectRef: store an object as a user would, and say which version it is
down     down(): take the store away, so that it no longer answers
"""

import io
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import pytest

from app.model.errors import BadEvent, ObjectGone, ShortRead, StorageUnavailable
from app.model.values import ObjectRef
from app.storage import Landed, Storage

Put = Callable[[str, bytes], ObjectRef]

HOSTILE = [
    "up/..",
    "../outside.dcm",
    "a/../../outside.dcm",
    "/etc/outside.dcm",
    "a//b",
    "a/./b",
    ".",
    "trailing/",
    "nul\0byte",
    "line\nbreak",
    "%2E%2E/outside.dcm",
    "100%.dcm",
    "x" * 1000,
    "x" * 999 + "y",
    "\N{LATIN SMALL LETTER E WITH ACUTE}" * 200,
    "deep/" * 200 + "end",
    "C:\\outside.dcm",
    "~root/x",
    "-rf",
]


class StorageContract:
    """The promises of `app.storage.Storage`, one test each."""

    def test_fetch_returns_the_bytes_with_size_and_checksum(self, storage: Storage, put: Put) -> None:
        ref = put("study/a.dcm", b"123456789")
        content = storage.fetch(ref)
        assert content.open().read() == b"123456789"
        # 0xE3069283 is the check value of CRC-32C in the catalogue of parametrised CRC algorithms.
        assert (content.ref, content.size, content.crc32c) == (ref, 9, "4waSgw==")
        assert content.uri == storage.uri("study/a.dcm")

    def test_fetch_takes_the_announced_size_and_checksum(self, storage: Storage, put: Put) -> None:
        assert storage.fetch(put("a", b"123456789"), 9, "4waSgw==").size == 9

    def test_empty_object_is_an_object(self, storage: Storage, put: Put) -> None:
        content = storage.fetch(put("empty", b""), 0)
        assert (content.size, content.crc32c, content.open().read()) == (0, "AAAAAA==", b"")

    @pytest.mark.parametrize(("size", "crc32c"), [(8, None), (10, None), (None, "AAAAAA=="), (9, "4waShA==")])
    def test_other_bytes_than_announced_are_a_short_read(
        self, storage: Storage, put: Put, size: int | None, crc32c: str | None
    ) -> None:
        with pytest.raises(ShortRead):
            storage.fetch(put("a", b"123456789"), size, crc32c)

    def test_each_write_of_a_name_is_another_generation(self, put: Put) -> None:
        assert put("a", b"old").generation < put("a", b"new").generation

    def test_overwritten_generation_is_gone(self, storage: Storage, put: Put) -> None:
        old = put("a", b"old")
        new = put("a", b"new")
        with pytest.raises(ObjectGone):
            storage.fetch(old)
        with pytest.raises(ObjectGone):
            storage.locate(old)
        assert storage.fetch(new).open().read() == b"new"

    def test_only_the_newest_version_of_what_is_there_is_live(self, storage: Storage, put: Put) -> None:
        old = put("a", b"old")
        assert storage.is_live(old)
        new = put("a", b"new")
        assert [storage.is_live(ref) for ref in (old, new)] == [False, True]
        assert storage.is_live(new, 1)
        assert not storage.is_live(ObjectRef(storage.bucket, "missing", 1))

    def test_missing_object_is_gone(self, storage: Storage) -> None:
        for name in ("missing", "no/such/folder"):
            with pytest.raises(ObjectGone):
                storage.fetch(ObjectRef(storage.bucket, name, 1))

    def test_other_bucket_is_refused(self, storage: Storage, put: Put) -> None:
        ref = put("a", b"x")
        with pytest.raises(BadEvent):
            storage.fetch(ObjectRef("another-bucket", ref.name, ref.generation))
        with pytest.raises(BadEvent):
            storage.locate(ObjectRef("another-bucket", ref.name, ref.generation))

    def test_located_object_is_read_in_ranges(self, storage: Storage, put: Put) -> None:
        with storage.locate(put("a", bytes(range(256)) * 40)).open() as stream:
            assert stream.seekable()
            assert stream.seek(-2, 2) == 10238
            assert stream.read() == b"\xfe\xff"
            stream.seek(256)
            assert stream.read(3) == b"\x00\x01\x02"
            assert stream.tell() == 259

    def test_located_version_is_read_in_ranges_until_it_is_gone(self, storage: Storage, put: Put) -> None:
        ref = put("a", bytes(range(256)))
        content = storage.locate(ref)
        assert (content.ref, content.uri, content.size, content.data) == (ref, storage.uri("a"), 256, None)
        with content.open() as stream:
            stream.seek(254)
            assert stream.read(9) == b"\xfe\xff"
        put("a", b"new")
        with pytest.raises(ObjectGone):
            content.open().read(1)
        with pytest.raises(ObjectGone):
            storage.locate(ref)

    def test_an_address_leads_back_to_its_version(self, storage: Storage, put: Put) -> None:
        ref = put("a/b", b"x")
        assert storage.ref_of(storage.uri("a/b"), ref.generation) == ref
        for uri in ("gs://another-bucket/a", "file:///elsewhere/a", storage.uri(""), ""):
            assert storage.ref_of(uri, 1) is None

    def test_written_object_is_read_by_its_address(self, storage: Storage) -> None:
        uri = storage.write("cache/a", b"one", "text/plain")
        assert storage.read(uri) == b"one"
        storage.delete("cache/a")
        for gone in (uri, storage.uri("never"), "gs://another-bucket/a", "file:///elsewhere/a"):
            with pytest.raises(ObjectGone):
                storage.read(gone)

    def test_write_is_listed_and_read_back(self, storage: Storage) -> None:
        assert storage.write("json/a.json", b"{}", "application/json") == storage.uri("json/a.json")
        (ref,) = storage.list("json/")
        assert (ref.bucket, ref.name) == (storage.bucket, "json/a.json")
        assert storage.fetch(ref).open().read() == b"{}"

    def test_repeated_write_gives_the_same_result(self, storage: Storage) -> None:
        uris = {storage.write("a.png", b"png", "image/png") for _ in range(3)}
        assert len(uris) == 1
        assert [storage.fetch(ref).open().read() for ref in storage.list()] == [b"png"]

    def test_chunks_are_written_as_one_object(self, storage: Storage) -> None:
        uri = storage.write("a/b.dcm", iter([b"1234", b"", b"56789"]), "application/dicom")
        content = storage.stored(uri)
        assert (content.size, content.open().read()) == (9, b"123456789")
        assert storage.write("a/b.dcm", iter([b"123456789"]), "application/dicom") == uri
        assert storage.read(uri) == b"123456789"

    def test_chunks_that_break_off_leave_nothing(self, storage: Storage) -> None:
        def broken() -> Iterator[bytes]:
            yield b"x" * (20 << 20)
            raise ObjectGone("object version is gone")

        with pytest.raises(ObjectGone):
            storage.write("a/b.dcm", broken(), "application/dicom")
        assert list(storage.list()) == []
        with pytest.raises(ObjectGone):
            storage.stored(storage.uri("a/b.dcm"))

    def test_reader_sees_whole_objects_while_others_write(self, storage: Storage) -> None:
        whole = [bytes([value]) * 300_000 for value in range(4)]
        storage.write("a", whole[0], "")
        done = threading.Event()

        def read() -> set[bytes]:
            seen = set()
            while not done.is_set():
                with suppress(ObjectGone):
                    seen |= {storage.fetch(ref).open().read() for ref in storage.list("a")}
            return seen

        with ThreadPoolExecutor(5) as pool:
            reader = pool.submit(read)
            list(pool.map(lambda data: [storage.write("a", data, "") for _ in range(10)], whole))
            done.set()
            assert reader.result() <= set(whole)
        assert len(list(storage.list())) == 1

    def test_hostile_names_keep_apart(self, storage: Storage) -> None:
        uris = {storage.write(name, name.encode(), "text/plain") for name in HOSTILE}
        assert len(uris) == len(HOSTILE)
        stored = {storage.fetch(ref).open().read() for ref in storage.list()}
        assert stored == {name.encode() for name in HOSTILE}
        for name in HOSTILE:
            storage.delete(name)
        assert list(storage.list()) == []

    @pytest.mark.parametrize("name", ["", "..", *HOSTILE])
    def test_hostile_name_reads_nothing(self, storage: Storage, name: str) -> None:
        with pytest.raises((BadEvent, ObjectGone)):
            storage.fetch(ObjectRef(storage.bucket, name, 1))

    def test_delete_is_repeatable(self, storage: Storage, put: Put) -> None:
        ref = put("a/b/c", b"x")
        put("a/kept", b"x")
        for _ in range(2):
            storage.delete("a/b/c")
        storage.delete("never/there")
        assert [found.name for found in storage.list()] == ["a/kept"]
        with pytest.raises(ObjectGone):
            storage.fetch(ref)

    def test_list_is_by_prefix_and_in_order_of_name(self, storage: Storage, put: Put) -> None:
        names = ["a-b", "a.txt", "a/x", "a/y/z", "aé", "b", "ab/c"]
        refs = {name: put(name, b"x") for name in names}
        assert [ref.name for ref in storage.list()] == ["a-b", "a.txt", "a/x", "a/y/z", "ab/c", "aé", "b"]
        assert [ref.name for ref in storage.list("a/")] == ["a/x", "a/y/z"]
        assert [ref.name for ref in storage.list("a/y")] == ["a/y/z"]
        assert [ref.name for ref in storage.list("ab")] == ["ab/c"]
        assert list(storage.list("nothing")) == []
        assert list(storage.list("../")) == []
        assert set(storage.list()) == set(refs.values())

    def test_a_listing_tells_what_the_store_knows_and_goes_on_after_a_name(
        self, storage: Storage, put: Put
    ) -> None:
        names = ["a-b", "a.txt", "a/x", "ab", "aé", "b"]
        refs = {name: put(name, name.encode()) for name in names}
        before = len(storage.prefix)
        listed = list(storage.listing())
        assert [one.ref.name[before:] for one in listed] == names
        assert [one.ref for one in listed] == [refs[name] for name in names]
        assert [one.size for one in listed] == [3, 5, 3, 2, 3, 1]
        assert all(one.ref == refs[one.ref.name[before:]] and one.written_s > 1.5e9 for one in listed)
        assert [one.ref.name[before:] for one in storage.listing("a", after="a/x")] == ["ab", "aé"]
        assert [one.ref.name[before:] for one in storage.listing(after="a0")] == ["ab", "aé", "b"]
        assert list(storage.listing(after="b")) == []
        with pytest.raises(BadEvent):
            list(storage.listing(bucket="another"))

    def test_threads_do_not_disturb_each_other(self, storage: Storage) -> None:
        def work(number: int) -> bool:
            name, data = f"dir{number % 3}/{number}", str(number).encode() * 1000
            storage.write(name, data, "")
            (ref,) = (found for found in storage.list(name) if found.name == name)
            same = storage.fetch(ref).open().read() == data
            storage.delete(name)
            return same

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, range(100)))
        assert list(storage.list()) == []

    def test_check_passes_and_close_is_repeatable(self, storage: Storage) -> None:
        storage.check()
        storage.close()
        storage.close()

    def test_store_that_is_down_is_transient(
        self, storage: Storage, put: Put, down: Callable[[], None]
    ) -> None:
        ref = put("a", b"x")
        down()
        for use in (
            storage.check,
            lambda: storage.fetch(ref),
            lambda: storage.locate(ref),
            lambda: storage.read(storage.uri("a")),
            lambda: storage.write("b", b"x", ""),
            lambda: storage.delete("a"),
            lambda: list(storage.list()),
        ):
            with pytest.raises(StorageUnavailable):
                use()

    def test_an_upload_lands_whole_and_tells_its_version(self, storage: Storage) -> None:
        landed = storage.land("label/a.dcm", io.BytesIO(b"123456789"))
        assert landed is not None
        assert landed.written
        assert storage.fetch(landed.ref).open().read() == b"123456789"

    def test_an_upload_of_the_same_bytes_writes_nothing(self, storage: Storage) -> None:
        first = storage.land("label/a.dcm", io.BytesIO(b"123456789"))
        for replace in (False, True):
            again = storage.land("label/a.dcm", io.BytesIO(b"123456789"), replace)
            assert first is not None
            assert again == Landed(first.ref, written=False)

    def test_an_upload_of_other_bytes_replaces_only_where_told_to(self, storage: Storage) -> None:
        first = storage.land("label/a.dcm", io.BytesIO(b"one"))
        assert first is not None
        assert storage.land("label/a.dcm", io.BytesIO(b"two")) is None
        assert storage.fetch(first.ref).open().read() == b"one"
        second = storage.land("label/a.dcm", io.BytesIO(b"two"), replace=True)
        assert second is not None
        assert second.written
        assert second.ref.generation > first.ref.generation
        assert storage.fetch(second.ref).open().read() == b"two"

    def test_one_of_many_uploads_of_one_name_wins(self, storage: Storage) -> None:
        def land(number: int) -> bool:
            landed = storage.land("label/a.dcm", io.BytesIO(b"%d" % number))
            return landed is not None and landed.written

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(land, range(8))) == 1

    @pytest.mark.parametrize("name", ["../outside.dcm", "a/../../outside.dcm", "line\nbreak"])
    def test_an_upload_cannot_lead_elsewhere(self, storage: Storage, name: str) -> None:
        with suppress(BadEvent):
            landed = storage.land(name, io.BytesIO(b"x"))
            assert landed is not None
            assert storage.fetch(landed.ref).open().read() == b"x"

    def test_an_upload_is_begun_for_a_client_or_refused(self, storage: Storage, put: Put) -> None:
        if not storage.session_origin:
            with pytest.raises(BadEvent):
                storage.begin_upload("label/a.dcm", 9)
            return
        put("label/there.dcm", b"x")
        assert storage.begin_upload("label/there.dcm", 9) is None
        for name, replace in (("label/a.dcm", False), ("label/there.dcm", True)):
            url = storage.begin_upload(name, 9, replace=replace)
            assert url is not None
            assert url.startswith(f"{storage.session_origin}/")
            done = httpx.put(url, content=b"123456789", headers={"Content-Range": "bytes 0-8/9"})
            assert done.status_code == 200
            ref = ObjectRef(storage.bucket, storage.prefix + name, int(done.json()["generation"]))
            assert storage.fetch(ref).crc32c == "4waSgw=="

    def test_folders_are_the_first_segments(self, storage: Storage, put: Put) -> None:
        for name in ("b/1", "a/1", "a/2/3", "alone", "c/d/e"):
            put(name, b"x")
        assert storage.folders() == ("a", "b", "c")
        assert storage.folders("c/") == ("d",)
        assert storage.folders("none/") == ()
