"""What retention archives and deletes, when, and what stays."""

import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from app import pipeline
from app.jobs.prune import prune
from app.jobs.retention import retain
from app.model.errors import ConfigError, StorageUnavailable
from app.model.values import EventType, GiveUp, Status
from app.services import open_services
from app.sources.notifications import notification
from app.storage import open_storage
from tests import data
from tests.conftest import lake_settings
from tests.pipeline.test_forwarding import Lake
from tests.pipeline.test_pipeline import NOON, Around, artifacts, changed, handle, put, rows
from tests.receiver import PictureReceiver

MADE = datetime(2026, 3, 1, 12, tzinfo=UTC)


def at(services, days, **settings):
    """Return the services some days after the rows were made."""
    given = {f"retention__{name}": value for name, value in settings.items()}
    return replace(changed(services, **given), now=lambda: MADE + timedelta(days=days))


def land(services, name, content):
    """Write a file whose event was published."""
    ref = put(services, name, content)
    services.source.remember(name, replace(services.source.last(name), told=True))
    return ref


def ingest(services, name, content=None):
    ref = land(services, name, data.ct() if content is None else content)
    handle(replace(services, now=lambda: MADE), ref)
    return ref


@pytest.fixture
def ct(services):
    return ingest(services, "acme/ct.dcm")


@pytest.fixture
def archive(services, tmp_path):
    storage = open_storage("retention", f"file:{tmp_path / 'archive'}")
    yield replace(services, archive=storage)
    storage.close()


def there(services, name="acme/ct.dcm"):
    return (services.source.root / name).exists()


def test_a_received_file_goes_at_its_age_and_row_and_artifacts_stay(services, ct):
    before = rows(services), artifacts(services)
    assert retain(at(services, 29.9, delete_after_days=30))["released"] == 0
    assert there(services)
    lines = []
    assert retain(at(services, 30, delete_after_days=30), lines.append) == {
        "archived": 0,
        "released": 1,
        "deleted": 0,
        "failed": 0,
    }
    assert lines == [{"object": "acme/ct.dcm", "status": "released"}]
    assert not there(services)
    assert (services.source.root / "acme").is_dir(), "the customer's folder stays"
    assert (rows(services), artifacts(services)) == before
    assert retain(at(services, 31, delete_after_days=30))["released"] == 0


def test_nothing_goes_by_default(services, ct):
    assert set(retain(at(services, 9999)).values()) == {0}
    assert there(services)


def test_a_dry_run_says_the_same_and_changes_nothing(services, ct):
    assert retain(at(services, 30, delete_after_days=30), dry_run=True)["released"] == 1
    assert there(services)
    assert not services.source.is_released("acme/ct.dcm")


def test_a_file_is_archived_first_and_deleted_later(archive, ct, tmp_path):
    copy = tmp_path / "archive/acme/ct.dcm"
    early = at(archive, 10, archive_after_days=10, delete_after_days=30)
    assert retain(early)["archived"] == 1
    assert copy.read_bytes() == data.ct()
    assert there(archive)
    assert retain(early)["archived"] == 0
    assert retain(at(archive, 30, archive_after_days=10, delete_after_days=30))["released"] == 1
    assert copy.exists()
    assert not there(archive)


def test_no_file_is_deleted_before_the_archive_has_it(archive, ct, tmp_path):
    def refuse(name, stream):
        raise StorageUnavailable("down")

    down = replace(archive, archive=Around(archive.archive, land=refuse))
    lines = []
    assert retain(at(down, 30, delete_after_days=30), lines.append)["failed"] == 1
    assert lines[0]["code"] == "storage_unavailable"
    assert there(archive)
    assert retain(at(archive, 30, delete_after_days=30))["released"] == 1
    assert (tmp_path / "archive/acme/ct.dcm").read_bytes() == data.ct()


def test_a_later_version_is_archived_beside_the_earlier_one(archive, ct, tmp_path):
    assert retain(at(archive, 30, delete_after_days=30))["released"] == 1
    later = ingest(archive, "acme/ct.dcm", data.ct(PatientID="P-2"))
    assert retain(at(archive, 30, delete_after_days=30))["released"] == 1
    assert (tmp_path / "archive/acme/ct.dcm").read_bytes() == data.ct()
    assert (tmp_path / f"archive/acme/ct.dcm.{later.generation}").read_bytes() == data.ct(PatientID="P-2")


def test_a_file_without_a_row_stays(services):
    land(services, "waiting.dcm", data.ct())
    bad = land(services, "junk.dcm", b"no DICOM")
    told = notification(EventType.FINALIZE, bad, services.source.uri(bad.name), NOON)
    assert pipeline.handle(replace(told, message_id="7"), services, GiveUp.NOW).status is Status.DEAD_LETTERED
    assert retain(at(services, 99, delete_after_days=1))["released"] == 0


def test_a_file_stays_while_a_message_about_it_waits(services, ct):
    told = notification(EventType.FINALIZE, ct, services.source.uri(ct.name), NOON)
    services.bus.publish(told)
    assert retain(at(services, 99, delete_after_days=1))["released"] == 0


@pytest.mark.parametrize("profile", ["off", "basic"])
def test_a_file_whose_announcement_was_given_up_stays(tmp_path, profile):
    services = open_services(lake_settings(tmp_path, deidentify__profile=profile, deidentify__key="k" * 32))
    try:
        ref = ingest(services, "acme/ct.dcm")
        told = notification(EventType.FINALIZE, ref, services.source.uri(ref.name), NOON)
        attributes = dict(told.attributes) | {"dicomlakeCode": "announce_unavailable"}
        letter = {"message_id": "7", "data": told.data, "attributes": json.dumps(attributes)}
        services.warehouse.append("dead_letter", [{**letter, "publish_time": MADE}])
        assert len(rows(services, "dead_letters")) == 1
        assert retain(at(services, 99, delete_after_days=1))["released"] == 0
    finally:
        services.close()


