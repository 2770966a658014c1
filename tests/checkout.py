"""A copy of the checkout, for tests that run the commands of a page as its reader does."""

import subprocess
import sys
from pathlib import Path

from tests.parts import ROOT


def copy_checkout(folder: Path) -> Path:
    """Copy what git has or will have into a folder, with this environment as its .venv; return the folder."""
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    names = [name for name in tracked.decode().split("\0") if name and (ROOT / name).exists()]
    subprocess.run(["cp", "-P", "--parents", *names, str(folder)], cwd=ROOT, check=True)
    venv = folder / ".venv"
    venv.mkdir()
    (venv / "bin").symlink_to(Path(sys.prefix) / "bin")
    (venv / "lib").symlink_to(Path(sys.prefix) / "lib")
    (venv / "pyvenv.cfg").write_bytes((Path(sys.prefix) / "pyvenv.cfg").read_bytes())
    for stamp in (".run", ".gcp", ".test"):
        (venv / stamp).touch()
    return folder
