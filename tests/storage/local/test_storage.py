"""A folder as a bucket: the contract, and what only files can do wrong."""

import io
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.model.errors import BadEvent, ConfigError, ObjectGone, ShortRead, StorageUnavailable
from app.model.values import EventType, ObjectRef
from app.sources.notifications import notification
from app.storage import WatchOptions, open_storage
from app.storage.local.files import file_name, is_object_name
from app.storage.local.generations import Index, Seen, Stamp, generation, known_objects
from app.storage.local.storage import LocalStorage
from tests.parts import need
from tests.processes import wait_until
from tests.storage.contract import HOSTILE, Put, StorageContract


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "lake" / "landing"


@pytest.fixture
def storage(root: Path) -> Iterator[LocalStorage]:
    storage = LocalStorage(f"file:{root}", None)
    yield storage
    storage.close()


@pytest.fixture
def put(storage: LocalStorage) -> Put:
    def put(name: str, data: bytes) -> ObjectRef:
        path = storage.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        time.sleep(0.01)  # file times move in steps of some milliseconds
        path.write_bytes(data)
        return ObjectRef("landing", name, path.stat().st_mtime_ns)

    return put


class TestLocal(StorageContract):
    @pytest.fixture
    def down(self, root: Path) -> Callable[[], None]:
        def down() -> None:
            root.rename(root.with_name("away"))
            root.write_text("a file where the folder was")

        return down


class TestLocalWithIndex(TestLocal):
    @pytest.fixture
    def storage(self, root: Path, tmp_path: Path) -> Iterator[LocalStorage]:
        storage = LocalStorage(f"file:{root}", tmp_path / "lake.db")
        yield storage
        storage.close()


def test_root_gives_bucket_and_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ("file:./lake/landing", f"file:{tmp_path}/lake/landing", f"file://{tmp_path}/lake/landing"):
        storage = open_storage("source", url)
        assert storage.bucket == "landing"
        assert storage.uri("a b%20/é.dcm") == f"file://{tmp_path}/lake/landing/a b%20/é.dcm"
    assert (tmp_path / "lake" / "landing").is_dir()


def test_whole_machine_is_the_bucket_localhost(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"x")
    machine, name = LocalStorage("file:/", None), f"{tmp_path}/a.dcm".lstrip("/")
    assert machine.bucket == "localhost"
    assert machine.uri(name) == f"file://{tmp_path}/a.dcm"
    assert [ref.name for ref in machine.list(name)] == [name]
    assert machine.fetch(machine.find(name)).data == b"x"
    landing = LocalStorage(f"file:{tmp_path}/landing", None)
    assert landing.uri(name, "localhost") == f"file://{tmp_path}/a.dcm"
    assert machine.uri("a.dcm", "elsewhere") == "gs://elsewhere/a.dcm"
    assert landing.uri("a.dcm", "elsewhere") == "gs://elsewhere/a.dcm"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("file:{0}/file", "is a file"),
        ("file:{0}/file/below", "cannot be made"),
        ("file://host/landing", "names a host"),
        ("file:nul\0byte", "no usable path"),
        ("file:{0}/\udcff/landing", r"/\\xff/landing: a storage needs a path of UTF-8 text"),
        ("file:{0}/line\nbreak", "in one line"),
    ],
)
def test_unusable_root_is_a_config_error(tmp_path: Path, url: str, words: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=words):
        LocalStorage(url.format(tmp_path), None)


def test_index_that_cannot_be_used_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is no database, however long one looks at it" * 50)
    for index in (tmp_path / "text", tmp_path, tmp_path / "text" / "below", tmp_path / "landing" / "lake.db"):
        with pytest.raises(ConfigError):
            LocalStorage(f"file:{tmp_path}/landing", index)


