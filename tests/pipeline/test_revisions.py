"""Describing a version again: the row that counts then, and which artifacts there are at every moment."""

import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app import pipeline
from app.model.errors import BadArchive, BadDataset, BadEvent, RowsRejected, StorageUnavailable
from app.model.values import EventType, GiveUp, Status
from app.pipeline.rows import artifact_path
from app.sources.notifications import described_again, notification
from tests import data
from tests.archives import zipped
from tests.pipeline.test_pipeline import Around, changed

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
FIRST, SECOND = 1_700_000_000, 1_700_000_009
CT = data.ct()
GENERATION = 1_600_000_000_000_000_000


def land(services, name, content=CT):
    path = services.source.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return services.source.find(name)


def handle(services, ref, revision=None, kind=EventType.FINALIZE, metageneration=1, how=GiveUp.WHEN_DUE):
    told = notification(kind, ref, services.source.uri(ref.name), NOON)
    if revision is not None:
        told = described_again(told, revision, metageneration)
    return pipeline.handle(told, services, how)


def remove(services, ref):
    """Remove a file that the watcher saw."""
    services.source.remember(ref.name, services.source.current(ref.name))
    (services.source.root / ref.name).unlink()
    assert handle(services, ref, kind=EventType.DELETE).status is Status.DELETED


def rows(services, table="instances_current"):
    return services.warehouse.query(f"SELECT * FROM {table} ORDER BY object_uri, member, revision")


def artifacts(services):
    return sorted(found.name for found in services.artifacts.list())


def names(stem, *kinds):
    """Return the names of a document and its picture, as `artifacts` lists them."""
    both = {"json": f"metadata/{stem}.json", "png": f"images/{stem}.png"}
    return sorted(both[kind] for kind in kinds or both)


def test_a_revision_takes_the_place_of_the_row_and_its_artifacts(services):
    ref = land(services, "acme/ct.dcm")
    handle(changed(services, preview__enabled=False), ref)
    (before,) = rows(services)
    assert (before["preview_uri"], before["preview_error"]) == (None, "disabled")
    assert handle(services, ref, FIRST).status is Status.STORED
    (row,) = rows(services)
    stem = f"acme/ct.dcm.{ref.generation}.r{FIRST}"
    assert (row["revision"], row["metageneration"], row["event_type"]) == (FIRST, 1, "OBJECT_FINALIZE")
    assert row["preview_uri"].endswith(f"/images/{stem}.png")
    assert row["metadata_uri"].endswith(f"/metadata/{stem}.json")
    assert (row["collection"], row["describe_key"]) == ("acme", services.settings.describe_options().key)
    assert row["describe_key"] != before["describe_key"]
    assert artifacts(services) == names(stem)
    assert Path(row["preview_uri"].removeprefix("file://")).read_bytes()[:4] == b"\x89PNG"
    handle(services, ref, SECOND)
    assert artifacts(services) == names(f"acme/ct.dcm.{ref.generation}.r{SECOND}")
    assert [row["revision"] for row in rows(services, "instances")] == [None, FIRST, SECOND]


def test_a_revision_that_comes_again_changes_nothing(services):
    ref = land(services, "ct.dcm")
    handle(services, ref)
    for _ in range(2):
        handle(services, ref, FIRST)
        found = (rows(services, "instances"), artifacts(services))
    assert len(found[0]) == 2
    handle(services, ref, FIRST)
    assert (rows(services, "instances"), artifacts(services)) == found


def test_what_a_revision_replaces_stays_until_its_row_is_stored(services):
    ref = land(services, "ct.dcm")
    handle(services, ref)
    before = artifacts(services)

    def append(table, appended):
        if table == "instances":
            assert set(before) < set(artifacts(services))
        return services.warehouse.append(table, appended)

    handle(replace(services, warehouse=Around(services.warehouse, append=append)), ref, FIRST)
    assert artifacts(services) == names(f"ct.dcm.{ref.generation}.r{FIRST}")


@pytest.mark.parametrize("fails", [1, 2])
def test_a_crash_while_the_replaced_is_removed_is_made_good_by_the_redelivery(services, fails):
    ref = land(services, "ct.dcm")
    handle(services, ref)
    calls = []

    def delete(name):
        calls.append(name)
        if len(calls) >= fails:
            raise StorageUnavailable("down")
        services.artifacts.delete(name)

    with pytest.raises(StorageUnavailable):
        handle(replace(services, artifacts=Around(services.artifacts, delete=delete)), ref, FIRST)
    assert rows(services)[0]["revision"] == FIRST
    assert len(artifacts(services)) > 2
    handle(services, ref, FIRST)
    assert artifacts(services) == names(f"ct.dcm.{ref.generation}.r{FIRST}")


