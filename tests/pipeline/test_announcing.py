"""What the pipeline announces, when, and what comes of a target that is down."""

import base64
import json
from dataclasses import replace

import pytest

from app import pipeline
from app.announce import Announcers, announcements
from app.model.cleaning import Cleaning
from app.model.errors import AnnounceUnavailable, BadArchive, WarehouseUnavailable
from app.model.values import EventType, GiveUp, Message, Reason, Status
from app.sources.notifications import described_again, notification
from tests import data
from tests.announce.contract import Received, check_message
from tests.archives import zipped
from tests.pipeline.test_pipeline import NOON, handle, put, rows
from tests.system.faults import broken


class Target:
    """Another system, in this process: it keeps what it is told, or is down."""

    def __init__(self):
        self.calls, self.down = [], False

    def announce(self, announcements):
        if self.down:
            raise AnnounceUnavailable("it is down")
        self.calls.append(list(announcements))

    def check(self):
        pass

    def close(self):
        pass

    @property
    def received(self):
        found = [one for call in self.calls for one in call]
        messages = [Received(one.attributes, "application/json", one.key, one.data) for one in found]
        for message in messages:
            check_message(message)
        return messages


@pytest.fixture
def target():
    return Target()


@pytest.fixture
def telling(services, target):
    return replace(services, announcers=Announcers([("kafka://b/t", target)]))


def kinds(target):
    return [message.attributes["type"].split(".")[2] for message in target.received]


def test_a_stored_object_is_announced_with_a_link_and_the_main_columns(telling, target):
    ref = put(telling, "acme/ct.dcm", data.ct())
    told = notification(EventType.FINALIZE, ref, telling.source.uri(ref.name), NOON)
    pipeline.handle(replace(told, message_id="7", correlation_id="trace-1"), telling)
    (message,) = target.received
    (row,) = rows(telling)
    assert message.attributes == {
        "specversion": "1.0",
        "id": row["row_id"],
        "type": "dicomlake.instance.stored.v1",
        "source": "/dicomlake/instances",
        "subject": f"file://{telling.source.root}/acme/ct.dcm",
        "time": "2026-03-01T12:00:00Z",
        "correlationid": "trace-1",
    }
    assert message.key == row["object_uri"]
    assert message.value == {
        "object_uri": f"file://{telling.source.root}/acme/ct.dcm",
        "member": None,
        "generation": str(ref.generation),
        "metageneration": "1",
        "revision": None,
        "collection": "acme",
        "size_bytes": len(data.ct()),
        "study_instance_uid": data.STUDY,
        "series_instance_uid": data.SERIES,
        "sop_instance_uid": data.SOP,
        "sop_class_uid": data.CT_CLASS,
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "patient_id": "P-1",
        "issuer_of_patient_id": None,
        "accession_number": "A-17",
        "study_date": "2024-01-31",
        "modality": "CT",
        "metadata_uri": row["metadata_uri"],
        "preview_uri": row["preview_uri"],
        "preview_error": None,
        "correlation_id": "trace-1",
    }
    assert b"Doe" not in message.data


def test_the_row_is_there_before_its_announcement(telling, target):
    seen = []
    target.announce = lambda _: seen.extend(rows(telling))
    handle(telling, put(telling, "ct.dcm", data.ct()))
    assert len(seen) == 1


def test_nothing_is_announced_of_a_row_that_was_not_stored(telling, target):
    failing = broken(telling, "append", WarehouseUnavailable("down"))
    with pytest.raises(WarehouseUnavailable):
        handle(failing, put(telling, "ct.dcm", data.ct()))
    assert target.received == []


