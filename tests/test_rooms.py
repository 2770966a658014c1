"""What the code of a room may do; whom it may import stands in pyproject.toml, checked by `make lint`."""

import ast
import builtins
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.parts import ROOT

APP = ROOT / "app"
PURE = (
    *("model", "events", "archive", "dicom", "pipeline.rows", "cli.text_table"),
    "announce.announcements",
    *("warehouse.queries", "warehouse.dialects", "warehouse.tables", "warehouse.views"),
)
IMPURE = {
    *("logging", "socket", "subprocess", "tempfile", "shutil", "threading", "random", "numpy.random"),
    *("time", "datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today"),
    *("datetime.date.today", "os.environ", "os.getenv", "os.open", "open", "print", "input"),
}
# what a room may do although it is pure: say how long a step took
EXCEPT = {"dicom.__init__": {"time.perf_counter"}}
# The files of the queue and of the folder's index are SQLite of their own, which no warehouse answers for.
EMBEDDED = {
    "bus.local",
    "storage.local",
    "sources.removals",
    "plumbing.sqlite",
    "plumbing.makeable",
    "upgrade",
}
SQL = re.compile(
    r"\bSELECT\b.*\bFROM\b|\bFROM (\w+|:put)( AS \w+)?( WHERE\b|\Z)|\bWHERE (\w+|:put) *(=|<|>|IN\b|IS\b)"
    r"|\b(GROUP|ORDER) BY\b|\bINSERT (OR \w+ )?INTO\b|\bDELETE FROM\b|\bUPDATE \S+ SET\b|\bMERGE INTO\b"
    r"|\b(CREATE|ALTER|DROP) (OR REPLACE )?(TABLE|VIEW|INDEX)\b|\bPRAGMA \w",
    re.DOTALL,
)


def modules() -> dict[str, Path]:
    names = {}
    for path in sorted(APP.rglob("*.py")):
        parts = path.relative_to(APP).with_suffix("").parts
        names[".".join(parts)] = path
    return names


def reached(text: str) -> set[str]:
    """Return the full names that a source imports or uses, where they are names of modules or built in."""
    names, found = {}, set()
    nodes = list(ast.walk(ast.parse(text)))
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            tops = {alias.name.split(".")[0] for alias in node.names if not alias.asname}
            names |= {top: top for top in tops} | {one.asname: one.name for one in node.names if one.asname}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.Attribute | ast.Name):
            first, dot, rest = ast.unparse(node).partition(".")
            if first in names or first in dir(builtins):
                found.add(names.get(first, first) + dot + rest)
    return found | set(names.values())


def within(name: str, rooms: set[str]) -> bool:
    return any(name == room or name.startswith(room + ".") for room in rooms)


def test_every_pure_room_is_there():
    assert [room for room in PURE if not any(within(name, {room}) for name in modules())] == []


@pytest.mark.parametrize("name", sorted(n for n in modules() if within(n, set(PURE))))
def test_a_pure_room_touches_no_world(name):
    touched = {target for target in reached(modules()[name].read_text()) if within(target, IMPURE)}
    assert touched <= EXCEPT.get(name, set())


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("import os.path\nos.environ['HOME']", "os.environ"),
        ("import os as system\nsystem.getenv('HOME')", "os.getenv"),
        ("from os import environ", "os.environ"),
        ("from datetime import datetime\ndatetime.now()", "datetime.datetime.now"),
        ("import datetime\ndatetime.date.today()", "datetime.date.today"),
        ("import time\ntime.time()", "time.time"),
        ("from time import monotonic as clock", "time.monotonic"),
        ("import numpy as np\nnp.random.rand()", "numpy.random"),
        ("def read(path):\n    with open(path) as file:\n        return file", "open"),
        ("import logging.handlers", "logging.handlers"),
    ],
)
def test_touching_the_world_is_seen(text, name):
    assert name in {target for target in reached(text) if within(target, IMPURE)}


def test_what_only_looks_alike_is_not_the_world():
    text = "from datetime import UTC, datetime\ndatetime(2026, 1, 1, tzinfo=UTC)\ncontent.open().time()"
    assert not any(within(target, IMPURE) for target in reached(text))


def test_only_config_reads_the_environment():
    readers = {
        name
        for name, path in modules().items()
        if "os.environ" in path.read_text() or "getenv" in path.read_text()
    }
    assert readers <= {"config.settings"}


def statements(text: str) -> list[str]:
    """Return the strings of a source that hold SQL; docstrings are prose."""
    nodes = list(ast.walk(ast.parse(text)))
    left_out = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    left_out |= {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    found = []
    for node in nodes:
        if id(node) in left_out or not isinstance(node, ast.JoinedStr | ast.Constant):
            continue
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        found.append("".join(str(one.value) if isinstance(one, ast.Constant) else ":put" for one in parts))
    return [one for one in found if SQL.search(one)]


def test_only_the_warehouse_holds_sql():
    holders = {name for name, path in modules().items() if statements(path.read_text())}
    assert {name for name in holders if not within(name, {"warehouse", *EMBEDDED})} == set()
    assert "warehouse.queries" in holders
    assert [room for room in EMBEDDED if not any(within(name, {room}) for name in holders)] == []


@pytest.mark.parametrize(
    "text",
    [
        "ask('SELECT * FROM dead_letters')",
        "sql = f'{columns} FROM {view}'",
        "sql = f'SELECT {one}' + ' WHERE object_uri = @uri'",
        "D = 'DELETE FROM queue'",
        "S = f'UPDATE {table} SET a = 1'",
        "M = 'MERGE INTO study'",
    ],
)
def test_sql_in_a_source_is_seen(text):
    assert statements(text)


def test_prose_is_no_sql():
    text = """'Read from it, SELECT a FROM b.'\nerror('add LIMIT, or ask for fewer columns from there')"""
    assert statements(text) == []


def test_the_service_imports_no_cloud_sdk_and_no_decoder():
    heavy = ("google.cloud", "grpc", "pydicom", "numpy", "imagecodecs")
    code = f"import app.api.server, sys; print([m for m in sys.modules if m.startswith({heavy})])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout.strip() == "[]"
