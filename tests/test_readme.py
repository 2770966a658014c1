"""The README and the pages beside it are true: commands run and print what is shown, tables are generated."""

import os
import re
import signal
import subprocess
import threading

import numpy as np
import pytest
from PIL import Image

from tests.checkout import copy_checkout
from tests.parts import ROOT
from tests.system.e2e.service import free_port, until
from tools import contact_sheet, generate, profile_tables, reference

README = (ROOT / "README.md").read_text()
DEPLOY = (ROOT / "docs/deploy.md").read_text()
SETTINGS = (ROOT / "docs/settings.md").read_text()
PAGES = [(ROOT / f"docs/{name}.md").read_text() for name in ("command-line", "events", "settings")]
SHELL = r"^```sh ?(\w*)\n((?:(?!^```).)*)^```$"
BLOCKS = re.findall(SHELL, README, re.M | re.S)
SHOWN = re.findall(SHELL + r"(?:(?!^```).)*^```text\n(.*?)^```$", README, re.M | re.S)
"""Name, command and printed text of each block of commands that is followed by its output."""


def test_only_these_commands_are_run_apart():
    assert [name for name, _ in BLOCKS if name] == ["demo", "test", "cloud"]
    assert dict(BLOCKS)["demo"] == "make demo\n"
    assert dict(BLOCKS)["test"] == "make test\n"  # what runs this very test


def test_the_commands_for_the_cloud_are_those_of_its_page():
    commands = dict(BLOCKS)["cloud"].splitlines()
    assert len(commands) == 10
    tested = "".join(re.findall(r"^```sh\n(.*?)^```$", DEPLOY, re.M | re.S)).splitlines()
    assert [line for line in commands if line not in tested] == []


def test_the_picture_shows_what_is_drawn_today():
    assert contact_sheet.PICTURE.stat().st_size < 150_000
    drawn, shown = (
        np.asarray(image.convert("RGB"), np.int16)
        for image in (contact_sheet.sheet(), Image.open(contact_sheet.PICTURE))
    )
    assert drawn.shape == shown.shape
    assert np.abs(drawn - shown).mean() < 1, "run `python -m tools.contact_sheet`"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    return copy_checkout(tmp_path_factory.mktemp("checkout"))


@pytest.mark.xdist_group("readme")
def test_every_command_runs(checkout):
    port = free_port()
    clean = {key: value for key, value in os.environ.items() if not key.startswith("DICOMLAKE_")}
    env = clean | {"DICOMLAKE__API__PORT": str(port), "PYTHONPATH": str(checkout)}
    env["DICOMLAKE__DELIVERY__BACKOFF_MIN_S"] = "0.1"
    demo = subprocess.Popen(
        ["bash", "-c", dict(BLOCKS)["demo"]],
        cwd=checkout,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    printed: list[str] = []

    def read() -> None:
        for line in demo.stdout:
            printed.append(line)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()

    def run(script: str) -> str:
        # A machine that runs a test suite on every core is slower than one with a user before it.
        script = script.replace("localhost:8080", f"localhost:{port}").replace("sleep 2\n", "sleep 5\n")
        # Five deliveries then take less than a second.
        script = script.replace("sleep 20\n", "sleep 5\n")
        ran = subprocess.run(
            ["bash", "-euo", "pipefail", "-x", "-c", script],
            check=False,
            cwd=checkout,
            env=env,
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stderr[-3000:]
        return ran.stdout

    try:
        assert until(lambda: any(line.startswith("landing  ") for line in printed))
        questions = [(command, output) for name, command, output in SHOWN if not name]
        assert len(questions) == 3
        for command, output in questions:
            assert run(command) == output
        output = run("".join(block for page in PAGES for name, block in re.findall(SHELL, page, re.M | re.S)))
    finally:
        os.killpg(demo.pid, signal.SIGINT)
        demo.wait(timeout=30)
        reader.join(timeout=30)
    assert output.count("204\n") == 5
    assert "MR        2004-08-26  file://" in output
    assert '[{"n":0}]' in output
    assert '"code":"not_dicom"' in output
    assert (checkout / "ct.png").read_bytes().startswith(b"\x89PNG")
    said = "".join(printed)
    assert said.count('"outcome":"stored"') == 17
    assert said.count('"outcome":"dead_lettered"') == 2
    (shown,) = [output for name, _, output in SHOWN if name == "demo"]
    lines = [line for line in same_everywhere(shown).splitlines() if line != "..."]
    assert len(lines) > 8
    assert [line for line in lines if line not in same_everywhere(said).splitlines()] == []


def same_everywhere(output: str) -> str:
    """Return what the demo prints without the folder of the checkout, the times of files and the port."""
    output = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1", output)
    return re.sub(r"file://[^ ]*?/lake/", "file:///lake/", re.sub(r"\.\d{19}\.", ".1.", output))


def test_the_pages_of_routes_and_commands_are_those_of_the_code():
    assert (ROOT / reference.API).read_text() == reference.api_page(), "run `make schemas`"
    assert (ROOT / reference.COMMANDS).read_text() == reference.commands_page(), "run `make schemas`"


def test_the_table_of_settings_is_that_of_the_code():
    assert generate.markdown_table() in SETTINGS
    assert generate.settings_page(SETTINGS) == SETTINGS, "run `make schemas`"


def test_the_tables_of_profiles_are_generated():
    page = (ROOT / "docs/deidentification.md").read_text()
    assert profile_tables.summary_table() in page
    assert generate.deidentification_page(page) == page, "run `make schemas`"
    attributes = (ROOT / profile_tables.ATTRIBUTES).read_text()
    assert profile_tables.attributes_page() == attributes, "run `make schemas`"
    assert attributes.count("\n| (") == 621 - 4 + 1
