"""What the files around the container image promise; test_image_run builds it, serves and stops it."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

from app import announce, bus, storage, warehouse
from app.api.auth import open_gate
from app.config import load
from app.config.sources import defaults
from app.model.errors import ConfigError
from tests.parts import ROOT, need

DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = {name: (ROOT / f"docker-compose.{name}.yml").read_text() for name in ("gcs", "onprem")}
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile as (instruction, arguments), continuation lines joined, comments left out."""
    lines = re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.M).replace("\\\n", " ").splitlines()
    pairs = [line.split(maxsplit=1) for line in lines if line.strip()]
    return [(name, " ".join(rest.split())) for name, rest in pairs]


def stage(number: int) -> list[tuple[str, str]]:
    """Return the instructions of one stage, from its FROM on."""
    starts = [index for index, (name, _) in enumerate(instructions()) if name == "FROM"]
    return instructions()[starts[number] :][: len(instructions()) if number == -1 else starts[number + 1]]


def requirements(name: str) -> dict[str, set[str]]:
    """Return package -> versions of a lock file; every entry must carry a hash."""
    found: dict[str, set[str]] = {}
    for entry in re.split(r"\n(?=\S)", (ROOT / name).read_text().strip()):
        package, version = re.match(r"([a-z0-9-]+)==(\S+)", entry).groups()
        assert "--hash=sha256:" in entry, package
        found.setdefault(package, set()).add(version)
    return found


def test_hadolint_is_content():
    ours = Path(sys.prefix) / "tools/bin/hadolint"
    hadolint = str(ours) if ours.exists() else shutil.which("hadolint")
    need("hadolint", hadolint is not None, "make tools")
    ran = subprocess.run([hadolint, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "")


def test_the_image_runs_as_a_number_and_stops_on_a_signal():
    last = dict(stage(-1))
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last["USER"])  # so that a platform sees it is not root
    assert json.loads(last["ENTRYPOINT"]) == ["dicomlake"]  # exec form: no shell keeps the signal
    assert json.loads(last["CMD"]) == ["serve"]
    assert json.loads(last["HEALTHCHECK"].partition("CMD ")[2])[0] == "python"


def test_every_stage_has_the_base_that_the_argument_names():
    froms = [rest.split()[0] for name, rest in instructions() if name == "FROM"]
    assert froms == ["${BASE}", "dependencies", "${BASE}"]
    assert instructions()[0][1].startswith("BASE=docker.io/library/python:3.12-slim-bookworm")


def test_packages_come_by_hash_and_only_as_wheels():
    installs = [part for _, rest in instructions() for part in rest.split("&&") if " install " in part]
    locked = [part for part in installs if " -r " in part]
    assert len(locked) == 2
    assert all("--no-deps --require-hashes --only-binary :all:" in part for part in locked)
    assert all("--no-deps" in part for part in installs if "pip" in part and part not in locked)
    assert "apt-get" not in DOCKERFILE


def test_the_locks_hold_what_the_project_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    doors = {extra for extra in extras if extra not in ("test", "parquet", "pixels", "load")}
    asked = project["dependencies"] + [one for extra in doors for one in extras[extra]]
    names = {re.match(r"[a-z0-9-]+", one).group() for one in asked}
    assert names - requirements("requirements.gcp.lock").keys() == set()
    assert requirements("requirements.build.lock").keys() == {"flit-core"}


def test_every_extra_is_of_a_backend_that_there_is():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    doors = (announce.BACKENDS, bus.BACKENDS, storage.BACKENDS, warehouse.BACKENDS)
    named = {extra for backends in doors for _, _, extra in backends.values() if extra}
    of_users = {"oidc", "pixels"}  # checks of tokens that others sign, masks over text in pixels
    of_ways_in = {"dimse"}
    others = {"otel", "parquet", "load", "test"}
    assert project["optional-dependencies"].keys() == named | of_users | of_ways_in | others


@pytest.mark.parametrize("lock", ["requirements.gcp.lock", "requirements.pixels.lock"])
def test_what_runs_is_what_was_tested(lock):
    tested, run = requirements("requirements.test.lock"), requirements(lock)
    assert {name: run[name] for name in run if tested.get(name) != run[name]} == {}


def test_the_lock_with_pixels_is_the_other_one_and_more():
    both = requirements("requirements.gcp.lock"), requirements("requirements.pixels.lock")
    assert both[0].items() <= both[1].items()
    assert {"onnxruntime", "opencv-python-headless", "rapidocr"} <= both[1].keys() - both[0].keys()


