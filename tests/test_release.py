"""A tag becomes a release: its name, its notes, and the workflow that publishes it."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import dicomlake_build
from app import __version__
from tests.checkout import copy_checkout
from tests.parts import ROOT
from tools import release

CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
RELEASED = re.sub(r"^## Unreleased$", f"## {__version__} (2026-12-01)", CHANGELOG, count=1, flags=re.M)
"""The changelog as it is once the version in the code is released."""
WORKFLOW, CI = (
    yaml.safe_load((ROOT / f".github/workflows/{name}.yml").read_text()) for name in ("release", "ci")
)
JOBS = WORKFLOW["jobs"]
WRITTEN = """# Changelog

## Unreleased

* Of tomorrow.

## 1.10.0 (2026-12-02)

### New

* Of today.

## 1.1.0 (2026-12-01)

* Of yesterday.
"""


@pytest.mark.parametrize(
    ("version", "text"),
    [("1.10.0", "### New\n\n* Of today.\n"), ("1.1.0", "* Of yesterday.\n")],
)
def test_the_notes_are_the_section_of_the_version(version, text):
    assert release.notes(WRITTEN, version) == text


@pytest.mark.parametrize("version", ["1.10", "1x1.0", "Unreleased", "2.0.0"])
def test_a_version_without_a_dated_section_has_no_notes(version):
    assert release.notes(WRITTEN, version) == ""


def test_the_notes_of_the_next_release_are_the_whole_first_section_of_the_changelog():
    """Compared by lines, found without the code of tools/release."""
    lines = CHANGELOG.splitlines()
    begin, *later = (number for number, line in enumerate(lines) if line.startswith("## "))
    wanted = lines[begin + 1 : later[0] if later else None]
    assert release.notes(RELEASED, __version__).splitlines() == "\n".join(wanted).strip().splitlines()
    assert any(line.startswith("### ") for line in wanted)


@pytest.mark.parametrize(
    ("tag", "changelog", "sentence"),
    [
        (f"v{__version__}", RELEASED, ""),
        (
            "v99.0.0",
            RELEASED,
            f"tag v99.0.0 is not v{__version__}, the version in app/__init__.py; mend one of the two",
        ),
        (__version__, RELEASED, "is not v"),
        (f"v{__version__}.dev1", RELEASED, "is not v"),
        (
            f"v{__version__}",
            "## Unreleased\n\n* All.\n",
            f"CHANGELOG.md has no section '## {__version__} (YYYY-MM-DD)'; rename the unreleased one",
        ),
    ],
)
def test_a_tag_is_v_and_the_version_of_the_package(tag, changelog, sentence):
    fault = release.fault(tag, changelog)
    assert sentence in fault
    assert bool(sentence) == bool(fault)


def test_the_version_stands_in_one_place():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" not in project
    assert project["dynamic"] == ["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)


def test_the_wheel_is_named_for_the_version(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert dicomlake_build.build_wheel(str(tmp_path)) == f"dicomlake-{__version__}-py3-none-any.whl"


def needed(job: str) -> set[str]:
    """Return all jobs that must have passed before this one."""
    direct = JOBS[job].get("needs", [])
    found = {direct} if isinstance(direct, str) else set(direct)
    return found.union(*map(needed, found))


def steps(job: str) -> list[dict]:
    return JOBS[job].get("steps", [])


def test_every_tag_of_a_version_starts_the_workflow_and_nothing_else_does():
    assert WORKFLOW[True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads `on` as true


def test_only_what_passed_every_test_is_published():
    writing = {name for name, job in JOBS.items() if "write" in (job.get("permissions") or {}).values()}
    assert writing == {"image", "release"}
    assert all({"notes", "test"} <= needed(name) for name in writing)
    assert needed("release") == {"notes", "test", "wheel", "image"}
    assert JOBS["test"]["uses"] == "./.github/workflows/ci.yml"
    assert "workflow_call" in CI[True]


def test_no_name_of_a_tag_becomes_part_of_a_script():
    """Whoever may push a tag chooses its name; in a variable it is data."""
    scripts = [step["run"] for job in JOBS for step in steps(job) if "run" in step]
    assert scripts
    assert [script for script in scripts if "${{" in script] == []


def test_every_target_and_file_of_the_workflow_exists():
    scripts = "\n".join(step["run"] for job in JOBS for step in steps(job) if "run" in step)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"\bmake (\S+)", scripts)) <= targets
    assert [lock for lock in re.findall(r"-r (\S+)", scripts) if not (ROOT / lock).exists()] == []


def test_what_is_handed_over_has_names_of_its_own_and_is_published():
    """Artifacts of ci.yml are of the same run, where a second one of a name is an error."""
    jobs = [*JOBS.values(), *CI["jobs"].values()]
    uploads = [
        step["with"]
        for job in jobs
        for step in job.get("steps", [])
        if "upload-artifact" in step.get("uses", "")
    ]
    assert sorted(one["name"] for one in uploads) == ["image", "notes", "sbom", "wheel"]
    files = [Path(file).name for one in uploads for file in one["path"].split()]
    (publish,) = (step["run"] for step in steps("release") if "run" in step)
    assert [file for file in files if f"dist/{file}" not in publish] == []
    (taken,) = (step["with"] for step in steps("release") if "download-artifact" in step.get("uses", ""))
    assert taken == {"path": "dist", "merge-multiple": True}


def test_the_step_that_writes_the_notes_does(tmp_path):
    """Its very script, on a checkout of which the changelog names the version."""
    checkout = copy_checkout(tmp_path)
    (checkout / "CHANGELOG.md").write_text(RELEASED)
    (script,) = (step["run"] for step in steps("notes") if "run" in step)
    for tag, code in ((f"v{__version__}", 0), ("v99.0.0", 1)):
        # `python` of a runner is a bare one: no package is installed there
        environment = {"PATH": f"{bare_python(tmp_path)}:/usr/bin:/bin", "GITHUB_REF_NAME": tag}
        ran = subprocess.run(
            ["bash", "-e", "-c", script],
            cwd=checkout,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (ran.returncode, "Traceback" in ran.stderr) == (code, False), ran.stderr
        if code == 0:
            assert (checkout / "notes.md").read_text().startswith("### Changes to know before an upgrade\n")
        else:
            assert ran.stderr == f"{release.fault(tag, RELEASED)}\n"


def bare_python(folder: Path) -> Path:
    """Return a folder with a `python` that sees the standard library only."""
    python = folder / "bin/python"
    python.parent.mkdir(exist_ok=True)
    python.write_text(f'#!/bin/sh\nexec {os.path.realpath(sys.executable)} -S "$@"\n')
    python.chmod(0o755)
    return python.parent
