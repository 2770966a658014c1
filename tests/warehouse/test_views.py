"""What the views show, whatever the order in which rows arrive and however often.

Every form of `instances_current` runs here on SQLite: the one by indexes, and those by windows that column
stores get, whose text is plain SQL. The unique index is dropped, so that copies of a row are really there.
All views of BigQuery run in Google's own evaluator of GoogleSQL besides.
"""

import sqlite3
from contextlib import closing
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.warehouse.sqlite.values import to_values
from app.warehouse.tables import TABLES
from app.warehouse.views import ddl, table_functions, views
from tests.googlesql import evaluate, googlesql
from tests.warehouse.contract import NOON, event_attributes, failure_row, instance_row, letter_row

TIMES = [NOON, NOON + timedelta(seconds=1)]
ON_SQLITE = {
    "sqlite": views("sqlite"),
    "bigquery": views("bigquery"),
    "without_removals": views("bigquery", removals=False),
}
IN_GOOGLESQL = {f"googlesql_{form}": ON_SQLITE[form] for form in ("bigquery", "without_removals")}
FORMS = [*ON_SQLITE, *(pytest.param(form, marks=googlesql) for form in IN_GOOGLESQL)]


def database(form="sqlite"):
    """Return a database in memory with the views, `instances_current` and what it reads in one form."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.row_factory = sqlite3.Row
    for table in TABLES:
        for statement in ddl(table, "sqlite"):
            connection.execute(statement)
    connection.execute("DROP INDEX instances_row_id")
    for name, select in {
        **views("sqlite"),
        **{
            name: ON_SQLITE[form][name]
            for name in ("removed", "instances_current")
            if name in ON_SQLITE[form]
        },
    }.items():
        connection.execute(f"CREATE VIEW {name} AS {select}")
    return connection


def add(connection, table, *rows):
    names = [f'"{column.name}"' for column in TABLES[table].columns]
    sql = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
    connection.executemany(sql, [to_values(table, row) for row in rows])


def current(form, *rows):
    """Return the row ids that `instances_current` shows of these rows."""
    if form in IN_GOOGLESQL:
        found = evaluate("SELECT row_id FROM instances_current", IN_GOOGLESQL[form], {"instances": rows})
        return sorted(row["row_id"] for row in found)
    with closing(database(form)) as connection:
        add(connection, "instances", *rows)
        return sorted(row["row_id"] for row in connection.execute("SELECT row_id FROM instances_current"))


def ask_sqlite(sql, **rows):
    """Return the answer to a query on tables with these rows, as dicts."""
    with closing(database()) as connection:
        for table, of_table in rows.items():
            add(connection, table, *of_table)
        return [dict(row) for row in connection.execute(sql)]


def ask_googlesql(sql, **rows):
    """Return the answer of BigQuery's views to a query on tables with these rows, as dicts."""
    return evaluate(sql, IN_GOOGLESQL["googlesql_bigquery"], rows)


@pytest.fixture(params=[ask_sqlite, pytest.param(ask_googlesql, marks=googlesql)])
def ask(request):
    """What a view shows, on SQLite and in GoogleSQL."""
    return request.param


@pytest.fixture
def letters(ask):
    """What `dead_letters` shows of these letters and rows of other tables."""
    return lambda *rows, **others: ask(
        "SELECT * FROM dead_letters ORDER BY message_id", dead_letter=rows, **others
    )


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["gs://b/x", "gs://b/y.zip"]),
        st.sampled_from(["finalize", "overwrite", "update", "again", "delete", "archive"]),
        st.frozensets(st.sampled_from(["1.dcm", "2.dcm", "3.dcm"])),
    ),
    max_size=8,
)


