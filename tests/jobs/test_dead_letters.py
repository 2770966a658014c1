"""Dead letters: what is shown of them, what goes out again, what goes away."""

import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from app import pipeline
from app.jobs import dead_letters, ingest
from app.model.errors import StorageUnavailable, WarehouseUnavailable
from app.model.values import EventType, GiveUp, Status
from app.sources.notifications import described_again, notification
from tests import data
from tests.pipeline.test_pipeline import Around, changed

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def bad(services):
    """A file that is no DICOM although its name says so, as an object."""
    (services.source.root / "bad.dcm").write_bytes(b"just a text")
    services.source.remember("bad.dcm", services.source.current("bad.dcm"))
    return services.source.find("bad.dcm")


def handle(services, ref, kind=EventType.FINALIZE, how=GiveUp.NOW):
    told = notification(kind, ref, services.source.uri(ref.name), NOON, {"size": "11"})
    return pipeline.handle(told, services, how)


def queued(services):
    """Return the attributes of the messages that wait, read by SQL from the queue's own table."""
    rows = services.warehouse.query("SELECT attributes FROM queue WHERE topic = 'main' ORDER BY id")
    return [json.loads(row["attributes"]) for row in rows]


def plant(services, message_id, attributes, data=b"{}"):
    row = {"message_id": message_id, "publish_time": NOON, "attributes": attributes, "data": data}
    services.warehouse.append("dead_letter", [row])


def test_a_letter_is_shown_with_its_attributes_and_every_attempt(services, bad):
    assert handle(services, bad).status is Status.DEAD_LETTERED
    (listed,) = list(dead_letters.letters(services.warehouse))
    shown = dead_letters.letter(services.warehouse, listed["message_id"])
    assert (shown["object"], shown["code"], shown["generation"]) == ("bad.dcm", "not_dicom", bad.generation)
    assert shown["attributes"]["objectId"] == "bad.dcm"
    (attempt,) = shown["attempts"]
    assert (attempt["code"], attempt["permanent"]) == ("not_dicom", True)
    assert isinstance(attempt["permanent"], bool)


def test_a_letter_of_a_revision_is_requeued_as_that(services, bad):
    told = notification(EventType.FINALIZE, bad, services.source.uri(bad.name), NOON)
    pipeline.handle(described_again(told, 1700000000, 1), services, GiveUp.NOW)
    (letter,) = dead_letters.letters(services.warehouse)
    list(dead_letters.requeue(services, [letter["message_id"]]))
    (attributes,) = queued(services)
    assert attributes["dicomlakeRevision"] == "1700000000"
    assert "dicomlakeCode" not in attributes


@pytest.mark.parametrize("kind", [EventType.DELETE, EventType.ARCHIVE])
def test_a_letter_whose_file_was_removed_is_listed_no_more(services, bad, kind):
    handle(services, bad)
    (services.source.root / "bad.dcm").unlink()
    assert handle(services, bad, kind).status is Status.DELETED
    assert list(dead_letters.letters(services.warehouse)) == []


def test_a_letter_whose_file_was_overwritten_is_listed_no_more(services, bad):
    handle(services, bad)
    (services.source.root / "bad.dcm").write_bytes(data.ct())
    later = services.source.find("bad.dcm")
    assert later.generation > bad.generation
    told = notification(EventType.FINALIZE, later, services.source.uri(later.name), NOON)
    assert pipeline.handle(told, services).status is Status.STORED
    assert list(dead_letters.letters(services.warehouse)) == []


@pytest.mark.parametrize("call", [dead_letters.letter, lambda w, name: dead_letters.purge(w, [name])])
def test_an_id_that_is_none_is_told_so(services, call):
    with pytest.raises(dead_letters.NoSuchLetter, match="there is no open dead letter 4711"):
        call(services.warehouse, "4711")


