"""Who may import whom, read from the source: a room that reaches further than this is a fault of design."""

import ast
import builtins
import sys
from pathlib import Path

import pytest

from tests.parts import ROOT

APP = ROOT / "app"
VALUES = {"types", "errors"}
DOORS = {"storage", "warehouse", "bus"}

# module prefix -> what of `app` it may import; the longest prefix that fits decides
MAY_IMPORT = {
    "__init__": set(),
    "__main__": {"cli"},
    "types": set(),
    "errors": set(),
    "doors": VALUES,
    "not_dicom": VALUES,
    "private": set(),
    "sqlite": VALUES | {"private"},
    "makeable": VALUES,
    "commit": VALUES,
    "events": VALUES | {"events"},
    "archive": VALUES | {"archive", "not_dicom"},
    "members": VALUES | {"archive", "attempt", "dicom", "not_dicom", "pages", "services"},
    "pages": VALUES | {"attempt", "dicom", "worker", "workers"},
    "rows": VALUES | {"__init__"},
    "table": set(),
    "dicom": VALUES | {"dicom", "not_dicom"},
    "config": VALUES | {"layers"},
    "layers": VALUES,
    "admission": VALUES | {"storage"},
    "advice": set(),
    "generate": {"advice", "config", "layers", "warehouse.generate"},
    "log": VALUES,
    "metrics": VALUES,
    "attempt": VALUES | {"metrics", "worker", "workers"},
    "storage.__init__": VALUES | {"doors"},
    "warehouse.__init__": VALUES | {"doors"},
    "bus.__init__": VALUES | {"doors"},
    "storage": VALUES | {"commit", "makeable", "private", "ranged", "sqlite", "storage"},
    "warehouse": VALUES | {"commit", "makeable", "private", "sqlite", "warehouse"},
    "bus": VALUES
    | {"admission", "bus", "commit", "makeable", "private", "sqlite", "warehouse.schema", "warehouse.sql"},
    "workers": VALUES | {"ranges", "wire", "worker"},
    "worker": VALUES | {"ranges", "wire", "zygote"},
    "zygote": {"errors", "ranges", "sandbox", "wire"},
    "ranges": VALUES | {"ranged", "wire"},
    "ranged": set(),
    "sandbox": set(),
    "wire": VALUES | {"archive.entries"},
    "upgrade": VALUES | {"bus", "sqlite", "storage"},
    "services": VALUES | DOORS | {"admission", "config", "metrics", "upgrade", "workers"},
    "pipeline": VALUES
    | {"admission", "archive", "artifacts", "attempt", "dicom", "events", "members", "rows", "services"}
    | {"not_dicom", "pages", "warehouse.queries"},
    "artifacts": VALUES | {"rows", "services", "warehouse.queries"},
    "dlq": VALUES | {"bulk", "pipeline", "services", "storage", "warehouse"},
    "bulk": VALUES
    | {"admission", "advice", "own_files", "pipeline", "services", "storage", "warehouse.queries"},
    "prune": VALUES | {"bulk", "own_files", "pipeline", "services", "storage", "warehouse.queries"},
    "own_files": {"services", "storage"},
    "api": VALUES | {"__init__", "api", "config", "events", "log", "metrics", "pipeline", "services"},
    "server": VALUES | {"api", "config", "connection", "metrics", "sandbox", "services"},
    "connection": {"api.headers"},
    "look": VALUES | {"config", "dicom", "pages", "workers"},
    "command": VALUES | {"config", "log", "services", "warehouse"},
    "demo": VALUES | {"config", "server", "services", "table"},
    "cli": VALUES
    | DOORS
    | {"__init__", "bulk", "command", "config", "demo", "dicom", "dlq", "look"}
    | {"prune", "server", "services", "table"},
}
# third-party packages and the rooms that may import them; everything else is for anyone
ONLY_IN = {
    "pydicom": {"dicom"},
    "numpy": {"dicom"},
    "PIL": {"dicom"},
    "imagecodecs": {"dicom"},
    "isal": {"dicom"},
    "fastapi": {"api"},
    "uvicorn": {"server", "connection"},
    "click": {"cli", "command", "demo"},
    "sqlite3": {"makeable", "sqlite", "storage", "upgrade", "warehouse", "bus"},
    "google": {"storage", "warehouse", "bus"},
    "watchfiles": {"storage"},
    "jsonschema": {"events"},
    "pydantic": {"config", "layers"},
    "prometheus_client": {"metrics"},
    "multiprocessing": {"workers"},
}
PURE = (
    *("advice", "types", "rows", "table", "events", "archive", "dicom"),
    *("warehouse.queries", "warehouse.schema", "warehouse.sql"),
)
IMPURE = {
    *("logging", "socket", "subprocess", "tempfile", "shutil", "threading", "random", "numpy.random"),
    *("time", "datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today"),
    *("datetime.date.today", "os.environ", "os.getenv", "os.open", "open", "print", "input"),
}
# what a room may do although it is pure: say how long a step took
EXCEPT = {"dicom.__init__": {"time.perf_counter"}}


def modules() -> dict[str, Path]:
    names = {}
    for path in sorted(APP.rglob("*.py")):
        parts = path.relative_to(APP).with_suffix("").parts
        names[".".join(parts)] = path
    return names


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


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


def rule(name: str) -> set[str]:
    fitting = [key for key in MAY_IMPORT if within(name, {key})]
    assert fitting, f"app/{name}.py is in no room; add it to the table"
    return MAY_IMPORT[max(fitting, key=len)]


def room_of(target: str) -> str:
    inside = target.removeprefix("app").removeprefix(".")
    return "__init__" if inside in ("", "__version__") else inside


@pytest.mark.parametrize("name", sorted(modules()))
def test_a_room_imports_only_what_it_may(name):
    for target in imports(modules()[name]):
        top = target.split(".")[0]
        if top == "app":
            assert within(room_of(target), rule(name)), f"{name} imports {target}"
        elif top in ONLY_IN:
            assert within(name, ONLY_IN[top]), f"{name} imports {top}"


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
    assert readers <= {"config"}


def test_the_service_imports_no_cloud_sdk_and_no_decoder():
    import subprocess

    heavy = ("google.cloud", "grpc", "pydicom", "numpy", "imagecodecs")
    code = f"import app.api.server, sys; print([m for m in sys.modules if m.startswith({heavy})])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout.strip() == "[]"