def test_folder_that_is_gone_with_objects_known_in_it_is_not_made_again(tmp_path: Path) -> None:
    root, index = tmp_path / "disk" / "landing", tmp_path / "lake.db"
    storage = LocalStorage(f"file:{root}", index)
    (root / "a").write_bytes(b"x")
    storage.remember("a", storage.current("a"))
    storage.close()
    shutil.rmtree(root.parent)
    with pytest.raises(ConfigError) as caught:
        LocalStorage(f"file:{root}", index)
    assert caught.value.text == (
        f"source.url: the folder {root} is gone but 1 objects of it are known; mount it again, or, "
        "if they are all to be removed, make the empty folder and `serve --accept-removals`"
    )
    assert not root.parent.exists()
    root.mkdir(parents=True)
    storage = LocalStorage(f"file:{root}", index)
    assert storage.last("a") is not None
    storage.close()


def test_whole_machine_is_never_watched(tmp_path: Path) -> None:
    machine = LocalStorage("file:/", tmp_path / "lake.db")
    with pytest.raises(ConfigError, match="whole machine"):
        machine.watch(lambda messages: None, WatchOptions(0.3))
    machine.close()


def test_only_regular_files_are_objects(storage: LocalStorage, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("outside")
    os.symlink(tmp_path / "secret", storage.root / "link")
    os.symlink(tmp_path, storage.root / "folder-link")
    os.mkfifo(storage.root / "fifo")
    (storage.root / "folder").mkdir()
    times = (tmp_path / "secret").stat().st_mtime_ns
    for name in ("link", "folder-link/secret", "fifo", "folder"):
        with pytest.raises(ObjectGone):
            storage.fetch(ObjectRef("landing", name, times))
    assert list(storage.list()) == []
    assert list(storage.list("folder-link/")) == []


def test_write_does_not_follow_links_out_of_the_root(storage: LocalStorage, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").write_text("kept")
    os.symlink(tmp_path / "outside", storage.root / "out")
    os.symlink(tmp_path / "outside" / "kept", storage.root / "kept")
    with pytest.raises(StorageUnavailable):
        storage.write("out/new", b"x", "")
    storage.delete("out/kept")
    storage.write("kept", b"inside", "")
    assert [path.name for path in (tmp_path / "outside").iterdir()] == ["kept"]
    assert (tmp_path / "outside" / "kept").read_text() == "kept"


def test_hostile_names_stay_inside_the_root(storage: LocalStorage, tmp_path: Path) -> None:
    for name in HOSTILE:
        uri = storage.write(name, b"x", "")
        assert Path(uri.removeprefix("file://")).resolve().is_relative_to(storage.root)
    assert [path.name for path in tmp_path.iterdir()] == ["lake"]


@pytest.mark.parametrize("name", ["../x", "/x", "", ".", "a/..", "a//b", "a\0b", "a\nb", "\udcff", "x" * 256])
def test_illegal_name_is_a_bad_event(storage: LocalStorage, name: str) -> None:
    assert not is_object_name(name)
    with pytest.raises(BadEvent):
        storage.fetch(ObjectRef("landing", name, 1))


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("images/a b.dcm.1.png", "images/a b.dcm.1.png"),
        ("", "%"),
        ("..", "%2E."),
        ("a/./b", "a/%2E/b"),
        ("/a", "%/a"),
        ("50%.dcm", "50%25.dcm"),
        ("a\0b\n", "a%00b%0A"),
        ("\udcff", "%ED%B3%BF"),
        (".dicomlake-0123456789abcdef.part", "%2Edicomlake-0123456789abcdef.part"),
        (".hidden", ".hidden"),
        ("a.dcm.1.json", "a.dcm.1.json"),
        ("a.dcm.1.json/b.2.png/c.3.png", "a.dcm.1%2Ejson/b.2%2Epng/c.3.png"),
        # printf 'x%.0s' $(seq 300) | sha256sum
        ("x" * 300, "x" * 128 + "%~0d4e2ca9e9cbced7a7a5380eb29e1a3783b9b6d0db72de36a1051038e1c1fbc7"),
    ],
)
def test_file_name_escapes_only_what_is_no_path(name: str, path: str) -> None:
    assert file_name(name) == path


