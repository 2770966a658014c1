"""Every statement that BigQuery is sent or shown is one by Google's own analyzer, on the lake's tables."""

import inspect
import re
from datetime import UTC, date, datetime

import pytest

from app.warehouse import queries
from app.warehouse.bigquery.client import deletion
from app.warehouse.search import Search, statement
from app.warehouse.study_current import (
    Recent,
    first_unmerged,
    last_merge,
    merge_script,
    touched_before,
    touched_since,
)
from app.warehouse.tables import TABLES
from app.warehouse.views import ddl, table_functions, views
from tests.googlesql import analyze, googlesql, parse_script
from tests.parts import ROOT
from tests.test_docs import DOCS, blocks
from tests.warehouse.search_contract import keys

pytestmark = googlesql
UID, URI = "1.2.3", "gs://landing/a/"
MOMENT = datetime(2026, 3, 1, tzinfo=UTC)
ASKED = {
    "last_failure": [queries.last_failure("m"), queries.last_failure("m", "gs://b/n", 1, "k")],
    "stored_letter": [queries.stored_letter("m")],
    "settled": [queries.settled(["study_instance_uid", "row_id"], MOMENT, MOMENT)],
    "last_settled": [queries.last_settled()],
    "any_row": [queries.any_row("instances")],
    "artifact_uris": [queries.artifact_uris("preview_uri")],
    "attempts": [queries.attempts(URI, 1, "OBJECT_FINALIZE")],
    "choices": [(sql, {}) for sql in queries.choices().values()],
    "collections": [queries.collections()],
    "copies_of": [queries.copies_of(URI)],
    "count": [queries.count("instances_current"), queries.count("dead_letters")],
    "current_below": [queries.current_below(URI)],
    "described": [queries.described(["a", "b"])],
    "instances_of": [
        queries.instances_of(["sop_instance_uid"], UID),
        queries.instances_of(["row_id"], UID, UID),
    ],
    "known_letters": [queries.known_letters(["m1", "m2"])],
    "letter": queries.letter("m1"),
    "letters_below": [queries.letters_below(URI)],
    "letters_by_event": [
        queries.letters_by_event("bigquery", ["message_id", "data"], ids) for ids in (["m1", "m2"], None)
    ],
    "letters_page": [queries.letters_page(50, 100)],
    "object_uris": [queries.object_uris()],
    "open_letters": [queries.open_letters()],
    "open_letter_versions": [queries.open_letter_versions()],
    "outcome_of": queries.outcome_of(URI, 1),
    "overview": [(sql, {}) for sql in queries.overview("bigquery").values()],
    "made_by": [queries.made_by()],
    "last_of_job": [queries.last_of_job("j")],
    "last_jobs": [queries.last_jobs(20)],
    "to_reprocess": [queries.to_reprocess(["1.0.0"]), queries.to_reprocess(None, "modality = 'CT'", URI)],
    "versions_below": [queries.versions_below(URI), queries.versions_below(URI, "gs://landing/a/b")],
    "retained": [queries.retained(["a", "b"])],
    "rows_below": [queries.rows_below(URI, "dead_letters", ["object_uri", "code", "reason"])],
    "rows_of_version": [queries.rows_of_version(URI, 1), queries.rows_of_version(URI, 1, current=True)],
}
"""What each function of `queries` asks."""


def in_documents():
    """Yield the statements of the pages about Google Cloud, and of what Terraform says comes next."""
    for page in DOCS:
        text = page.read_text()
        for number, sql in enumerate(blocks(text, "sql") + re.findall(r'dicomlake query "([^".]+)"', text)):
            # The analyzer knows no table function of ours; its answer has the columns of the view.
            of_view = re.sub(r"`PROJECT\.dicomlake\.current_of_study`\('.*?'\)", "instances_current", sql)
            yield f"{page.stem}-{number}", of_view
    outputs = (ROOT / "tf/outputs.tf").read_text()
    for number, sql in enumerate(re.findall(r"\$\{local\.bq\} \\\n\s+'([^']+)'", outputs)):
        yield f"outputs-{number}", sql.replace("${local.dataset_path}.", "")


IN_DOCUMENTS = dict(in_documents())


def literal(value):
    kind = {datetime: "TIMESTAMP ", date: "DATE "}.get(type(value), "")
    return f"{kind}'{value.isoformat()}'" if kind else repr(value)


def checked(sql, parameters):
    """Return the kind of a statement, with its values in place of their parameters."""
    return analyze(re.sub(r"@(\w+)", lambda found: literal(parameters[found[1]]), sql))


def test_every_function_of_queries_is_asked():
    public = {
        name
        for name, one in vars(queries).items()
        if inspect.isfunction(one) and one.__module__ == queries.__name__ and not name.startswith("_")
    }
    assert public == set(ASKED)