def happen(events, study=lambda generation, member: None, removals=False):
    """Apply events in order to a dict: return the rows they make and the ids of those that are current then.

    `live` maps an object to its generation, metageneration and the row id of each member. study: that of each
    row of a version. removals: whether a removal of each overwritten version comes, as in a versioned bucket.
    """
    rows, live = [], {}
    for number, (uri, action, members) in enumerate(events, 1):
        generation, metageneration, present = live.get(uri, (None, 0, {}))
        revision = None
        if action in ("finalize", "overwrite"):
            if (action == "overwrite" or removals) and generation is not None:
                rows.append(instance_row(f"{number}-", uri, generation, event_type="OBJECT_ARCHIVE"))
            generation, metageneration, names, kind = number, 1, members or {None}, "OBJECT_FINALIZE"
        elif generation is None:
            continue
        elif action == "update":
            metageneration, names, kind = metageneration + 1, present, "OBJECT_METADATA_UPDATE"
        elif action == "again":  # some members may fail with the settings of now
            names, kind, revision = members & present.keys() or present, "OBJECT_FINALIZE", 1000 + number
        else:
            rows.append(instance_row(f"{number}-", uri, generation, event_type=f"OBJECT_{action.upper()}"))
            del live[uri]
            continue
        kept = present if action == "again" else {}
        live[uri] = generation, metageneration, {**kept, **{name: f"{number}{name}" for name in names}}
        rows += [
            instance_row(
                f"{number}{name}",
                uri,
                generation,
                metageneration=metageneration,
                revision=revision,
                member=name,
                event_type=kind,
                study_instance_uid=study(generation, name),
            )
            for name in names
        ]
    return rows, sorted(row_id for *_, present in live.values() for row_id in present.values())


def any_study(generation, member):
    """Return one of two studies, or none: another for each version and member."""
    return (None, "1.2", "1.3")[(generation + len(member or "") + ord((member or "0")[0])) % 3]


@st.composite
def histories(draw, **of_rows):
    """Rows of a random history in any order, some of them twice, and the ids of those that are current."""
    rows, expected = happen(draw(EVENTS), **of_rows)
    again = draw(st.lists(st.sampled_from(rows), max_size=6)) if rows else []
    return draw(st.permutations([*rows, *again])), expected


@pytest.mark.parametrize("form", ON_SQLITE)
@given(history=histories())
@settings(max_examples=150)
def test_rows_in_any_order_and_number_show_what_is_there_now(form, history):
    rows, expected = history
    assert current(form, *rows) == expected


@pytest.mark.parametrize("form", ON_SQLITE)
@given(history=histories(study=any_study, removals=True))
@settings(max_examples=150)
def test_objects_may_move_from_study_to_study(form, history):
    rows, expected = history
    assert current(form, *rows) == expected


@pytest.mark.parametrize("form", [pytest.param(form, marks=googlesql) for form in IN_GOOGLESQL])
@given(several=st.lists(histories() | histories(study=any_study, removals=True), min_size=10, max_size=10))
@settings(max_examples=15)
def test_histories_in_googlesql_too(form, several):
    # Of several objects and in one statement, since each takes it a tenth of a second.
    rows, expected = [], []
    for number, (of_one, current_ids) in enumerate(several):
        own = {"row_id": f"{number}/{{row_id}}", "object_uri": f"{{object_uri}}/{number}"}
        rows += [{**row, **{name: text.format(**row) for name, text in own.items()}} for row in of_one]
        expected += [f"{number}/{row_id}" for row_id in current_ids]
    assert current(form, *rows) == sorted(expected)


@given(history=histories(study=any_study, removals=True))
@settings(max_examples=150)
def test_the_table_function_shows_the_rows_of_one_study(history):
    rows, _ = history
    body = table_functions("bigquery")["current_of_study"].replace("= uid", "= ?")
    with closing(database("bigquery")) as connection:
        add(connection, "instances", *rows)
        sql = "SELECT row_id FROM instances_current WHERE study_instance_uid = ? ORDER BY row_id"
        expected = [row["row_id"] for row in connection.execute(sql, ["1.2"])]
        assert sorted(row["row_id"] for row in connection.execute(body, ["1.2"])) == expected


@pytest.mark.parametrize("form", FORMS)
def test_an_object_overwritten_into_another_study_leaves_the_old_one(form):
    rows = [
        instance_row("old", generation=1, study_instance_uid="1.2"),
        instance_row("new", generation=2, study_instance_uid="1.3"),
    ]
    # A difference of the view that reads one study at a time, until the removal comes.
    assert current(form, *rows) == (["new", "old"] if form.endswith("bigquery") else ["new"])
    assert current(form, *rows, instance_row("gone", generation=1, event_type="OBJECT_DELETE")) == ["new"]