@pytest.mark.parametrize("first", [0, 1])
def test_a_folder_called_as_an_artifact_takes_no_place_from_it(storage: LocalStorage, first: int) -> None:
    names = ["metadata/a.dcm.1.json", "metadata/a.dcm.1.json/b.dcm.2.json"]
    for name in (names[first], names[1 - first]):
        storage.write(name, name.encode(), "")
    assert {found.name for found in storage.list()} == {names[0], "metadata/a.dcm.1%2Ejson/b.dcm.2.json"}
    for name in names:
        storage.delete(name)
    assert list(storage.list()) == []


def test_a_folder_called_as_an_artifact_may_have_the_longest_name_there_is(storage: LocalStorage) -> None:
    folder = f"{'x' * 249}1.json"
    name = f"metadata/{folder}/a.dcm.1.json"
    storage.write(name, b"x", "")
    assert [found.name for found in storage.list()] == [file_name(name)]
    assert file_name(f"{folder}/a") != file_name(f"{folder.replace('.', '%2E')}/a")


def test_big_file_is_read_in_ranges(storage: LocalStorage, put: Put) -> None:
    put("big", b"begin")
    os.truncate(storage.root / "big", 64 * 2**20 + 1)
    content = storage.fetch(storage.find("big"), 64 * 2**20 + 1)
    assert (content.data, content.size) == (None, 67108865)
    assert content.opener is not None
    with content.opener() as stream:
        assert stream.read(6) == b"begin\0"
        assert stream.seek(-1, 2) == 67108864
        assert stream.read() == b"\0"
    with pytest.raises(ShortRead):
        storage.fetch(storage.find("big"), crc32c="AAAAAA==")
    with content.opener() as stream:
        put("big", b"changed")
        for read in (lambda: stream.read(1), lambda: stream.readinto(bytearray(1)), stream.readall):
            with pytest.raises(ObjectGone):
                read()
    with pytest.raises(ObjectGone):
        content.opener()


def test_file_that_changes_while_it_is_read_is_gone(storage: LocalStorage, put: Put) -> None:
    with storage.locate(put("a", b"x" * 3_000_000)).open() as stream:
        assert stream.read(1) == b"x"
        time.sleep(0.01)
        with (storage.root / "a").open("r+b") as writer:
            writer.write(b"y")
        with pytest.raises(ObjectGone):
            stream.read(2_500_000)


def test_missing_root_is_an_outage_not_a_removal(storage: LocalStorage, put: Put) -> None:
    ref = put("a", b"x")
    shutil.rmtree(storage.root)
    for use in (storage.check, lambda: storage.fetch(ref), lambda: list(storage.list())):
        with pytest.raises(StorageUnavailable):
            use()
    storage.write("b", b"x", "")
    assert [found.name for found in storage.list()] == ["b"]


