"""What every warehouse does alike. A backend's test class inherits this and gives a fixture `warehouse`."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, time, timedelta, timezone

import pytest

from app.model.errors import BadQuery, RowsRejected
from app.warehouse import Warehouse
from app.warehouse.queries import (
    artifact_uris,
    current_below,
    described,
    last_failure,
    last_jobs,
    last_of_job,
    last_settled,
    letters_below,
    letters_by_event,
    made_by,
    retained,
    settled,
    stored_letter,
    to_reprocess,
    versions_below,
)

NOON = datetime(2026, 3, 1, 12, 0, 0, 250000, tzinfo=UTC)


def instance_row(row_id, object_uri="gs://b/ct.dcm", generation=1, **columns):
    """Return a row of `instances`; what is not given is left out."""
    return {
        "row_id": row_id,
        "object_uri": object_uri,
        "generation": generation,
        "event_type": "OBJECT_FINALIZE",
        "event_time": NOON,
        "ingested_at": NOON,
        **columns,
    }


def failure_row(**columns):
    """Return a row of `failures`."""
    return {"code": "bad_dataset", "failed_at": NOON, **columns}


def letter_row(message_id, attributes, **columns):
    """Return a row of `dead_letter`; `attributes` is JSON text, or a dict that becomes it."""
    text = attributes if isinstance(attributes, str | None) else json.dumps(attributes)
    return {"message_id": message_id, "publish_time": NOON, "attributes": text, "data": b"{}", **columns}


def event_attributes(name="ct.dcm", generation="1", **others):
    """Return the attributes of a Cloud Storage notification."""
    return {
        "bucketId": "b",
        "objectId": name,
        "objectGeneration": generation,
        "eventType": "OBJECT_FINALIZE",
        **others,
    }


def count(warehouse, table, where="1 = 1"):
    """Return how many rows there are."""
    return warehouse.query(f"SELECT COUNT(*) AS n FROM {table} WHERE {where}")[0]["n"]


class WarehouseContract:
    """The promises of app.warehouse.Warehouse."""

    def test_create_is_repeatable(self, warehouse: Warehouse):
        warehouse.append("instances", [instance_row("r1")])
        warehouse.create()
        assert count(warehouse, "instances") == 1

    def test_check_passes_after_create(self, warehouse: Warehouse):
        warehouse.check()

    def test_every_type_comes_back_as_it_went_in(self, warehouse: Warehouse):
        warehouse.append(
            "instances",
            [
                instance_row(
                    "r1",
                    generation=2**63 - 1,
                    patient_name="Äneas^\U0001f600 'x' \"y\"\n",
                    study_date=date(1999, 12, 31),
                    study_time=time(23, 59, 58, 500000),
                    event_time=datetime(2026, 1, 1, 1, 30, tzinfo=timezone(timedelta(hours=2))),
                    slice_thickness=1.25,
                    pixel_spacing=[0.5, 0.25],
                    image_type=["ORIGINAL", "PRIMARY"],
                    warnings=[{"tag": "00100030", "code": "not_a_date"}],
                    took_ms={"read": 1, "parse": 2, "render": 3, "write": 4},
                    metadata='{"Modality":"CT","Rows":512}',
                )
            ],
        )
        (row,) = warehouse.query("SELECT * FROM instances")
        assert row["generation"] == 9223372036854775807
        assert row["patient_name"] == "Äneas^\U0001f600 'x' \"y\"\n"
        assert row["study_date"] == date(1999, 12, 31)
        assert row["study_time"] == time(23, 59, 58, 500000)
        assert row["event_time"] == datetime(2025, 12, 31, 23, 30, tzinfo=UTC)
        assert row["ingested_at"] == datetime(2026, 3, 1, 12, 0, 0, 250000, tzinfo=UTC)
        assert row["slice_thickness"] == 1.25
        assert row["pixel_spacing"] == [0.5, 0.25]
        assert row["image_type"] == ["ORIGINAL", "PRIMARY"]
        assert row["warnings"] == [{"tag": "00100030", "code": "not_a_date"}]
        assert row["took_ms"] == {"read": 1, "parse": 2, "render": 3, "write": 4}
        assert row["metadata"] == {"Modality": "CT", "Rows": 512}
        assert row["event_time"].utcoffset() == timedelta(0)

    def test_rows_of_views_and_of_a_stream_come_in_the_same_types(self, warehouse: Warehouse):
        columns = {"study_instance_uid": "1.2", "series_instance_uid": "1.2.1", "sop_instance_uid": "1.2.1.1"}
        row = instance_row("r1", **columns, study_date=date(1999, 12, 31), metadata='{"Rows":512}')
        warehouse.append("instances", [row])
        warehouse.append("dead_letter", [letter_row("m1", event_attributes("other.dcm"))])
        (one,) = warehouse.stream("SELECT study_date, ingested_at, metadata, warnings FROM instances_current")
        assert one == {
            "study_date": date(1999, 12, 31),
            "ingested_at": NOON,
            "metadata": {"Rows": 512},
            "warnings": [],
        }
        (study,) = warehouse.query("SELECT study_date FROM studies")
        assert study == {"study_date": date(1999, 12, 31)}
        (letter,) = warehouse.query("SELECT publish_time, generation FROM dead_letters")
        assert letter == {"publish_time": NOON, "generation": 1}

    def test_bytes_and_booleans_come_back(self, warehouse: Warehouse):
        warehouse.append("dead_letter", [letter_row("m1", "{}", data=b"\x00\xff{}")])
        warehouse.append("failures", [failure_row(permanent=True), failure_row(permanent=False)])
        assert warehouse.query("SELECT data FROM dead_letter")[0]["data"] == b"\x00\xff{}"
        found = warehouse.query("SELECT permanent FROM failures ORDER BY permanent")
        assert [row["permanent"] for row in found] == [False, True]
        assert {type(row["permanent"]) for row in found} == {bool}
        assert count(warehouse, "failures", "permanent") == 1

    def test_absent_values_are_null_and_absent_lists_empty(self, warehouse: Warehouse):
        warehouse.append("instances", [instance_row("r1", patient_id=None, image_type=None)])
        (row,) = warehouse.query("SELECT patient_id, took_ms, image_type, warnings FROM instances")
        assert row["patient_id"] is None
        assert row["took_ms"] is None
        assert row["image_type"] == []
        assert row["warnings"] == []

    def test_times_compare_as_times(self, warehouse: Warehouse):
        times = [NOON, NOON + timedelta(microseconds=1), NOON.replace(microsecond=0)]
        rows = [instance_row(f"r{i}", event_time=when) for i, when in enumerate(times)]
        warehouse.append("instances", rows)
        found = warehouse.query(
            "SELECT row_id FROM instances WHERE event_time <= @noon ORDER BY event_time", {"noon": NOON}
        )
        assert [row["row_id"] for row in found] == ["r2", "r0"]

    @pytest.mark.parametrize(
        ("fault", "why"),
        [
            ({"colour": "red"}, "unknown column colour"),
            ({"row_id": None}, "column row_id is required"),
            ({"generation": "1"}, "column generation is no INT64"),
            ({"generation": 2**63}, "column generation is no INT64"),
            ({"slice_thickness": math.nan}, "column slice_thickness is no FLOAT64"),
            ({"event_time": datetime(2026, 1, 1)}, "column event_time is no TIMESTAMP"),
            ({"patient_name": "\ud800"}, "column patient_name is no STRING"),
            ({"image_type": "ORIGINAL"}, "column image_type is no list"),
            ({"took_ms": {"think": 1}}, "unknown column took_ms.think"),
        ],
    )
    def test_a_bad_row_is_refused_by_index_and_the_others_are_stored(self, warehouse: Warehouse, fault, why):
        rows = [instance_row("r0"), {**instance_row("r1"), **fault}, instance_row("r2")]
        with pytest.raises(RowsRejected) as caught:
            warehouse.append("instances", rows)
        assert caught.value.rejected == {1: why}
        found = warehouse.query("SELECT row_id FROM instances ORDER BY row_id")
        assert [row["row_id"] for row in found] == ["r0", "r2"]

    def test_the_same_row_appended_twice_counts_once(self, warehouse: Warehouse):
        for _ in range(3):
            warehouse.append("instances", [instance_row("r1"), instance_row("r1")])
        assert count(warehouse, "instances_current") == 1

    def test_failures_and_dead_letters_are_kept_each(self, warehouse: Warehouse):
        for _ in range(2):
            warehouse.append("failures", [failure_row()])
            warehouse.append("dead_letter", [letter_row("m1", "{}")])
        assert (count(warehouse, "failures"), count(warehouse, "dead_letter")) == (2, 2)

    def test_an_append_of_nothing_is_fine(self, warehouse: Warehouse):
        warehouse.append("instances", [])
        assert count(warehouse, "instances") == 0

    def test_a_removal_hides_the_object_even_when_it_came_first(self, warehouse: Warehouse):
        warehouse.append("instances", [instance_row("r2", event_type="OBJECT_DELETE")])
        warehouse.append("instances", [instance_row("r1")])
        warehouse.append("instances", [instance_row("r3", object_uri="gs://b/other.dcm")])
        assert [row["row_id"] for row in warehouse.query("SELECT row_id FROM instances_current")] == ["r3"]

    def test_what_is_described_is_told_by_the_version_that_is_current(self, warehouse: Warehouse):
        archive, plain = "gs://b/x.zip", "gs://b/p.dcm"
        rows = [
            instance_row("a", plain, 5, metageneration=2, describe_key="k1"),
            instance_row("b", plain, 5, metageneration=2, describe_key="k2", revision=7),
            instance_row("c", archive, 3, member="1", describe_key="k1"),
            instance_row("d", archive, 3, member="2", describe_key="k1", revision=9),
            instance_row("e", "gs://b/gone.dcm", 1, describe_key="k1"),
            instance_row("f", "gs://b/gone.dcm", 1, event_type="OBJECT_DELETE"),
            instance_row("g", "gs://b/old.dcm", 1),
            instance_row("h", "gs://b/unasked.dcm", 1, describe_key="k1"),
        ]
        warehouse.append("instances", rows)
        uris = [plain, archive, "gs://b/gone.dcm", "gs://b/old.dcm", "gs://b/never'.dcm"]
        found = {row["object_uri"]: row for row in warehouse.query(*described(uris))}
        assert found.keys() == {plain, archive, "gs://b/old.dcm"}
        version = ("generation", "metageneration", "revision")
        assert [found[plain][name] for name in version] == [5, 2, 7]
        assert [found[archive][name] for name in version] == [3, None, 9]
        assert {uri: row["describe_key"] for uri, row in found.items()} == {
            plain: "k2",
            archive: "k1",
            "gs://b/old.dcm": None,
        }

    def test_what_is_known_in_a_folder_is_current_or_an_open_letter(self, warehouse: Warehouse):
        rows = [
            instance_row("a", "file:///s/x.zip", 3, member="1", size_bytes=70),
            instance_row("b", "file:///s/x.zip", 3, member="2", size_bytes=70),
            instance_row("c", "file:///s/deep/ü.dcm", 5),
            instance_row("d", "file:///s/gone.dcm", 1),
            instance_row("e", "file:///s/gone.dcm", 1, event_type="OBJECT_DELETE"),
            *(instance_row(name, f"file:///{name}.dcm", 1) for name in ("s", "s-/a", "s0", "t/s/a")),
        ]
        warehouse.append("instances", rows)
        found = warehouse.query(*current_below("file:///s/"))
        assert sorted(tuple(row.values()) for row in found if row["size_bytes"]) == [
            ("file:///s/x.zip", 3, 70)
        ]
        assert {row["object_uri"] for row in found} == {"file:///s/x.zip", "file:///s/deep/ü.dcm"}
        event = {"bucketId": "localhost", "objectId": "s/b.dcm", "eventType": "OBJECT_FINALIZE"}
        for number, generation in enumerate(["7", "none"]):
            uri = f"file:///s/b{number}.dcm"
            letter = letter_row(f"m{number}", event | {"objectUri": uri, "objectGeneration": generation})
            warehouse.append("dead_letter", [letter])
        (row,) = warehouse.query(*letters_below("file:///s/"))
        assert (row["object_uri"], row["generation"], row["size_bytes"]) == ("file:///s/b0.dcm", 7, None)
        assert warehouse.query(*letters_below("file:///t/")) == []

    def test_a_key_that_not_all_members_have_is_none(self, warehouse: Warehouse):
        for number, keys in enumerate([("k1", "k2"), ("k1", None)]):
            rows = [
                instance_row(f"r{number}.{key}", f"gs://b/{number}.zip", member=str(key), describe_key=key)
                for key in keys
            ]
            warehouse.append("instances", rows)
        found = warehouse.query(*described(["gs://b/0.zip", "gs://b/1.zip"]))
        assert [row["describe_key"] for row in found] == [None, None]

    def test_studies_and_series_count_what_is_current(self, warehouse: Warehouse):
        uids = {"study_instance_uid": "1.2", "patient_id": "P"}
        rows = [
            instance_row("a", "gs://b/1", **uids, series_instance_uid="1.2.1", sop_instance_uid="1.2.1.1"),
            instance_row("b", "gs://b/2", **uids, series_instance_uid="1.2.1", sop_instance_uid="1.2.1.2"),
            instance_row("c", "gs://b/3", **uids, series_instance_uid="1.2.2", sop_instance_uid="1.2.2.1"),
            instance_row("d", "gs://b/4", **uids, series_instance_uid="1.2.3", sop_instance_uid="1.2.3.1"),
            instance_row("e", "gs://b/4", event_type="OBJECT_DELETE"),
        ]
        modalities = ["MR", "MR", "CT", "US", None]
        warehouse.append(
            "instances",
            [{**row, "modality": m, "size_bytes": 100} for row, m in zip(rows, modalities, strict=True)],
        )
        (study,) = warehouse.query("SELECT * FROM studies")
        assert (study["study_instance_uid"], study["patient_id"], study["modalities"]) == (
            "1.2",
            "P",
            "CT,MR",
        )
        assert (study["number_of_series"], study["number_of_instances"], study["size_bytes"]) == (2, 3, 300)
        series = warehouse.query("SELECT * FROM series ORDER BY series_instance_uid")
        assert [row["series_instance_uid"] for row in series] == ["1.2.1", "1.2.2"]
        assert [row["number_of_instances"] for row in series] == [2, 1]
        assert [row["modality"] for row in series] == ["MR", "CT"]

    def test_a_dead_letter_is_listed_with_its_last_failure_until_it_is_stored(self, warehouse: Warehouse):
        event = {"object_uri": "gs://b/ct.dcm", "generation": 1, "event_type": "OBJECT_FINALIZE"}
        warehouse.append("failures", [failure_row(**event, delivery_attempt=2, code="late", message="two")])
        warehouse.append("failures", [failure_row(**event, delivery_attempt=1, code="early", message="one")])
        attributes = event_attributes(CloudPubSubDeadLetterSourceDeliveryCount="5")
        warehouse.append("dead_letter", [letter_row("m1", attributes)])
        (letter,) = warehouse.query("SELECT * FROM dead_letters")
        assert (letter["message_id"], letter["bucket"], letter["object"]) == ("m1", "b", "ct.dcm")
        assert (letter["object_uri"], letter["generation"]) == ("gs://b/ct.dcm", 1)
        assert (letter["delivery_count"], letter["letters"]) == (5, 1)
        assert (letter["code"], letter["reason"]) == ("late", "two")
        warehouse.append("instances", [instance_row("r1")])
        assert count(warehouse, "dead_letters") == 0

    def test_a_dead_letter_whose_version_was_removed_or_overwritten_is_not_listed(self, warehouse: Warehouse):
        names = ["kept", "bad", "members", "removed", "overwritten"]
        events = [event_attributes(f"{name}.dcm", generation="5") for name in names]
        warehouse.append("dead_letter", [letter_row(f"m{i}", event) for i, event in enumerate(events)])
        warehouse.append("dead_letter", [letter_row("undecodable", "{")])
        warehouse.append(
            "instances",
            [
                instance_row("r1", "gs://b/bad.dcm", 4, event_type="OBJECT_DELETE"),
                instance_row("r2", "gs://b/members.dcm", 5, member="1.dcm"),
                instance_row("r3", "gs://b/removed.dcm", 5, event_type="OBJECT_ARCHIVE"),
                instance_row("r4", "gs://b/overwritten.dcm", 6, member="1.dcm"),
            ],
        )
        found = warehouse.query("SELECT message_id FROM dead_letters ORDER BY message_id")
        assert [row["message_id"] for row in found] == ["m0", "m1", "m2", "undecodable"]

    def test_a_letter_that_waits_for_its_announcement_is_listed_although_its_row_is_stored(
        self, warehouse: Warehouse
    ):
        unannounced = {"code": "announce_unavailable", "message": "announce: down", "generation": 1}
        kinds = {"a.dcm": "OBJECT_FINALIZE", "b.dcm": "OBJECT_DELETE"}
        for name, kind in kinds.items():
            event = {"object_uri": f"gs://b/{name}", "event_type": kind}
            warehouse.append("failures", [failure_row(**event, **unannounced)])
            warehouse.append("instances", [instance_row(name, generation=1, **event)])
            letter = event_attributes(name) | {"eventType": kind}
            warehouse.append("dead_letter", [letter_row(name, letter)])
        warehouse.append("instances", [instance_row("later", "gs://b/b.dcm", generation=2)])
        rows = warehouse.query("SELECT object, code FROM dead_letters ORDER BY object")
        assert [(row["object"], row["code"]) for row in rows] == [
            (name, "announce_unavailable") for name in kinds
        ]

    def test_the_last_failure_of_an_event_or_of_a_message(self, warehouse: Warehouse):
        event = {"object_uri": "gs://b/a.dcm", "generation": 1, "event_type": "OBJECT_FINALIZE"}
        early = failure_row(**event, code="short_read", failed_at=NOON - timedelta(hours=1))
        warehouse.append(
            "failures", [failure_row(**event), early, failure_row(message_id="m", code="bad_event")]
        )
        assert [row["code"] for row in warehouse.query(*last_failure("x", *event.values()))] == [
            "bad_dataset"
        ]
        assert [row["code"] for row in warehouse.query(*last_failure("m"))] == ["bad_event"]
        assert warehouse.query(*last_failure("x", "gs://b/a.dcm", 2, "OBJECT_FINALIZE")) == []
        assert warehouse.query(*stored_letter("m")) == []

    def test_studies_that_have_settled_by_their_last_row(self, warehouse: Warehouse):
        def row(row_id, study, minutes, **columns):
            made = NOON + timedelta(minutes=minutes)
            return instance_row(
                row_id, f"gs://b/{row_id}", study_instance_uid=study, ingested_at=made, **columns
            )

        rows = [row("a", "1.1", 0), row("b", "1.1", 1), row("c", "1.2", 2), row("d", "1.2", 90)]
        rows += [row("e", "1.3", 5), row("f", "1.3", 80, revision=7), row("g", "1.4", -500)]
        rows += [row("h", "1.5", 4), row("i", "1.6", 3)]
        warehouse.append("instances", rows)
        warehouse.append(
            "instances", [row("e", "1.3", 85)]
        )  # a copy, as BigQuery keeps it, settles nothing anew
        warehouse.append(
            "announced", [{"id": "1.5/h", "at": NOON, "arrived_at": NOON + timedelta(minutes=4)}]
        )
        asked = settled(["study_instance_uid", "row_id"], NOON, NOON + timedelta(minutes=60))
        found = warehouse.query(*asked)
        assert [(one["study_instance_uid"], one["row_id"]) for one in found] == [
            ("1.1", "b"),
            ("1.6", "i"),
            ("1.3", "e"),
        ]
        assert found[0]["arrived_at"] == NOON + timedelta(minutes=1)
        (last,) = warehouse.query(*last_settled())
        assert last["arrived_at"] == NOON + timedelta(minutes=4)

    def test_versions_come_in_the_order_of_bytes_after_an_address(self, warehouse: Warehouse):
        names = ["aé", "ab", "a/x", "a.t", "a-b", "A"]
        rows = [instance_row(name, f"gs://b/{name}", generation=7) for name in names]
        rows += [instance_row("other", "gs://bb/a"), instance_row("gone", "gs://b/gone")]
        rows += [instance_row("removed", "gs://b/gone", event_type="OBJECT_DELETE")]
        rows += [instance_row(f"m{n}", "gs://b/zip", member=f"{n}") for n in range(2)]
        warehouse.append("instances", rows)
        found = list(warehouse.stream(*versions_below("gs://b/")))
        ordered = ["A", "a-b", "a.t", "a/x", "ab", "aé", "zip"]
        assert [one["object_uri"] for one in found] == [f"gs://b/{name}" for name in ordered]
        assert [one["generation"] for one in found] == [7] * 6 + [1]
        assert found[0]["ingested_at"] == NOON
        assert list(warehouse.stream(*versions_below("gs://b/"), slowly=True)) == found
        rest = warehouse.query(*versions_below("gs://b/a", "gs://b/a/x"))
        assert [one["object_uri"] for one in rest] == ["gs://b/ab", "gs://b/aé"]

    def test_artifacts_come_once_and_in_order(self, warehouse: Warehouse):
        rows = [
            instance_row("a", "gs://b/a", metadata_uri="gs://o/b.json"),
            instance_row("b", "gs://b/b", metadata_uri="gs://o/a.json"),
            instance_row("c", "gs://b/c", metadata_uri="gs://o/a.json"),
            instance_row("d", "gs://b/d"),
        ]
        warehouse.append("instances", rows)
        found = warehouse.query(*artifact_uris("metadata_uri"))
        assert [one["uri"] for one in found] == ["gs://o/a.json", "gs://o/b.json"]

    def test_rows_to_be_made_anew_by_version_and_by_condition(self, warehouse: Warehouse):
        rows = [
            instance_row("a", "gs://b/a", app_version="0.1.0", modality="CT", metageneration=3),
            instance_row("b", "gs://b/b", app_version="0.2.0", modality="MR", revision=5),
            instance_row("c", "gs://b/c", app_version="0.1.0", modality="MR"),
        ]
        warehouse.append("instances", rows)
        assert {one["app_version"] for one in warehouse.query(*made_by())} == {"0.1.0", "0.2.0"}

        def asked(*arguments):
            found = warehouse.query(*to_reprocess(*arguments))
            return [(one["object_uri"][-1], one["metageneration"], one["revision"]) for one in found]

        assert asked(["0.1.0", "0.0.9"]) == [("a", 3, None), ("c", None, None)]
        assert asked(["0.1.0"], "", "gs://b/a") == [("c", None, None)]
        assert asked(None, "modality = 'MR' OR modality = 'PT'") == [("b", None, 5), ("c", None, None)]

    def test_what_was_just_made_is_as_the_code_has_it(self, warehouse: Warehouse):
        assert warehouse.outdated() == []

    def test_the_last_row_of_a_job_is_where_it_stands(self, warehouse: Warehouse):
        def row(job, minutes, **columns):
            at = NOON + timedelta(minutes=minutes)
            return {"id": job, "recorded_at": at, "command": "backfill", "started_at": NOON, **columns}

        counts = json.dumps({"objects": 2})
        warehouse.append("jobs", [row("a", 1), row("b", 0), row("a", 2, cursor="gs://b/é", counts=counts)])
        (last,) = warehouse.query(*last_of_job("a"))
        assert (last["cursor"], last["counts"]) == ("gs://b/é", {"objects": 2})
        assert [one["id"] for one in warehouse.query(*last_jobs(5))] == ["a", "b"]
        assert warehouse.query(*last_of_job("c")) == []

    def test_what_is_unfinished_is_known_by_its_deliveries(self, warehouse: Warehouse):
        uris = ["gs://b/a.dcm", "gs://b/b.zip", "gs://b/c.dcm"]
        late = NOON + timedelta(minutes=1)
        rows = [instance_row("a", uris[0], ingested_at=NOON)]
        rows += [instance_row(f"b{i}", uris[1], member=f"{i}", ingested_at=late) for i in range(2)]
        warehouse.append("instances", rows)
        states = [
            ("a", "x", "queued"),
            ("a", "x", "refused"),
            ("b0", "x", "queued"),
            ("b0", "x", "delivered"),
        ]
        states += [("b0", "x", "queued"), ("b1", "x", "queued"), ("b1", "x", "dropped"), ("c", "x", "queued")]
        keys = ("row_id", "target", "status", "at")
        warehouse.append("deliveries", [dict(zip(keys, (*state, NOON), strict=True)) for state in states])
        found = {row["object_uri"]: row for row in warehouse.query(*retained(uris))}
        assert {uri: row["unfinished"] for uri, row in found.items()} == {uris[0]: 1, uris[1]: 0}
        assert {uri: datetime.fromisoformat(str(row["stored_at"])) for uri, row in found.items()} == {
            uris[0]: NOON,
            uris[1]: late,
        }
        assert found[uris[0]]["generation"] == 1

    def test_a_stream_gives_the_rows_of_a_query_one_by_one(self, warehouse: Warehouse):
        warehouse.append("dead_letter", [letter_row(f"m{i}", "{}") for i in range(5)])
        sql = "SELECT message_id FROM dead_letter WHERE message_id <> @id ORDER BY message_id"
        stream = warehouse.stream(sql, {"id": "m0"})
        assert next(stream) == {"message_id": "m1"}
        assert [row["message_id"] for row in stream] == ["m2", "m3", "m4"]

    @pytest.mark.parametrize("sql", ["SELECT colour FROM instances", "DELETE FROM dead_letter", "7"])
    def test_a_stream_of_what_is_no_reading_statement_is_a_bad_query(self, warehouse: Warehouse, sql):
        with pytest.raises(BadQuery):
            next(warehouse.stream(sql))

    def test_letters_of_one_event_come_together_the_newest_last(self, warehouse: Warehouse):
        later = NOON + timedelta(seconds=1)
        warehouse.append(
            "dead_letter",
            [
                letter_row("m1", event_attributes(), publish_time=later),
                letter_row("m2", event_attributes()),
                letter_row("m3", event_attributes(generation="2")),
                letter_row("m4", "no JSON", publish_time=NOON - timedelta(seconds=1)),
                letter_row("m5", event_attributes(eventType="")),
                letter_row("m6", event_attributes("ct.dcmO", eventType="BJECT_FINALIZE")),
            ],
        )

        def letters(message_ids):
            asked = letters_by_event(warehouse.dialect, ["message_id", "data"], message_ids)
            rows = list(warehouse.stream(*asked))
            assert {row["data"] for row in rows} == {b"{}"}
            return [row["message_id"] for row in rows], len({row["event"] for row in rows})

        assert letters(["m4", "m1"]) == (["m4", "m2", "m1"], 2)
        assert letters(["m5"]) == (["m5"], 1)
        ids, events = letters(None)
        assert (ids[0], sorted(ids), events) == ("m4", ["m1", "m2", "m3", "m4", "m5", "m6"], 5)
        assert ids.index("m1") == ids.index("m2") + 1

    def test_delete_removes_dead_letters_by_value_and_says_how_many(self, warehouse: Warehouse):
        warehouse.append("dead_letter", [letter_row(f"m'{i}", "{}") for i in range(5)])
        assert warehouse.delete("dead_letter", "message_id", ["m'1", "m'3", "never"]) == 2
        found = warehouse.query("SELECT message_id FROM dead_letter ORDER BY message_id")
        assert [row["message_id"] for row in found] == ["m'0", "m'2", "m'4"]
        assert warehouse.delete("dead_letter", "message_id", []) == 0

    @pytest.mark.parametrize(
        ("table", "column"), [("instances", "row_id"), ("dead_letter", "x; DROP TABLE y")]
    )
    def test_delete_leaves_history_alone_and_knows_its_columns(self, warehouse: Warehouse, table, column):
        with pytest.raises(BadQuery):
            warehouse.delete(table, column, ["r1"])

    def test_query_takes_parameters_of_every_scalar_type(self, warehouse: Warehouse):
        values = {"s": "it's", "i": 7, "f": 0.5, "b": True}
        (row,) = warehouse.query("SELECT @s AS s, @i AS i, @f AS f, @b AS b", values)
        assert row == {"s": "it's", "i": 7, "f": 0.5, "b": True}

    @pytest.mark.parametrize(
        "value", [object(), 2**63, "\ud800", math.inf, ["a"], None, datetime(2026, 1, 1)]
    )
    def test_a_parameter_that_no_column_could_hold_is_a_bad_query(self, warehouse: Warehouse, value):
        with pytest.raises(BadQuery):
            warehouse.query("SELECT @v AS v", {"v": value})

    @pytest.mark.parametrize(
        "sql",
        [
            "SELEKT 1",
            "SELECT nothing FROM instances",
            "SELECT * FROM nowhere",
            "SELECT @missing",
            "DELETE FROM instances",
            "INSERT INTO failures (code) VALUES ('x')",
            "UPDATE instances SET patient_id = 'x'",
            "DROP TABLE instances",
            "CREATE TABLE more (x INT64)",
        ],
    )
    def test_a_statement_that_is_wrong_or_writes_is_a_bad_query(self, warehouse: Warehouse, sql):
        warehouse.append("instances", [instance_row("r1")])
        with pytest.raises(BadQuery):
            warehouse.query(sql)
        assert count(warehouse, "instances", "patient_id IS NULL") == 1

    def test_sixteen_threads_append_and_read_at_once(self, warehouse: Warehouse):
        def work(thread: int) -> int:
            for i in range(10):
                warehouse.append("instances", [instance_row(f"r{thread}.{i}", f"gs://b/{thread}/{i}")])
            return count(warehouse, "instances_current", f"object_uri LIKE 'gs://b/{thread}/%'")

        with ThreadPoolExecutor(16) as pool:
            assert list(pool.map(work, range(16))) == [10] * 16
        assert count(warehouse, "instances_current") == 160
