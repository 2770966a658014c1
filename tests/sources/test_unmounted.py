"""A disk that is not mounted is no removal of all that is on it, and a removal is one.

Where mounting is not permitted, a folder that is renamed away and replaced by an empty one stands for it.
"""

import logging
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from app.model.errors import StorageUnavailable
from app.model.values import Message, ObjectRef
from app.sources.mounts import mount_points
from app.sources.removals import Removals
from app.storage import WatchOptions
from app.storage.local.generations import Index, Seen, stamp
from app.storage.local.storage import LocalStorage
from tests.parts import need
from tests.sources.test_folder_watcher import Landing, answers, mtime, until

NO_MORE = 1.0
"""Seconds after which a removal that is not held back has come."""


@pytest.fixture
def landing(tmp_path: Path) -> Iterator[Landing]:
    landing = Landing(tmp_path)
    yield landing
    landing.stop()


def fill(landing: Landing, *names: str) -> list[tuple[str, str, int]]:
    """Put files and return the events that came of them."""
    for name in names:
        landing.put(name)
    return sorted(landing.settled(len(names)))


def removals(events: list[tuple[str, str, int]]) -> list[tuple[str, str, int]]:
    return [("delete", name, generation) for _, name, generation in events]


def swap_away(folder: Path, away: Path) -> None:
    folder.rename(away)
    folder.mkdir()


def swap_back(folder: Path, away: Path) -> None:
    folder.rmdir()
    away.rename(folder)


def held(landing: Landing) -> None:
    until(lambda: not answers(landing))
    assert landing.storage
    with pytest.raises(StorageUnavailable) as caught:
        landing.storage.check()
    assert caught.value.code == "removals_held"
    time.sleep(NO_MORE)
    assert landing.messages == []


@pytest.mark.parametrize("place", ["", "disk"])
@pytest.mark.parametrize("running", [True, False])
def test_an_empty_folder_in_place_of_a_full_one_removes_nothing(
    landing: Landing, tmp_path: Path, place: str, running: bool, caplog: pytest.LogCaptureFixture
) -> None:
    folder = landing.root / place
    fill(landing, "disk/a.dcm", "disk/deep/b.dcm", *["other.dcm"] * bool(place))
    if not running:
        landing.stop()
    with caplog.at_level(logging.WARNING, "dicomlake.watcher"):
        swap_away(folder, tmp_path / "away")
        if not running:
            landing.start()
        held(landing)
    (warned,) = [record for record in caplog.records if "held back" in record.message]
    assert (warned.__dict__["object"], warned.__dict__["count"]) == (f"{place}/", 2)
    assert "--accept-removals" in warned.message
    swap_back(folder, tmp_path / "away")
    until(lambda: answers(landing))
    time.sleep(NO_MORE)
    assert landing.messages == []


@pytest.mark.parametrize("place", ["", "disk"])
@pytest.mark.parametrize("running", [True, False])
def test_one_object_is_enough_when_its_folder_is_another(
    landing: Landing, tmp_path: Path, place: str, running: bool
) -> None:
    (event,) = fill(landing, "disk/a.dcm")
    if not running:
        landing.stop()
    swap_away(landing.root / place, tmp_path / "away")
    if not running:
        landing.start()
    held(landing)
    swap_back(landing.root / place, tmp_path / "away")
    until(lambda: answers(landing))
    landing.stop()
    (landing.root / "disk/a.dcm").unlink()  # it is the folder that was known, so this is a removal
    landing.start()
    assert landing.settled(1) == removals([event])


def test_a_folder_is_known_by_the_objects_seen_in_it_last(landing: Landing, tmp_path: Path) -> None:
    (event,) = fill(landing, "disk/a.dcm")
    landing.stop()
    swap_away(landing.root / "disk", tmp_path / "away")
    (tmp_path / "away/a.dcm").rename(landing.root / "disk/a.dcm")  # the same file, in another folder
    other = mtime(landing.put("other"))
    landing.start()
    assert landing.settled(1) == [("finalize", "other", other)]  # so all has been looked through
    landing.stop()
    (landing.root / "disk/a.dcm").unlink()
    landing.start()
    assert landing.settled(1) == removals([event])


@pytest.mark.parametrize("seen", [Removals.known, Removals.check])
def test_a_folder_that_is_replaced_just_after_a_look_into_it_is_another(
    tmp_path: Path, seen: Callable[[Removals, str], object]
) -> None:
    disk = tmp_path / "landing/disk"
    disk.mkdir(parents=True)
    (disk / "a").write_bytes(b"x")
    with (
        closing(Index(tmp_path / "queue.db", tmp_path / "landing")) as index,
        closing(Removals(tmp_path / "queue.db", tmp_path / "landing", 1.0)) as removals,
    ):
        index.put({"disk/a": Seen(1, stamp(os.stat(disk / "a")))})
        removals.known("disk/a")
        removals.begin_scan()
        swap_away(disk, tmp_path / "away")
        seen(removals, "disk/a")
        removals.begin()
        assert not removals.check("disk/a")
        assert removals.held() == 1