@pytest.mark.parametrize("form", FORMS)
def test_a_revision_that_reads_another_study_leaves_the_old_one_only_with_the_object(form):
    rows = [
        instance_row("first", study_instance_uid=None),
        instance_row("again", study_instance_uid="1.2", revision=1700000000),
    ]
    assert current(form, *rows) == (["again", "first"] if form.endswith("bigquery") else ["again"])
    assert current(form, *rows, instance_row("gone", event_type="OBJECT_DELETE")) == []


@pytest.mark.parametrize("form", FORMS)
class TestInstancesCurrent:
    """Exact small cases."""

    def test_the_highest_generation_counts(self, form):
        assert current(form, instance_row("new", generation=20), instance_row("old", generation=3)) == ["new"]

    def test_a_removal_wins_at_its_own_generation(self, form):
        gone = instance_row("gone", generation=5, event_type="OBJECT_DELETE")
        assert current(form, instance_row("here", generation=5), gone) == []

    def test_a_removal_of_an_older_generation_takes_nothing_away(self, form):
        gone = instance_row("gone", generation=4, event_type="OBJECT_ARCHIVE")
        assert current(form, gone, instance_row("here", generation=5)) == ["here"]

    def test_a_removal_of_a_later_generation_hides_the_older_ones(self, form):
        gone = instance_row("gone", generation=6, event_type="OBJECT_DELETE")
        assert current(form, instance_row("here", generation=5), gone) == []

    def test_a_removal_hides_every_member(self, form):
        rows = [instance_row(name, member=name) for name in ("1.dcm", "2.dcm")]
        assert current(form, *rows, instance_row("gone", event_type="OBJECT_DELETE")) == []

    def test_an_archive_with_fewer_members_leaves_no_old_one(self, form):
        old = [instance_row(f"old{name}", generation=1, member=name) for name in ("1.dcm", "2.dcm")]
        assert current(form, *old, instance_row("new", generation=2, member="1.dcm")) == ["new"]

    def test_a_plain_object_over_an_archive_leaves_no_member(self, form):
        old = instance_row("old", generation=1, member="1.dcm")
        assert current(form, instance_row("new", generation=2), old) == ["new"]

    def test_the_highest_metageneration_of_a_member_counts_and_null_is_lowest(self, form):
        rows = [instance_row(f"r{m}", metageneration=m) for m in (2, None, 10, 9)]
        assert current(form, *rows) == ["r10"]

    def test_of_one_metageneration_the_highest_revision_counts_and_null_is_lowest(self, form):
        rows = [instance_row(f"r{n}", metageneration=1, revision=n) for n in (1700000000, None, 0, 999)]
        assert current(form, *rows) == ["r1700000000"]
        assert current(form, *rows[1:]) == ["r999"]
        assert current(form, *rows[1:3]) == ["r0"]

    def test_a_later_metageneration_comes_before_any_revision(self, form):
        again = instance_row("again", metageneration=1, revision=1700000000)
        assert current(form, again, instance_row("update", metageneration=2)) == ["update"]

    def test_a_revision_of_some_members_leaves_the_others(self, form):
        rows = [instance_row(name, member=name) for name in ("1.dcm", "2.dcm")]
        assert current(form, *rows, instance_row("again", member="2.dcm", revision=5)) == ["1.dcm", "again"]

    def test_rows_of_equal_rank_are_settled_by_their_id(self, form):
        assert current(form, instance_row("b"), instance_row("a"), instance_row("a")) == ["a"]

    def test_one_object_does_not_touch_another(self, form):
        gone = instance_row("gone", "gs://b/2", 9, event_type="OBJECT_DELETE")
        assert current(form, instance_row("a", "gs://b/1"), instance_row("b", "gs://b/2"), gone) == ["a"]