def test_an_archive_of_which_a_member_has_failed_stays(services):
    from tests.archives import zipped

    packed = land(services, "two.zip", zipped([("a.dcm", data.ct()), ("b.dcm", b"no DICOM")]))
    told = notification(EventType.FINALIZE, packed, services.source.uri(packed.name), NOON)
    early = replace(services, now=lambda: MADE)
    assert pipeline.handle(replace(told, message_id="7"), early, GiveUp.NOW).code == "bad_archive"
    assert len(rows(services)) == 1
    assert retain(at(services, 99, delete_after_days=1))["released"] == 0


def test_a_file_stays_until_all_its_deliveries_are_finished(services):
    server = PictureReceiver()
    try:
        lake = Lake(services, server)
        ingest(lake.services, "acme/ct.dcm")
        later = at(lake.services, 99, delete_after_days=1)
        assert retain(later)["released"] == 0, "queued"
        server.script.append(422)
        lake.deliver()
        assert retain(later)["released"] == 0, "refused"
        lake.deliver()
        assert retain(later)["released"] == 1, "delivered"
    finally:
        server.close()


def test_a_file_that_has_changed_stays(services, ct):
    (services.source.root / "acme/ct.dcm").write_bytes(data.ct(PatientID="P-2"))
    assert retain(at(services, 99, delete_after_days=1))["released"] == 0
    seen = services.source.last("acme/ct.dcm")
    assert not services.source.release("acme/ct.dcm", seen)
    assert (services.source.root / "acme/ct.dcm").read_bytes() == data.ct(PatientID="P-2")


def test_a_kill_between_record_and_deletion_leaves_a_file_that_the_next_run_deletes(services, ct):
    services.source.remember("acme/ct.dcm", replace(services.source.last("acme/ct.dcm"), released=True))
    assert services.source.find("acme/ct.dcm") == ct
    assert retain(at(services, 99, delete_after_days=1))["released"] == 1
    assert not there(services)


def test_a_repeated_event_of_a_released_file_changes_nothing(services, ct):
    before = rows(services), artifacts(services)
    retain(at(services, 99, delete_after_days=1))
    outcome = handle(services, ct)
    assert (outcome.status, outcome.code) == (Status.IGNORED, "object_released")
    assert (rows(services), artifacts(services)) == before


def test_prune_keeps_what_retention_has_deleted(services, ct):
    ingest(services, "acme/other.dcm", data.ct(PatientID="P-2"))
    retain(at(services, 99, delete_after_days=1))
    assert prune(services.source.root, services, lambda line: None, sure=True) == {"deleted": 0, "kept": 2}
    assert len(rows(services)) == 2


def test_a_new_file_under_a_released_name_replaces_it(services, ct):
    retain(at(services, 99, delete_after_days=1))
    path = services.source.root / "acme/ct.dcm"
    path.write_bytes(data.ct(PatientID="P-2"))
    os.utime(path, ns=(ct.generation, ct.generation))
    seen = services.source.current("acme/ct.dcm")
    assert seen.generation == ct.generation + 1
    assert [generation for generation, _ in seen.replaced] == [ct.generation]


def test_a_slower_writer_of_the_index_does_not_undo_a_release(services, ct):
    stale = services.source.last("acme/ct.dcm")
    retain(at(services, 99, delete_after_days=1))
    services.source.remember("acme/ct.dcm", stale)
    assert services.source.is_released("acme/ct.dcm")


def test_encoded_pictures_and_clean_copies_go_at_their_age(tmp_path):
    given = {"deidentify__profile": "basic", "deidentify__key": "k" * 32}
    settings = lake_settings(tmp_path, forward__urls=(f"file:{tmp_path / 'encoded'}",), **given)
    services = open_services(settings)
    try:
        sent = []
        watched = replace(services, bus=Around(services.bus, publish_all=sent.extend))
        ingest(watched, "acme/ct.dcm")
        for message in sent:
            pipeline.handle(message, services)
        outputs = [*(tmp_path / "output/dicom").rglob("*.dcm"), *(tmp_path / "encoded").rglob("*.png.txt")]
        assert len(outputs) == 2
        for path in outputs:
            os.utime(path, (MADE.timestamp(), MADE.timestamp()))
        lines = []
        assert retain(at(services, 9, outputs_after_days=10))["deleted"] == 0
        assert retain(at(services, 10, outputs_after_days=10), lines.append)["deleted"] == 2
        assert not any(path.exists() for path in outputs)
        assert there(services)
        assert len(artifacts(services)) == 2
        assert retain(at(services, 99, delete_after_days=1), lines.append)["released"] == 1
        assert "acme/ct" not in repr(lines), "names of a clean lake"
    finally:
        services.close()


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"archive_after_days": 1}, "retention.archive_url: is empty"),
        (
            {"archive_url": "ftp:x", "archive_after_days": 1},
            "retention.archive_url 'ftp:x' has no known scheme",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path, given, why):
    settings = lake_settings(tmp_path, **{f"retention__{name}": value for name, value in given.items()})
    with pytest.raises(ConfigError, match=why):
        open_services(settings)


def test_an_archive_in_the_landing_folder_is_refused(tmp_path):
    given = {"archive_url": f"file:{tmp_path / 'landing/old'}", "archive_after_days": 1}
    settings = lake_settings(tmp_path, **{f"retention__{name}": value for name, value in given.items()})
    with pytest.raises(ConfigError, match=r"retention\.archive_url: .* lies in the source"):
        open_services(settings)
