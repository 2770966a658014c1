"""One event through the pipeline, on real storage, warehouse and workers: what comes of a step that fails."""

import ctypes
import os
import re
import time
from dataclasses import is_dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app import pipeline
from app.model.errors import BadEvent, DeadlineExceeded, RowsRejected, StorageUnavailable
from app.model.values import EventType, ObjectRef, Status
from app.services import open_services
from app.sources.notifications import notification
from tests import data
from tests.archives import zipped
from tests.conftest import lake_settings

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Around:
    """Another object, but for what is given here."""

    def __init__(self, inner, **instead):
        self.__dict__ |= instead
        self._inner = inner

    def __getattr__(self, name):
        return getattr(self._inner, name)


def changed(services, **given):
    """Return the services with other settings, given as `section__key`."""
    settings = services.settings
    for name, value in given.items():
        section, key = name.split("__")
        part = getattr(settings, section)
        part = replace(part, **{key: value}) if is_dataclass(part) else part.model_copy(update={key: value})
        settings = settings.model_copy(update={section: part})
    return replace(services, settings=settings)


@pytest.fixture
def ct(services):
    return put(services, "ct.dcm", data.ct())


def put(services, name, content):
    """Write a file that the watcher then sees."""
    file = services.source.root / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    services.source.remember(name, services.source.current(name))
    return services.source.find(name)


def handle(services, ref, kind=EventType.FINALIZE, metageneration=1):
    told = notification(kind, ref, services.source.uri(ref.name), NOON)
    resource = told.data.replace(b'"metageneration": "1"', f'"metageneration": "{metageneration}"'.encode())
    return pipeline.handle(replace(told, data=resource), services)


def rows(services, table="instances_current"):
    return services.warehouse.query(f"SELECT * FROM {table}")


def artifacts(services):
    return sorted(found.name for found in services.artifacts.list())


def picture(row):
    return Path(row["preview_uri"].removeprefix("file://"))


def test_a_change_of_metadata_refreshes_the_row_and_draws_nothing_again(services, ct):
    handle(services, ct)
    drawn = picture(rows(services)[0])
    drawn.write_bytes(b"as it was")
    outcome = handle(services, ct, EventType.METADATA_UPDATE, metageneration=2)
    assert outcome.status is Status.STORED
    (row,) = rows(services)
    assert (row["metageneration"], row["event_type"]) == (2, "OBJECT_METADATA_UPDATE")
    assert (row["preview_error"], picture(row)) == (None, drawn)
    assert drawn.read_bytes() == b"as it was"


def test_every_row_has_its_collection_and_a_stored_one_the_key_of_its_settings(services):
    names = {"acme/2026/a.dcm": "acme", "b.dcm": None, "acme/x.zip": "acme"}
    for name in names:
        path = services.source.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(zipped([("in/1.dcm", data.ct())]) if name.endswith(".zip") else data.ct())
        handle(services, services.source.find(name))
    key = services.settings.describe_options().key
    assert re.fullmatch("[0-9a-f]{16}", key)
    found = {row["object_uri"].partition("/landing/")[2]: row for row in rows(services)}
    assert {name: row["collection"] for name, row in found.items()} == names
    assert {row["describe_key"] for row in found.values()} == {key}
    assert {(row["revision"], row["dicom_uri"]) for row in found.values()} == {(None, None)}
    gone = services.source.find("acme/x.zip")
    (services.source.root / "acme/x.zip").unlink()
    handle(services, gone, EventType.DELETE)
    (gone,) = [row for row in rows(services, "instances") if row["event_type"] == "OBJECT_DELETE"]
    assert (gone["collection"], gone["describe_key"]) == ("acme", None)


def test_a_collection_is_named_below_the_prefix_of_the_source(services):
    (services.source.root / "in/acme").mkdir(parents=True)
    for name in ("in/acme/a.dcm", "in/b.dcm"):
        (services.source.root / name).write_bytes(data.ct())
        ref = services.source.find(name)
        handle(replace(services, source=Around(services.source, prefix="in/")), ref)
    assert sorted(str(row["collection"]) for row in rows(services)) == ["None", "acme"]


def test_the_collection_of_an_upload_is_its_label_not_where_uploads_go(tmp_path):
    services = open_services(lake_settings(tmp_path, source__write_prefix="people/up/"))
    names = {"people/up/trial/a.dcm": "trial", "people/up/b.dcm": None, "people/c.dcm": "people"}
    try:
        for name in names:
            (services.source.root / name).parent.mkdir(parents=True, exist_ok=True)
            (services.source.root / name).write_bytes(data.ct())
            handle(services, services.source.find(name))
        found = {row["object_uri"].partition("/landing/")[2]: row["collection"] for row in rows(services)}
        assert found == names
    finally:
        services.close()


