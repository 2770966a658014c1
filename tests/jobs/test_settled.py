"""Which studies are announced as settled, when, and under which id."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from app.announce import Announcers
from app.jobs.settled import announce_settled
from app.model.errors import AnnounceUnavailable
from tests.pipeline.test_announcing import Target
from tests.pipeline.test_pipeline import changed

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def target():
    return Target()


@pytest.fixture
def lake(services, target):
    telling = changed(services, announce__settle_s=300.0)
    return replace(telling, announcers=Announcers([("kafka://b/t", target)]))


def arrive(lake, study, row_id, minutes, **columns):
    row = {
        "row_id": row_id * 64,
        "object_uri": f"gs://in/{row_id}.dcm",
        "generation": 1,
        "event_type": "OBJECT_FINALIZE",
        "event_time": NOON,
        "ingested_at": NOON + timedelta(minutes=minutes),
        "study_instance_uid": study,
        "patient_id": "P-1",
    }
    lake.warehouse.append("instances", [row | columns])


def at(lake, minutes):
    return announce_settled(replace(lake, now=lambda: NOON + timedelta(minutes=minutes)))


def ids(target):
    return [message.attributes["id"] for message in target.received]


def test_a_study_settles_when_nothing_has_arrived_for_a_while(lake, target):
    arrive(lake, "1.2", "a", 0)
    arrive(lake, "1.2", "b", 4)
    assert at(lake, 8.9) == 0
    assert at(lake, 9) == 1
    (message,) = target.received
    assert message.attributes["id"] == f"1.2/{'b' * 64}"
    assert (message.attributes["type"], message.key) == ("dicomlake.study.settled.v1", "1.2")
    assert message.value == {
        "study_instance_uid": "1.2",
        "patient_id": "P-1",
        "issuer_of_patient_id": None,
        "accession_number": None,
        "study_date": None,
        "last_object_uri": "gs://in/b.dcm",
        "last_row_id": "b" * 64,
        "last_ingested_at": "2026-03-01T12:04:00Z",
    }


def test_it_is_announced_once_and_again_after_a_late_instance(lake, target):
    arrive(lake, "1.2", "a", 0)
    assert [at(lake, minutes) for minutes in (6, 7, 60, 3000)] == [1, 0, 0, 0]
    arrive(lake, "1.2", "b", 3001)
    assert [at(lake, minutes) for minutes in (3002, 3007)] == [0, 1]
    assert ids(target) == [f"1.2/{'a' * 64}", f"1.2/{'b' * 64}"]


def test_what_is_no_arrival_settles_nothing(lake, target):
    arrive(lake, None, "a", 0)
    arrive(lake, "1.2", "b", 0, event_type="OBJECT_METADATA_UPDATE")
    arrive(lake, "1.3", "c", 0, revision=1700000000)
    arrive(lake, None, "d", 0, event_type="OBJECT_DELETE")
    assert at(lake, 10) == 0


def test_a_target_that_is_down_delays_it_under_the_same_id(lake, target):
    arrive(lake, "1.2", "a", 0)
    target.down = True
    with pytest.raises(AnnounceUnavailable):
        at(lake, 6)
    target.down = False
    assert at(lake, 4000) == 0, "a first run looks back one day"
    assert at(lake, 1000) == 1
    assert ids(target) == [f"1.2/{'a' * 64}"]


def test_an_outage_of_days_loses_none_once_anything_was_announced(lake, target):
    arrive(lake, "1.1", "a", 0)
    assert at(lake, 6) == 1
    arrive(lake, "1.2", "b", 10)
    arrive(lake, "1.3", "c", 20)
    assert at(lake, 20_000) == 2
    assert ids(target)[1:] == [f"1.2/{'b' * 64}", f"1.3/{'c' * 64}"]


def test_a_row_that_appears_late_is_not_missed(lake, target):
    arrive(lake, "1.1", "a", 30)
    assert at(lake, 40) == 1
    arrive(lake, "1.2", "b", 2)  # its delivery took long
    assert at(lake, 41) == 1


@pytest.mark.parametrize("change", [{"announce__settle_s": 0.0}, {}])
def test_it_is_off_by_setting_or_without_a_target(services, target, change):
    lake = changed(services, **change)
    if change:
        lake = replace(lake, announcers=Announcers([("kafka://b/t", target)]))
    arrive(lake, "1.2", "a", 0)
    assert at(lake, 60) == 0
