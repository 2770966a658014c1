"""A durable queue of four topics in one SQLite file, which several connections and processes may use.

A message is due at `due_at`. Leasing it counts a delivery and moves `due_at` to the end of the lease, so a
message whose lease nobody ends becomes due again by itself. Times are arguments, in seconds since 1970.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from app.model.errors import BusUnavailable, ConfigError
from app.model.names import plain
from app.model.values import Message
from app.plumbing.group_commit import GroupCommit
from app.plumbing.makeable import check_makeable, looking
from app.plumbing.private import make_folder
from app.plumbing.sqlite import connect, sqlite_errors, transaction

MAIN = "main"
BACKFILL = "backfill"
FORWARD = "forward"
DEAD_LETTER = "dead_letter"

SCHEMA = """
CREATE TABLE IF NOT EXISTS queue (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    topic TEXT NOT NULL,
    message_id TEXT NOT NULL,
    data BLOB NOT NULL,
    attributes TEXT NOT NULL,
    publish_time REAL NOT NULL,
    attempt INTEGER NOT NULL,
    due_at REAL NOT NULL,
    leased INTEGER NOT NULL,
    UNIQUE (topic, message_id)
);
CREATE INDEX IF NOT EXISTS queue_due ON queue (topic, due_at, leased);
CREATE TABLE IF NOT EXISTS ballast (room BLOB);
"""

# An id is the time in microseconds, or the highest id ever assigned + 1 if that is greater. So it is unique
# in this file whatever the clock does, and almost certainly differs from all ids of a deleted file.
INSERT = """
INSERT INTO queue (id, topic, message_id, data, attributes, publish_time, attempt, due_at, leased)
SELECT next, :topic, CASE :message_id WHEN '' THEN CAST(next AS TEXT) ELSE :message_id END,
       :data, :attributes, :publish_time, :attempt, :due_at, :leased
FROM (SELECT max(CAST(:publish_time * 1000000 AS INTEGER),
                 coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'queue'), 0) + 1) AS next)
WHERE true
ON CONFLICT (topic, message_id) DO NOTHING
RETURNING message_id
"""

# Two ranges of one index, so the cost does not grow with the queue. The second finds messages that would be
# stranded when the clock is set back: nothing is ever scheduled beyond the horizon on purpose.
DUE = """
SELECT id FROM (SELECT id FROM queue WHERE topic = :topic AND due_at <= :now ORDER BY due_at LIMIT :count)
UNION ALL
SELECT id FROM (SELECT id FROM queue WHERE topic = :topic AND due_at > :horizon LIMIT :count)
LIMIT :count
"""

LEASE = f"""
UPDATE queue SET attempt = attempt + 1, due_at = :until, leased = 1 WHERE id IN ({DUE})
RETURNING id, message_id, data, attributes, publish_time, attempt
"""

# A late acknowledgement counts: the work is done, even if the lease has ended.
ACK = "DELETE FROM queue WHERE topic = :topic AND message_id = :message_id"

# A late refusal does not count: `attempt` distinguishes a lease from the next one of the same message.
NACK = """
UPDATE queue SET due_at = :due_at, leased = 0, attempt = attempt - :uncounted
WHERE topic = :topic AND message_id = :message_id AND attempt = :attempt AND leased = 1
"""

RELEASE = "UPDATE queue SET due_at = :now, leased = 0 WHERE leased = 1"

# Ids rise with time. The plus prevents SQLite from walking the table in the order of ids, past all messages
# of long jobs, until it meets an event.
COUNTS = """
SELECT (SELECT count(*) FROM queue WHERE topic IN ('main', 'backfill') AND leased = 0),
       (SELECT count(*) FROM queue WHERE topic IN ('main', 'backfill') AND leased = 1),
       (SELECT count(*) FROM queue WHERE topic = 'dead_letter'),
       (SELECT publish_time FROM queue WHERE id = (SELECT min(+id) FROM queue WHERE topic = 'main'))