def test_removals_go_on_when_a_known_object_is_seen_again(landing: Landing, tmp_path: Path) -> None:
    names = ["disk/a", "disk/b", "disk/c"]
    gone = removals(fill(landing, *names))
    swap_away(landing.root / "disk", tmp_path / "away")
    held(landing)
    (tmp_path / "away" / "b").unlink()
    swap_back(landing.root / "disk", tmp_path / "away")
    assert landing.settled(1) == [gone[1]]
    until(lambda: answers(landing))


def test_removals_go_on_when_they_are_accepted_and_only_those(landing: Landing, tmp_path: Path) -> None:
    gone = removals(fill(landing, "disk/a", "disk/b"))
    kept = fill(landing, "more/a", "more/b")
    landing.stop()
    for path in (landing.root / "disk").iterdir():
        path.unlink()
    landing.start()
    held(landing)
    landing.stop()
    landing.start(accept_removals=True)
    assert sorted(landing.settled(2)) == gone
    until(lambda: answers(landing))
    swap_away(landing.root / "more", tmp_path / "away")
    held(landing)
    landing.stop()
    landing.start(accept_removals=True)
    assert sorted(landing.settled(2)) == removals(kept)


def test_new_files_in_the_empty_folder_are_published_and_release_nothing(
    landing: Landing, tmp_path: Path
) -> None:
    fill(landing, "disk/a", "disk/b")
    landing.stop()
    swap_away(landing.root / "disk", tmp_path / "away")
    new = mtime(landing.put("disk/new"))
    landing.start()
    assert landing.settled(1) == [("finalize", "disk/new", new)]
    held(landing)
    landing.stop()
    landing.start()  # what is held back outlives the process
    held(landing)
    newer = mtime(landing.put("disk/newer"))
    assert landing.settled(1) == [("finalize", "disk/newer", newer)]
    held(landing)
    (landing.root / "disk/newer").unlink()
    assert landing.settled(1) == [("delete", "disk/newer", newer)]
    held(landing)


def test_an_event_that_waits_is_not_given_up_while_its_file_is_away(landing: Landing, tmp_path: Path) -> None:
    (_, name, generation), _ = fill(landing, "disk/a", "disk/b")
    ref = ObjectRef("landing", name, generation)
    assert landing.storage
    swap_away(landing.root / "disk", tmp_path / "away")
    for _ in range(2):
        with pytest.raises(StorageUnavailable):
            landing.storage.fetch(ref)
        with pytest.raises(StorageUnavailable):
            landing.storage.is_live(ref)
        held(landing)
    swap_back(landing.root / "disk", tmp_path / "away")
    assert landing.storage.fetch(ref).data == b"x"
    assert landing.storage.is_live(ref)


@pytest.mark.parametrize("what", ["files", "study", "landing"])
def test_all_files_that_are_deleted_while_the_service_runs_are_removed(landing: Landing, what: str) -> None:
    names = [f"study/series{number % 3}/{number}" for number in range(60)]
    gone = removals(fill(landing, *names))
    if what == "study":
        shutil.rmtree(landing.root / "study")
    elif what == "landing":
        shutil.rmtree(landing.root)
        time.sleep(0.5)
        landing.root.mkdir()  # another folder, but the system reported each file
    else:
        for name in names:
            (landing.root / name).unlink()
    assert sorted(landing.settled(60)) == gone
    until(lambda: answers(landing))


def test_a_folder_that_is_moved_away_while_the_service_runs_is_removed(
    landing: Landing, tmp_path: Path
) -> None:
    gone = removals(fill(landing, "study/series/a", "study/series/b"))
    (landing.root / "study/series").rename(tmp_path / "away")  # `study` is there, and empty
    assert sorted(landing.settled(2)) == gone


def test_a_folder_and_one_object_may_go_while_the_service_is_down(landing: Landing) -> None:
    gone = removals(fill(landing, "study/a", "study/b", "single/a"))
    kept = fill(landing, "other")
    landing.stop()
    shutil.rmtree(landing.root / "study")
    (landing.root / "single/a").unlink()
    landing.start()
    assert sorted(landing.settled(3)) == gone
    landing.stop()
    (landing.root / "other").unlink()
    landing.start()
    assert landing.settled(1) == removals(kept)


