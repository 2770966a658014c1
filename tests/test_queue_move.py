"""A lake of before, with the queue and the index in `lake.db`, is served on from `queue.db`."""

import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from app import config
from app.bus import DeliveryPolicy
from app.bus.local.bus import LocalBus
from app.bus.local.queue import DEAD_LETTER, MAIN, Queue
from app.model.errors import ConfigError
from app.model.values import Message
from app.services import open_services
from app.storage.local.generations import Index, Seen, Stamp
from app.upgrade import move_queue
from tests.bus.conftest import NOW
from tests.bus.contract import Endpoint
from tests.conftest import lake_settings

ROOT = Path("/lake/landing")
SEEN = {"a": Seen(1_000, Stamp(1_000, 1, 7, 1_000), crc32c="AAAAAA=="), "b/c": Seen(2_000, Stamp(1, 2, 3, 4))}
OF_THE_QUEUE = {"queue", "queue_due", "ballast", "landing", "sqlite_sequence"}


def tables(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}


def messages(path: Path) -> dict[str, bytes]:
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT message_id, data FROM queue ORDER BY id").fetchall()
    found = dict(rows)
    assert len(found) == len(rows)
    return found


def make_before(folder: Path, count: int = 3) -> dict[str, bytes]:
    """Make a lake as it was before and return its messages."""
    path = folder / "lake.db"
    with closing(Queue(path, 1200.0)) as queue, closing(Index(path, ROOT)) as index:
        for number in range(count):
            queue.publish(Message(b"%d" % number, {"k": "v"}, ""), NOW + number)
        index.put(SEEN)
    return messages(path)


def test_the_default_queue_is_apart_from_what_people_query():
    settings = config.load({}).settings
    assert settings.bus.url == "local:./lake/queue.db"
    assert settings.warehouse.url == "sqlite:./lake/lake.db"


def test_messages_leases_ids_and_generations_move(tmp_path):
    old, new = tmp_path / "lake.db", tmp_path / "queue.db"
    with closing(Queue(old, 1200.0)) as queue, closing(Index(old, ROOT)) as index:
        for number in range(3):
            queue.publish(Message(b"%d" % number, {"k": "v"}, ""), NOW + number)
        (leased,) = queue.lease(MAIN, 1, NOW, NOW + 60)
        queue.dead_letter(Message(b"letter", {}, "9"), NOW, NOW + 60)
        last = queue.publish(Message(b"acknowledged", {}, ""), NOW + 100)
        queue.ack(MAIN, Message(b"", {}, last))
        index.put(SEEN)
    with closing(sqlite3.connect(old)) as connection:
        connection.execute("CREATE TABLE mine AS SELECT 1 AS x")
        connection.commit()
    before = messages(old)
    move_queue(new)
    assert messages(new) == before
    assert tables(old) & OF_THE_QUEUE <= {"sqlite_sequence"}
    assert "mine" in tables(old)
    with closing(Queue(new, 1200.0)) as queue, closing(Index(new, ROOT)) as index:
        assert index.live() == SEEN
        assert queue.lease(DEAD_LETTER, 5, NOW, NOW + 60) == []  # leased until then
        assert [m.data for m in queue.lease(MAIN, 5, NOW + 2, NOW + 60)] == [b"1", b"2"]
        queue.nack(MAIN, leased, NOW)  # its lease is known, so it can be ended
        assert [m.attempt for m in queue.lease(MAIN, 5, NOW + 2, NOW + 60)] == [2]
        assert int(queue.publish(Message(b"", {}, ""), NOW)) > int(last)


def test_moving_again_changes_nothing(tmp_path):
    before = make_before(tmp_path)
    for _ in range(2):
        move_queue(tmp_path / "queue.db")
    assert messages(tmp_path / "queue.db") == before


def test_a_move_that_died_between_its_two_commits_is_ended_at_the_next_start(tmp_path):
    before = make_before(tmp_path)
    for name in ("lake.db", "lake.db-wal", "lake.db-shm"):
        if (tmp_path / name).exists():
            shutil.copy(tmp_path / name, tmp_path / f"kept-{name}")
    move_queue(tmp_path / "queue.db")
    for kept in tmp_path.glob("kept-*"):
        kept.rename(tmp_path / kept.name.removeprefix("kept-"))
    assert messages(tmp_path / "lake.db") == before  # as if the old tables had never gone
    move_queue(tmp_path / "queue.db")
    assert messages(tmp_path / "queue.db") == before
    assert "queue" not in tables(tmp_path / "lake.db")
    with closing(Index(tmp_path / "queue.db", ROOT)) as index:
        assert index.live() == SEEN


def test_what_an_older_release_left_later_is_added_and_no_newer_version_is_undone(tmp_path):
    first = make_before(tmp_path)
    move_queue(tmp_path / "queue.db")
    newer = Seen(3_000, Stamp(3_000, 1, 7, 3_000))
    with closing(Index(tmp_path / "queue.db", ROOT)) as index:
        index.put({"a": newer})
    before = tmp_path / "lake.db"
    with closing(Queue(before, 1200.0)) as queue, closing(Index(before, ROOT)) as index:
        queue.publish(Message(b"later", {}, ""), NOW + 50)
        index.put({**SEEN, "new": newer})
    move_queue(tmp_path / "queue.db")
    with closing(Index(tmp_path / "queue.db", ROOT)) as index:
        assert index.live() == {**SEEN, "a": newer, "new": newer}
    found = messages(tmp_path / "queue.db")
    assert sorted(found.values()) == [b"0", b"1", b"2", b"later"]
    assert found.items() >= first.items()