def test_an_archive_counts_its_size_once_in_each_group(ask):
    uids = {"study_instance_uid": "1", "size_bytes": 1000}
    rows = [
        instance_row("a", "gs://b/z", member="1", series_instance_uid="1.1", sop_instance_uid="s1", **uids),
        instance_row("b", "gs://b/z", member="2", series_instance_uid="1.1", sop_instance_uid="s2", **uids),
        instance_row("c", "gs://b/z", member="3", series_instance_uid="1.2", sop_instance_uid="s3", **uids),
        instance_row("d", "gs://b/p", series_instance_uid="1.2", sop_instance_uid="s3", **uids),
    ]
    (study,) = ask("SELECT * FROM studies", instances=rows)
    assert (study["size_bytes"], study["number_of_objects"], study["number_of_instances"]) == (2000, 2, 3)
    series = ask("SELECT size_bytes, number_of_objects FROM series ORDER BY 1", instances=rows)
    assert [tuple(row.values()) for row in series] == [(1000, 1), (2000, 2)]


def test_groups_are_the_same_whatever_the_order_of_rows(ask):
    rows = [
        instance_row(
            f"r{i}",
            f"gs://b/{i}",
            study_instance_uid="1",
            series_instance_uid=f"1.{i}",
            modality=modality,
            patient_name=name,
            preview_uri=f"gs://a/{i}.png",
        )
        for i, (modality, name) in enumerate(
            [("US", None), ("CT", "A"), (None, "B"), ("MR", "A"), ("CT", "")]
        )
    ]
    (study,) = ask("SELECT * FROM studies", instances=rows)
    assert study == ask("SELECT * FROM studies", instances=rows[::-1])[0]
    assert (study["modalities"], study["patient_name"]) == ("CT,MR,US", "B")
    assert (study["preview_uri"], study["size_bytes"]) == ("gs://a/0.png", None)
    assert (study["first_ingested_at"], study["last_ingested_at"]) == ("2026-03-01T12:00:00.250000Z",) * 2


def test_rows_without_uids_are_in_no_group(ask):
    rows = [instance_row("a"), instance_row("b", "gs://b/2", study_instance_uid="1")]
    assert ask("SELECT * FROM series", instances=rows) == []
    assert [row["study_instance_uid"] for row in ask("SELECT * FROM studies", instances=rows)] == ["1"]


EVENT = {"object_uri": "gs://b/ct.dcm", "generation": 1, "event_type": "OBJECT_FINALIZE"}


def test_one_event_is_one_dead_letter_the_newest(letters):
    early, late = (letter_row(f"m{i}", event_attributes(), publish_time=when) for i, when in enumerate(TIMES))
    other = letter_row("m2", event_attributes(generation="2"))
    found = [(row["message_id"], row["letters"]) for row in letters(late, early, other)]
    assert found == [("m1", 2), ("m2", 1)]


@pytest.mark.parametrize(
    "attributes", [None, "", "{", "{}", "[]", "5", "null", '{"objectId":"x"}', "\x00", "[" * 5000]
)
def test_a_letter_that_cannot_be_decoded_is_listed_with_nulls(letters, attributes):
    found = letters(letter_row("m1", attributes), letter_row("m2", attributes))
    assert [(row["message_id"], row["letters"]) for row in found] == [("m1", 1), ("m2", 1)]
    assert {row["object_uri"] for row in found} == {None}
    assert {row["code"] for row in found} == {None}


@pytest.mark.parametrize(
    "generation", ["", "abc", "1.5", "9223372036854775808", "1e3", "0x10", "+16", " 16", "016"]
)
def test_a_generation_that_is_no_number_is_null(letters, generation):
    (letter,) = letters(letter_row("m1", event_attributes(generation=generation)))
    assert (letter["generation"], letter["bucket"]) == (None, "b")


def test_a_generation_in_nanoseconds_keeps_its_digits(letters):
    (letter,) = letters(letter_row("m1", event_attributes(generation="1772366400123456789")))
    assert letter["generation"] == 1772366400123456789


