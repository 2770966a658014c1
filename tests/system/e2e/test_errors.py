"""What goes wrong is told in one sentence, with the right exit code, and nothing is lost."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import pytest
from pydicom.data import get_testdata_file

from tests.parts import ROOT, need
from tests.pushes import wrapped
from tests.system.e2e.service import Service, until

CT = Path(get_testdata_file("CT_small.dcm")).read_bytes()


def refused(service, *command):
    result = service.run(*command)
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert "Traceback" not in result.stderr
    return lines[-1]


def test_an_unknown_setting(tmp_path):
    line = refused(Service(tmp_path / "lake", api__prot=1), "serve")
    assert line == "Error: api.prot (from DICOMLAKE__API__PROT): is no setting"


def test_a_wrong_type(tmp_path):
    line = refused(Service(tmp_path / "lake", workers__count="many"), "serve")
    assert line == "Error: workers.count (from DICOMLAKE__WORKERS__COUNT): input should be a valid integer"


def test_config_check_names_every_fault(tmp_path):
    service = Service(tmp_path / "lake", workers__count="many", log__level="loud")
    line = refused(service, "config", "check")
    assert "workers.count" in line
    assert "log.level" in line


def test_a_landing_place_that_is_a_file(tmp_path):
    service = Service(tmp_path / "lake")
    service.landing.write_text("not a folder")
    assert refused(service, "serve") == (
        f"Error: source.url: {service.landing} is a file; a storage needs a folder"
    )


AS_NOBODY = """
import os, sys
import app.api.server, app.cli.commands
import app.storage.local.storage, app.warehouse.sqlite.warehouse, app.bus.local.bus
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
app.cli.commands.main()
"""


def test_a_folder_that_cannot_be_read():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        service = Service(Path(folder) / "lake")
        service.landing.mkdir(mode=0)
        if os.geteuid() == 0:
            os.chown(service.lake, 65534, 65534)  # so that the folder below is the only fault
        result = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, "serve"],
            cwd=ROOT,
            env=service.env,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert result.returncode == 2, result.stderr
        what = "cannot be read; give this user the right to read the folder"
        sentence = f"Error: source.url: {service.landing} {what}"
        assert result.stderr.strip() == sentence


def test_a_port_in_use(tmp_path):
    service = Service(tmp_path / "lake")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", service.port))
        taken.listen()
        line = refused(service, "serve")
    assert line == (
        f"Error: port {service.port} on 127.0.0.1 is in use; stop what uses it or choose another"
        " with --port N (make demo PORT=N)"
    )


def test_two_services_on_one_database(tmp_path):
    with Service(tmp_path / "lake") as first:
        second = Service(tmp_path / "lake")
        line = refused(second, "serve")
        queue = tmp_path / "lake/lake.db"
        assert f"the queue of {queue} is already served by process {first.process.pid};" in line
        first.drop("after.dcm", CT)
        assert until(lambda: "after.dcm" in first.current())


def test_wrong_use_of_a_command(tmp_path):
    service = Service(tmp_path / "lake")
    assert service.run("nonsense").returncode == 2
    assert service.run("dlq", "requeue").returncode == 2
    assert service.run("ingest", str(tmp_path / "nowhere")).returncode == 2
    assert service.run("--set", "nonsense", "config", "check").returncode == 2


def test_files_that_are_not_dicom_fail_dump_and_render_with_a_sentence(tmp_path):
    service = Service(tmp_path / "lake")
    text = tmp_path / "x.dcm"
    text.write_text("a secret word")
    for command in (("dump", str(text)), ("render", str(text), "-o", str(tmp_path / "x.png"))):
        result = service.run(*command)
        assert result.returncode == 1
        assert result.stderr.startswith("Error: not_dicom: ")
        assert "secret" not in result.stderr
    assert not (tmp_path / "x.png").exists()


def fill(file):
    while True:
        file.write(bytes(4096))


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "lake"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    need("the right to mount a tmpfs", mounted, "run as root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_on_a_full_disk_nothing_is_lost_and_the_queue_and_dead_letters_stay_at_hand(small_disk, tmp_path):
    landing = tmp_path / "landing"
    service = Service(
        small_disk,
        source__url=f"file:{landing}",
        delivery__permanent_attempts=1,
        delivery__min_free_bytes=16 << 20,
    )
    service.landing, service.log = landing, tmp_path / "service.log"

    def letters():
        return [json.loads(line)["code"] for line in service.run("dlq", "list").stdout.splitlines()]

    with service:
        service.drop("bad.dcm", b"no DICOM")
        service.drop("before.dcm", CT)
        assert until(lambda: "before.dcm" in service.current())
        assert until(lambda: service.rows("SELECT * FROM dead_letters"))
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            fill(file)
        during = [service.drop(f"during{number}.dcm", CT) for number in range(5)]
        assert until(lambda: service.rows("SELECT count(*) AS n FROM queue") == [{"n": 5}])
        assert not until(lambda: len(service.current()) > 1, 2)
        assert service.healthy()
        assert httpx.get(f"{service.url}/ready").json()["bus"] == "out_of_space"
        answer = httpx.post(service.url, json=wrapped(during[0]))
        assert (answer.status_code, answer.json()["code"]) == (507, "out_of_space")
        assert letters() == ["not_dicom"]
        assert service.run("dlq", "purge").stdout == '{"purged":1}\n'
        assert letters() == []
        filler.unlink()
        assert until(lambda: len(service.current()) == 6), service.log.read_text()[-3000:]
        # Free space is looked at once a second: a delivery may be on its way when it ends, or comes back.
        assert all(row["delivery_attempt"] <= 4 for row in service.rows("SELECT * FROM instances"))
        assert letters() == []