def test_a_removal_is_announced(telling, target):
    ref = put(telling, "ct.dcm", data.ct())
    handle(telling, ref)
    (telling.source.root / "ct.dcm").unlink()
    assert handle(telling, ref, EventType.DELETE).status is Status.DELETED
    assert kinds(target) == ["stored", "removed"]
    removal = target.received[1]
    (tombstone,) = [row for row in rows(telling, "instances") if row["event_type"] == "OBJECT_DELETE"]
    assert removal.attributes["id"] == tombstone["row_id"]
    assert removal.key == target.received[0].key
    assert removal.value == {
        "object_uri": tombstone["object_uri"],
        "generation": str(ref.generation),
        "event_type": "OBJECT_DELETE",
        "correlation_id": None,
    }


def test_a_revision_is_announced_under_an_id_of_its_own_and_a_metadata_update_is_not(telling, target):
    ref = put(telling, "ct.dcm", data.ct())
    handle(telling, ref)
    handle(telling, ref, EventType.METADATA_UPDATE, metageneration=2)
    told = notification(EventType.FINALIZE, ref, telling.source.uri(ref.name), NOON)
    pipeline.handle(described_again(told, 1700000000, 2), telling)
    assert kinds(target) == ["stored", "stored"]
    assert [message.value["revision"] for message in target.received] == [None, 1700000000]
    assert len({message.attributes["id"] for message in target.received}) == 2


def test_a_redelivery_announces_the_same_again(telling, target):
    ref = put(telling, "ct.dcm", data.ct())
    handle(telling, ref)
    handle(telling, ref)
    first, again = target.received
    assert first == again
    assert len(rows(telling, "instances")) == 1


def test_members_of_an_archive_are_announced_in_a_batch(telling, target):
    names = [f"in/{number}.dcm" for number in range(5)]
    packed = zipped([(name, data.ct(SOPInstanceUID=f"{data.SERIES}.{name[3]}")) for name in names])
    handle(telling, put(telling, "five.zip", packed))
    assert [len(call) for call in target.calls] == [5]
    assert sorted(message.value["member"] for message in target.received) == names
    assert len({message.attributes["id"] for message in target.received}) == 5
    assert {message.key for message in target.received} == {telling.source.uri("five.zip")}


def test_the_good_members_of_a_bad_archive_are_announced(telling, target):
    packed = zipped([("good.dcm", data.ct()), ("bad.dcm", data.ct()[:-100])])
    with pytest.raises(BadArchive):
        handle(telling, put(telling, "mixed.zip", packed))
    assert [message.value["member"] for message in target.received] == ["good.dcm"]


def test_an_object_that_went_meanwhile_is_not_announced_as_stored(telling, target):
    ref = put(telling, "ct.dcm", data.ct())
    store = telling.warehouse.append

    class Slow:
        def __getattr__(self, name):
            return getattr(telling.warehouse, name)

        def append(self, table, given):
            store(table, given)
            (telling.source.root / "ct.dcm").unlink(missing_ok=True)

    outcome = handle(replace(telling, warehouse=Slow()), ref)
    assert outcome.status is Status.SUPERSEDED
    assert target.received == []


def test_a_target_that_is_down_nacks_and_names_itself_and_the_others_get_theirs(services, target):
    down = Target()
    down.down = True
    targets = [("kafka://down:9092/t", down), ("https://up/hook", target)]
    both = replace(services, announcers=Announcers(targets))
    ref = put(both, "ct.dcm", data.ct())
    with pytest.raises(AnnounceUnavailable, match="kafka://down:9092/t: it is down"):
        handle(both, ref)
    assert kinds(target) == ["stored"]
    assert len(rows(both)) == 1
    (failure,) = rows(both, "failures")
    assert (failure["code"], failure["permanent"]) == ("announce_unavailable", 0)
    assert failure["message"] == "announce: kafka://down:9092/t: it is down"
    down.down = False
    assert handle(both, ref).status is Status.STORED
    assert (kinds(down), kinds(target)) == (["stored"], ["stored", "stored"])


def test_a_value_of_absurd_length_is_left_out(telling, target):
    handle(telling, put(telling, "ct.dcm", data.ct(AccessionNumber="A" * 5000)))
    (message,) = target.received
    assert message.value["accession_number"] is None


