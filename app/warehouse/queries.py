"""Pure: statements on our own tables, in the words of each warehouse."""

from __future__ import annotations

from collections.abc import Sequence

from app.warehouse.dialects import DIALECTS

EVENT = ("bucketId", "objectId", "objectGeneration", "eventType")
"""Attributes that together name an event."""


def letters_by_event(dialect: str, columns: Sequence[str], chosen: str) -> str:
    """Return the SELECT of all letters of the events that some letters are of.

    Events come in the order of their oldest letter, the letters of one event together and the newest last.
    The column `event` is the same for letters of one event; a letter that names no event is one of its own.

    Parameters
    ----------
    dialect : name of one of DIALECTS
    columns : columns of the table `dead_letter` to return beside `event`
    chosen : what stands in the brackets of `message_id IN (...)`

    Raises
    ------
    KeyError : there is no such dialect
    """
    words = DIALECTS[dialect]
    text = words.types.get("STRING", "STRING")
    attributes = ", ".join(f"{words.attribute.format(name)} AS {name}" for name in EVENT)
    known = " AND ".join(f"{name} <> ''" for name in EVENT)
    # Lengths first, so that two events never read alike when their names are joined.
    lengths = " || ' ' || ".join(f"CAST(LENGTH({name}) AS {text})" for name in EVENT)
    return f"""WITH named AS (SELECT *, {attributes} FROM dead_letter),
keyed AS (
  SELECT *, CASE WHEN {known} THEN {lengths} || ' ' || {" || ".join(EVENT)}
    ELSE 'lone ' || message_id END AS event
  FROM named)
SELECT event, {", ".join(columns)} FROM (
  SELECT *, MIN(publish_time) OVER (PARTITION BY event) AS since FROM keyed
  WHERE event IN (SELECT event FROM keyed WHERE message_id IN ({chosen}))) AS letters
ORDER BY since, event, publish_time, message_id"""
