"""Every code of a failure has its advice, once, and the runbook has the same table."""

import re
from collections import Counter

import pytest

from app.jobs import advice
from tests.parts import ROOT
from tools import generate

CODE = re.compile(r'(?:\bcode|fault) ?= ?"([a-z_]+)"')
ROOTS = {"error", "permanent", "transient"}  # classes that nothing is raised as
OF_COMMANDS = {"bad_query", "config", "no_such_letter"}  # fail a command, not a file
OF_PICTURES = {"unrenderable"}  # the row is stored, `preview_error` has a code of its own
OF_REQUESTS = {"bad_search", "no_such_value"}  # of what a browser or viewer asks for
RUNBOOK = (ROOT / "docs/runbook.md").read_text()


def codes():
    """Return what any room calls a failure, but for those that only answer requests."""
    answering = {ROOT / "app/api", ROOT / "app/browse"}
    files = [path for path in (ROOT / "app").rglob("*.py") if not answering & set(path.parents)]
    return {code for path in files for code in CODE.findall(path.read_text())} - OF_REQUESTS


def test_every_code_of_a_failure_has_advice_and_no_other_has():
    listed = Counter(code for one in advice.TABLE for code in one.codes)
    assert {"not_dicom", "truncated", "encrypted", "sparse_file", "not_a_file", "bad_name"} <= set(listed)
    assert set(listed) == codes() - ROOTS - OF_COMMANDS - OF_PICTURES
    assert set(listed.values()) == {1}


def test_the_runbook_has_the_same_table():
    assert advice.markdown_table() in RUNBOOK
    assert generate.runbook(RUNBOOK) == RUNBOOK, "run `make schemas`"


@pytest.mark.parametrize(
    ("code", "word"),
    [
        ("not_dicom", "source.expect"),
        ("out_of_space", "free some"),
        ("bad_name", "rename"),
        ("new", "report"),
    ],
)
def test_advice_of_a_code_is_one_sentence(code, word):
    assert word in advice.what_to_do(code)
    assert "\n" not in advice.what_to_do(code)