"""

UNFINISHED = "SELECT attributes FROM queue"

# Existing messages are skipped, so that an interrupted move can be repeated.
MOVED = "id, topic, message_id, data, attributes, publish_time, attempt, due_at, leased"
ADD = f"INSERT INTO queue ({MOVED}) VALUES ({', '.join('?' * 9)}) ON CONFLICT DO NOTHING"

Statement = tuple[str, Mapping[str, object]]
Rows = list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class QueueStats:
    """Counts of messages. `oldest_age_s`: age of the oldest live event not yet acknowledged, 0 if none.

    The age of what long jobs published is not that of a fault: they publish more than is done at once.
    """

    waiting: int
    leased: int
    dead_letters: int
    oldest_age_s: float


def queue_errors(path: Path | None = None) -> AbstractContextManager[None]:
    """Translate errors of SQLite. All are transient, except for a file being opened at `path`.

    That file may be unusable for good, which is a ConfigError.
    """
    unusable = f"bus.url: {path} cannot hold the queue" if path else ""
    advice = "; give bus.url another file"
    return sqlite_errors(BusUnavailable, "the queue does not answer", unusable, advice)


@contextmanager
def _folder_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as exc:
        name = type(exc).__name__
        raise ConfigError(f"bus.url: the folder of the queue {path} cannot be made ({name})") from exc


def check_file(path: Path) -> None:
    """Raise ConfigError if the file at `path` cannot hold a queue. Creates and changes nothing."""
    with _folder_errors(path):
        check_makeable(path.parent)
    with queue_errors(path), looking(path):
        pass


def copy_queue(old: sqlite3.Connection, new: sqlite3.Connection) -> None:
    """Copy all messages to another file, which will never assign an id that the old file has assigned."""
    for statement in SCHEMA.split(";"):  # executescript would commit
        new.execute(statement)
    new.executemany(ADD, old.execute(f"SELECT {MOVED} FROM queue"))
    highest = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'queue'"
    last = max(connection.execute(highest).fetchone()[0] for connection in (old, new))
    new.execute("DELETE FROM sqlite_sequence WHERE name = 'queue'")
    new.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('queue', ?)", (last,))


def drop_queue(connection: sqlite3.Connection) -> None:
    """Remove all tables of the queue from a file."""
    connection.execute("DROP TABLE queue")
    connection.execute("DROP TABLE IF EXISTS ballast")


class Queue:
    """The queue in the file at `path`. Safe to call from several threads and from several processes.

    horizon_s: maximum seconds by which a lease or a refusal may delay a message.
    """

    def __init__(self, path: Path, horizon_s: float) -> None:
        self._path, self._horizon_s = path, horizon_s
        self._reading = threading.Lock()
        self._commits: GroupCommit[tuple[Statement, ...], Rows] = GroupCommit(self._commit, BusUnavailable)
        with _folder_errors(path):
            make_folder(path.parent)
        with queue_errors(path):
            self._writer, self._reader = connect(path), connect(path)
            self._writer.executescript(SCHEMA)

    def publish(self, message: Message, now: float, topic: str = MAIN) -> str:
        """Store a new message, due at once; return its id when it is durable."""
        values = _values(topic, replace(message, message_id="", attempt=None), now)
        return str(self._write((INSERT, values))[0][0])

    def publish_all(self, messages: Sequence[Message], now: float, topic: str = MAIN) -> None:
        """Store new messages in one commit, due at once; they are durable when this returns.

        A message with the id of one that still waits is dropped as a repetition.
        """
        new = (replace(message, attempt=None) for message in messages)
        self._write(*((INSERT, _values(topic, message, now)) for message in new))

    def lease(
        self, topic: str, count: int, now: float, until: float, done: Sequence[Message] = ()
    ) -> list[Message]:
        """Lease up to `count` due messages until a time; their `attempt` includes this delivery.

        The same commit removes the messages in `done`, as by `ack`. If nothing is due or done, nothing is
        written, so an idle queue costs one index look-up.
        """
        horizon = now + self._horizon_s
        values = {"topic": topic, "count": count, "now": now, "until": until, "horizon": horizon}
        statements = [_ack(topic, message) for message in done]
        if self._read(DUE, values):
            statements.append((LEASE, values))
        return [_message(row) for row in sorted(self._write(*statements))] if statements else []

    def ack(self, topic: str, message: Message) -> None:
        """Remove a message for good."""
        self._write(_ack(topic, message))

    def nack(self, topic: str, message: Message, due_at: float, counted: bool = True) -> None:
        """End a lease and make the message due at a time; without `counted` the delivery does not count."""
        values = {"topic": topic, "message_id": message.message_id, "attempt": message.attempt}
        self._write((NACK, values | {"due_at": due_at, "uncounted": int(not counted)}))

    def dead_letter(self, letter: Message, now: float, until: float) -> Message | None:
        """Store a dead letter, leased to the caller until a time.

        Returns it as stored, with an id if it had none; None if a dead letter with this id exists already.
        """
        letter = replace(letter, attempt=1)
        rows = self._write((INSERT, _values(DEAD_LETTER, letter, now) | {"due_at": until, "leased": 1}))
        return replace(letter, message_id=rows[0][0]) if rows else None

    def give_up(self, topic: str, message: Message, letter: Message, now: float) -> None:
        """Replace a message by the dead letter `letter`, in one commit."""
        insert = (INSERT, _values(DEAD_LETTER, replace(letter, attempt=0), now))
        self._write(insert, _ack(topic, message))

    def unfinished(self) -> list[Mapping[str, str]]:
        """Return the attributes of all messages and dead letters that are in the queue."""
        return [json.loads(attributes) for (attributes,) in self._read(UNFINISHED, {})]

    def release(self, now: float) -> None:
        """End all leases; attempts stay counted. Only the one process that serves the queue may call this."""
        self._write((RELEASE, {"now": now}))

    def reserve(self, size: int) -> None:
        """Reserve disk space in the file and its write-ahead log, to be used when the disk is full.

        SQLite fills free pages before it extends the file, and overwrites its log from the start.
        """
        self._write(("INSERT INTO ballast VALUES (zeroblob(:size))", {"size": size}))
        self._write(("DELETE FROM ballast", {}))

    def stats(self, now: float) -> QueueStats:
        """Return the number of messages and the age of the oldest."""
        waiting, leased, dead_letters, oldest = self._read(COUNTS, {})[0]
        return QueueStats(waiting, leased, dead_letters, max(0.0, now - oldest) if oldest else 0.0)

    def check(self) -> None:
        """Raise BusUnavailable unless the file can be read and written."""
        self._read("SELECT id FROM queue LIMIT 1", {})
        if not os.access(self._path, os.W_OK):
            raise BusUnavailable("the file of the queue has become read-only or is missing")

    def close(self) -> None:
        """Close the file; later calls raise BusUnavailable."""
        self._commits.close()
        with self._reading, queue_errors():
            self._writer.close()
            self._reader.close()

    def _read(self, sql: str, values: Mapping[str, object]) -> Rows:
        with self._reading, queue_errors():
            return self._reader.execute(sql, values).fetchall()

    def _write(self, *statements: Statement) -> Rows:
        """Run statements in a transaction, shared with callers that arrived during the previous commit."""
        return self._commits.add(statements)

    def _commit(self, group: list[tuple[Statement, ...]]) -> list[Rows]:
        with queue_errors(), transaction(self._writer):
            return [
                [row for sql, values in statements for row in self._writer.execute(sql, values)]
                for statements in group
            ]


def _ack(topic: str, message: Message) -> Statement:
    return ACK, {"topic": topic, "message_id": message.message_id}


def _values(topic: str, message: Message, now: float) -> dict[str, object]:
    """Return the columns of a new message; `plain` because an id from outside may not be valid UTF-8."""
    return {
        "topic": topic,
        "message_id": plain(message.message_id),
        "data": message.data,
        "attributes": json.dumps(dict(message.attributes)),
        "publish_time": now,
        "attempt": message.attempt or 0,
        "due_at": now,
        "leased": 0,
    }


def _message(row: tuple[Any, ...]) -> Message:
    _, message_id, data, attributes, publish_time, attempt = row
    published = datetime.fromtimestamp(publish_time, UTC)
    return Message(data, json.loads(attributes), message_id, published, attempt)
