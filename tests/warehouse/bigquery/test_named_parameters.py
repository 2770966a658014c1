"""`:name` becomes `@name`, but not where it is text."""

from datetime import date

import pytest

from app.model.errors import BadQuery
from app.warehouse.bigquery.named_parameters import Parameter, named_parameters


@pytest.mark.parametrize(
    ("sql", "text"),
    [
        ("SELECT :a", "SELECT @a"),
        ("WHERE x=:a AND y IN (:a,:b)", "WHERE x=@a AND y IN (@a,@b)"),
        ("SELECT ':a', \":a\", `:a`, :b", "SELECT ':a', \":a\", `:a`, @b"),
        (r"SELECT '\':a', r'\':a', :b", r"SELECT '\':a', r'\':a', @b"),
        ("SELECT ''':a ' :a''', \"\"\"\n:a\"\"\", :b", "SELECT ''':a ' :a''', \"\"\"\n:a\"\"\", @b"),
        ("SELECT :a -- :x\n, :b # :x\n/* :x\n */", "SELECT @a -- :x\n, @b # :x\n/* :x\n */"),
        ("SELECT :n IS NULL", "SELECT NULL IS NULL"),
        ("SELECT TIME '10:30:00', 'gs://b'", "SELECT TIME '10:30:00', 'gs://b'"),
    ],
)
def test_only_what_is_no_text_is_a_parameter(sql, text):
    assert named_parameters(sql, {"a": 1, "b": 2, "n": None})[0] == text


def test_parameters_that_are_used_come_with_their_type():
    values = {"day": date(2026, 1, 1), "n": 7, "null": None, "unused": "x"}
    _, found = named_parameters("SELECT :n, :day, :n, :null", values)
    assert found == [Parameter("n", "INT64", 7), Parameter("day", "DATE", date(2026, 1, 1))]


@pytest.mark.parametrize(
    ("sql", "values", "text"),
    [
        ("SELECT :a", {}, "parameter a is not given"),
        ("SELECT :a", {"a": 2**63}, "parameter a has a value that no column could hold"),
        ("SELECT '\ud800'", {}, "the statement is not text"),
        (b"SELECT 1", {}, "the statement is not text"),
    ],
)
def test_what_cannot_be_asked_is_a_bad_query(sql, values, text):
    with pytest.raises(BadQuery) as caught:
        named_parameters(sql, values)
    assert caught.value.text == text
