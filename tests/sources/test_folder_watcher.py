"""A real folder is changed in every way people change folders; a list collects what is published."""

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.model.errors import BusUnavailable, ConfigError, ObjectGone, StorageUnavailable
from app.model.values import Message, ObjectRef
from app.sources import folder_watcher
from app.storage import WatchOptions
from app.storage.local.storage import LocalStorage
from tests.parts import need
from tests.processes import PATIENCE_S, wait_until

QUIET = 0.4
"""Seconds after which nothing more comes of a change."""


class Landing:
    """A watched folder, and what was published of it as (finalize | delete, name, generation)."""

    def __init__(self, folder: Path) -> None:
        self.root, self.index = folder / "landing", folder / "lake.db"
        self.messages: list[Message] = []
        self.failures = 0
        self.failure: Exception = BusUnavailable("it may or may not have taken the message")
        self.storage: LocalStorage | None = None
        self.start()

    def start(self, **options: Any) -> None:
        self.storage = LocalStorage(f"file:{self.root}", self.index)
        self.storage.watch(self.publish, WatchOptions(**{"settle_s": 0.3, **options}))

    def stop(self) -> None:
        if self.storage:
            self.storage.close()

    def publish(self, messages: Sequence[Message]) -> None:
        self.messages += messages
        if self.failures:
            self.failures -= 1
            raise self.failure

    def put(self, name: str, data: bytes = b"x", mtime_ns: int | None = None) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        if mtime_ns is not None:
            os.utime(path, ns=(mtime_ns, mtime_ns))
        return path

    def events(self) -> list[tuple[str, str, int]]:
        told = [message.attributes for message in self.messages]
        return [
            (a["eventType"].removeprefix("OBJECT_").lower(), a["objectId"], int(a["objectGeneration"]))
            for a in told
        ]

    def wait(self, count: int) -> None:
        """Wait until `count` events are there, or not any longer."""
        wait_until(lambda: len(self.messages) >= count)

    def settled(self, count: int) -> list[tuple[str, str, int]]:
        """Wait for `count` events, forget and return them; the end of the test checks that no more came."""
        self.wait(count)
        events = self.events()
        del self.messages[: len(events)]
        return events

    def read(self, name: str, generation: int) -> bytes | None:
        assert self.storage
        return self.storage.fetch(ObjectRef("landing", name, generation)).data


@pytest.fixture
def landing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Landing]:
    # However long a test waits, what it waits for has come by a hint.
    monkeypatch.setattr("app.sources.folder_watcher.RESCAN_S", 3600.0)
    landing = Landing(tmp_path)
    yield landing
    time.sleep(QUIET)
    landing.stop()
    assert landing.events() == []


def until(condition: Callable[[], bool]) -> None:
    assert wait_until(condition)


def answers(landing: Landing) -> bool:
    assert landing.storage
    try:
        landing.storage.check()
    except StorageUnavailable:
        return False
    return True


def mtime(path: Path) -> int:
    return path.stat().st_mtime_ns


def test_dropped_file_is_published_once(landing: Landing) -> None:
    path = landing.put("study/é 1.dcm", b"12345")
    landing.wait(1)
    (message,) = landing.messages
    assert landing.settled(1) == [("finalize", "study/é 1.dcm", mtime(path))]
    assert message.attributes["objectUri"] == f"file://{path}"
    assert "overwroteGeneration" not in message.attributes
    assert json.loads(message.data)["size"] == "5"
    assert json.loads(message.data)["crc32c"] == "GNEjNQ=="
    assert landing.read("study/é 1.dcm", mtime(path)) == b"12345"


def test_empty_hidden_and_odd_names_are_published(landing: Landing) -> None:
    names = ["empty", ".hidden", ".git/config", "node_modules/a.dcm", "50%.dcm", "a b;c&d.dcm", "x" * 255]
    for name in names:
        landing.put(name, b"" if name == "empty" else b"x")
    assert sorted(name for _, name, _ in landing.settled(len(names))) == sorted(names)