def test_what_a_killed_revision_wrote_goes_with_the_next(services):
    ref = land(services, "ct.dcm")
    handle(services, ref)
    for suffix in ("json", "png"):
        folder = "metadata" if suffix == "json" else "images"
        services.artifacts.write(f"{folder}/ct.dcm.{ref.generation}.r{FIRST}.{suffix}", b"", "")
    handle(services, ref, SECOND)
    assert artifacts(services) == names(f"ct.dcm.{ref.generation}.r{SECOND}")


def test_a_revision_that_fails_leaves_all_as_it_was_and_its_letter_open(services):
    ref = land(services, "ct.dcm", data.ct(StudyDate="20241399"))
    handle(services, ref)
    before = rows(services), artifacts(services)
    strict = changed(services, metadata__strict=True)
    with pytest.raises(BadDataset):
        handle(strict, ref, FIRST)
    assert handle(strict, ref, FIRST, how=GiveUp.NOW).status is Status.DEAD_LETTERED
    assert (rows(services), artifacts(services)) == before
    (letter,) = rows_of_letters(services)
    assert (letter["object"], letter["code"]) == ("ct.dcm", "invalid_value")
    handle(services, ref, SECOND)
    assert rows_of_letters(services) == []


def rows_of_letters(services):
    return services.warehouse.query("SELECT * FROM dead_letters")


def test_a_revision_whose_row_is_refused_takes_back_its_own_artifacts_alone(services):
    ref = land(services, "ct.dcm")
    handle(services, ref)
    before = artifacts(services)

    def refuse(table, appended):
        if table == "instances":
            raise RowsRejected({0: "refused"})

    refusing = replace(services, warehouse=Around(services.warehouse, append=refuse))
    with pytest.raises(RowsRejected):
        handle(refusing, ref, FIRST)
    assert artifacts(services) == before


def test_a_file_removed_while_it_is_described_again_leaves_nothing(services):
    ref = land(services, "ct.dcm")
    handle(services, ref)

    def run(*task, **limits):
        described = services.workers.run(*task, **limits)
        (services.source.root / "ct.dcm").unlink()
        return described

    outcome = handle(replace(services, workers=Around(services.workers, run=run)), ref, FIRST)
    assert (outcome.status, outcome.code) == (Status.SUPERSEDED, "object_gone")
    assert artifacts(services) == []


def test_a_change_of_metadata_that_came_after_keeps_what_its_row_names(services):
    ref = land(services, "ct.dcm")
    handle(services, ref)

    def is_live(ref, metageneration=None):  # as a bucket, whose object has metageneration 2 by now
        return metageneration in (None, 2)

    handle(replace(services, source=Around(services.source, is_live=is_live)), ref, FIRST)
    assert set(names(f"ct.dcm.{ref.generation}")) < set(artifacts(services))
    handle(replace(services, source=Around(services.source, is_live=is_live)), ref, SECOND, metageneration=2)
    assert artifacts(services) == names(f"ct.dcm.{ref.generation}.r{SECOND}")


@pytest.mark.parametrize("name", ["ct.dcm", "a/50%.dcm", "a^b.dcm", "a^5eb.dcm", "x.json/ct.dcm", "x" * 250])
def test_a_delete_removes_every_revision(services, name):
    ref = land(services, name)
    handle(services, ref)
    handle(services, ref, FIRST)
    services.artifacts.write(
        f"metadata/{artifact_path(f'{name}.{ref.generation}')}.r{SECOND}.json", b"{}", ""
    )
    assert len(artifacts(services)) == 3
    remove(services, ref)
    assert artifacts(services) == []


def test_a_revision_of_an_archive_is_one_of_each_member(services):
    files = [("a/1.dcm", CT), ("a/2.dcm", data.minimal()), ("m.r5", CT), ("m", CT)]
    ref = land(services, "x.zip", zipped(files))
    handle(services, ref)
    before = artifacts(services)
    assert handle(services, ref, FIRST).stored == 4
    assert len(artifacts(services)) == len(before) == 7
    assert all(f".r{FIRST}." in name for name in artifacts(services))
    assert {row["member"]: row["revision"] for row in rows(services)} == {name: FIRST for name, _ in files}
    for row in rows(services):
        assert json.loads(Path(row["metadata_uri"].removeprefix("file://")).read_text())
    remove(services, ref)
    assert artifacts(services) == []