@pytest.mark.parametrize(
    "change",
    [
        {"preview__max_side": 64},
        {"metadata__strict": True},
        {"metadata__include": ["Modality"]},
        {"limits__scans": 300},
        {"workers__max_pixels": 1000},
    ],
)
def test_another_setting_that_a_description_depends_on_is_another_key(tmp_path, change):
    def key(**given):
        return lake_settings(tmp_path, **given).describe_options().key

    assert key(**change) != key() == key(workers__count=3, archive__max_members=5, log__level="error")


def test_a_picture_of_before_a_change_of_metadata_is_not_of_the_settings_of_now(services, ct):
    handle(services, ct)
    handle(services, ct, EventType.METADATA_UPDATE, metageneration=2)
    (row,) = rows(services)
    assert row["describe_key"] == services.settings.describe_options().without_preview().key


def test_a_change_of_metadata_that_comes_first_draws_the_picture(services, ct):
    handle(services, ct, EventType.METADATA_UPDATE, metageneration=2)
    handle(services, ct)
    (row,) = rows(services)
    assert row["metageneration"] == 2
    assert picture(row).read_bytes().startswith(b"\x89PNG")


def test_a_worker_that_dies_of_the_picture_costs_the_picture_alone(services, ct):
    def run(function, content, options, **limits):
        if options.preview.enabled:
            return services.workers.run(ctypes.string_at, 0, **limits)  # a null pointer
        return services.workers.run(function, content, options, **limits)

    outcome = handle(replace(services, workers=Around(services.workers, run=run)), ct)
    assert outcome.status is Status.STORED
    (row,) = rows(services)
    assert (row["modality"], row["preview_uri"], row["preview_error"]) == ("CT", None, "worker_crashed")
    assert artifacts(services) == [f"metadata/ct.dcm.{ct.generation}.json"]
    assert rows(services, "failures") == []


def test_a_file_removed_while_it_is_described_leaves_nothing(services, ct):
    path = services.source.root / "ct.dcm"

    def run(*task, **limits):
        described = services.workers.run(*task, **limits)
        path.unlink()
        return described

    outcome = handle(replace(services, workers=Around(services.workers, run=run)), ct)
    assert (outcome.status, outcome.code) == (Status.SUPERSEDED, "object_gone")
    assert artifacts(services) == []
    handle(services, ct, EventType.DELETE)
    assert rows(services) == []


def test_what_a_killed_delivery_wrote_of_a_file_that_then_went_is_removed(services, ct):
    (services.source.root / "ct.dcm").unlink()
    handle(services, ct, EventType.DELETE)  # handled while the delivery that dies is under way
    services.artifacts.write(f"metadata/ct.dcm.{ct.generation}.json", b"{}", "application/dicom+json")
    assert handle(services, ct).status is Status.SUPERSEDED
    assert artifacts(services) == []


def refuse_instances(table, rows):
    if table == "instances":
        raise RowsRejected({0: "refused"})


def test_an_object_whose_row_is_refused_leaves_no_artifact(services, ct):
    refusing = replace(services, warehouse=Around(services.warehouse, append=refuse_instances))
    with pytest.raises(RowsRejected):
        handle(refusing, ct)
    assert artifacts(services) == []


def test_a_repeat_whose_row_is_refused_keeps_the_artifacts_of_the_row_that_stands(services, ct):
    handle(services, ct)
    before = artifacts(services)
    refusing = replace(services, warehouse=Around(services.warehouse, append=refuse_instances))
    for kind in (EventType.FINALIZE, EventType.METADATA_UPDATE):
        with pytest.raises(RowsRejected):
            handle(refusing, ct, kind)
    assert artifacts(services) == before != []


def test_a_refused_row_is_tried_again_as_long_as_its_artifacts_cannot_be_removed(services, ct):
    def delete(name):
        raise StorageUnavailable("down")

    store = Around(services.artifacts, delete=delete)
    refusing = Around(services.warehouse, append=refuse_instances)
    with pytest.raises(StorageUnavailable):
        handle(replace(services, warehouse=refusing, artifacts=store), ct)


@pytest.mark.parametrize("other", [data.ct(), zipped([("a/1.dcm", data.ct())])], ids=["object", "archive"])
def test_a_removal_spares_the_objects_of_a_folder_called_as_the_object_and_its_generation(
    services, ct, other
):
    folder = services.source.root / f"{ct.name}.{ct.generation}"
    folder.mkdir()
    (folder / "other").write_bytes(other)
    handle(services, services.source.find(f"{folder.name}/other"))
    before = artifacts(services)
    handle(services, ct)
    (services.source.root / "ct.dcm").unlink()
    handle(services, ct, EventType.DELETE)
    assert artifacts(services) == before
    assert len(before) == 2