def test_hidden_file_at_the_top_is_seen_by_its_hints(landing: Landing) -> None:
    landing.put("warm")
    landing.settled(1)
    time.sleep(0.5)  # the next full scan is an hour away
    path = landing.put(".x.dcm")
    assert landing.settled(1) == [("finalize", ".x.dcm", generation := mtime(path))]
    path.unlink()
    assert landing.settled(1) == [("delete", ".x.dcm", generation)]


def test_hints_go_on_after_a_name_that_is_not_utf_8(landing: Landing) -> None:
    landing.put("warm")
    landing.settled(1)
    bad = os.fsencode(landing.root) + b"/\xff.dcm"
    Path(os.fsdecode(bad)).write_text("x")
    assert landing.storage
    watcher = landing.storage._watcher
    assert watcher
    until(lambda: watcher._listening is False)
    until(lambda: watcher._listening is True)
    time.sleep(0.5)  # the next full scan is an hour away
    for number in range(4):
        path = landing.put(f"{number}.dcm")
        assert landing.settled(1) == [("finalize", f"{number}.dcm", mtime(path))]


def test_listening_that_fails_again_and_again_leaves_time_to_others(landing: Landing, tmp_path: Path) -> None:
    """The library walks with nobody else running, through a link too, and gives up at a folder's name."""
    landing.stop()
    for number in range(20_000):
        (tmp_path / "outside" / str(number // 200) / str(number)).mkdir(parents=True)
    os.symlink(tmp_path / "outside", landing.root / "link")
    os.mkdir(os.fsencode(landing.root) + b"/\xff")
    landing.start()
    assert landing.storage
    watcher = landing.storage._watcher
    assert watcher
    until(lambda: watcher._listening is False)
    begun = time.process_time()
    time.sleep(5)
    assert time.process_time() - begun < 1.0  # it was two seconds once


FEW_WATCHES = """
import sys, time
from pathlib import Path
from app.sources import folder_watcher as watcher
from app.storage import WatchOptions
from app.storage.local.storage import LocalStorage
watcher.RESCAN_S = 3600.0
Path("/proc/sys/user/max_inotify_watches").write_text("50")
root, index, outside = map(Path, sys.argv[1:])
storage, told = LocalStorage(f"file:{root}", index), []
storage.watch(told.extend, WatchOptions(0.3))
time.sleep(1.5)
(root / "link").symlink_to(outside)
outside.with_name("moved").mkdir()
(outside.with_name("moved") / "link").symlink_to(outside)
outside.with_name("moved").rename(root / "moved")
time.sleep(3)
(root / "new").mkdir()
time.sleep(1.5)
(root / "new" / "a").touch()
until = time.monotonic() + 60
while not told and time.monotonic() < until:
    time.sleep(0.01)
storage.close()
print(len(told))
"""


def test_new_folder_is_scanned_soon_when_links_have_used_up_all_watches(landing: Landing) -> None:
    own = ["unshare", "--user", "--map-root-user"]
    allowed = shutil.which("unshare") and subprocess.run([*own, "true"], check=False).returncode == 0
    need("limits of one's own", bool(allowed), "allow user namespaces")
    for number in range(100):
        (landing.root.parent / "outside" / str(number)).mkdir(parents=True)
    root = landing.root.parent / "other"
    root.mkdir()
    paths = map(str, (root, landing.root.parent / "other.index", landing.root.parent / "outside"))
    done = subprocess.run(
        [*own, sys.executable, "-c", FEW_WATCHES, *paths], capture_output=True, check=True, text=True
    )
    assert done.stdout == "1\n"


def test_overwrite_is_finalize_of_the_new_and_delete_of_the_old(landing: Landing) -> None:
    old = mtime(path := landing.put("a.dcm", b"old"))
    landing.settled(1)
    new = mtime(landing.put("a.dcm", b"new"))
    landing.wait(2)
    first, second = (message.attributes for message in landing.messages)
    assert landing.settled(2) == [("finalize", "a.dcm", new), ("delete", "a.dcm", old)]
    assert first["overwroteGeneration"] == str(old)
    assert second["overwrittenByGeneration"] == str(new)
    assert landing.read("a.dcm", new) == b"new"
    with pytest.raises(ObjectGone):
        landing.read("a.dcm", old)
    path.unlink()
    assert landing.settled(1) == [("delete", "a.dcm", new)]


def test_same_time_and_size_written_in_place_is_a_new_version(landing: Landing) -> None:
    path = landing.put("a.dcm", b"old", 1_000)
    assert landing.settled(1) == [("finalize", "a.dcm", 1_000)]
    landing.put("a.dcm", b"new", 1_000)
    assert path.stat().st_size == 3
    assert landing.settled(2) == [("finalize", "a.dcm", 1_001), ("delete", "a.dcm", 1_000)]
    assert landing.read("a.dcm", 1_001) == b"new"


def test_change_of_owner_mode_or_links_is_no_new_version(landing: Landing, tmp_path: Path) -> None:
    path = landing.put("a.dcm", b"old", 1_000)
    assert landing.settled(1) == [("finalize", "a.dcm", 1_000)]
    for change in (
        lambda: path.chmod(0o600),
        lambda: os.link(path, tmp_path / "link"),
        (tmp_path / "link").unlink,
    ):
        change()
        time.sleep(QUIET + 0.3)
        assert landing.settled(0) == []
    assert landing.read("a.dcm", 1_000) == b"old"
    landing.put("a.dcm", b"new", 1_000)
    assert landing.settled(2) == [("finalize", "a.dcm", 1_001), ("delete", "a.dcm", 1_000)]


def test_big_file_is_not_read_for_its_checksum_and_counts_as_changed(landing: Landing) -> None:
    path = landing.put("big", b"x")
    os.truncate(path, 64 * 2**20 + 1)
    os.utime(path, ns=(1_000, 1_000))
    assert landing.settled(1) == [("finalize", "big", 1_000)]
    path.chmod(0o600)
    assert landing.settled(2) == [("finalize", "big", 1_001), ("delete", "big", 1_000)]


def test_file_restored_with_an_equal_or_older_time_is_a_newer_version(
    landing: Landing, tmp_path: Path
) -> None:
    path, away, older = landing.put("a.dcm", b"x", 5_000), tmp_path / "away", tmp_path / "older"
    older.write_bytes(b"older")
    os.utime(older, ns=(4_000, 4_000))
    landing.settled(1)
    path.rename(away)
    assert landing.settled(1) == [("delete", "a.dcm", 5_000)]
    away.rename(path)
    assert landing.settled(1) == [("finalize", "a.dcm", 5_001)]
    with pytest.raises(ObjectGone):
        landing.read("a.dcm", 5_000)
    older.rename(path)
    assert landing.settled(2) == [("finalize", "a.dcm", 5_002), ("delete", "a.dcm", 5_001)]
    landing.stop()
    landing.start()
    assert landing.read("a.dcm", 5_002) == b"older"


def test_changes_while_stopped_are_published_once_at_the_next_start(landing: Landing) -> None:
    for name in ("kept", "changed", "removed", "gone/a", "gone/b", "chowned"):
        landing.put(name, b"old", 1_000)
    assert len(landing.settled(6)) == 6
    landing.stop()
    landing.put("changed", b"newer", 2_000)
    landing.put("new/file", b"x", 3_000)
    (landing.root / "removed").unlink()
    shutil.rmtree(landing.root / "gone")
    (landing.root / "chowned").chmod(0o600)  # as volume managers do at each start
    landing.start()
    assert sorted(landing.settled(6)) == [
        ("delete", "changed", 1_000),
        ("delete", "gone/a", 1_000),
        ("delete", "gone/b", 1_000),
        ("delete", "removed", 1_000),
        ("finalize", "changed", 2_000),
        ("finalize", "new/file", 3_000),
    ]
    landing.stop()
    landing.start()
    assert landing.settled(0) == []


WRITER = """
import sys
with open(sys.argv[1], "wb") as out:
    out.write(b"x" * 1000)
    out.flush()
    sys.stdin.readline()
    out.write(b"x" * 1000)
"""


def test_file_that_stays_open_between_chunks_is_published_when_closed(landing: Landing) -> None:
    need("leases on files", sys.platform == "linux", "run the tests on Linux")
    path = landing.root / "slow.dcm"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdin=subprocess.PIPE) as writer:
        until(lambda: path.exists() and path.stat().st_size == 1000)
        time.sleep(1.0)
        assert landing.messages == []
        writer.communicate(b"go on\n")
    assert landing.settled(1) == [("finalize", "slow.dcm", mtime(path))]
    assert landing.read("slow.dcm", mtime(path)) == b"x" * 2000


def test_file_closed_between_chunks_ends_at_its_last_version(landing: Landing) -> None:
    for count in (1, 3, 5):
        with (landing.root / "a").open("ab") as out:
            out.write(b"x" * 10)
        landing.wait(count)
    events = landing.settled(5)
    assert [kind for kind, _, _ in events] == ["finalize", "finalize", "delete", "finalize", "delete"]
    assert landing.read("a", events[3][2]) == b"x" * 30


def test_file_that_is_appended_again_and_again_counts_when_it_was_quiet_for_the_time_set(
    landing: Landing,
) -> None:
    landing.stop()
    landing.start(settle_s=1.5)
    for _ in range(5):
        with (landing.root / "a").open("ab") as out:
            out.write(b"x" * 10)
        time.sleep(0.4)
    assert landing.messages == []
    assert landing.settled(1) == [("finalize", "a", generation := mtime(landing.root / "a"))]
    assert landing.read("a", generation) == b"x" * 50
    with (landing.root / "a").open("ab") as out:
        out.write(b"x" * 10)
    assert [kind for kind, _, _ in landing.settled(2)] == ["finalize", "delete"]


def test_temporary_file_renamed_into_place_is_one_event_and_a_rename_two(landing: Landing) -> None:
    assert landing.storage
    landing.storage.write("direct", b"x", "application/dicom")
    (landing.root / ".upload").write_bytes(b"x" * 100_000)
    (landing.root / ".upload").rename(landing.root / "uploaded")
    assert sorted(name for _, name, _ in landing.settled(2)) == ["direct", "uploaded"]
    time_ns = mtime(landing.root / "uploaded")
    (landing.root / "uploaded").rename(landing.root / "renamed")
    assert sorted(landing.settled(2)) == [("delete", "uploaded", time_ns), ("finalize", "renamed", time_ns)]


def test_folders_moved_in_around_and_out(landing: Landing, tmp_path: Path) -> None:
    outside = tmp_path / "outside" / "deep"
    outside.mkdir(parents=True)
    for number in range(3):
        (outside / str(number)).write_bytes(b"x")
    outside.parent.rename(landing.root / "in")
    names = {f"in/deep/{number}" for number in range(3)}
    assert {(kind, name) for kind, name, _ in landing.settled(3)} == {("finalize", name) for name in names}
    (landing.root / "in").rename(landing.root / "other")
    moved = landing.settled(6)
    assert {name for kind, name, _ in moved if kind == "delete"} == names
    assert {name for kind, name, _ in moved if kind == "finalize"} == {f"other/deep/{n}" for n in range(3)}
    inside = mtime(landing.put("other/deep/inside"))
    assert landing.settled(1) == [("finalize", "other/deep/inside", inside)]
    (landing.root / "other/deep/inside").unlink()
    assert landing.settled(1) == [("delete", "other/deep/inside", inside)]
    (landing.root / "other").rename(tmp_path / "out")
    assert {(kind, name) for kind, name, _ in landing.settled(3)} == {
        ("delete", f"other/deep/{number}") for number in range(3)
    }
    landing.put("other", b"a file where a folder was")
    assert [(kind, name) for kind, name, _ in landing.settled(1)] == [("finalize", "other")]


def test_a_chain_of_folders_holds_nobody_up(landing: Landing) -> None:
    begun = time.process_time()
    (landing.root / "/".join("a" * 500)).mkdir(parents=True)
    time.sleep(QUIET)
    for name in ("other.dcm", f"{'/'.join('a' * 500)}/b.dcm"):
        landing.put(name)
    assert len(landing.settled(2)) == 2
    assert time.process_time() - begun < 10  # it was a minute once


def test_many_files_in_many_new_folders_are_each_published_once(landing: Landing) -> None:
    names = sorted(f"study{number % 40}/series{number % 7}/{number}.dcm" for number in range(600))
    for name in names:
        landing.put(name)
    events = landing.settled(600)
    assert sorted(name for _, name, _ in events) == names
    shutil.rmtree(landing.root / "study3")
    assert {kind for kind, _, _ in landing.settled(15)} == {"delete"}


def test_a_file_is_published_while_a_scan_still_walks(
    landing: Landing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scan goes on only once the files that were written meanwhile are published."""
    old, removed, _ = (landing.put(f"b/{name}.dcm") for name in ("old", "removed", "same"))
    landing.settled(3)
    landing.stop()
    walk, published = folder_watcher.walk, []

    def slow(*given: Any) -> Iterator[Any]:
        found = list(walk(*given))
        yield from found
        if answers(landing) and landing.storage._watcher._listening and not published:
            old.write_bytes(b"longer")
            removed.unlink()
            landing.put("a.dcm")
            end = time.monotonic() + PATIENCE_S
            while len(landing.messages) < 3 and time.monotonic() < end:
                yield found[-1]  # as if there were many files more
            published.extend(landing.events())

    monkeypatch.setattr(folder_watcher, "walk", slow)
    monkeypatch.setattr(folder_watcher, "PAUSE_S", 0.0)
    landing.start()
    until(lambda: bool(published))
    assert sorted((kind, name) for kind, name, _ in published) == [
        ("delete", "b/old.dcm"), ("finalize", "a.dcm"), ("finalize", "b/old.dcm")
    ]  # fmt: skip
    assert ("delete", "b/removed.dcm") in [(kind, name) for kind, name, _ in landing.settled(4)]


def test_what_is_no_object_is_left_out_and_named_once(
    landing: Landing, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("outside")
    os.symlink(tmp_path, landing.root / "loop")
    os.symlink(tmp_path / "secret", landing.root / "link")
    os.mkfifo(landing.root / "fifo")
    (landing.root / ".dicomlake-0123456789abcdef.part").write_text("ours")
    Path(os.fsdecode(os.fsencode(landing.root) + b"/\xff.dcm")).write_text("not UTF-8")
    (landing.root / "line\nbreak.dcm").write_text("x")
    with caplog.at_level(logging.WARNING, "dicomlake.watcher"):
        landing.put("named.dcm")
        assert [name for _, name, _ in landing.settled(1)] == ["named.dcm"]
        landing.put("later.dcm")
        assert [name for _, name, _ in landing.settled(1)] == ["later.dcm"]
        landing.put("later still.dcm")
        assert [name for _, name, _ in landing.settled(1)] == ["later still.dcm"]
    left_out = [record.__dict__["object"] for record in caplog.records if "left out" in record.message]
    assert left_out == ["line\\x0abreak.dcm", "\\xff.dcm"]


def test_event_that_was_not_confirmed_is_repeated_and_never_lost(landing: Landing) -> None:
    landing.failures = 1
    landing.put("a", b"x", 1_000)
    assert landing.settled(2) == [("finalize", "a", 1_000)] * 2
    landing.failures = 1
    landing.put("a", b"y", 1_000)
    assert landing.settled(4) == [("finalize", "a", 1_001), ("delete", "a", 1_000)] * 2
    assert landing.read("a", 1_001) == b"y"


def test_an_unforeseen_error_does_not_end_the_watching(landing: Landing) -> None:
    """As where the machine has no memory left for a moment: what changed is found again afterwards."""
    landing.failures, landing.failure = 1, MemoryError()
    landing.put("a", b"x", 1_000)
    assert landing.settled(1) == [("finalize", "a", 1_000)]
    until(lambda: not answers(landing))
    assert landing.settled(1) == [("finalize", "a", 1_000)]
    until(lambda: answers(landing))


@pytest.mark.parametrize("replaced", [False, True], ids=["removed", "replaced"])
def test_version_whose_publishing_was_not_confirmed_gets_its_removal(
    landing: Landing, replaced: bool
) -> None:
    landing.put("a", b"x", 1_000)
    landing.settled(1)
    landing.failures = 1
    landing.put("a", b"y", 2_000)
    assert landing.settled(2) == [("finalize", "a", 2_000), ("delete", "a", 1_000)]  # the process dies here
    landing.stop()
    if replaced:
        landing.put("a", b"z", 1_500)
    else:
        (landing.root / "a").unlink()
    landing.start()
    both_gone = [("delete", "a", 1_000), ("delete", "a", 2_000)]
    expected = [*[("finalize", "a", 2_001)] * replaced, *both_gone]
    assert landing.settled(len(expected)) == expected


def test_folder_removed_and_made_again_is_watched_on(landing: Landing) -> None:
    landing.put("a", b"x", 1_000)
    landing.settled(1)
    assert landing.storage
    shutil.rmtree(landing.root)
    time.sleep(0.5)
    with pytest.raises(StorageUnavailable):
        landing.storage.check()
    landing.root.mkdir()
    landing.put("b", b"x", 2_000)
    assert sorted(landing.settled(2)) == [("delete", "a", 1_000), ("finalize", "b", 2_000)]
    landing.put("c", b"x", 3_000)
    assert landing.settled(1) == [("finalize", "c", 3_000)]
    landing.storage.check()


def test_file_replaced_while_it_is_published_gets_both_versions(tmp_path: Path) -> None:
    landing = Landing(tmp_path)
    publish: Callable[[Sequence[Message]], None] = landing.publish

    def replacing(messages: Sequence[Message]) -> None:
        if not landing.messages:
            landing.put("a", b"second", 2_000)
        publish(messages)

    landing.publish = replacing  # type: ignore[method-assign]
    landing.stop()
    landing.start()
    landing.put("a", b"first", 1_000)
    events = landing.settled(3)
    landing.stop()
    assert events == [("finalize", "a", 1_000), ("finalize", "a", 2_000), ("delete", "a", 1_000)]


def test_close_ends_the_threads(landing: Landing) -> None:
    assert landing.storage
    watcher = landing.storage._watcher
    assert watcher
    landing.put("before")
    assert len(landing.settled(1)) == 1
    landing.stop()
    until(lambda: not any(thread.is_alive() for thread in watcher._threads))
    landing.put("after")
    assert landing.settled(0) == []


def test_folder_without_an_index_cannot_be_watched(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="without an index"):
        LocalStorage(f"file:{tmp_path}/landing", None).watch(lambda messages: None, WatchOptions(0.3))


def test_a_file_that_retention_deletes_is_no_removal_not_even_after_a_restart(landing: Landing) -> None:
    paths = [landing.put(f"acme/{number}.dcm", b"12345") for number in range(3)]
    landing.settled(3)
    assert landing.storage
    until(lambda: len([*landing.storage.retained()]) == 3)
    generation = mtime(paths[0])
    for name, seen in [*landing.storage.retained()]:
        assert landing.storage.release(name, seen)
    assert not any(path.exists() for path in paths)
    time.sleep(2 * QUIET)
    assert landing.events() == []
    landing.stop()
    landing.start()
    time.sleep(2 * QUIET)
    assert landing.events() == []
    assert answers(landing)
    path = landing.put("acme/0.dcm", b"67890")
    assert landing.settled(2) == [
        ("finalize", "acme/0.dcm", mtime(path)),
        ("delete", "acme/0.dcm", generation),
    ]


def test_a_restart_finishes_no_release_and_takes_none_for_a_new_file(landing: Landing) -> None:
    landing.put("ct.dcm", b"12345")
    landing.settled(1)
    assert landing.storage
    until(lambda: len([*landing.storage.retained()]) == 1)
    ((name, seen),) = landing.storage.retained()
    landing.storage.remember(name, replace(seen, released=True))  # and the process dies
    landing.stop()
    landing.start()
    time.sleep(2 * QUIET)
    assert landing.events() == []
    assert landing.read("ct.dcm", seen.generation) == b"12345"
