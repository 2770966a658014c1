"""Lists of studies from `study_current`: a script merges it, and what was touched since comes on top."""

import re
from datetime import date, timedelta

import pytest

from app.jobs import doctor
from app.warehouse import find
from app.warehouse.search import Search, is_list, statement
from app.warehouse.study_current import MAX_LISTED, Recent, merge_script, recent
from tests.warehouse.conftest import PROJECT
from tests.warehouse.contract import NOON, instance_row
from tests.warehouse.search_contract import keys, row

pytestmark = pytest.mark.xdist_group("cloud")


def at(hours):
    return NOON + timedelta(hours=hours)


def instance(uid, hours, **columns):
    """Return a row of the instance S.E.I, made some hours after noon."""
    return row(*uid.split("."), ingested_at=at(hours), **columns)


def gone(uid, hours):
    """Return the row of the removal of the object of an instance."""
    removal = {"event_type": "OBJECT_DELETE", "ingested_at": at(hours)}
    return instance_row(f"gone {uid}", f"gs://b/1.{uid}", **removal)


@pytest.fixture
def merge(front, dataset):
    """A function that merges, as scheduled so many hours after noon."""
    return lambda hours, **how: front.emulator.merge_studies(PROJECT, dataset.split(".")[1], at(hours), **how)


@pytest.fixture
def kept(bigquery):
    """A function that returns how many instances the table has of each study."""
    sql = "SELECT study_instance_uid AS uid, number_of_instances AS n FROM study_current"
    return lambda: {one["uid"]: one["n"] for one in bigquery.query(sql)}


def listed(warehouse, **matches):
    """Return how many instances a list shows of each study, in its order."""
    found = find(warehouse, Search(matches=keys(**matches), limit=50)).rows
    assert len(found) == len({one["study_instance_uid"] for one in found})
    return {one["study_instance_uid"]: one["number_of_instances"] for one in found}


def test_what_came_since_is_listed_at_once_and_what_went_is_not(bigquery, merge, kept):
    old = [instance("1.1.1", -9000), instance("1.1.2", -8000)]
    bigquery.append("instances", [*old, *(instance(uid, 0) for uid in ("2.1.1", "3.1.1"))])
    assert listed(bigquery) == {"1.1": 2, "1.2": 1, "1.3": 1}
    merge(2)
    bigquery.append("instances", [instance("1.1.3", 3), instance("4.1.1", 3), gone("2.1.1", 3)])
    assert kept() == {"1.1": 2, "1.2": 1, "1.3": 1}
    assert listed(bigquery) == {"1.1": 3, "1.3": 1, "1.4": 1}
    merge(4)
    assert kept() == listed(bigquery) == {"1.1": 3, "1.3": 1, "1.4": 1}


def test_a_row_that_became_visible_after_a_merge_is_seen_by_the_next(bigquery, merge, kept):
    bigquery.append("instances", [instance("1.1.1", 0)])
    merge(2)
    bigquery.append("instances", [instance("2.1.1", 1.5)])  # made before the merge, stored after it
    assert listed(bigquery) == {"1.1": 1, "1.2": 1}
    merge(3)
    assert kept() == {"1.1": 1, "1.2": 1}


def test_keys_have_to_match_one_and_the_same_instance(bigquery, merge):
    made = [
        ("1.1.1", "CT", "A", date(2020, 1, 1)),
        ("1.1.2", "MR", "B", date(2021, 1, 1)),
        ("2.1.1", "CT", "B", None),
    ]
    columns = ("modality", "institution_name", "study_date")
    rows = [instance(uid, 0, **dict(zip(columns, values, strict=True))) for uid, *values in made]
    bigquery.append("instances", rows)
    merge(2)
    assert listed(bigquery, ModalitiesInStudy="CT", InstitutionName="A") == {"1.1": 2}
    assert listed(bigquery, ModalitiesInStudy="MR", InstitutionName="A") == {}
    assert listed(bigquery, StudyDate="20200101-20201231") == {"1.1": 2}


def test_too_many_studies_are_merged_without_naming_them(bigquery, merge, kept):
    bigquery.append("instances", [instance(uid, 0) for uid in ("1.1.1", "2.1.1", "3.1.1")])
    merge(2, most=2)
    assert kept() == {"1.1": 1, "1.2": 1, "1.3": 1}
    bigquery.append("instances", [gone("1.1.1", 3), gone("2.1.1", 3), instance("3.1.2", 3)])
    merge(4, most=2)
    assert kept() == {"1.3": 2}


def test_a_dataset_without_the_table_lists_all_the_same(front, bigquery, dataset):
    bigquery.append("instances", [instance("1.1.1", 0)])
    front.emulator.drop_table(PROJECT, dataset.split(".")[1], "study_current")
    assert listed(bigquery) == {"1.1": 1}
    assert "study_current" in bigquery.outdated()