def test_a_requeued_message_is_the_event_it_was_and_leaves_the_table(services, bad):
    handle(services, bad)
    (listed,) = list(dead_letters.letters(services.warehouse))
    (line,) = dead_letters.requeue(services, [listed["message_id"]])
    assert line["message_id"] == listed["message_id"]
    (attributes,) = queued(services)
    assert (attributes["eventType"], attributes["objectGeneration"]) == (
        "OBJECT_FINALIZE",
        str(bad.generation),
    )
    assert not [key for key in attributes if key.startswith(("CloudPubSubDeadLetter", "dicomlake"))]
    assert services.warehouse.query("SELECT * FROM dead_letter") == []


def test_an_event_given_up_twice_goes_out_once_and_goes_away_whole(services, bad):
    event = json.dumps(
        {
            "bucketId": "landing",
            "objectId": "bad.dcm",
            "objectGeneration": "7",
            "eventType": "OBJECT_FINALIZE",
        }
    )
    plant(services, "m1", event)
    plant(services, "m2", event)
    assert [row["letters"] for row in dead_letters.letters(services.warehouse)] == [2]
    assert len(list(dead_letters.requeue(services, ["m1", "m2"]))) == 1
    assert len(queued(services)) == 1
    assert services.warehouse.query("SELECT * FROM dead_letter") == []


def test_purge_tells_how_many_events_are_gone(services):
    plant(services, "m1", json.dumps({"objectId": "x"}))
    plant(services, "m2", json.dumps({"objectId": "y"}))
    assert dead_letters.purge(services.warehouse, ["m1", "m1"]) == 1
    assert [row["message_id"] for row in dead_letters.letters(services.warehouse)] == ["m2"]


@pytest.mark.parametrize("attributes", [None, "", "{", "[]", "7", "[" * 5000])
def test_a_letter_that_cannot_be_decoded_is_shown_requeued_and_purged_like_any(services, attributes):
    plant(services, "m1", attributes)
    plant(services, "m2", attributes)
    assert dead_letters.letter(services.warehouse, "m1")["attributes"] == {}
    assert len(list(dead_letters.requeue(services, ["m1"]))) == 1
    assert queued(services) == [{}]
    assert dead_letters.purge(services.warehouse, ["m2"]) == 1


class Counted:
    """A warehouse that notes how many rows it gave, and how many values each removal had."""

    def __init__(self, inner):
        self.inner, self.given, self.removals = inner, Counter(), []

    def query(self, *arguments):
        rows = self.inner.query(*arguments)
        self.given["query"] += len(rows)
        return rows

    def stream(self, *arguments):
        for row in self.inner.stream(*arguments):
            self.given["stream"] += 1
            yield row

    def delete(self, table, column, values):
        self.removals.append(len(values))
        return self.inner.delete(table, column, values)

    def __getattr__(self, name):
        return getattr(self.inner, name)


MANY = 5000


@pytest.fixture
def many(services):
    """A table of so many letters, two each of half as many events."""
    rows = []
    for number in range(MANY):
        event = {"bucketId": "landing", "objectId": f"{number // 2}.dcm", "objectGeneration": "7"}
        attributes = json.dumps(event | {"eventType": "OBJECT_FINALIZE"})
        time = NOON + timedelta(seconds=number)
        rows.append(
            {"message_id": f"m{number}", "publish_time": time, "attributes": attributes, "data": b"x"}
        )
    services.warehouse.append("dead_letter", rows)
    return replace(services, warehouse=Counted(services.warehouse))


def left(services):
    return services.warehouse.query("SELECT COUNT(*) AS n FROM dead_letter")[0]["n"]


def test_to_drop_one_of_many_letters_reads_that_one(many):
    assert dead_letters.purge(many.warehouse, ["m2500"]) == 1
    assert many.warehouse.given.total() <= 4
    assert many.warehouse.removals == [2]
    assert left(many) == MANY - 2


def test_to_send_one_of_many_letters_reads_that_one(many):
    (line,) = dead_letters.requeue(many, ["m2500"])
    assert line["message_id"] == "m2501"
    assert many.warehouse.given.total() <= 4
    assert [attributes["objectId"] for attributes in queued(many)] == ["1250.dcm"]
    assert left(many) == MANY - 2


