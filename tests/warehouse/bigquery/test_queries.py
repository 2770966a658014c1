"""BigQuery read: statements, the views in its own words, and dead letters removed."""

import random
from datetime import timedelta

import pytest

from app.model.errors import BadQuery
from app.warehouse.queries import described
from tests.warehouse.contract import NOON, event_attributes, failure_row, instance_row, letter_row

pytestmark = pytest.mark.xdist_group("cloud")


@pytest.fixture
def warehouse(bigquery):
    return bigquery


class TestQueries:
    """Reading, and removing dead letters."""

    def test_a_bad_statement_is_quoted(self, warehouse):
        with pytest.raises(BadQuery, match="colour"):
            warehouse.query("SELECT colour FROM instances")

    def test_a_value_of_a_row_is_never_quoted(self, warehouse):
        warehouse.append("instances", [instance_row("r1", patient_name="Doe^Jane")])
        sql = "SELECT CAST(patient_name AS INT64) AS n FROM instances WHERE row_id = @id"
        assert warehouse.query(sql, {"id": "none"}) == []
        with pytest.raises(BadQuery) as caught:
            warehouse.query(sql, {"id": "r1"})
        assert caught.value.text == "BigQuery stopped at a row (invalidQuery)"

    @pytest.mark.parametrize("sql", ["SELECT 1; SELECT 2", "", "--"])
    def test_only_one_statement_that_reads_is_run(self, warehouse, sql):
        with pytest.raises(BadQuery):
            warehouse.query(sql)

    def test_a_statement_is_checked_once(self, front, warehouse):
        for number in (1, 2, 3):
            assert warehouse.query("SELECT @n AS n", {"n": number}) == [{"n": number}]
        jobs = [line for line in front.asked if line.endswith("/jobs")]
        assert (len(jobs), len(front.asked)) == (1, 4)

    def test_many_rows_come_in_pages(self, warehouse):
        rows = warehouse.query("SELECT n FROM UNNEST(GENERATE_ARRAY(1, 25000)) AS n ORDER BY n")
        assert [rows[0]["n"], rows[-1]["n"], len(rows)] == [1, 25000, 25000]

    def test_rows_can_be_removed_at_once(self, warehouse):
        warehouse.append("dead_letter", [letter_row("m1", "{}")])
        assert warehouse.delete("dead_letter", "message_id", ["m1"]) == 1


EVENT = {"object_uri": "gs://b/ct.dcm", "generation": 1, "event_type": "OBJECT_FINALIZE"}


