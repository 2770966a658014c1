"""Every statement that BigQuery is sent or shown is one by Google's own analyzer, on the lake's tables."""

import ast
import re
from datetime import UTC, datetime

import pytest

from app.warehouse.bigquery.client import deletion
from app.warehouse.bigquery.named_parameters import named_parameters
from app.warehouse.queries import described, last_failure, letters_by_event, rows_of_version, settled
from app.warehouse.tables import TABLES
from app.warehouse.views import ddl, table_functions, views
from tests.googlesql import analyze, googlesql
from tests.parts import ROOT
from tests.test_docs import DOCS, blocks

pytestmark = googlesql
# What asks no warehouse, or one of SQLite alone.
OTHERS = {"bus", "plumbing", "sources", "storage", "upgrade.py", "warehouse"}


def in_code():
    """Yield the statements that stand in the code as text; what is put into one is a parameter here."""
    for path in sorted((ROOT / "app").rglob("*.py")):
        if path.relative_to(ROOT / "app").parts[0] in OTHERS:
            continue
        nodes = list(ast.walk(ast.parse(path.read_text())))
        put_together = [node for node in nodes if isinstance(node, ast.JoinedStr)]
        parts = {part for node in put_together for part in node.values}
        for node in [*put_together, *(n for n in nodes if isinstance(n, ast.Constant) and n not in parts)]:
            values = node.values if isinstance(node, ast.JoinedStr) else [node]
            text = "".join(str(one.value) if isinstance(one, ast.Constant) else ":put" for one in values)
            if re.match(r"SELECT .* FROM ", text):
                yield f"{path.stem}-{node.lineno}", text


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


IN_CODE, IN_DOCUMENTS = dict(in_code()), dict(in_documents())


def checked(sql):
    """Return the kind of a statement whose parameters are written `:name`."""
    text, _ = named_parameters(sql, dict.fromkeys(re.findall(r":(\w+)", sql), "x"))
    return analyze(text)


def test_statements_are_found():
    assert len(IN_CODE) >= 8
    assert len(IN_DOCUMENTS) >= 14


@pytest.mark.parametrize("where", IN_CODE)
def test_a_statement_in_the_code(where):
    assert checked(IN_CODE[where]) == "ResolvedQueryStmt"


@pytest.mark.parametrize("where", IN_DOCUMENTS)
def test_a_statement_in_the_documents(where):
    assert checked(IN_DOCUMENTS[where]) == "ResolvedQueryStmt"


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


def test_queries_that_are_put_together():
    for chosen in (":a, :b", "SELECT message_id FROM dead_letters"):
        assert checked(letters_by_event("bigquery", ["message_id", "data"], chosen)) == "ResolvedQueryStmt"
    for sql, _ in (described(["a", "b"]), rows_of_version("a", 1), rows_of_version("a", 1, current=True)):
        assert checked(sql) == "ResolvedQueryStmt"
    moment = datetime(2026, 3, 1, tzinfo=UTC)
    for sql, _ in (
        last_failure("m"),
        last_failure("m", "gs://b/n", 1, "k"),
        settled(["study_instance_uid", "row_id"], moment, moment),
    ):
        assert checked(sql) == "ResolvedQueryStmt"


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