MOVE = """
import sys
from pathlib import Path
from app.upgrade import move_queue
print("begun", flush=True)
move_queue(Path(sys.argv[1]))
"""


def test_a_move_that_is_killed_at_any_moment_loses_and_doubles_nothing(tmp_path):
    make_before(tmp_path, 0)
    with closing(Queue(tmp_path / "lake.db", 1200.0)) as queue:
        for number in range(300):
            queue.publish(Message(b"%d" % number * 3000, {}, ""), NOW + number)
    before = messages(tmp_path / "lake.db")
    random.seed(11)
    for round_number in range(12):
        here = tmp_path / str(round_number)
        here.mkdir()
        shutil.copy(tmp_path / "lake.db", here / "lake.db")
        command = [sys.executable, "-c", MOVE, str(here / "queue.db")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout
            child.stdout.readline()
            time.sleep(random.uniform(0, 0.06))
            child.kill()
        assert child.returncode in (0, -signal.SIGKILL)
        move_queue(here / "queue.db")
        assert messages(here / "queue.db") == before
        assert "queue" not in tables(here / "lake.db")
        with closing(Index(here / "queue.db", ROOT)) as index:
            assert index.live() == SEEN


def test_many_that_start_at_once_move_it_once(tmp_path):
    before = make_before(tmp_path, 200)
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(move_queue, tmp_path / "queue.db") for _ in range(4)]:
            done.result()
    assert messages(tmp_path / "queue.db") == before


def test_a_queue_that_an_older_release_still_serves_is_not_moved(tmp_path):
    url = f"local:{tmp_path}/lake.db"
    with (
        closing(Endpoint()) as endpoint,
        closing(LocalBus(url, DeliveryPolicy(), lambda row: None)) as bus,
    ):
        bus.start(endpoint.url)
        with pytest.raises(ConfigError, match=r"lake\.db is already served by process \d+; stop it"):
            move_queue(tmp_path / "queue.db")
    move_queue(tmp_path / "queue.db")


@pytest.mark.parametrize("columns", ["x", "id, topic, data"])
def test_tables_of_these_names_that_are_not_ours_stay(tmp_path, columns):
    with closing(sqlite3.connect(tmp_path / "lake.db")) as connection:
        connection.executescript(f"CREATE TABLE queue ({columns}); CREATE TABLE landing (x)")
    move_queue(tmp_path / "queue.db")
    assert tables(tmp_path / "lake.db") >= {"queue", "landing"}
    assert not (tmp_path / "queue.db").exists()


def test_only_a_file_of_the_default_name_takes_over_from_the_lake_beside_it(tmp_path):
    before = make_before(tmp_path)
    move_queue(tmp_path / "other.db")
    assert messages(tmp_path / "lake.db") == before


def test_a_file_without_the_columns_of_later_releases_moves_too(tmp_path):
    with closing(sqlite3.connect(tmp_path / "lake.db")) as connection:
        connection.executescript(
            "CREATE TABLE landing (root TEXT NOT NULL, name TEXT NOT NULL, generation INTEGER NOT NULL,"
            " mtime_ns INTEGER NOT NULL, size INTEGER NOT NULL, inode INTEGER NOT NULL,"
            " ctime_ns INTEGER NOT NULL, live INTEGER NOT NULL, PRIMARY KEY (root, name)) WITHOUT ROWID;"
            " INSERT INTO landing VALUES ('/lake/landing', 'a', 5, 5, 1, 7, 6, 1)"
        )
    move_queue(tmp_path / "queue.db")
    with closing(Index(tmp_path / "queue.db", ROOT)) as index:
        assert index.live() == {"a": Seen(5, Stamp(5, 1, 7, 6))}


def test_what_is_held_back_moves_too(tmp_path):
    make_before(tmp_path)
    kept = {
        "held_removal": (str(ROOT), "a", ""),
        "mount_point": (str(ROOT), "disk/"),
        "folder_identity": (str(ROOT), "disk/", 5, 7),
    }
    with closing(sqlite3.connect(tmp_path / "lake.db")) as connection, connection:
        for table, row in kept.items():
            connection.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
    move_queue(tmp_path / "queue.db")
    with closing(sqlite3.connect(tmp_path / "queue.db")) as connection:
        assert {name: connection.execute(f"SELECT * FROM {name}").fetchone() for name in kept} == kept
    assert not tables(tmp_path / "lake.db") & kept.keys()


def test_opening_the_services_moves_the_queue_of_before(tmp_path):
    before = make_before(tmp_path)
    services = open_services(lake_settings(tmp_path, bus__url=f"local:{tmp_path / 'queue.db'}"))
    try:
        assert services.bus.depth() == len(before)
        names = {str(row["name"]) for row in services.warehouse.query("SELECT name FROM sqlite_master")}
        assert "instances" in names
        assert names & OF_THE_QUEUE <= {"sqlite_sequence"}
    finally:
        services.close()