class TestViews:
    """The views in BigQuery's own words, on rows in any order and some of them twice."""

    @pytest.mark.parametrize("seed", [1, 2])
    def test_current_is_what_is_there_now(self, warehouse, seed):
        gone, archived = {"event_type": "OBJECT_DELETE"}, {"event_type": "OBJECT_ARCHIVE"}
        rows = [
            *(instance_row(f"a{g}", "gs://b/overwritten", g) for g in (3, 20)),
            instance_row("b5", "gs://b/deleted", 5),
            instance_row("b-", "gs://b/deleted", 5, **gone),
            instance_row("c4", "gs://b/replaced", 4, **archived),
            instance_row("c5", "gs://b/replaced", 5),
            instance_row("d5", "gs://b/deleted-later", 5),
            instance_row("d-", "gs://b/deleted-later", 6, **archived),
            *(instance_row(f"e{m}", "gs://b/deleted.zip", member=m) for m in ("1", "2")),
            instance_row("e-", "gs://b/deleted.zip", **gone),
            *(instance_row(f"f{m}", "gs://b/smaller.zip", 1, member=m) for m in ("1", "2")),
            instance_row("f3", "gs://b/smaller.zip", 2, member="1"),
            instance_row("g1", "gs://b/no-zip-now", 1, member="1"),
            instance_row("g2", "gs://b/no-zip-now", 2),
            *(instance_row(f"h{m}", "gs://b/updated", metageneration=m) for m in (2, None, 10, 9)),
            *(instance_row(i, "gs://b/equal") for i in ("i2", "i1")),
            *(instance_row(f"j{m}", "gs://b/all.zip", member=m) for m in ("1", "2")),
        ]
        order = random.Random(seed)
        rows += order.sample(rows, 8)
        order.shuffle(rows)
        warehouse.append("instances", rows)
        found = warehouse.query("SELECT row_id FROM instances_current ORDER BY row_id")
        assert [row["row_id"] for row in found] == ["a20", "c5", "f3", "g2", "h10", "i1", "j1", "j2"]

    def test_the_table_function_shows_one_study(self, warehouse, dataset):
        study = {"study_instance_uid": "1.2"}
        rows = [
            *(instance_row(f"a{r}", "gs://b/a", revision=r, **study) for r in (7, None)),
            instance_row("b1", "gs://b/overwritten", 1, **study),
            instance_row("b2", "gs://b/overwritten", 2, study_instance_uid="1.3"),
            instance_row("b-", "gs://b/overwritten", 1, event_type="OBJECT_DELETE"),
            instance_row("c1", "gs://b/of-no-study"),
            instance_row("d1", "gs://b/x.zip", member="1", **study),
            instance_row("d2", "gs://b/x.zip", member="2", study_instance_uid="1.3"),
        ]
        warehouse.append("instances", rows)

        def of_study(uid):
            sql = f"SELECT row_id FROM `{dataset}.current_of_study`(@uid) ORDER BY row_id"
            return [row["row_id"] for row in warehouse.query(sql, {"uid": uid})]

        assert (of_study("1.2"), of_study("1.3"), of_study("")) == (["a7", "d1"], ["b2", "d2"], [])

    def test_what_is_described_ends_with_the_later_version_of_an_object_in_two_studies(self, warehouse):
        studies = {"1.2": 9, "1.3": 10, "1.4": 8}
        rows = [
            instance_row(f"r{g}", generation=g, describe_key=f"k{g}", study_instance_uid=uid)
            for uid, g in studies.items()
        ]
        warehouse.append("instances", rows)
        found = warehouse.query(*described(["gs://b/ct.dcm"]))
        assert [row["generation"] for row in found] == [8, 9, 10]
        assert [row["describe_key"] for row in found] == ["k8", "k9", "k10"]

    def test_an_archive_counts_its_size_once_in_each_group(self, warehouse):
        uids = {"study_instance_uid": "1", "size_bytes": 1000}
        made = [("b/z", "1", "1.1", "s1"), ("b/z", "2", "1.1", "s2"), ("b/z", "3", "1.2", "s3")]
        rows = [
            instance_row(
                f"r{i}", f"gs://{uri}", member=m, series_instance_uid=series, sop_instance_uid=sop, **uids
            )
            for i, (uri, m, series, sop) in enumerate([*made, ("b/p", None, "1.2", "s3")])
        ]
        warehouse.append("instances", [*rows, *rows, instance_row("none", "gs://b/none")])
        counts = "size_bytes, number_of_objects, number_of_instances"
        assert [tuple(r.values()) for r in warehouse.query(f"SELECT {counts} FROM studies")] == [(2000, 2, 3)]
        series = warehouse.query(f"SELECT {counts} FROM series ORDER BY series_instance_uid")
        assert [tuple(row.values()) for row in series] == [(1000, 1, 2), (2000, 2, 1)]

    def test_a_group_shows_the_greatest_values_and_sorted_modalities(self, warehouse):
        made = [("US", None), ("CT", "A"), (None, "B"), ("MR", "A"), ("CT", "")]
        rows = [
            instance_row(
                f"r{i}",
                f"gs://b/{i}",
                study_instance_uid="1",
                series_instance_uid=f"1.{i}",
                modality=modality,
                patient_name=name,
                preview_uri=f"gs://a/{i}.png",
                ingested_at=NOON + timedelta(seconds=i),
            )
            for i, (modality, name) in enumerate(made)
        ]
        warehouse.append("instances", rows[::-1])
        (study,) = warehouse.query("SELECT * FROM studies")
        assert (study["modalities"], study["patient_name"]) == ("CT,MR,US", "B")
        assert (study["preview_uri"], study["size_bytes"]) == ("gs://a/0.png", None)
        assert (study["first_ingested_at"], study["last_ingested_at"]) == (NOON, NOON + timedelta(seconds=4))

    def test_dead_letters_are_decoded_with_their_reason(self, warehouse):
        carried = {"dicomlakeCode": "not_dicom", "dicomlakeReason": "no DICOM"}
        warehouse.append(
            "dead_letter",
            [
                letter_row("m1", event_attributes(CloudPubSubDeadLetterSourceDeliveryCount="5")),
                letter_row("m2", event_attributes(), publish_time=NOON + timedelta(seconds=1)),
                letter_row("m3", event_attributes("carried", **carried)),
                letter_row("m4", event_attributes("uri", objectUri="file:///x")),
                letter_row("m5", event_attributes("nanoseconds", "1772366400123456789")),
                letter_row("m6", event_attributes("no-number", "abc")),
                letter_row("m7", event_attributes("stored")),
                letter_row("m8", event_attributes("members-stored")),
                *(letter_row(f"n{i}", text) for i, text in enumerate([None, "", "{", "[]", "null"])),
            ],
        )
        failures = [("first", None, 0), ("second", 9, 1), ("third", 9, 0), ("fourth", 10, 0)]
        warehouse.append(
            "failures",
            [
                *(
                    failure_row(
                        **EVENT, code=code, delivery_attempt=attempt, failed_at=NOON + timedelta(hours=late)
                    )
                    for code, attempt, late in failures
                ),
                failure_row(**{**EVENT, "generation": 2}, code="other", delivery_attempt=99),
                failure_row(**{**EVENT, "object_uri": "gs://b/carried"}, code="broken"),
            ],
        )
        warehouse.append(
            "instances",
            [instance_row("s", "gs://b/stored"), instance_row("t", "gs://b/members-stored", member="1")],
        )
        found = warehouse.query("SELECT * FROM dead_letters ORDER BY message_id")
        names = ("message_id", "object_uri", "generation", "code", "reason", "letters")
        assert [tuple(row[name] for name in names) for row in found] == [
            ("m2", "gs://b/ct.dcm", 1, "fourth", None, 2),
            ("m3", "gs://b/carried", 1, "not_dicom", "no DICOM", 1),
            ("m4", "file:///x", 1, None, None, 1),
            ("m5", "gs://b/nanoseconds", 1772366400123456789, None, None, 1),
            ("m6", "gs://b/no-number", None, None, None, 1),
            ("m8", "gs://b/members-stored", 1, None, None, 1),
            *((f"n{i}", None, None, None, None, 1) for i in range(5)),
        ]