def test_full_disk_is_transient_and_leaves_no_trace(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    need("a small file system", mounted, "run the tests as root with the right to mount tmpfs")
    try:
        storage = LocalStorage(f"file:{disk}/output", None)
        storage.write("a", b"old", "")
        with pytest.raises(StorageUnavailable, match="no space is left on the disk"):
            storage.write("a", b"x" * 300_000, "")
        with pytest.raises(StorageUnavailable, match="no space is left on the disk"):
            storage.write("new/b", b"x" * 300_000, "")
        assert [(ref.name, storage.fetch(ref).data) for ref in storage.list()] == [("a", b"old")]
        assert list(disk.rglob(".*")) == []
        storage.close()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_written_file_is_for_its_owner_alone_whatever_the_umask(storage: LocalStorage) -> None:
    mask = os.umask(0o000)
    try:
        storage.write("a/b", b"x", "")
    finally:
        os.umask(mask)
    modes = [stat.S_IMODE((storage.root / name).stat().st_mode) for name in ("a", "a/b")]
    assert modes == [0o700, 0o600]


def test_delete_removes_empty_folders_but_not_the_root(storage: LocalStorage, put: Put) -> None:
    put("a/b/c/d", b"x")
    put("a/e", b"x")
    storage.delete("a/b/c/d")
    assert sorted(path.name for path in storage.root.rglob("*")) == ["a", "e"]
    storage.delete("a/e")
    assert list(storage.root.iterdir()) == []


def test_write_survives_deletes_that_prune_its_folders(storage: LocalStorage) -> None:
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            storage.write("a/b/c/churn", b"x", "")
            storage.delete("a/b/c/churn")

    with ThreadPoolExecutor(4) as pool:
        churning = [pool.submit(churn) for _ in range(3)]
        for number in range(150):
            storage.write("a/b/c/kept", str(number).encode(), "")
            assert (storage.root / "a/b/c/kept").read_text() == str(number)
            storage.delete("a/b/c/kept")
        stop.set()
        assert [done.result() for done in churning] == [None] * 3


def test_temporary_files_are_no_objects_and_old_ones_are_removed(storage: LocalStorage) -> None:
    old, young = (storage.root / f".dicomlake-{digit * 16}.part" for digit in "01")
    foreign = storage.root / ".dicomlake-notes.part"
    for path in (old, young, foreign):
        path.write_text("")
        os.utime(path, (1, 1))
    os.utime(young)
    assert [ref.name for ref in storage.list()] == [".dicomlake-notes.part"]
    storage.write("a", b"x", "")
    storage.close()
    assert sorted(os.listdir(storage.root)) == [
        ".dicomlake-1111111111111111.part",
        ".dicomlake-notes.part",
        "a",
    ]


@pytest.mark.parametrize(
    ("found", "seen", "expected"),
    [
        (Stamp(500, 9, 1, 0), None, 500),
        (Stamp(-5, 9, 1, 0), None, 1),
        (Stamp(500, 9, 1, 0), Seen(500, Stamp(500, 9, 1, 0)), 500),
        (Stamp(500, 9, 1, 7), Seen(501, Stamp(500, 9, 1, 0)), 501),  # owner or mode changed
        (Stamp(500, 9, 1, 0), Seen(500, Stamp(500, 9, 1, 0), live=False), 501),  # away and back
        (Stamp(500, 9, 2, 0), Seen(500, Stamp(500, 9, 1, 0)), 501),  # another file of the same time
        (Stamp(400, 8, 2, 0), Seen(500, Stamp(500, 9, 1, 0)), 501),  # restored, older
        (Stamp(600, 8, 2, 0), Seen(500, Stamp(500, 9, 1, 0)), 600),
    ],
)
def test_generation_is_the_mtime_and_always_rises(found: Stamp, seen: Seen | None, expected: int) -> None:
    assert generation(found, seen) == expected


@pytest.mark.parametrize("mtime_ns", [-(10**18), 0, 2**63 + 10**18])
def test_times_out_of_range_still_make_generations(tmp_path: Path, mtime_ns: int) -> None:
    storage = LocalStorage(f"file:{tmp_path}/landing", tmp_path / "lake.db")
    path = storage.root / "a"
    path.write_bytes(b"x")
    os.utime(path, ns=(mtime_ns, mtime_ns))
    ref = storage.find("a")
    assert 1 <= ref.generation < 2**63
    assert storage.fetch(ref).data == b"x"
    storage.close()


def test_index_keeps_the_folders_apart(tmp_path: Path) -> None:
    ours, other = Index(tmp_path / "i", Path("/ours")), Index(tmp_path / "i", Path("/other"))
    seen = Seen(7, Stamp(5, 1, 2, 3))
    for name in ("a/x", "a/y/z", "a-", "a0"):
        ours.put({name: seen})
    ours.put({"a/y/z": Seen(8, seen.stamp, live=False)})
    assert ours.get("a/x") == seen
    assert set(ours.live()) == {"a/x", "a-", "a0"}
    assert set(ours.live("a/")) == {"a/x"}
    assert other.get("a/x") is None
    assert other.live() == {}
    ours.close()
    other.close()


def test_index_never_goes_back(tmp_path: Path) -> None:
    index, stamp = Index(tmp_path / "i", Path("/root")), Stamp(5, 1, 2, 3)
    for told in (Seen(7, stamp), Seen(6, stamp), Seen(7, stamp, live=False), Seen(7, stamp)):
        index.put({"a": told})
    assert index.get("a") == Seen(7, stamp, live=False)
    index.put({"a": Seen(8, stamp, crc32c="AAAAAA==")})
    index.put({"a": Seen(7, stamp)})
    assert index.get("a") == Seen(8, stamp, crc32c="AAAAAA==")
    index.close()
    assert known_objects(tmp_path / "i", Path("/root")) == 1
    assert known_objects(tmp_path / "i", Path("/other")) == 0


def test_index_keeps_what_another_process_remembered_in_between_as_replaced(tmp_path: Path) -> None:
    ours, other = (Index(tmp_path / "i", Path("/root")) for _ in range(2))
    stamp = Stamp(5, 1, 2, 3)
    ours.put({"a": Seen(1000, stamp)})
    new = Seen(2000, stamp, told=False, replaced=((1000, 1),))
    other.put({"a": Seen(1500, stamp, told=False, replaced=((1000, 1),))})
    other.put({"a": Seen(1500, stamp)})
    assert ours.put({"a": new}) == {"a": replace(new, replaced=((1000, 1), (1500, 1)))}
    assert ours.get("a") == replace(new, replaced=((1000, 1), (1500, 1)))
    ours.put({"a": Seen(2000, stamp)})
    assert other.get("a") == Seen(2000, stamp)
    ours.close()
    other.close()


def test_index_of_an_older_release_is_taken_over(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "i")) as old:
        old.executescript(
            "CREATE TABLE landing (root TEXT NOT NULL, name TEXT NOT NULL, generation INTEGER NOT NULL,"
            " mtime_ns INTEGER NOT NULL, size INTEGER NOT NULL, inode INTEGER NOT NULL,"
            " ctime_ns INTEGER NOT NULL, live INTEGER NOT NULL, PRIMARY KEY (root, name)) WITHOUT ROWID;"
            "INSERT INTO landing VALUES ('/root', 'a', 7, 5, 1, 2, 3, 1)"
        )
    index = Index(tmp_path / "i", Path("/root"))
    assert index.live() == {"a": Seen(7, Stamp(5, 1, 2, 3))}
    index.close()


