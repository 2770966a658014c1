"""Processes that are killed at any moment, and disks that lose the end of a file.

DICOMLAKE_KILL_ROUNDS sets how often each child is killed; 1,000 is a long run.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import closing
from pathlib import Path

from app.bus import DeliveryPolicy
from app.bus.local.bus import LocalBus
from app.bus.local.queue import Queue
from tests.bus.conftest import NOW, look, until
from tests.bus.contract import note

ROUNDS = int(os.environ.get("DICOMLAKE_KILL_ROUNDS", "20"))

# One write a line, so that a kill does not leave half of one.
SAY = """
import os, sys, time
def say(word, message_id):
    os.write(1, f"{word} {message_id}\\n".encode())
"""

PUBLISH = f"""{SAY}
from pathlib import Path
from app.bus.local.queue import Queue
from app.model.values import Message
queue = Queue(Path(sys.argv[1]), 1200.0)
while True:
    say("published", queue.publish(Message(b"x" * 3000, {{}}, ""), time.time()))
"""

WORK = f"""{SAY}
from pathlib import Path
from app.bus.local.queue import MAIN, Queue
from app.model.values import Message
queue = Queue(Path(sys.argv[1]), 1200.0)
queue.release(time.time())
while True:
    for _ in range(3):
        say("published", queue.publish(Message(b"x", {{}}, ""), time.time()))
    for number, message in enumerate(queue.lease(MAIN, 3, time.time(), time.time() + 600)):
        if number == 2:
            queue.nack(MAIN, message, time.time())
            continue
        say("acking", message.message_id)
        queue.ack(MAIN, message)
        say("acked", message.message_id)
"""

SERVE = f"""{SAY}
import socket
from app.bus import DeliveryPolicy
from app.bus.local.bus import LocalBus
from app.model.values import Message
bus = LocalBus(sys.argv[1], DeliveryPolicy(), print)
bus.start(lambda: socket.create_connection(("127.0.0.1", int(sys.argv[2]))))
while True:
    say("published", bus.publish(Message(b"x", {{}}, "")))
"""


def killed(program: str, *arguments: str) -> dict[str, list[str]]:
    """Run a child, SIGKILL it soon after its first word, and return the ids it printed under each word."""
    command = [sys.executable, "-c", program, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        first = child.stdout.readline()
        time.sleep(random.uniform(0, 0.03))
        child.kill()
        lines = [first, *child.stdout]
    assert child.returncode == -signal.SIGKILL
    said = defaultdict(list)
    for line in lines:
        word, message_id = line.split()
        said[word].append(message_id)
    return said


def stored(path: Path) -> list[str]:
    assert look(path, "PRAGMA integrity_check") == [("ok",)]
    return [row[0] for row in look(path, "SELECT message_id FROM queue")]


def test_every_published_message_outlives_the_kill(tmp_path):
    path = tmp_path / "lake.db"
    published: set[str] = set()
    for _ in range(ROUNDS):
        said = killed(PUBLISH, str(path))["published"]
        found = stored(path)
        assert len(found) == len(set(found))
        assert published | set(said) <= set(found)
        assert len(found) <= len(published) + len(said) + 1  # at most the one that was not said yet
        published = set(found)


def test_acknowledged_is_gone_and_the_rest_is_there_after_the_kill(tmp_path):
    path = tmp_path / "lake.db"
    published, acking, acked = set(), set(), set()
    for _ in range(ROUNDS):
        said = killed(WORK, str(path))
        published.update(said["published"])
        acking.update(said["acking"])
        acked.update(said["acked"])
        found = set(stored(path))
        assert acked.isdisjoint(found)
        assert published - acking <= found
    assert acked


def test_killed_service_delivers_all_when_started_again(tmp_path, endpoint):
    url = f"local:{tmp_path}/lake.db"
    published: set[str] = set()
    for _ in range(max(1, ROUNDS // 4)):
        published.update(killed(SERVE, url, str(endpoint.port))["published"])
    with closing(LocalBus(url, DeliveryPolicy(), print)) as bus:
        bus.start(endpoint.connect)
        until(lambda: bus.stats().waiting + bus.stats().leased == 0)
    assert published <= {push["message"]["messageId"] for push in endpoint.pushes}


def test_log_that_lost_its_end_keeps_all_before_it(tmp_path):
    path, copy = tmp_path / "lake.db", tmp_path / "copy.db"
    log, log_copy = tmp_path / "lake.db-wal", tmp_path / "copy.db-wal"
    with closing(Queue(path, 1200.0)) as queue:
        ids, ends = [], []
        for number in range(20):
            ids.append(queue.publish(note(bytes(500)), NOW + number))
            ends.append(log.stat().st_size)
        assert ends == sorted(ends)
        for _ in range(2 * ROUNDS):
            cut = random.randrange(ends[0], ends[-1] + 1)
            shutil.copy(path, copy)
            log_copy.write_bytes(log.read_bytes()[:cut])
            assert stored(copy) == [given for given, end in zip(ids, ends, strict=True) if end <= cut]
            log_copy.unlink(missing_ok=True)
