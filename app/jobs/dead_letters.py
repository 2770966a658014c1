"""Dead letters: list them, send them again with their own event, or drop them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, islice
from operator import itemgetter
from typing import TypeVar

from app import pipeline
from app.announce.announcements import own_attributes
from app.jobs import ingest
from app.model.errors import DicomlakeError, PermanentError, WarehouseUnavailable
from app.model.values import GiveUp, Message
from app.services import Services
from app.storage.local.storage import MACHINE
from app.warehouse import Warehouse, queries

T = TypeVar("T")
PAGE = 100
"""Number of events that are sent before they are removed from the table."""
MAX_IDS = 5000
"""Ids in one statement; BigQuery allows 10,000 parameters."""


class NoSuchLetter(PermanentError):
    """There is no open dead letter with this id."""

    code = "no_such_letter"


def letters(warehouse: Warehouse) -> Iterator[dict[str, object]]:
    """Yield the open dead letters, oldest first, each with its code and reason."""
    return warehouse.stream(*queries.open_letters())


def letter(warehouse: Warehouse, message_id: str) -> dict[str, object]:
    """Return one dead letter with its attributes and every failed attempt of its event."""
    found, stored = (warehouse.query(*asked) for asked in queries.letter(message_id))
    if not found or not stored:
        raise _unknown(message_id)
    event = found[0]["object_uri"], found[0]["generation"], found[0]["event_type"]
    # A message that names no event has no attempts.
    attempts = warehouse.query(*queries.attempts(*event)) if None not in event else []
    return {**found[0], "attributes": _attributes(stored[-1]), "attempts": attempts}


def count(warehouse: Warehouse, message_ids: Sequence[str] | None) -> int:
    """Return the number of letters with these ids, of all if None; raise NoSuchLetter for an unknown id."""
    if message_ids is None:
        return int(str(warehouse.query(*queries.count("dead_letters"))[0]["n"]))
    for ids in _chunks(message_ids, MAX_IDS):
        known = {row["message_id"] for row in warehouse.query(*queries.known_letters(ids))}
        for message_id in ids:
            if message_id not in known:
                raise _unknown(message_id)
    return len(set(message_ids))


def requeue(services: Services, message_ids: Sequence[str] | None) -> Iterator[dict[str, object]]:
    """Send dead letters again with unchanged event type and generation; yield the result of each.

    Letters are sent before they are removed from the table, PAGE events at a time, so a crash in between
    repeats events and loses none. A letter that the warehouse cannot remove now is reported as `kept` with
    the reason, and the others proceed. A file that `ingest` read in place is in no bucket of a service, so it
    is processed here at once; if it fails again, its letter stays. If the ids are None, all open letters are
    sent.
    """
    warehouse = services.warehouse
    count(warehouse, message_ids)
    with ingest.machine_view(services) as machine:
        for page in _chunks(_events(warehouse, message_ids, "message_id", "data", "attributes"), PAGE):
            lines = [_send(rows[-1], services, machine) for rows in page]
            done = [
                (line, rows)
                for line, rows in zip(lines, page, strict=True)
                if line.get("status") not in ingest.FAULTS
            ]
            try:
                _remove(warehouse, [rows for _, rows in done])
            except WarehouseUnavailable:
                for line, rows in done:
                    try:
                        _remove(warehouse, [rows])
                    except WarehouseUnavailable as error:
                        line["kept"] = error.text
            yield from lines


def _send(letter: dict[str, object], services: Services, machine: Services) -> dict[str, object]:
    kept = own_attributes(_attributes(letter))
    data, message_id = letter["data"], str(letter["message_id"])
    message = Message(data if isinstance(data, bytes) else b"", kept, message_id)
    if kept.get("bucketId") == MACHINE != services.source.bucket:
        line: ingest.Line = {
            "message_id": message_id,
            "object_uri": machine.source.uri(kept.get("objectId", "")),
        }
        try:
            return line | ingest.facts(pipeline.handle(message, machine, GiveUp.SILENTLY))
        except DicomlakeError as error:
            return ingest.failure(line, error)
    return {"message_id": message_id, "requeued_as": services.bus.publish(message)}


def purge(
    warehouse: Warehouse,
    message_ids: Sequence[str] | None,
    progress: Callable[[int], object] = lambda _: None,
) -> int:
    """Drop dead letters for good and return the number of events; `progress` gets the number of each page.

    If the ids are None, all open dead letters are dropped.
    """
    count(warehouse, message_ids)
    events = 0
    for page in _chunks(_events(warehouse, message_ids, "message_id"), 10 * PAGE):
        _remove(warehouse, page)
        events += len(page)
        progress(len(page))
    return events


def _remove(warehouse: Warehouse, events: Sequence[Sequence[dict[str, object]]]) -> None:
    warehouse.delete("dead_letter", "message_id", [str(row["message_id"]) for rows in events for row in rows])


def _events(
    warehouse: Warehouse, message_ids: Sequence[str] | None, *columns: str
) -> Iterator[list[dict[str, object]]]:
    """Yield the stored letters of these ids' events: one list for each event, the newest letter last.

    The bus may give up the same event more than once; the view shows only the newest letter.
    """
    for ids in [None] if message_ids is None else _chunks(message_ids, MAX_IDS):
        asked = queries.letters_by_event(warehouse.dialect, columns, ids)
        for _, rows in groupby(warehouse.stream(*asked), itemgetter("event")):
            yield list(rows)


def _chunks(values: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(values)
    while chunk := list(islice(rest, size)):
        yield chunk


def _attributes(row: dict[str, object]) -> dict[str, str]:
    """Return the attributes of a letter; {} if they are not in the form that our bus writes."""
    try:
        found = json.loads(str(row["attributes"] or "{}"))
    except (ValueError, RecursionError):
        return {}
    return {key: str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def _unknown(message_id: str) -> NoSuchLetter:
    return NoSuchLetter(f"there is no open dead letter {message_id}; `dicomlake dlq list` names them")
