"""The SQLite warehouse across processes: started at once, killed, and on a disk that is full."""

import resource
import signal
import subprocess
import sys
from contextlib import closing

import pytest

from app.warehouse.sqlite.warehouse import SqliteWarehouse
from tests.parts import ROOT
from tests.warehouse.contract import count


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lake" / "lake.db"


def run(code, *arguments):
    """Start Python on some lines of code, with `sys.argv[1:]`, in the root of the repository."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


CREATE = """
import sys
from app.warehouse.sqlite.warehouse import SqliteWarehouse
from tests.warehouse.contract import instance_row
warehouse = SqliteWarehouse("sqlite:" + sys.argv[1])
warehouse.create()
for i in range(5):
    warehouse.append("instances", [instance_row(f"{sys.argv[2]}.{i}")])
"""


def test_processes_that_start_at_once_share_a_new_file(path):
    processes = [run(CREATE, path, i) for i in range(4)]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    with closing(SqliteWarehouse(f"sqlite:{path}")) as warehouse:
        assert count(warehouse, "instances") == 20


DIE = """
import os, signal, sys
from app.warehouse.sqlite.warehouse import SqliteWarehouse
from tests.warehouse.contract import instance_row
warehouse = SqliteWarehouse("sqlite:" + sys.argv[1])
warehouse.create()
warehouse.append("instances", [instance_row("r1")])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_append_returned_from_survives_a_kill(path):
    process = run(DIE, path)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    with closing(SqliteWarehouse(f"sqlite:{path}")) as warehouse:
        assert count(warehouse, "instances") == 1


FULL = """
import resource, sys
from app.model.errors import WarehouseUnavailable
from app.warehouse.sqlite.warehouse import SqliteWarehouse
from tests.warehouse.contract import count, instance_row
warehouse = SqliteWarehouse("sqlite:" + sys.argv[1])
warehouse.create()
warehouse.append("instances", [instance_row("r1")])
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
rows = [instance_row(f"big{i}", metadata='"' + "x" * 100_000 + '"') for i in range(10)]
try:
    warehouse.append("instances", rows)
except WarehouseUnavailable as exc:
    print(exc)
print(count(warehouse, "instances"))
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
warehouse.append("instances", rows)
print(count(warehouse, "instances"))
"""


def test_a_full_disk_takes_no_row_and_the_next_try_heals(path):
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    output, errors = run(FULL, path).communicate(timeout=60)
    assert output.splitlines() == ["SQLite (SQLITE_IOERR_WRITE)", "1", "11"], errors
