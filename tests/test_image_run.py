"""`make image-test`: the container image is built on a base of our own, serves, takes an event and stops."""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from pydicom.data import get_testdata_file

from tests.parts import ROOT, need
from tests.pushes import wrapped
from tests.system.e2e.service import free_port, until

BASE = "localhost/base:test"
IMAGE = "localhost/dicomlake:test"
WITH_PIXELS = "localhost/dicomlake:pixels"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
TRUST = ["-v", f"{CERTIFICATES}:{CERTIFICATES}:ro"] if CERTIFICATES.exists() else []
COMPRESSED = (
    "MR_small_RLE.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "JPGExtended.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
)

slow = pytest.mark.skipif(
    "DICOMLAKE_TEST_IMAGE" not in os.environ, reason="minutes: `make image-test` builds and runs the image"
)


class Buildah:
    """buildah over a storage of its own, without a daemon."""

    def __init__(self, folder: Path) -> None:
        self.command = ["buildah", "--root", f"{folder}/storage", "--runroot", f"{folder}/run"]
        self.command += ["--storage-driver", "vfs"]

    def __call__(self, *arguments: object) -> str:
        words = [*self.command, *map(str, arguments)]
        ran = subprocess.run(words, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr[-3000:]
        return ran.stdout.strip()

    def running(self, *arguments: object) -> list[str]:
        """Return the command that runs something in a container, on this machine's network."""
        return [*self.command, "run", "--isolation", "chroot", *map(str, arguments)]


@pytest.fixture(scope="module")
def buildah() -> Iterator[Buildah]:
    """The image, built on a base that debootstrap makes: no registry is asked for one."""
    for tool in ("buildah", "debootstrap"):
        need(tool, shutil.which(tool) is not None, f"apt-get install {tool}")
    need("root", os.geteuid() == 0, "debootstrap makes device files: run as root")
    # Not pytest's own folder: it would keep gigabytes of the last three runs.
    with tempfile.TemporaryDirectory(prefix="dicomlake-image-") as scratch:
        folder = Path(scratch)
        tool = Buildah(folder)
        make = ["debootstrap", "--variant=minbase", "--include=python3,python3-venv,ca-certificates"]
        subprocess.run([*make, "bookworm", f"{folder}/root"], check=True, capture_output=True)
        container = tool("from", "scratch")
        tool("copy", "-q", container, f"{folder}/root", "/")
        tool("commit", "-q", "--rm", container, BASE)
        shutil.rmtree(folder / "root")
        # HEALTHCHECK is only in Docker's format. A machine behind a proxy trusts a certificate of its own.
        build = [
            "bud",
            "-q",
            "--format",
            "docker",
            "--isolation",
            "chroot",
            "--network",
            "host",
            "--pull-never",
        ]
        for image, lock in ((IMAGE, "requirements.gcp.lock"), (WITH_PIXELS, "requirements.pixels.lock")):
            began = time.monotonic()
            given = ("--build-arg", f"BASE={BASE}", "--build-arg", f"LOCK={lock}")
            tool(*build, *TRUST, *given, "-t", image, ROOT)
            print(f"{image}: built in {time.monotonic() - began:.0f} s")
        yield tool


@pytest.fixture(scope="module")
def config(buildah: Buildah) -> dict[str, object]:
    return json.loads(buildah("inspect", "--type", "image", IMAGE))["Docker"]["config"]


@pytest.fixture(scope="module")
def container(buildah: Buildah) -> str:
    """A container of the image, for all tests: none of them can write into it."""
    return buildah("from", "--pull-never", IMAGE)


@pytest.fixture
def data(config, tmp_path) -> Path:
    """A folder for /data that the image's user may write, as a volume is."""
    folder = tmp_path / "data"
    folder.mkdir()
    os.chown(folder, *map(int, config["User"].split(":")))
    for parent in list(folder.parents)[:3]:
        parent.chmod(0o755)
    return folder


def output(buildah: Buildah, *arguments: object) -> str:
    """Run a command in a container to its end and return what it prints."""
    ran = subprocess.run(buildah.running(*arguments), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout


PROBE = """
import importlib.util, json, os, shutil, sys
from os.path import exists
import app.dicom, app.api.server, app.services, app.bus.local.bus
import app.storage.local.storage, app.warehouse.sqlite.warehouse
from google.cloud import bigquery, bigquery_storage_v1, pubsub_v1, storage
specs = [module.__spec__ for module in list(sys.modules.values()) if getattr(module, "__spec__", None)]
tools = ["cc", "gcc", "make", "curl", "pip", "pip3"]
print(json.dumps({
    "uid": os.getuid(),
    "writable": [path for path in sys.path if path and os.access(path, os.W_OK)],
    "tools": [tool for tool in tools if shutil.which(tool)],
    "installers": [name for name in ("pip", "ensurepip", "flit_core") if importlib.util.find_spec(name)],
    "compiled_at_start": [s.name for s in specs if s.has_location and s.cached and not exists(s.cached)],
}))
"""


@slow
def test_inside_is_nobody_without_tools_and_nothing_left_to_compile(buildah, container):
    assert json.loads(output(buildah, container, "--", "python", "-c", PROBE)) == {
        "uid": 65532,
        "writable": [],
        "tools": [],
        "installers": [],
        "compiled_at_start": [],
    }


@slow
def test_it_is_as_large_as_the_docs_say(buildah, container):
    root = Path(buildah("mount", container))
    used = subprocess.run(["du", "-sm", root / "opt/dicomlake"], capture_output=True, text=True, check=True)
    size_mb = int(used.stdout.split()[0])
    said = int(re.search(r"(\d+) MB on top of the base", (ROOT / "docs/deploy.md").read_text()).group(1))
    print(f"/opt/dicomlake: {size_mb} MB")
    assert abs(size_mb - said) <= 10


@slow
def test_every_decoder_is_still_there(buildah, container, data):
    for name in COMPRESSED:
        shutil.copy(get_testdata_file(name), data)
    output(buildah, "-v", f"{data}:/data", container, "--", "dicomlake", "ingest", *COMPRESSED)
    sql = "SELECT count(*) AS n FROM instances_current WHERE preview_uri IS NOT NULL"
    asked = output(buildah, "-v", f"{data}:/data", container, "--", "dicomlake", "query", sql, "--json")
    assert json.loads(asked) == [{"n": 5}]
    # No sample of JPEG XL is at hand: opening its decoder maps its libraries.
    output(buildah, container, "--", "python", "-c", "import imagecodecs; imagecodecs.jpegxl_version()")


@slow
def test_text_in_pictures_is_looked_for_where_the_image_has_what_that_needs(buildah, data):
    """A secondary capture is held back unless its pixels were searched."""
    (data / "in").mkdir(mode=0o755)
    shutil.copy(get_testdata_file("SC_rgb_small_odd.dcm"), data / "in")
    (data / "key").write_text("k" * 48)
    for image, options, expected in ((IMAGE, [], "refused"), (WITH_PIXELS, ["--pixels"], "clean")):
        made = buildah("from", "--pull-never", image)
        command = ["dicomlake", "deidentify", "--key-file", "key", *options, "in", expected]
        run = buildah.running("-v", f"{data}:/data", made, "--", *command)
        ran = subprocess.run(run, capture_output=True, text=True, check=False)
        assert json.loads(ran.stdout.splitlines()[0])["status"] == expected, ran.stdout + ran.stderr


def server_process(pid: int) -> int | None:
    """Return the service below `pid`: the innermost of that name, since buildah's helpers carry it too."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")  # one a thread, and buildah has many
    children = [int(word) for each in lists for word in each.read_text().split()]
    inner = next((found for child in children if (found := server_process(child))), None)
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    named = any(word.endswith(b"/dicomlake") for word in words[:2])
    return inner or (pid if named else None)


@contextmanager
def serving(
    buildah: Buildah, arguments: list[str], log: Path, ready: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the service in a container until it answers at `ready`, and end it whatever happens."""

    def answers() -> bool:
        try:
            return httpx.get(ready, timeout=1).status_code == 200
        except httpx.HTTPError:
            return False

    with log.open("wb") as lines:
        process = subprocess.Popen(buildah.running(*arguments), stdout=lines, stderr=lines)
        try:
            assert until(answers), log.read_text()
            yield process
        finally:
            process.kill()
            process.wait()


@slow
def test_it_serves_takes_an_event_and_stops_on_sigterm(buildah, container, config, data):
    port = free_port()
    place = ["-v", f"{data}:/data", "-e", f"PORT={port}"]
    health = buildah.running(*place, container, "--", *config["Healthcheck"]["Test"][1:])
    # The image listens everywhere; a test must not.
    assert "DICOMLAKE__API__HOST=0.0.0.0" in config["Env"]
    local = ["-e", "DICOMLAKE__API__HOST=127.0.0.1"]
    service = [*place, *local, container, "--", *config["Entrypoint"], *config["Cmd"]]
    assert subprocess.run(health, capture_output=True, check=False).returncode != 0
    log, url = data.parent / "log", f"http://127.0.0.1:{port}"
    with serving(buildah, service, log, f"{url}/ready") as process:
        assert subprocess.run(health, check=False).returncode == 0
        landed = data / "lake/landing/ct.dcm"
        shutil.copy(get_testdata_file("CT_small.dcm"), landed)
        answer = httpx.post(url, json=wrapped(landed), timeout=30)
        assert (answer.status_code, answer.text) == (204, "")
        sql = "SELECT modality, preview_error FROM instances_current"
        asked = output(buildah, *place, container, "--", "dicomlake", "query", sql, "--json")
        assert json.loads(asked) == [{"modality": "CT", "preview_error": None}]
        pid = server_process(process.pid)
        assert pid is not None
        os.kill(pid, signal.SIGTERM)
        assert process.wait(timeout=10) == 0
    assert "Traceback" not in log.read_text()
    search = ["find", buildah("mount", container), "-newer", str(landed), "-type", "f"]
    assert subprocess.run(search, capture_output=True, check=True).stdout == b""  # the root may be read-only
