"""Check the tag of a release, and print what its section of CHANGELOG.md says.

    python -m tools.release v1.2.3

The workflow release.yml runs this with a bare Python, so nothing but the standard library is imported here.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from app import __version__

CHANGELOG = Path(__file__).parents[1] / "CHANGELOG.md"


def notes(changelog: str, version: str) -> str:
    """Return the text below the heading `## VERSION (YYYY-MM-DD)`; empty if there is none."""
    heading = rf"^## {re.escape(version)} \(\d{{4}}-\d\d-\d\d\)$"
    section = re.search(rf"{heading}\n(.*?)(?=^## |\Z)", changelog, re.M | re.S)
    text = section[1].strip() if section else ""
    return f"{text}\n" if text else ""


def fault(tag: str, changelog: str) -> str:
    """Return why a tag cannot be released, in one sentence; empty if it can."""
    if tag != f"v{__version__}":
        return f"tag {tag} is not v{__version__}, the version in app/__init__.py; mend one of the two"
    if not notes(changelog, __version__):
        heading = f"## {__version__} (YYYY-MM-DD)"
        return f"CHANGELOG.md has no section '{heading}'; rename the unreleased one"
    return ""


def main(tag: str) -> int:
    """Print the notes of a release, or on stderr why there cannot be one; return the exit code."""
    changelog = CHANGELOG.read_text()
    if found := fault(tag, changelog):
        print(found, file=sys.stderr)  # noqa: T201 - a tool of the checkout, without the command line
        return 1
    sys.stdout.write(notes(changelog, __version__))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