@pytest.mark.parametrize("name", ASKED)
def test_what_queries_ask(name):
    assert [checked(*one) for one in ASKED[name]] == ["ResolvedQueryStmt"] * len(ASKED[name])


def test_documents_are_found():
    assert len(IN_DOCUMENTS) >= 14


@pytest.mark.parametrize("where", IN_DOCUMENTS)
def test_a_statement_in_the_documents(where):
    assert analyze(IN_DOCUMENTS[where]) == "ResolvedQueryStmt"


@pytest.mark.parametrize("removals", [True, False])
def test_views_and_table_functions(removals):
    for name, text in views("bigquery", removals=removals).items():
        assert analyze(text) == "ResolvedQueryStmt", name
    for name, body in table_functions("bigquery", removals=removals).items():
        made = analyze(f"CREATE TABLE FUNCTION {name}(uid STRING) AS ({body})")
        assert made == "ResolvedCreateTableFunctionStmt"


@pytest.mark.parametrize("table", TABLES)
def test_tables(table):
    assert [analyze(text) for text in ddl(table, "bigquery")] == ["ResolvedCreateTableStmt"]


def test_the_script_that_merges_lists():
    script = merge_script()
    assert parse_script(script) == [
        *("ASTVariableDeclaration", "ASTVariableDeclaration", "ASTSingleAssignment", "ASTIfStatement")
    ]
    # The analyzer knows no variables: constants stand for them.
    constants = {
        "since": "TIMESTAMP '2026-03-01'",
        "touched": "['1.2']",
        "@run_time": "TIMESTAMP '2026-03-01'",
    }
    variables = re.compile(r"(?<!DECLARE )(?<!SET )(?<!\w)(since|touched|@run_time)\b")
    text = variables.sub(lambda found: constants[found[1]], script)
    merges = re.findall(r"^MERGE .*?(?=;$)", text, re.M | re.S)
    assert [analyze(one) for one in merges] == ["ResolvedMergeStmt"] * 2
    values = re.findall(r"= (ARRAY)?\((.*?)\);$", text.replace("DEFAULT (", "= ("), re.M | re.S)
    assert [analyze(one) for _, one in values] == ["ResolvedQueryStmt"] * 3


@pytest.mark.parametrize("since", [Recent((), MOMENT), Recent(("1.2", "1.3"), MOMENT)])
def test_lists(since):
    matches = keys(PatientName="a*", StudyDate="20200101-", ModalitiesInStudy="CT", SOPClassesInStudy="1.2")
    for search in (Search(limit=50), Search(matches=matches, collection="acme", limit=50, offset=50)):
        assert checked(*statement(search, "bigquery", since)) == "ResolvedQueryStmt"
    asked = (last_merge(), touched_since(MOMENT), touched_before(MOMENT, MOMENT))
    asked += (first_unmerged(["1.2", "1.3"], MOMENT),)
    assert [checked(*one) for one in asked] == ["ResolvedQueryStmt"] * 4


def test_the_statements_that_copy_days_into_months():
    page = (ROOT / "docs/deploy.md").read_text().partition("## From days to months\n")[2]
    asked = re.findall(r'^bq query --use_legacy_sql=false "(.*?)"$', page.partition("\n## ")[0], re.M | re.S)
    plain = [re.sub(r"\\`\$LAKE\.(\w+)\\`", r"`\1`", one) for one in asked]
    assert [parse_script(one) for one in plain] == [
        *(["ASTInsertStatement"], ["ASTInsertStatement"], ["ASTQueryStatement"], ["ASTCreateTableStatement"]),
        *(["ASTDropMaterializedViewStatement"], ["ASTDropStatement"], ["ASTAlterTableStatement"]),
    ]
    of_rows = [one.replace("`instances_by_month`", "`instances`") for one in plain[:3]]
    assert [analyze(one) for one in of_rows] == [
        *("ResolvedInsertStmt", "ResolvedInsertStmt", "ResolvedQueryStmt")
    ]


def test_removing_rows():
    with_values = deletion("dead_letter", "message_id").replace("@values", "['m1']")
    assert analyze(with_values) == "ResolvedDeleteStmt"


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("SELECT rows FROM instances", "Unexpected keyword ROWS"),
        ("SELECT colour FROM instances", "Unrecognized name: colour"),
        ("SELECT key FROM instances, json_each(metadata)", "Table-valued function not found: json_each"),
        ("SELECT modality + generation FROM instances", "No matching signature for operator +"),
    ],
)
def test_what_bigquery_would_refuse_is_noticed(sql, why):
    with pytest.raises(AssertionError, match=re.escape(why)):
        analyze(sql)
