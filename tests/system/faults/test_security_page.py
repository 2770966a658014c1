"""SECURITY.md is true: what it links to exists, holds tests where it says so, and its commands are there."""

import re
from importlib.util import find_spec

from tests.parts import ROOT

PAGE = (ROOT / "SECURITY.md").read_text()
LINKS = re.findall(r"\[([^\]]+)\]\(([^)\s]+)\)", PAGE)
SPANS = re.findall(r"`([^`]+)`", PAGE)


def test_every_link_resolves_and_every_test_is_one():
    assert len(LINKS) > 15
    for name, target in LINKS:
        text = (ROOT / target).read_text()
        if name.startswith("test_"):
            assert target.endswith(f"/{name}.py")
            assert re.search(r"^ *def test_\w+\(", text, re.MULTILINE), target


def commands(tool: str) -> list[str]:
    return [span.removeprefix(tool).split()[-1] for span in SPANS if span.startswith(tool)]


def test_every_command_is_there():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"chaos", "soak", "fuzz"} <= set(commands("make ")) <= set(targets)
    tested = commands("pytest ")
    assert len(tested) > 8
    assert [path for path in tested if not (ROOT / path).exists()] == []
    modules = commands("python -m ")
    assert [name for name in modules if find_spec(name) is None] == []
