"""The real backends of the embedded default, any call of which may fail on purpose.

    before      the error comes and nothing was done
    after       all was done, then the error comes
    slow        late, then right
    throttled   this call, and every call to the same seam for a while
    short_read, wrong_checksum
                what a storage says when the bytes are not those that were announced
    unforeseen  an error that is not in our tree
    twice, late a message is published twice; its delivery is put off, so that others overtake it

Rows marked REFUSED are always refused, and a worker dies of rendering what is marked CRASHING.
"""

from __future__ import annotations

import functools
import json
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

from app.announce import Announcers
from app.bus.local.bus import LocalBus
from app.bus.local.queue import Queue
from app.dicom import describe
from app.forward.encoded import EncodedFiles
from app.model.errors import (
    AnnounceUnavailable,
    BusUnavailable,
    ForwardUnavailable,
    RowsRejected,
    ShortRead,
    StorageUnavailable,
    WarehouseUnavailable,
)
from app.model.values import Announcement, Message, Picture, Row
from app.storage.local.storage import LocalStorage
from app.warehouse.sqlite.warehouse import SqliteWarehouse
from app.workers.pool import Workers
from tests.system.faults.plan import CRASHING, REFUSED, Faults, Plan

FAILING = ("before", "after", "slow", "throttled")
FAULTS = Faults(Plan(**json.loads(os.environ["FAULTS"])))

Step = Callable[..., tuple[str, Sequence[str]]]
"""Arguments of a call -> the step of the pipeline that it is, and the names of the objects."""


def faulty(
    method: Callable[..., Any], error: type[Exception], kinds: Sequence[str], step: Step, share: float = 1.0
) -> Any:
    """Return a method that does the same, or fails with `error` in one of these ways."""
    seam = method.__qualname__.removeprefix("Local").removeprefix("Sqlite")

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        stage, names = step(*args)
        FAULTS.die(stage, "before", names)
        kind = FAULTS.draw(seam, kinds, share)
        if kind in ("before", "throttled"):
            raise error(kind)
        if kind in ("short_read", "wrong_checksum"):
            raise ShortRead(kind)
        if kind == "unforeseen":
            raise ZeroDivisionError(kind)
        if kind == "slow":
            time.sleep(FAULTS.late_s())
        result = method(*args, **kwargs)
        FAULTS.die(stage, "after", names)
        if kind == "after":
            raise error(kind)
        return result

    return call


def _artifact(_: object, name: str, *__: object) -> tuple[str, Sequence[str]]:
    return name.rpartition(".")[2], [name]


def _rows(_: object, table: str, rows: Sequence[Row]) -> tuple[str, Sequence[str]]:
    if table == "dead_letter":
        return "append_dead_letter", [json.loads(str(row["attributes"]))["objectId"] for row in rows]
    return f"append_{table}", [str(row.get("object_uri")) for row in rows]


def _message(step: str, place: int) -> Step:
    return lambda *args: (step, [args[place].attributes.get("objectId", "")])


def _ref(step: str) -> Step:
    return lambda _, ref, *__: (step, [ref.name])


def _named(step: str) -> Step:
    return lambda _, name: (step, [name])


def _announced(_: object, announcements: Sequence[Announcement]) -> tuple[str, Sequence[str]]:
    return "announce", [one.key for one in announcements]


def _forwarded(_: object, picture: Picture) -> tuple[str, Sequence[str]]:
    return "forward", [picture.path]


forward = faulty(EncodedFiles.forward, ForwardUnavailable, FAILING, _forwarded)
"""What stands for `EncodedFiles.forward`: a receiver that fails."""

announce = faulty(Announcers.announce, AnnounceUnavailable, FAILING, _announced)
"""What stands for `Announcers.announce`: targets that fail."""


class FaultyStorage(LocalStorage):
    """A folder that fails."""

    fetch = faulty(
        LocalStorage.fetch,
        StorageUnavailable,
        (*FAILING, "short_read", "wrong_checksum", "unforeseen"),
        _ref("fetch"),
    )
    is_live = faulty(LocalStorage.is_live, StorageUnavailable, FAILING, _ref("settle"))
    write = faulty(LocalStorage.write, StorageUnavailable, (*FAILING, "unforeseen"), _artifact)
    delete = faulty(LocalStorage.delete, StorageUnavailable, FAILING, _named("delete"))


class FaultyWarehouse(SqliteWarehouse):
    """Tables that fail, and refuse some rows for good."""

    def append(self, table: str, rows: Sequence[Row]) -> None:
        """Add rows, but for those marked."""
        refused = {n: "marked" for n, row in enumerate(rows) if row.get("study_description") == REFUSED}
        good = [row for n, row in enumerate(rows) if n not in refused]
        if good:
            self._append(table, good)
        if refused:
            raise RowsRejected(refused)

    _append = faulty(SqliteWarehouse.append, WarehouseUnavailable, FAILING, _rows)


class FaultyQueue(Queue):
    """A queue whose acknowledgements get lost."""

    ack = faulty(Queue.ack, BusUnavailable, ("before", "after", "slow"), _message("ack", 2))

    def lease(self, *args: Any) -> list[Message]:
        """Lease messages; the commit that does so acknowledges earlier ones."""
        done = args[4] if len(args) > 4 else ()
        names = [message.attributes.get("objectId", "") for message in done]
        FAULTS.die("ack", "before", names)
        leased = super().lease(*args)
        FAULTS.die("ack", "after", names)
        return leased


class FaultyBus(LocalBus):
    """A bus that fails, repeats itself and changes the order."""

    def __init__(self, url: str, *args: Any) -> None:
        super().__init__(url, *args)
        self._file = url.partition(":")[2]

    def publish(self, message: Message) -> str:
        """Publish a message, maybe twice, maybe late."""
        return self._repeated(message, self._publish)

    def publish_all(self, messages: Sequence[Message]) -> None:
        """Publish them one by one, as `publish` does; one of them at most fails.

        Were each to fail by itself, a large group would hardly ever get through, and would grow meanwhile.
        """
        failing = FAULTS.one_of(len(messages))
        for number, message in enumerate(messages):
            self._repeated(message, self._publish if number == failing else self._publish_well)

    def _repeated(self, message: Message, publish: Callable[[Message], str]) -> str:
        kind = FAULTS.draw("Bus.publish", ("twice", "late"))
        message_id = str(publish(message))
        if kind == "twice":
            publish(message)
        if kind == "late":
            self._put_off_by(message_id, 5 * FAULTS.late_s())
        return message_id

    _publish = faulty(LocalBus.publish, BusUnavailable, FAILING, _message("publish", 1))
    _publish_well = faulty(LocalBus.publish, BusUnavailable, FAILING, _message("publish", 1), share=0)
    dead_letter = faulty(LocalBus.dead_letter, BusUnavailable, FAILING, _message("dead_letter", 1))

    def _put_off_by(self, message_id: str, seconds: float) -> None:
        sql = "UPDATE queue SET due_at = due_at + ? WHERE message_id = ? AND leased = 0"
        with closing(sqlite3.connect(self._file, timeout=30)) as database, database:
            database.execute(sql, (seconds, message_id))


class FaultyWorkers(Workers):
    """Workers that die of what is marked."""

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a task; a data set that is marked kills the worker that renders it."""
        if function is not describe:
            return super().run(function, *args, **kwargs)
        content, options = args
        FAULTS.die("describe", "before", [content.ref.name])
        if options.preview.enabled and CRASHING.encode() in (content.data or b""):
            super().run(os.abort)
        result = super().run(function, *args, **kwargs)
        FAULTS.die("describe", "after", [content.ref.name])
        return result