def test_a_version_with_a_lower_generation_than_what_it_replaced_is_stored_with_a_warning(
    services, ct, caplog
):
    told = notification(EventType.FINALIZE, ct, services.source.uri(ct.name), NOON)
    attributes = told.attributes | {"overwroteGeneration": str(ct.generation + 1)}
    with caplog.at_level("INFO", "dicomlake"):
        assert pipeline.handle(replace(told, attributes=attributes), services).status is Status.STORED
    (line,) = [record for record in caplog.records if record.message == "event"]
    assert (line.levelname, line.warning) == ("WARNING", "generations_fall")


def test_a_removal_that_overtakes_its_object_hides_it(services, ct):
    def run(*task, **limits):
        described = services.workers.run(*task, **limits)
        (services.source.root / "ct.dcm").unlink()
        assert handle(services, ct, EventType.DELETE).status is Status.DELETED
        return described

    handle(replace(services, workers=Around(services.workers, run=run)), ct)
    assert len(rows(services, "instances")) == 2
    assert rows(services) == []


REMOVALS = [EventType.DELETE, EventType.ARCHIVE]


@pytest.mark.parametrize("kind", REMOVALS)
@pytest.mark.parametrize("later_ns", [0, 1, 10**18])
def test_a_removal_of_a_file_that_is_there_is_no_event(services, ct, kind, later_ns):
    handle(services, ct)
    with pytest.raises(BadEvent, match=r"still there|ever had"):
        handle(services, replace(ct, generation=ct.generation + later_ns), kind)
    assert [row["event_type"] for row in rows(services, "instances")] == ["OBJECT_FINALIZE"]
    assert len(rows(services)) == 1


@pytest.mark.parametrize("kind", REMOVALS)
def test_a_removal_of_a_version_that_never_was_hides_nothing_that_comes_later(services, kind):
    with pytest.raises(BadEvent):
        handle(services, ObjectRef(services.source.bucket, "ct.dcm", 4 * 10**18), kind)
    handle(services, put(services, "ct.dcm", data.ct()))
    (services.source.root / "ct.dcm").unlink()
    with pytest.raises(BadEvent):
        handle(services, ObjectRef(services.source.bucket, "ct.dcm", 4 * 10**18), kind)
    assert len(rows(services)) == 1


def test_the_removals_of_all_versions_that_were_are_taken_in_any_order(services, ct):
    handle(services, ct)
    later = put(services, "ct.dcm", data.ct(Rows=4))
    assert handle(services, ct, EventType.DELETE).status is Status.DELETED
    handle(services, later)
    assert len(rows(services)) == 1
    (services.source.root / "ct.dcm").unlink()
    assert handle(services, later, EventType.DELETE).status is Status.DELETED
    assert handle(services, ct, EventType.DELETE).status is Status.DELETED
    assert rows(services) == []


def test_a_file_of_a_far_year_is_stored_and_removed_as_any_other(services):
    put(services, "ct.dcm", data.ct())
    os.utime(services.source.root / "ct.dcm", (4_070_908_800, 4_070_908_800))  # 2099-01-01
    services.source.remember("ct.dcm", services.source.current("ct.dcm"))
    ref = services.source.find("ct.dcm")
    assert ref.generation == 4_070_908_800 * 10**9
    assert handle(services, ref).status is Status.STORED
    (services.source.root / "ct.dcm").unlink()
    assert handle(services, ref, EventType.DELETE).status is Status.DELETED
    assert rows(services) == []


def test_a_removal_of_what_was_pushed_by_hand_is_known_by_its_row(services):
    (services.source.root / "ct.dcm").write_bytes(data.ct())
    ref = services.source.find("ct.dcm")
    handle(services, ref)
    (services.source.root / "ct.dcm").unlink()
    assert handle(services, ref, EventType.DELETE).status is Status.DELETED
    with pytest.raises(BadEvent):
        handle(services, replace(ref, generation=ref.generation + 1), EventType.DELETE)


def test_an_object_outside_the_prefix_of_the_source_is_none_of_our_business(services, ct):
    outcome = handle(replace(services, source=Around(services.source, prefix="in/")), ct)
    assert (outcome.status, outcome.code) == (Status.IGNORED, "outside_prefix")
    assert rows(services, "instances") == []


@pytest.mark.parametrize("place", ["source.fetch", "workers.run", "artifacts.write"])
def test_a_deadline_that_has_passed_is_a_nack_and_the_next_delivery_heals(services, ct, place):
    seam, _, method = place.partition(".")
    inner = getattr(services, seam)
    delivery = replace(services.settings.delivery, deadline_s=1.0)

    def slow(*words, **more):
        result = getattr(inner, method)(*words, **more)
        time.sleep(1.0)
        return result

    late = {
        "settings": services.settings.model_copy(update={"delivery": delivery}),
        seam: Around(inner, **{method: slow}),
    }
    with pytest.raises(DeadlineExceeded):
        handle(replace(services, **late), ct)
    assert rows(services) == []
    (failure,) = rows(services, "failures")
    assert (failure["code"], failure["permanent"]) == ("deadline_exceeded", 0)
    assert handle(services, ct).status is Status.STORED