def test_to_show_one_of_many_letters_reads_that_one(many):
    assert dead_letters.letter(many.warehouse, "m2501")["attributes"]["objectId"] == "1250.dcm"
    assert many.warehouse.given.total() <= 4


def test_to_list_many_letters_holds_one_at_a_time(many):
    listed = dead_letters.letters(many.warehouse)
    assert next(listed)["message_id"] == "m1"
    assert many.warehouse.given.total() == 1
    assert sum(1 for _ in listed) == MANY // 2 - 1


def test_all_of_many_letters_are_dropped_in_pages(many):
    steps = []
    assert dead_letters.purge(many.warehouse, None, steps.append) == MANY // 2
    assert left(many) == 0
    assert sum(steps) == MANY // 2
    assert 2 < len(steps) == len(many.warehouse.removals)
    assert max(many.warehouse.removals) <= 2000


def test_all_of_many_letters_are_sent_oldest_first_and_leave_in_pages(many):
    lines = dead_letters.requeue(many, None)
    assert [line["message_id"] for line in lines] == [f"m{number}" for number in range(1, MANY, 2)]
    assert [attributes["objectId"] for attributes in queued(many)] == [f"{n}.dcm" for n in range(MANY // 2)]
    assert left(many) == 0
    assert max(many.warehouse.removals) <= 200


def test_what_is_sent_leaves_the_table_before_it_is_told(many):
    lines = dead_letters.requeue(many, None)
    told = next(lines)
    assert left(many) < MANY
    assert (
        many.warehouse.query("SELECT * FROM dead_letter WHERE message_id = @id", {"id": told["message_id"]})
        == []
    )


HELD = "BigQuery (tableUnavailable)"


def test_a_letter_that_cannot_be_removed_now_holds_up_no_other(services):
    class Held(Counted):
        def delete(self, table, column, values):
            if "m2" in values:
                raise WarehouseUnavailable(HELD)
            return super().delete(table, column, values)

    for number in range(4):
        plant(services, f"m{number}", json.dumps({"objectId": str(number)}))
    lines = list(dead_letters.requeue(replace(services, warehouse=Held(services.warehouse)), None))
    assert [line.get("kept", "") for line in lines] == ["", "", HELD, ""]
    assert [row["message_id"] for row in dead_letters.letters(services.warehouse)] == ["m2"]


def test_letters_of_events_that_only_look_alike_when_joined_stay_apart(services):
    common = {"objectGeneration": "7", "eventType": "OBJECT_FINALIZE"}
    plant(services, "m1", json.dumps({"bucketId": "a", "objectId": "b c", **common}))
    plant(services, "m2", json.dumps({"bucketId": "a b", "objectId": "c", **common}))
    assert dead_letters.purge(services.warehouse, ["m1"]) == 1
    assert [row["message_id"] for row in dead_letters.letters(services.warehouse)] == ["m2"]


def test_a_file_that_fails_again_for_now_holds_up_no_other_letter(services, tmp_path):
    paths = [tmp_path / "s" / name for name in ("a.dcm", "b.dcm")]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data.ct())
    ingest.ingest(paths, changed(services, source__max_object_bytes=10), lambda line: None)

    def write(name, *rest):
        if "a.dcm" in name:
            raise StorageUnavailable("down")
        return services.artifacts.write(name, *rest)

    broken = replace(services, artifacts=Around(services.artifacts, write=write))
    lines = {str(line["object_uri"])[-5:]: line for line in dead_letters.requeue(broken, None)}
    assert {name: line["status"] for name, line in lines.items()} == {"a.dcm": "failed", "b.dcm": "stored"}
    assert (lines["a.dcm"]["code"], lines["a.dcm"]["reason"]) == ("storage_unavailable", "write: down")
    (letter,) = dead_letters.letters(services.warehouse)
    assert letter["object_uri"] == f"file://{paths[0]}"
    assert [line["status"] for line in dead_letters.requeue(services, None)] == ["stored"]
    assert list(dead_letters.letters(services.warehouse)) == []