def test_ingest_announces_too_and_a_second_run_makes_up_for_a_target_that_was_down(telling, target):
    from app.jobs.ingest import ingest

    path = telling.source.root / "ct.dcm"
    path.write_bytes(data.ct())
    target.down, lines = True, []
    assert ingest([path], telling, lines.append)["failed"] == 1
    assert (lines[0]["code"], len(rows(telling))) == ("announce_unavailable", 1)
    target.down = False
    assert ingest([path], telling, lines.append)["stored"] == 1
    assert kinds(target) == ["stored"]
    assert ingest([path], telling, lines.append)["unchanged"] == 1
    assert len(rows(telling, "instances")) == 1


def test_a_dead_letter_is_announced_with_payload_and_reason_before_the_ack(services, target):
    telling = replace(services, letter_announcers=Announcers([("kafka://b/dlq", target)]))
    ref = put(telling, "bad.dcm", b"just a text")
    told = notification(EventType.FINALIZE, ref, telling.source.uri(ref.name), NOON)
    fifth = replace(told, message_id="7", attempt=5, correlation_id="trace-1")
    assert pipeline.handle(fifth, telling).status is Status.DEAD_LETTERED
    (message,) = target.received
    value = message.value
    assert message.attributes["type"] == "dicomlake.message.dead_lettered.v1"
    assert message.attributes["correlationid"] == value["correlation_id"] == "trace-1"
    assert message.key == value["object_uri"] == telling.source.uri("bad.dcm")
    assert base64.b64decode(value["data"]) == told.data
    assert value["attributes"] == dict(told.attributes)
    assert (value["code"], value["message_id"], value["delivery_attempt"]) == ("not_dicom", "7", 5)
    assert value["reason"].startswith("read: ") or value["reason"].startswith("describe: ")
    assert (value["event_type"], value["generation"]) == ("OBJECT_FINALIZE", str(ref.generation))


def test_a_target_of_dead_letters_that_is_down_nacks(services, target):
    telling = replace(services, letter_announcers=Announcers([("kafka://b/dlq", target)]))
    ref = put(telling, "bad.dcm", b"just a text")
    told = notification(EventType.FINALIZE, ref, telling.source.uri(ref.name), NOON)
    target.down = True
    with pytest.raises(AnnounceUnavailable, match="kafka://b/dlq: it is down"):
        pipeline.handle(replace(told, message_id="7", attempt=5), telling)
    target.down = False
    pipeline.handle(replace(told, message_id="7", attempt=6), telling)
    assert len(target.received) == 1
    assert len(rows(telling, "dead_letters")) == 1


def test_a_huge_body_is_left_out_of_the_announcement():
    message = Message(b"x" * 2_000_000, {}, "7")
    value = json.loads(announcements.dead_lettered(message, Reason("bad_event", "no")).data)
    assert (value["data"], value["message_id"]) == (None, "7")


def test_a_lake_that_de_identifies_announces_no_name(services, target):
    clean = replace(
        services,
        announcers=Announcers([("kafka://b/t", target)]),
        letter_announcers=Announcers([("kafka://b/l", target)]),
        cleaning=Cleaning("basic", b"k" * 32),
    )
    report = data.ct(PatientName="DOE^JANE", BurnedInAnnotation="YES")
    for name, content in (("DOE/JANE.dcm", data.ct(PatientName="DOE^JANE")), ("DOE/JANE-2.dcm", report)):
        ref = put(clean, name, content)
        told = notification(EventType.FINALIZE, ref, clean.source.uri(ref.name), NOON)
        pipeline.handle(told, clean, GiveUp.NOW)
    pipeline.handle(Message(b"JANE", {"bucketId": "landing", "objectId": "JANE"}, "m1"), clean, GiveUp.NOW)
    assert kinds(target) == ["stored", "dead_lettered", "dead_lettered"]
    for message in target.received:
        whole = repr((message.attributes, message.key)).encode() + message.data
        assert b"JANE" not in whole
        assert b"DOE" not in whole
        assert base64.b64encode(b"JANE") not in whole
