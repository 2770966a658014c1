"""Dead letters that the bus itself gave up: stored, and announced with the reason of their last failure.

A delivery of a picture among them is recorded as refused.
"""

from __future__ import annotations

import json
from datetime import datetime

from app.announce import Announcers
from app.announce.announcements import dead_lettered, object_uri
from app.model.deliveries import refused_delivery
from app.model.values import Message, Reason, Row
from app.warehouse import Warehouse
from app.warehouse.queries import last_failure, stored_letter

GIVEN_UP_BY_US = "dicomlakeCode"
"""Attribute of a dead letter that the pipeline gave up, and has announced or recorded."""


class LetterSink:
    """Stores dead letters of the embedded bus as rows, and announces those that the bus itself gave up.

    The bus repeats a call until it succeeds. A letter whose row is stored but not announced is remembered:
    somebody may requeue it meanwhile, which removes the row, and the next call must not bring it back.
    """

    def __init__(self, warehouse: Warehouse, announcers: Announcers, is_verbatim: bool = True) -> None:
        self._warehouse, self._announcers, self._is_verbatim = warehouse, announcers, is_verbatim
        self._unannounced: set[str] = set()

    def __call__(self, row: Row) -> None:
        """Record a letter of a delivery, store the letter once, then announce it."""
        data, attributes, given_up_at = row["data"], json.loads(str(row["attributes"])), row["publish_time"]
        assert isinstance(data, bytes)
        assert isinstance(given_up_at, datetime)
        letter = Message(data, attributes, str(row["message_id"]))
        record_refused(letter, given_up_at, self._warehouse)
        if not self._announcers or GIVEN_UP_BY_US in attributes:
            self._warehouse.append("dead_letter", [row])
            return
        known = letter.message_id in self._unannounced
        if not known and not self._warehouse.query(*stored_letter(letter.message_id)):
            self._warehouse.append("dead_letter", [row])
        self._unannounced.add(letter.message_id)
        announce_letter(letter, self._warehouse, self._announcers, self._is_verbatim)
        self._unannounced.discard(letter.message_id)


def record_refused(letter: Message, given_up_at: datetime, warehouse: Warehouse) -> None:
    """Record that the bus itself gave up a delivery of a picture, if the letter is one."""
    refused = None if GIVEN_UP_BY_US in letter.attributes else refused_delivery(letter, given_up_at)
    if refused is not None:
        warehouse.append("deliveries", [refused])


def announce_letter(
    letter: Message, warehouse: Warehouse, announcers: Announcers, is_verbatim: bool = True
) -> None:
    """Announce a letter that the bus itself has given up, with the reason of its last failed attempt.

    A letter that already has a reason comes from the pipeline, which has announced it. In a lake that
    de-identifies it is not verbatim, and its failures are found by the id of the message alone.
    """
    attributes = letter.attributes
    if not announcers or GIVEN_UP_BY_US in attributes:
        return
    generation = attributes.get("objectGeneration", "")
    uri = object_uri(attributes) if is_verbatim else ""
    asked = last_failure(
        letter.message_id,
        uri,
        int(generation) if generation.isascii() and generation.isdecimal() and len(generation) < 19 else None,
        attributes.get("eventType", ""),
    )
    found = warehouse.query(*asked)
    code, text = (str(found[0]["code"]), str(found[0]["message"])) if found else ("", "")
    announcers.announce([dead_lettered(letter, Reason(code, text, uri), is_verbatim)])