class Disk:
    """A small disk that is mounted at a folder, and taken away again."""

    def __init__(self, folder: Path, content: Path) -> None:
        self.folder, self.content = folder, content
        folder.mkdir(parents=True, exist_ok=True)
        content.mkdir(exist_ok=True)

    def mount(self) -> None:
        subprocess.run(["mount", "--bind", self.content, self.folder], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", self.folder], check=True)


@pytest.fixture(params=["tmpfs", "same disk"])
def content(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder that is mounted elsewhere: of a file system of its own, or of the landing folder's."""
    folder = tmp_path / "content"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, check=False, capture_output=True).returncode == 0
    need("the right to mount", mounted, "run as root with the right to mount")
    if request.param == "same disk":
        subprocess.run(["umount", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=False, capture_output=True)


@pytest.mark.parametrize("place", ["", "disk", "deep/er/disk 1"])
@pytest.mark.parametrize("running", [True, False])
def test_an_unmounted_disk_removes_nothing(tmp_path: Path, content: Path, place: str, running: bool) -> None:
    disk = Disk(tmp_path / "landing" / place, content)
    disk.mount()
    landing = Landing(tmp_path)
    try:
        (one,) = fill(landing, f"{place}/a.dcm".lstrip("/"))  # one: that a disk is gone is certain
        if place:
            fill(landing, "deep/other.dcm")
        if not running:
            landing.stop()
        disk.unmount()
        if not running:
            landing.start()
        held(landing)
        disk.mount()
        until(lambda: answers(landing))
        new = mtime(landing.put(f"{place}/b.dcm".lstrip("/")))
        assert landing.settled(1) == [("finalize", f"{place}/b.dcm".lstrip("/"), new)]
        (landing.root / one[1]).unlink()
        assert landing.settled(1) == removals([one])
    finally:
        landing.stop()
        subprocess.run(["umount", "-l", disk.folder], check=False, capture_output=True)


def test_mount_points_are_those_below(tmp_path: Path, content: Path) -> None:
    inner, outer = Disk(tmp_path / "root/a b\\c/d", content), Disk(tmp_path / "other", content)
    inner.mount()
    outer.mount()
    try:
        assert mount_points(tmp_path / "root") == {"a b\\c/d/"}
        assert mount_points(inner.folder) == {""}
    finally:
        inner.unmount()
        outer.unmount()


def test_objects_that_were_copied_from_the_disk_need_it_no_more(tmp_path: Path, content: Path) -> None:
    disk = Disk(tmp_path / "landing/disk", content)
    disk.mount()
    landing = Landing(tmp_path)
    try:
        events = fill(landing, "disk/a", "disk/b")
        landing.stop()
        disk.unmount()
        for _, name, _ in events:
            shutil.copy2(content / Path(name).name, landing.root / name)
        landing.start()
        assert {kind for kind, _, _ in landing.settled(4)} == {"finalize", "delete"}  # other inodes
        landing.stop()
        (landing.root / "disk/a").unlink()
        landing.start()
        assert [(kind, name) for kind, name, _ in landing.settled(1)] == [("delete", "disk/a")]
    finally:
        landing.stop()
        subprocess.run(["umount", "-l", disk.folder], check=False, capture_output=True)


def test_a_watched_folder_that_is_only_read_has_nothing_held(tmp_path: Path) -> None:
    (tmp_path / "landing").mkdir()
    storage = LocalStorage(f"file:{tmp_path}/landing", tmp_path / "queue.db")
    told: list[Message] = []
    storage.watch(told.extend, WatchOptions(0.3))
    storage.check()
    storage.close()


def test_what_is_held_back_is_logged_under_the_names_that_the_lake_shows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "dicomlake")
    folder = tmp_path / "landing/DOE"
    folder.mkdir(parents=True)
    files = [folder / "a", folder / "b", tmp_path / "landing/stays"]
    with (
        closing(Index(tmp_path / "queue.db", tmp_path / "landing")) as index,
        closing(Removals(tmp_path / "queue.db", tmp_path / "landing", 1.0, lambda name: "hash")) as removals,
    ):
        for file in files:
            file.write_bytes(b"x")
            name = file.relative_to(tmp_path / "landing").as_posix()
            index.put({name: Seen(1, stamp(os.stat(file)))})
            removals.known(name)
        swap_away(folder, tmp_path / "away")
        removals.begin()
        assert not removals.check("DOE/a")
        assert removals.seen("DOE/a")
    logged = [record.__dict__["object"] for record in caplog.records if "object" in record.__dict__]
    assert logged == ["hash", "hash"]