def test_pages_and_what_remains(bigquery, merge):
    bigquery.append("instances", [instance(f"{n}.1.1", 0) for n in range(1, 6)])
    merge(2)
    bigquery.append("instances", [instance("0.1.1", 3)])
    pages = [find(bigquery, Search(limit=2, offset=offset)) for offset in (0, 4)]
    found = [[one["study_instance_uid"] for one in page.rows] for page in pages]
    assert found == [["1.0", "1.1"], ["1.4", "1.5"]]
    assert [page.remaining for page in pages] == [4, 0]


BY_INGEST = ("roles/bigquery.dataEditor", "serviceAccount:ingest@p")
BY_LISTS = ("roles/bigquery.dataEditor", "serviceAccount:lists@p")
WRITERS = {"instances": [BY_INGEST], "study_current": [BY_LISTS]}


def late(warehouse, hours, writers=WRITERS):
    """Return the checks of merges, so many hours after noon, by what they say."""
    return [check.fault for check in doctor.merge_checks(warehouse, writers, at(hours))]


def test_the_doctor_sees_that_merges_fail(bigquery, merge):
    bigquery.append("instances", [instance("1.1.1", 0)])
    merge(2)
    bigquery.append("instances", [instance("2.1.1", 3)])
    assert late(bigquery, 5) == [""]
    assert late(bigquery, 7) == [
        "a row of 2026-03-01 15:00 UTC is not in study_current: its scheduled query fails or does not run,"
        " so each list reads more"
    ]
    merge(7)
    assert late(bigquery, 9) == [""]


def test_the_doctor_expects_no_merge_of_a_study_that_is_gone(bigquery, merge):
    bigquery.append("instances", [instance("1.1.1", 0)])
    merge(2)
    bigquery.append("instances", [instance("2.1.1", 3), gone("2.1.1", 3)])
    merge(8)
    assert late(bigquery, 9) == [""]


def test_the_doctor_sees_a_table_that_was_never_merged(bigquery):
    bigquery.append("instances", [instance("1.1.1", 0)])
    assert [fault.partition(":")[0] for fault in late(bigquery, 4)] == ["a row of 2026-03-01 12"]
    assert late(bigquery, 4, {"instances": [BY_INGEST], "study_current": [BY_INGEST]}) == []  # nobody browses
    assert late(bigquery, 4, {"instances": [BY_INGEST]}) == []


class TestStatements:
    """What is asked, without an emulator."""

    def test_a_list_reads_no_instances_while_nothing_was_touched(self):
        text, _ = statement(Search(limit=50), "bigquery", Recent((), NOON))
        assert set(re.findall(r"\b(?:FROM|JOIN) (\w+)", text)) == {
            *("study_current", "listed", "UNNEST", "hit", "page")
        }

    def test_touched_studies_are_constants(self):
        text, bound = statement(Search(limit=50), "bigquery", Recent(("1.2", "1.3"), NOON))
        assert "study_instance_uid IN (@p0, @p1) AND ingested_at >= @p2" in text
        assert "study_instance_uid NOT IN (@p0, @p1)" in text
        assert [bound[f"p{n}"] for n in range(3)] == ["1.2", "1.3", NOON]

    def test_so_many_touched_studies_are_listed_and_no_more(self):
        touched = [{"study_instance_uid": f"1.{n}", "first_ingested_at": None} for n in range(MAX_LISTED)]
        found = recent(NOON, touched)
        assert (len(found.studies), found.since) == (MAX_LISTED, NOON)
        assert recent(NOON, [*touched, touched[0]]) is None

    def test_the_oldest_row_of_a_touched_study_counts(self):
        touched = [{"study_instance_uid": f"1.{n}", "first_ingested_at": at(-n)} for n in range(3)]
        assert recent(NOON, touched) == Recent(("1.0", "1.1", "1.2"), at(-2))

    @pytest.mark.parametrize(
        ("search", "expected"),
        [
            (Search(), True),
            (Search(collection="acme"), True),
            (Search(matches=keys(PatientName="a*", PatientID="1", SOPClassesInStudy="1.2")), True),
            (Search(matches=keys(SeriesDescription="*")), True),
            (Search(matches=keys(SeriesDescription="a*")), False),
            (Search(matches=keys(RequestAttributesSequence__ScheduledProcedureStepID="1")), False),
            (Search(creators=(("0009", "ACME"),)), False),
            (Search(study=("1.2",)), False),
            (Search("series"), False),
            (Search("instance"), False),
        ],
    )
    def test_which_searches_are_lists(self, search, expected):
        assert is_list(search) is expected

    def test_two_merges_that_overlap_see_the_same_hour(self):
        assert merge_script().count("TIMESTAMP_SUB(@run_time, INTERVAL 60 MINUTE)") == 4
