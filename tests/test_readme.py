"""The README is true: every command in it runs, its tables are those of the code."""

import os
import re
import signal
import subprocess

import httpx
import pytest

from tests.checkout import copy_checkout
from tests.parts import ROOT
from tests.system.e2e.service import free_port, until
from tools import generate

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```sh ?(\w*)\n(.*?)^```$", README, re.M | re.S)


def test_only_the_two_first_commands_are_run_apart():
    assert [name for name, _ in BLOCKS if name] == ["demo", "test"]
    assert dict(BLOCKS)["test"] == "make test\n"  # what runs this very test


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

    def serving():
        try:
            return httpx.get(f"http://127.0.0.1:{port}/ready", timeout=1).status_code == 200
        except httpx.HTTPError:
            return False

    try:
        assert until(serving)
        script = "".join(block for name, block in BLOCKS if not name)
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
    finally:
        os.killpg(demo.pid, signal.SIGINT)
        said, _ = demo.communicate(timeout=30)
    assert ran.stdout.count("204\n") == 5
    assert "MR        2004-08-26  file://" in ran.stdout
    assert '[{"n":0}]' in ran.stdout
    assert '"code":"not_dicom"' in ran.stdout
    assert (checkout / "ct.png").read_bytes().startswith(b"\x89PNG")
    assert said.count('"outcome":"stored"') == 17
    assert said.count('"outcome":"dead_lettered"') == 2


def test_the_table_of_settings_is_that_of_the_code():
    assert generate.markdown_table() in README
    assert generate.readme(README) == README, "run `make schemas`"
