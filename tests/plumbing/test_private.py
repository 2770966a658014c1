"""What a lake on a laptop writes is for its owner alone."""

import os
import shutil
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from app.jobs import ingest
from app.plumbing import sqlite
from app.services import open_services
from tests.bus.conftest import unreachable
from tests.conftest import lake_settings
from tests.parts import ROOT, need

CT = get_testdata_file("CT_small.dcm")


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request):
    before = os.umask(request.param)
    yield
    os.umask(before)


def modes(folder):
    found = [folder, *folder.rglob("*")]
    return {str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode) for path in found}


@pytest.mark.usefixtures("umask")
def test_only_its_owner_may_read_a_lake(tmp_path):
    lake = tmp_path / "deep" / "lake"
    services = open_services(lake_settings(lake))
    ingest.ingest([Path(CT)], services, lambda line: None)
    services.bus.start(unreachable)
    found = modes(tmp_path / "deep")
    services.close()
    assert {name for name in found if name.startswith("lake/lake.db")} == {
        "lake/lake.db", "lake/lake.db-wal", "lake/lake.db-shm", "lake/lake.db.lock"
    }  # fmt: skip
    assert sum(name.endswith((".png", ".json")) for name in found) == 2
    files = {name for name in found if (tmp_path / "deep" / name).is_file() or ".db" in name}
    assert {found[name] for name in files} == {0o600}
    assert {mode for name, mode in found.items() if name not in files} == {0o700}


@pytest.mark.usefixtures("umask")
def test_what_was_there_before_stays_as_somebody_made_it(tmp_path):
    lake = tmp_path / "lake"
    (lake / "output").mkdir(parents=True)
    sqlite.connect(lake / "lake.db").close()
    for path in (lake, lake / "output", lake / "lake.db"):
        path.chmod(0o750)
    with closing(open_services(lake_settings(lake))):
        assert {modes(lake)[name] for name in (".", "output", "lake.db")} == {0o750}


READ_ONLY = """
import os, sys
from pathlib import Path
from fastapi.testclient import TestClient
from app.api import create_app
from app.services import open_services
from tests.conftest import lake_settings

lake = Path(sys.argv[1])
client = TestClient(create_app(open_services(lake_settings(lake))))
assert client.get("/ready").status_code == 200, client.get("/ready").json()
(lake / sys.argv[2]).chmod(int(sys.argv[3], 8))
answer = client.get("/ready")
states = answer.json().items()
print(answer.status_code, sorted(part for part, state in states if state not in ("ok", "unavailable")))
os._exit(0)
"""


def without_root(*words):
    """Run Python without the right to pass over the modes of files, which root has."""
    need("setpriv", shutil.which("setpriv") is not None or os.geteuid() != 0, "install util-linux")
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    return subprocess.run(
        [*drop, sys.executable, "-W", "ignore", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("name", "mode", "answer"),
    [
        ("output", "0500", "503 ['artifacts']"),
        ("lake.db", "0400", "503 ['bus', 'warehouse']"),
        ("landing", "0500", "200 []"),
    ],
)
def test_an_output_that_has_become_read_only_is_not_ready(tmp_path, name, mode, answer):
    ran = without_root("-c", READ_ONLY, str(tmp_path / "lake"), name, mode)
    assert (ran.stderr, ran.stdout) == ("", f"{answer}\n")


@pytest.mark.parametrize(
    ("path", "mode", "words", "status", "sentence"),
    [
        (
            "lake",
            0o000,
            ["query", "SELECT 1"],
            2,
            "lake/lake.db cannot be read; give this user the right to read it",
        ),
        ("lake/lake.db", 0o000, ["query", "SELECT 1"], 2, "lake/lake.db cannot be read; give this user"),
        (
            "lake/lake.db",
            0o400,
            ["dlq", "purge"],
            2,
            "lake/lake.db cannot be written; give this user the right to write the file",
        ),
        ("lake/lake.db", 0o400, ["ingest", "x.dcm"], 2, "lake/lake.db cannot be written; give this user"),
        (
            "lake/output",
            0o500,
            ["ingest", "x.dcm"],
            2,
            "lake/output cannot be written; give this user the right",
        ),
        (".", 0o500, ["ingest", "x.dcm"], 2, "cannot be made (PermissionError)"),
        (".", 0o500, ["render", CT, "-o", "x.png"], 1, "cannot write x.png: Permission denied"),
    ],
)
def test_what_may_not_be_read_or_written_is_one_sentence(
    tmp_path, monkeypatch, path, mode, words, status, sentence
):
    monkeypatch.chdir(tmp_path)
    if path != ".":
        Path("bad.dcm").write_bytes(b"just a text")
        with closing(open_services(lake_settings(tmp_path / "lake"))) as services:
            ingest.ingest([Path("bad.dcm")], services, lambda line: None)
    shutil.copy(CT, "x.dcm")
    Path(path).chmod(mode)
    ran = without_root(
        "-c", f"import os; os.chdir({str(tmp_path)!r}); from app.cli.commands import main; main()", *words
    )
    Path(path).chmod(0o700)
    assert (ran.returncode, ran.stdout) == (status, "")
    assert ran.stderr.count("\n") == 1
    assert sentence in ran.stderr
