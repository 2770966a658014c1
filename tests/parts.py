"""Parts that a test needs and a machine may lack: skipped by name, or a failure where all are required."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("DICOMLAKE_SHARED", ROOT.parent / "shared"))


def need(part: str, here: bool, install: str) -> None:
    """Skip the test that needs `part`, saying what to install; fail when DICOMLAKE_TEST_REQUIRE=all."""
    if here:
        return
    text = f"{part} is not on this machine: {install}"
    if os.environ.get("DICOMLAKE_TEST_REQUIRE") == "all":
        pytest.fail(text)
    pytest.skip(text, allow_module_level=True)


def shared(*path: str) -> Path:
    """Return a folder of the development corpus, or skip the test."""
    folder = SHARED.joinpath(*path)
    need("the development corpus", folder.exists(), f"put it at {SHARED} or set DICOMLAKE_SHARED")
    return folder
