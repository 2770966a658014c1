"""Dead letters: look at them, send them again with their own event, or drop them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from app import bulk, pipeline
from app.errors import PermanentError, WarehouseUnavailable
from app.services import Services
from app.storage.local import MACHINE
from app.types import REVISION, GiveUp, Message, Status
from app.warehouse import Warehouse

EVENT = ("bucketId", "objectId", "objectGeneration", "eventType")
OURS = ("CloudPubSubDeadLetter", "dicomlake")
"""Attributes that begin so were added when the message was given up; a requeued message goes without them,
except that of a revision, which it had before."""


class NoSuchLetter(PermanentError):
    """The id names no open dead letter."""

    code = "no_such_letter"


def letters(warehouse: Warehouse) -> list[dict[str, object]]:
    """Return the open dead letters, oldest first, each with its code and reason."""
    return warehouse.query("SELECT * FROM dead_letters ORDER BY publish_time, message_id")


def letter(warehouse: Warehouse, message_id: str) -> dict[str, object]:
    """Return one dead letter with its attributes and every failed attempt of its event."""
    found = next((row for row in letters(warehouse) if row["message_id"] == message_id), None)
    stored = _events(warehouse, [message_id])
    if found is None:
        raise _unknown(message_id)
    attempts = warehouse.query(
        "SELECT delivery_attempt, code, message, permanent, failed_at FROM failures"
        " WHERE object_uri = :uri AND generation = :generation AND event_type = :event_type"
        " ORDER BY failed_at",
        {"uri": found["object_uri"], "generation": found["generation"], "event_type": found["event_type"]},
    )
    for attempt in attempts:
        if attempt["permanent"] is not None:
            attempt["permanent"] = bool(attempt["permanent"])  # SQLite has no booleans
    return {**found, "attributes": _attributes(stored[0][-1]), "attempts": attempts}


def requeue(services: Services, message_ids: Sequence[str]) -> Iterator[dict[str, object]]:
    """Send dead letters again, event type and generation unchanged; yield what became of each.

    Each is sent before it leaves the table, so a crash between the two repeats it and loses nothing. One that
    the warehouse cannot remove now is `kept`, and why; it does not hold up the others. A file that `ingest`
    read where it lies is in no bucket that a service watches, so it is handled here and now.
    """
    for rows in _events(services.warehouse, message_ids):
        attributes = _attributes(rows[-1]).items()
        kept = {key: value for key, value in attributes if key == REVISION or not key.startswith(OURS)}
        data = rows[-1]["data"]
        message_id = str(rows[-1]["message_id"])
        message = Message(data if isinstance(data, bytes) else b"", kept, message_id)
        if kept.get("bucketId") == MACHINE != services.source.bucket:
            with bulk.machine_view(services) as machine:
                outcome = pipeline.handle(message, machine, GiveUp.SILENTLY)
            line: dict[str, object] = {"message_id": message_id, "status": outcome.status.value}
            done = outcome.status is not Status.DEAD_LETTERED
        else:
            line = {"message_id": message_id, "requeued_as": services.bus.publish(message)}
            done = True
        if done:
            try:
                _remove(services.warehouse, [rows])
            except WarehouseUnavailable as error:
                line["kept"] = error.text
        yield line


def purge(warehouse: Warehouse, message_ids: Sequence[str]) -> int:
    """Drop dead letters for good and return how many events that were."""
    events = _events(warehouse, message_ids)
    _remove(warehouse, events)
    return len(events)


def _remove(warehouse: Warehouse, events: Sequence[Sequence[dict[str, object]]]) -> None:
    warehouse.delete("dead_letter", "message_id", [str(row["message_id"]) for rows in events for row in rows])


def _events(warehouse: Warehouse, message_ids: Sequence[str]) -> list[list[dict[str, object]]]:
    """Return the stored letters of the events that the ids belong to: one list an event, the newest last.

    The bus may give the same event up more than once, and the view shows only the newest letter.
    """
    rows = warehouse.query(
        "SELECT message_id, data, attributes FROM dead_letter ORDER BY publish_time, message_id"
    )
    groups: dict[object, list[dict[str, object]]] = {}
    for row in rows:
        named = [_attributes(row).get(key) for key in EVENT]
        groups.setdefault(tuple(named) if all(named) else row["message_id"], []).append(row)
    found = {str(row["message_id"]): rows for rows in groups.values() for row in rows}
    for message_id in message_ids:
        if message_id not in found:
            raise _unknown(message_id)
    return list({id(found[message_id]): found[message_id] for message_id in message_ids}.values())


def _attributes(row: dict[str, object]) -> dict[str, str]:
    """Return the attributes of a letter; none of one that no bus of ours wrote."""
    try:
        found = json.loads(str(row["attributes"] or "{}"))
    except (ValueError, RecursionError):
        return {}
    return {key: str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def _unknown(message_id: str) -> NoSuchLetter:
    return NoSuchLetter(f"there is no open dead letter {message_id}; `dicomlake dlq list` names them")
