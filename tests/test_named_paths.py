"""Files and modules that code and build name in text exist: a move would break them silently."""

import ast
import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name

import pytest

import dicomlake_build
from app import announce, bus, storage, warehouse
from app.model.errors import places
from app.workers import pool, sandbox
from tests.parts import ROOT
from tests.workers import tasks as tasks

APP = ROOT / "app"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SEAMS = {
    "storage": storage.BACKENDS,
    "warehouse": warehouse.BACKENDS,
    "bus": bus.BACKENDS,
    "announce": announce.BACKENDS,
}
LANDLOCK = "landlock" in sandbox.offered()


def tracked(*paths: str) -> list[str]:
    """Return what git has, or will have, below some paths."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *paths]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return [name for name in names.splitlines() if (ROOT / name).exists()]


def sources() -> list[str]:
    return [name for name in tracked("app") if name.endswith(".py")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    folder, here = tmp_path_factory.mktemp("wheel"), Path.cwd()
    os.chdir(ROOT)  # flit builds what lies in the working directory
    try:
        name = dicomlake_build.build_wheel(str(folder))
    finally:
        os.chdir(here)
    return zipfile.ZipFile(folder / name)


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """Return a folder that holds what a machine gets by installing the wheel."""
    folder = tmp_path_factory.mktemp("installed")
    wheel.extractall(folder)
    return folder


def test_an_error_is_placed_in_every_file_of_ours():
    for path in sources():
        with pytest.raises(ValueError, match="here") as fault:
            exec(compile("raise ValueError('here')", ROOT / path, "exec"))
        assert places(fault.value) == [f"{path}:1"]


@pytest.mark.skipif(not LANDLOCK, reason="needs a kernel with Landlock")
def test_a_worker_may_read_every_file_of_ours_and_no_other_of_the_checkout():
    paths = [str(ROOT / path) for path in sources()]
    with closing(pool.Workers(1, 1 << 30, 20.0, preload=("tests.workers.tasks",))) as confined:
        refused = [path for path in paths if confined.run(tasks.tried, "read", path) != "done"]
        assert refused == []
        assert confined.run(tasks.tried, "read", str(ROOT / "README.md")) == "EACCES"
        assert confined.run(tasks.tried, "list", str(ROOT)) == "EACCES"


def test_every_module_that_workers_load_before_they_fork_is_there():
    assert pool.PRELOAD
    assert [name for name in pool.PRELOAD if find_spec(name) is None] == []


def test_what_describes_an_object_is_loaded_before_a_worker_forks():
    """Otherwise every worker imports it again, into memory of its own."""
    script = f"""if True:
        import importlib, json, sys
        for name in {pool.PRELOAD}:
            importlib.import_module(name)
        before = set(sys.modules)
        from pydicom.data import get_testdata_file
        from app.dicom import describe
        from app.model.values import Content, ObjectRef; from app.model.options import DescribeOptions
        data = open(get_testdata_file("CT_small.dcm"), "rb").read()
        describe(Content(ObjectRef("b", "n", 1), "gs://b/n", len(data), data=data), DescribeOptions())
        print(json.dumps([name for name in set(sys.modules) - before if name.startswith("app.")]))
    """
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=True)
    assert set(json.loads(ran.stdout)) == set()


@pytest.mark.parametrize(
    ("seam", "scheme"), [(seam, scheme) for seam, backends in SEAMS.items() for scheme in backends]
)
def test_every_backend_is_there(seam, scheme):
    module, name, extra = SEAMS[seam][scheme]
    assert isinstance(getattr(importlib.import_module(module), name), type)
    assert extra is None or extra in PROJECT["optional-dependencies"]


def test_every_command_is_there():
    assert PROJECT["scripts"]
    for target in PROJECT["scripts"].values():
        module, _, name = target.partition(":")
        assert callable(getattr(importlib.import_module(module), name))
    modules = re.findall(r"-m ((?:app|tests|benchmarks|tools)[\w.]*)", (ROOT / "Makefile").read_text())
    assert len(modules) > 3
    assert [name for name in modules if find_spec(name) is None] == []


def test_the_wheel_holds_the_package_whole_and_nothing_else(wheel):
    names = [name for name in wheel.namelist() if ".dist-info/" not in name]
    assert sorted(names) == sorted(tracked("app", "dicomlake.py"))


def test_what_is_installed_finds_its_files(installed, tmp_path):
    """Settings and events come from files of the package; here none of the checkout is in reach."""
    script = """if True:
        import base64, json, sys
        import app
        from app import config
        from app.events import message_from_request, object_event
        config.load({})
        names = {"eventType": "OBJECT_FINALIZE", "bucketId": "b", "objectId": "n", "objectGeneration": "1"}
        resource = {"bucket": "b", "name": "n", "generation": "1"}
        attributes = {**names, "payloadFormat": "JSON_API_V1"}
        data = base64.b64encode(json.dumps(resource).encode()).decode()
        push = {"message": {"data": data, "messageId": "1", "attributes": attributes}, "subscription": "s"}
        event = {"specversion": "1.0", "id": "1", "source": "//storage.googleapis.com/projects/_/buckets/b",
                 "type": "google.cloud.storage.object.v1.finalized", "subject": "objects/n", "data": resource}
        kind = {"content-type": "application/cloudevents+json"}
        for body, headers in ((push, {"content-type": "application/json"}), (event, kind)):
            print(object_event(message_from_request(headers, json.dumps(body).encode())).ref.name)
        print(app.__file__)
    """
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    ran = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.stderr, ran.stdout.split()) == ("", ["n", "n", str(installed / "app/__init__.py")])


def test_the_code_names_every_file_of_data():
    text = "".join((ROOT / path).read_text() for path in tracked("app"))
    data = [Path(name) for name in tracked("app") if not name.endswith(".py")]
    assert len(data) >= 5
    assert [path for path in data if path.name not in text] == []


def test_the_defaults_at_the_top_are_those_of_the_package():
    link = ROOT / "config.defaults.json"
    assert link.is_symlink()
    assert link.resolve().is_relative_to(APP)


def test_the_image_keeps_every_codec_that_is_called():
    """`docker/slim.py` reads their names from one file, which the Dockerfile copies beside it."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    (named,) = re.findall(r"^COPY docker/slim\.py (\S+) \./$", dockerfile, re.M)
    assert f"slim.py {Path(named).name}" in dockerfile
    callers = [path for path in sources() if re.search(r"imagecodecs\.\w+_", (ROOT / path).read_text())]
    assert callers == [named]


def test_every_folder_that_the_image_copies_from_is_there():
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.M)
    assert [path for line in copied for path in line.split() if not (ROOT / path).exists()] == []


def test_every_name_of_ours_in_a_string_is_there():
    """Such as what a test replaces, or the module that a class is said to be of."""
    named = set()
    for path in [name for name in tracked("app", "tests", "benchmarks") if name.endswith(".py")]:
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                named |= set(re.findall(r"^app(?:\.\w+)+$", node.value))
    assert len(named) > 20
    assert [name for name in sorted(named - {"app.no_such_room"}) if not is_there(name)] == []


def is_there(name: str) -> bool:
    try:
        resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


NAMED = re.compile(
    r"(?<![\w/.-])(?:\.\./)?((?:app|tests|tools|benchmarks|docker|docs)/[\w/.-]+\.(?:py|json|md))\b"
)


def test_every_file_that_a_comment_or_a_page_names_is_there():
    missing = set()
    for name in tracked():
        if not name.endswith((".lock", ".json")) and name != "CHANGELOG.md":
            text = (ROOT / name).read_bytes().decode(errors="replace")
            missing |= {(name, path) for path in NAMED.findall(text) if not (ROOT / path).exists()}
    assert missing == set()