def test_the_builder_gets_what_is_copied_and_nothing_else():
    copied = {
        source.removeprefix("./")
        for name, rest in instructions()
        if name == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    assert allowed == {path for path in copied if not path.startswith("app/")}
    assert [path for path in copied if not (ROOT / path).exists()] == []
    assert "*" in lines


@pytest.mark.parametrize("text", [DOCKERFILE, *COMPOSE.values()], ids=["Dockerfile", *COMPOSE])
def test_every_setting_named_exists(text):
    known = {f"{section}__{key}".upper() for section, keys in defaults().items() for key in keys}
    named = set(re.findall(r"DICOMLAKE__([A-Z_]+)", text))
    assert named
    assert named - known == set()


def composed(name: str, **given: str) -> dict[str, dict]:
    """Return the services of a compose file with the variables of .env.example and those `given` put in."""
    need("PyYAML", find_spec("yaml") is not None, "make .venv/.test")
    import yaml

    lines = (ROOT / ".env.example").read_text().splitlines()
    variables = dict(line.split("=", 1) for line in lines if re.match(r"[A-Z_]+=", line)) | given

    def put_in(found: re.Match) -> str:
        value = variables.get(found[1], "")
        assert value or found[2] == ":-", found[0]
        return value or found[3]

    def filled(value: object) -> object:
        if isinstance(value, dict):
            return {key: filled(one) for key, one in value.items()}
        if isinstance(value, list):
            return [filled(one) for one in value]
        return re.sub(r"\$\{(\w+)(:[-?])([^}]*)\}", put_in, value) if isinstance(value, str) else value

    return filled(yaml.safe_load(COMPOSE[name])["services"])


PASSWORDS = {"POSTGRES_PASSWORD": "a" * 32, "ORTHANC_PASSWORD": "b" * 32}


@pytest.mark.parametrize("given", [PASSWORDS, PASSWORDS | {"API_USERS": "token", "API_USERS_KEY": "k" * 40}])
@pytest.mark.parametrize("name", COMPOSE)
def test_the_services_of_the_compose_files_start_and_the_image_alone_lets_nobody_in(name, given):
    (host,) = re.findall(r"(DICOMLAKE__API__HOST)=(\S+)", DOCKERFILE)
    with pytest.raises(ConfigError, match=r"api\.auth none"):
        open_gate(load(dict([host])).settings.api)
    (service,) = [one for one in composed(name, **given).values() if "build" in one]
    environment = dict([host]) | service["environment"]
    assert open_gate(load(environment).settings.api) is None
    clean = {key: value for key, value in os.environ.items() if not key.startswith("DICOMLAKE_")}
    command = [sys.executable, "-m", "app", "config", "check"]
    ran = subprocess.run(
        command, cwd=ROOT, env=clean | environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


def test_a_site_without_passwords_does_not_start():
    with pytest.raises(AssertionError, match="POSTGRES_PASSWORD"):
        composed("onprem")
    variables = set(re.findall(r"\$\{(\w+)", COMPOSE["onprem"]))
    assert variables == set(re.findall(r"^([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.M))


@pytest.mark.parametrize("name", COMPOSE)
def test_compose_files_pin_images_and_publish_on_this_machine_only(name):
    services = composed(name, **PASSWORDS)
    assert {other for one in services.values() for other in one.get("depends_on", {})} <= services.keys()
    images = {key: one["image"] for key, one in services.items() if "build" not in one}
    assert all(re.search(r":[\w.-]*\d[\w.-]*$|:emulators$", image) for image in images.values()), images
    published = [port for one in services.values() for port in one.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    waited = [
        other
        for one in services.values()
        for other, how in (one["depends_on"].items() if isinstance(one.get("depends_on"), dict) else ())
        if how["condition"] == "service_healthy"
    ]
    assert [other for other in waited if "healthcheck" not in services[other]] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_and_may_only_read(path):
    text = path.read_text()
    uses = re.findall(r"uses: (\S+)", text)
    assert uses
    assert [one for one in uses if not re.fullmatch(r"\./[\w./-]+|[\w./-]+@(v\d+|[0-9a-f]{40})", one)] == []
    assert "permissions:\n  contents: read\n" in text


def test_every_yaml_file_can_be_read():
    need("PyYAML", find_spec("yaml") is not None, "make .venv/.test")
    import yaml

    named = ["docker-compose.yml", *(f"docker-compose.{name}.yml" for name in COMPOSE)]
    named += [".cloudbuild/cloudbuild.yaml", ".github/dependabot.yml"]
    read = {path: yaml.safe_load(path.read_text()) for path in [*(ROOT / name for name in named), *WORKFLOWS]}
    assert all(isinstance(value, dict) for value in read.values())
    assert [name for name in read[ROOT / "docker-compose.yml"]["include"] if not (ROOT / name).exists()] == []