def test_the_reason_it_carries_comes_before_that_of_its_failure(letters):
    carried = event_attributes(dicomlakeCode="not_dicom", dicomlakeReason="no DICOM")
    (letter,) = letters(letter_row("m1", carried), failures=[failure_row(**EVENT, message="broken")])
    assert (letter["code"], letter["reason"]) == ("not_dicom", "no DICOM")
    (letter,) = letters(
        letter_row("m1", event_attributes()), failures=[failure_row(**EVENT, message="broken")]
    )
    assert (letter["code"], letter["reason"]) == ("bad_dataset", "broken")


def test_the_last_failure_is_that_of_the_highest_attempt_then_of_the_latest_time(letters):
    failures = [
        failure_row(**EVENT, code="first", delivery_attempt=None),
        failure_row(**EVENT, code="second", delivery_attempt=9, failed_at=TIMES[1]),
        failure_row(**EVENT, code="third", delivery_attempt=9, failed_at=TIMES[0]),
        failure_row(**EVENT, code="fourth", delivery_attempt=10, failed_at=TIMES[0]),
        failure_row(**{**EVENT, "generation": 2}, code="other", delivery_attempt=99),
    ]
    (letter,) = letters(letter_row("m1", event_attributes()), failures=failures)
    assert letter["code"] == "fourth"
    (letter,) = letters(letter_row("m1", event_attributes()), failures=failures[:3])
    assert letter["code"] == "second"


def test_a_given_uri_comes_before_that_of_bucket_and_object(letters):
    uri = "file:///lake/landing/ct.dcm"
    (letter,) = letters(letter_row("m1", event_attributes(objectUri=uri)))
    assert (letter["object_uri"], letter["object"]) == (uri, "ct.dcm")


@pytest.mark.parametrize(
    ("row", "listed"),
    [
        (instance_row("r", **EVENT), 0),
        (instance_row("r", **EVENT, member="1.dcm"), 1),
        (instance_row("r", **{**EVENT, "event_type": "OBJECT_METADATA_UPDATE"}), 1),
        (instance_row("r", **{**EVENT, "generation": 0}), 1),
        (instance_row("r", **{**EVENT, "object_uri": "gs://b/other", "generation": 2}), 1),
    ],
)
def test_a_letter_is_closed_by_the_row_of_exactly_its_event(letters, row, listed):
    assert len(letters(letter_row("m1", event_attributes()), instances=[row])) == listed


@pytest.mark.parametrize(
    ("later", "listed"),
    [
        ({"generation": 2}, 0),
        ({"generation": 2, "member": "1.dcm"}, 0),
        ({"generation": 1, "event_type": "OBJECT_DELETE"}, 0),
        ({"generation": 1, "event_type": "OBJECT_ARCHIVE"}, 0),
        ({"generation": 2, "event_type": "OBJECT_DELETE"}, 0),
        ({"generation": 0, "event_type": "OBJECT_DELETE"}, 1),
    ],
)
def test_a_letter_is_closed_once_its_version_was_removed_or_a_later_one_came(letters, later, listed):
    # An archive with a bad member: the good one has a row of the same generation, and that closes nothing.
    stored = instance_row("good", **EVENT, member="good.dcm")
    seen = [stored, instance_row("r", **{**EVENT, **later})]
    assert len(letters(letter_row("m1", event_attributes()), instances=seen)) == listed


@pytest.mark.parametrize(
    ("revision", "listed"), [(None, 1), (1699999999, 1), (1700000000, 0), (1700000001, 0)]
)
def test_a_letter_of_a_revision_is_closed_by_a_row_of_that_or_a_later_one(letters, revision, listed):
    again = letter_row("m1", event_attributes(dicomlakeRevision="1700000000"))
    stored = [instance_row("first", **EVENT), instance_row("r", **EVENT, revision=revision)]
    assert len(letters(again, instances=stored)) == listed


def test_a_removal_that_failed_is_listed_while_its_version_is_there(letters):
    removal = letter_row("m1", event_attributes(eventType="OBJECT_DELETE"))
    stored = instance_row("r", **EVENT)
    assert len(letters(removal, instances=[stored])) == 1
    assert letters(removal, instances=[stored, instance_row("d", **{**EVENT, "generation": 2})]) == []
