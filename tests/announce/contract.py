"""What every target of announcements promises, and what every message is: checked against docs/."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import ModuleType

import jsonschema
import pytest

from app.announce import Announcer
from app.model.errors import AnnounceUnavailable
from app.model.values import Announcement
from tests.parts import ROOT

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Received:
    """A message as a receiver has it; attributes without the prefix of the transport."""

    attributes: dict[str, str]
    content_type: str
    key: str | None
    data: bytes

    @property
    def value(self) -> dict:
        return json.loads(self.data)


Receive = Callable[[int], Sequence[Received]]
"""Returns all messages as soon as there are so many."""


def check_message(message: Received) -> None:
    """Fail unless a message is a CloudEvent whose value fits the schema that docs/ has for its type."""
    attributes = message.attributes
    assert attributes["specversion"] == "1.0"
    assert attributes["id"]
    assert attributes["source"].startswith("/dicomlake/")
    assert message.content_type == "application/json"
    name = attributes["type"].removeprefix("dicomlake.")
    schema = json.loads((ROOT / f"docs/schemas/{name}.json").read_text())
    checker = jsonschema.Draft202012Validator(schema | {"additionalProperties": False})
    assert [fault.message for fault in checker.iter_errors(message.value)] == []


def announcement(number: int = 1, key: str = "gs://in/träume/ß 日本.dcm") -> Announcement:
    data = json.dumps({"number": number, "text": "ä"}).encode()
    kind = "dicomlake.instance.stored.v1"
    return Announcement(f"{number:064x}", kind, "/dicomlake/instances", key, data, NOON, f"trace-{number}")


class AnnouncerContract:
    """Needs the fixtures `announcer`, `receive`, `down` (a function that makes the target fail from now on
    and returns one that mends it) and `vendor` (modules with exception classes, and what translates them).
    """

    def test_a_message_arrives_as_a_cloud_event(self, announcer: Announcer, receive: Receive) -> None:
        announcer.announce([announcement()])
        (message,) = receive(1)
        assert message.attributes == {
            "specversion": "1.0",
            "id": f"{1:064x}",
            "type": "dicomlake.instance.stored.v1",
            "source": "/dicomlake/instances",
            "subject": "gs://in/träume/ß 日本.dcm",
            "time": "2026-03-01T12:00:00Z",
            "correlationid": "trace-1",
        }
        assert message.content_type == "application/json"
        assert message.key in ("gs://in/träume/ß 日本.dcm", None)
        assert message.value == {"number": 1, "text": "ä"}

    def test_a_batch_has_arrived_when_the_call_returns(self, announcer: Announcer, receive: Receive) -> None:
        announcer.announce([announcement(number, f"gs://in/{number % 3}") for number in range(50)])
        found = receive(50)
        assert sorted(message.value["number"] for message in found) == list(range(50))

    def test_a_long_key_is_no_reason_to_fail(self, announcer: Announcer, receive: Receive) -> None:
        announcer.announce([announcement(1, "gs://in/" + "ß" * 1024)])
        assert [message.value["number"] for message in receive(1)] == [1]

    def test_a_target_that_is_down_is_unavailable_and_heals(
        self, announcer: Announcer, receive: Receive, down: Callable[[], Callable[[], None]]
    ) -> None:
        announcer.announce([announcement(1)])
        mend = down()
        with pytest.raises(AnnounceUnavailable):
            announcer.announce([announcement(2)])
        mend()
        heals(announcer, announcement(3))
        assert 3 in {message.value["number"] for message in receive(1)}

    def test_after_closing_it_is_unavailable(self, announcer: Announcer) -> None:
        announcer.announce([announcement(1)])
        announcer.check()
        announcer.close()
        announcer.close()
        with pytest.raises(AnnounceUnavailable):
            announcer.announce([announcement(2)])

    def test_vendor_exceptions_become_ours(self, vendor: tuple[Sequence[ModuleType], Callable]) -> None:
        modules, provoke = vendor
        shown = [value for module in modules for value in vars(module).values() if isinstance(value, type)]
        kinds = [kind for kind in shown if issubclass(kind, Exception) and kind is not Exception]
        assert kinds
        for kind in kinds:
            with pytest.raises(AnnounceUnavailable):
                provoke(kind)


def heals(announcer: Announcer, one: Announcement, attempts: int = 5) -> None:
    """Announce as redeliveries do."""
    for attempt in range(attempts):
        try:
            return announcer.announce([one])
        except AnnounceUnavailable:
            if attempt == attempts - 1:
                raise
    raise AssertionError
