"""The real service, whose seams fail as the names of objects ask for, always with a canary in what they say.

`raise@fetch@ShortRead@.dcm`: that error of ours, and a canary in the text of its cause.
`raise@ack@ValueError@.dcm`: one that nobody foresaw, a canary in its own text; workers: `abort`, `sleep`.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable, Sequence
from typing import Any

import app.bus
import app.bus.local.bus
import app.services
import app.storage
import app.warehouse
from app.bus.local.bus import LocalBus
from app.bus.local.queue import Queue
from app.cli import commands
from app.dicom import describe
from app.model import errors
from app.model.values import Message, Row
from app.storage.local.storage import LocalStorage
from app.warehouse.sqlite.warehouse import SqliteWarehouse
from app.workers.pool import Workers
from tests.system.e2e.canaries import WORD
from tests.system.e2e.canary_task import task

CANARY = WORD.decode()
ASKED = re.compile(r"raise@(\w+)@(\w+)@")


def fail(step: str, *names: object) -> None:
    """Raise what one of these names asks for at this step."""
    for name in names:
        found = ASKED.search(str(name))
        if found and found[1] == step:
            ours = getattr(errors, found[2], None)
            raise (ours("told") if ours else getattr(builtins, found[2])(CANARY)) from ValueError(CANARY)


class Storage(LocalStorage):
    """A folder."""

    def fetch(self, ref: Any, *more: Any) -> Any:
        fail("fetch", ref.name)
        return super().fetch(ref, *more)

    def write(self, name: str, *more: Any) -> str:
        fail("write", name)
        return super().write(name, *more)


class Warehouse(SqliteWarehouse):
    """Tables; when they are closed, a bug."""

    def append(self, table: str, rows: Sequence[Row]) -> None:
        fail(f"append_{table}", *(row.get("object_uri") for row in rows))
        super().append(table, rows)

    def close(self) -> None:
        super().close()
        raise ValueError(CANARY)


class Bus(LocalBus):
    """A bus that cannot be asked whether it is ready."""

    def publish(self, message: Message) -> str:
        fail("publish", message.attributes.get("objectId"))
        return super().publish(message)

    def publish_all(self, messages: Sequence[Message]) -> None:
        for message in messages:
            fail("publish", message.attributes.get("objectId"))
        super().publish_all(messages)

    def dead_letter(self, message: Message, reason: Any) -> None:
        fail("dead_letter", message.attributes.get("objectId"))
        super().dead_letter(message, reason)

    def check(self) -> None:
        raise ValueError(CANARY)


class FailingQueue(Queue):
    """Its queue."""

    def ack(self, topic: str, message: Message) -> None:
        fail("ack", message.attributes.get("objectId"))
        super().ack(topic, message)


class FailingWorkers(Workers):
    """Workers, some of whose tasks go wrong."""

    def __post_init__(self) -> None:
        self.preload += (task.__module__,)
        super().__post_init__()

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        found = ASKED.search(args[0].ref.name) if function is describe else None
        if found and found[1] == "worker":
            function, args = task, (found[2],)
        return super().run(function, *args, **kwargs)


def main() -> None:
    """Put them behind their doors, before anything is opened."""
    app.storage.BACKENDS["file"] = (__name__, "Storage", None)
    app.warehouse.BACKENDS["sqlite"] = (__name__, "Warehouse", None)
    app.bus.BACKENDS["local"] = (__name__, "Bus", None)
    app.bus.local.bus.Queue = FailingQueue  # type: ignore[misc]
    app.services.Workers = FailingWorkers  # type: ignore[misc]
    commands.main()