def test_a_member_that_fails_in_a_revision_keeps_its_row_and_artifacts(services):
    files = [("a/1.dcm", CT), ("a/2.dcm", data.ct(StudyDate="20241399"))]
    ref = land(services, "x.zip", zipped(files))
    handle(services, ref)
    with pytest.raises(BadArchive):
        handle(changed(services, metadata__strict=True), ref, FIRST)
    assert {row["member"]: row["revision"] for row in rows(services)} == {
        "a/1.dcm": FIRST,
        "a/2.dcm": None,
    }
    folder = f"x.zip.{ref.generation}^/a"
    assert artifacts(services) == sorted([*names(f"{folder}/1.dcm.r{FIRST}"), *names(f"{folder}/2.dcm")])


@pytest.mark.parametrize("packed", [False, True], ids=["object", "archive"])
def test_objects_that_are_called_as_a_revision_are_spared(services, packed):
    ref = land(services, "x", zipped([("m", CT)]) if packed else CT)
    others = [
        land(services, name)
        for name in (
            f"x.{ref.generation}.r{FIRST}",
            f"x.{ref.generation}.r{FIRST}.json",
            f"x.{ref.generation}^/m",
            f"x.{ref.generation}0/m",
            f"x.{ref.generation}",
            f"y/x.{ref.generation}",
        )
        if not (name == f"x.{ref.generation}" and packed)
    ]
    for other in others:
        handle(services, other)
        handle(services, other, FIRST)
    kept = artifacts(services)
    assert len(kept) == 2 * len(others)
    handle(services, ref)
    handle(services, ref, FIRST)
    handle(services, ref, SECOND)
    assert len(artifacts(services)) == len(kept) + 2
    remove(services, ref)
    assert artifacts(services) == kept


def test_a_member_and_an_object_never_share_a_document(services):
    # Both were called a.1/b.7 once: the later one's document stood for both.
    other = land(services, f"a.{GENERATION}/b", data.minimal(SOPInstanceUID="1.2.3"))
    land(services, "a", zipped([(f"b.{other.generation}", CT)]))
    os.utime(services.source.root / "a", ns=(GENERATION, GENERATION))
    archive = services.source.find("a")
    handle(services, other)
    handle(services, archive)
    uris = {row["metadata_uri"] for row in rows(services)}
    assert len(uris) == 2
    remove(services, archive)
    (row,) = rows(services)
    assert json.loads(Path(row["metadata_uri"].removeprefix("file://")).read_text())["00080018"]["Value"] == [
        "1.2.3"
    ]


@pytest.mark.parametrize("name", ["x.zip", "a^b%.zip", "s/50%.zip", "x" * 235 + ".zip"])
def test_an_archive_that_was_stored_before_there_were_revisions_goes_by_the_old_rule(services, name):
    ref = land(services, name, zipped([("a/1.dcm", CT), ("m.r5", CT)]))
    folder = artifact_path(f"{name}.{ref.generation}", 240)  # as it was
    other = land(services, f"{name}.{ref.generation}/b.dcm") if len(name) < 200 else None
    if other:
        handle(services, other)
        handle(services, other, FIRST)
    kept = artifacts(services)
    for stem in ("a/1.dcm", "m.r5"):
        services.artifacts.write(f"metadata/{folder}/{stem}.json", b"{}", "")
        services.artifacts.write(f"images/{folder}/{stem}.png", b"", "")
    old = artifacts(services)
    assert len(old) == len(kept) + 4
    handle(services, ref, FIRST)
    assert len(artifacts(services)) == len(kept) + 4
    assert not (set(old) - set(kept)) & set(artifacts(services))
    services.artifacts.write(f"metadata/{folder}/a/1.dcm.json", b"{}", "")
    remove(services, ref)
    assert artifacts(services) == kept


def test_an_object_with_an_escaped_sign_that_was_stored_before_goes_by_its_old_name(services):
    ref = land(services, "a^b.dcm")
    services.artifacts.write(f"metadata/a^b.dcm.{ref.generation}.json", b"{}", "")
    remove(services, ref)
    assert artifacts(services) == []
    clash = land(services, "a^5eb.dcm")
    land(services, "a^b.dcm")
    os.utime(services.source.root / "a^b.dcm", ns=(clash.generation, clash.generation))
    other = services.source.find("a^b.dcm")
    assert other.generation == clash.generation
    handle(services, other)
    remove(services, clash)
    assert artifacts(services) == names(f"a^5eb.dcm.{clash.generation}")


def test_a_revision_of_the_future_is_no_event(services):
    ref = land(services, "ct.dcm")
    tomorrow = int(services.now().timestamp()) + 90_000
    with pytest.raises(BadEvent, match=r"^message.attributes.dicomlakeRevision: lies in the future"):
        handle(services, ref, tomorrow)
    assert rows(services) == []