@pytest.mark.parametrize(("size", "kept"), [(1024, True), (1025, False)])
def test_uri_is_told_where_an_attribute_can_hold_it(size: int, kept: bool) -> None:
    uri = "file:///" + "é" * 508
    uri += "x" * (size - len(uri.encode()))
    told = notification(
        EventType.FINALIZE, ObjectRef("landing", "a", 1), uri, datetime(2026, 1, 2, tzinfo=UTC)
    )
    assert told.attributes.get("objectUri") == (uri if kept else None)


def test_notification_is_as_cloud_storage_makes_it() -> None:
    ref = ObjectRef("landing", "study/é.dcm", 1_700_000_000_123_456_789)
    now = datetime(2026, 1, 2, 3, 4, 5, 6, UTC)
    message = notification(EventType.DELETE, ref, "file:///lake/landing/study/é.dcm", now, {"size": "42"})
    assert message.message_id == ""
    assert message.attributes == {
        "notificationConfig": "projects/_/buckets/landing/notificationConfigs/local",
        "eventType": "OBJECT_DELETE",
        "payloadFormat": "JSON_API_V1",
        "bucketId": "landing",
        "objectId": "study/é.dcm",
        "objectGeneration": "1700000000123456789",
        "eventTime": "2026-01-02T03:04:05.000006Z",
        "objectUri": "file:///lake/landing/study/é.dcm",
    }
    assert json.loads(message.data) == {
        "kind": "storage#object",
        "id": "landing/study/é.dcm/1700000000123456789",
        "name": "study/é.dcm",
        "bucket": "landing",
        "generation": "1700000000123456789",
        "metageneration": "1",
        "size": "42",
        "timeCreated": "2023-11-14T22:13:20.123457Z",
        "updated": "2023-11-14T22:13:20.123457Z",
        "timeDeleted": "2026-01-02T03:04:05.000006Z",
    }


def test_what_a_killed_upload_left_is_swept(tmp_path):
    left = tmp_path / "a" / ".dicomlake-0123456789abcdef.part"
    left.parent.mkdir()
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    storage = LocalStorage(f"file:{tmp_path}")
    storage.land("a/one.dcm", io.BytesIO(b"whole"))
    assert wait_until(lambda: not left.exists(), 10)
    storage.close()
