"""Instances come from a real Orthanc: each once, whatever is restarted, deleted or lost in between."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from fastapi.testclient import TestClient

from app.api import create_app
from app.cli.commands import cli
from app.model.errors import ConfigError, OutOfSpace
from app.model.options import OrthancOptions
from app.plumbing.admission import Space
from app.services import open_orthanc, open_services
from app.sources.landing import Landing
from app.sources.orthanc.client import OrthancClient, OrthancUnavailable
from app.sources.orthanc.poller import OrthancPoller
from app.sources.orthanc.state import State
from app.storage import open_storage
from tests import data
from tests.conftest import lake_settings
from tests.orthanc import USER, Orthanc, behind_tls, certificate
from tests.processes import wait_until
from tests.system.e2e.service import Service, free_port

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
UNKNOWN = "00000000-00000000-00000000-00000000-00000000"
pytestmark = pytest.mark.xdist_group("orthanc")


def instance(number: int, **elements: object) -> bytes:
    return data.ct(**{"SOPInstanceUID": f"{data.SERIES}.{number}", **elements})


class Lake:
    """A landing storage and a poller over it, with a clock of its own."""

    def __init__(self, folder: Path, url: str, password: str = USER[1], min_free_bytes: int = 0) -> None:
        self.landing, self.now = folder / "landing", NOON
        source = open_storage("source", f"file:{self.landing}")
        self.artifacts = open_storage("artifacts", f"file:{folder / 'output'}")
        landing = Landing(source, "", Space([folder], min_free_bytes))
        options = OrthancOptions(url, USER[0], password)
        self.poller = OrthancPoller(options, landing, self.artifacts, lambda: self.now)
        self.url = url

    def pull(self) -> dict[str, int]:
        return dict(self.poller.pull())

    def landed(self) -> dict[str, bytes]:
        folder = self.landing / "orthanc"
        return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}

    def since(self) -> int:
        return State(self.artifacts).position(self.url).since


@pytest.fixture
def orthanc(tmp_path):
    with Orthanc(tmp_path / "orthanc") as server:
        yield server


@pytest.fixture
def lake(tmp_path, orthanc):
    lake = Lake(tmp_path, orthanc.url)
    yield lake
    lake.poller.close()


def test_instances_land_under_their_id_byte_for_byte_and_once(orthanc, lake):
    files = {f"{orthanc.upload(instance(number))}.dcm": instance(number) for number in range(5)}
    assert lake.pull() == {"stored": 5}
    assert lake.landed() == files
    assert lake.since() == orthanc.last_change() > 5  # series, study and patient are changes too
    assert lake.pull() == {}


def test_what_landed_before_a_crash_is_not_written_again(orthanc, lake, tmp_path):
    orthanc.upload(instance(1))
    lake.pull()
    (path,) = (lake.landing / "orthanc").iterdir()
    before = path.stat()
    (tmp_path / "output/state/orthanc.json").unlink()
    assert lake.pull() == {"unchanged": 1}
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_an_instance_that_was_overwritten_in_orthanc_is_a_new_version(tmp_path):
    with Orthanc(tmp_path / "orthanc", OverwriteInstances=True) as orthanc:
        lake = Lake(tmp_path, orthanc.url)
        orthanc.upload(instance(1))
        assert lake.pull() == {"stored": 1}
        name = orthanc.upload(instance(1, StudyDescription="second"))
        assert lake.pull() == {"stored": 1}
        assert lake.landed() == {f"{name}.dcm": instance(1, StudyDescription="second")}


def test_a_delete_in_orthanc_removes_nothing_here(orthanc, lake):
    kept, deleted = orthanc.upload(instance(1)), orthanc.upload(instance(2))
    lake.pull()
    orthanc.client.delete(f"/instances/{deleted}").raise_for_status()
    assert lake.pull() == {}
    assert set(lake.landed()) == {f"{kept}.dcm", f"{deleted}.dcm"}


def test_a_lost_database_is_noticed_by_its_smaller_numbers(orthanc, lake):
    old = [orthanc.upload(instance(number)) for number in range(6)]
    lake.pull()
    orthanc.stop()
    orthanc.drop_database()
    orthanc.start()
    new = orthanc.upload(instance(100))
    assert orthanc.last_change() < lake.since()
    assert lake.pull() == {"stored": 1}
    assert set(lake.landed()) == {f"{name}.dcm" for name in (*old, new)}
    assert lake.since() == orthanc.last_change()


def test_what_no_change_tells_is_found_by_the_comparison_a_day_later(orthanc, lake):
    """A new database that has overtaken the position looks like the old one."""
    orthanc.upload(instance(1))
    lake.pull()
    orthanc.stop()
    orthanc.drop_database()
    orthanc.start()
    missed = [orthanc.upload(instance(number)) for number in (2, 3)]
    orthanc.client.delete("/changes").raise_for_status()
    seen = orthanc.upload(instance(4))
    assert lake.pull() == {"stored": 1}
    assert f"{seen}.dcm" in lake.landed()
    lake.now += timedelta(hours=23)
    assert lake.pull() == {}
    lake.now += timedelta(hours=1)
    assert lake.pull() == {"stored": 2}
    assert {f"{name}.dcm" for name in missed} <= set(lake.landed())
    lake.now += timedelta(days=1)
    assert lake.pull() == {}


def test_another_orthanc_is_walked_from_its_first_change(orthanc, lake, tmp_path):
    orthanc.upload(instance(1))
    lake.pull()
    with Orthanc(tmp_path / "other") as other:
        for number in (2, 3):
            other.upload(instance(number))
        assert Lake(tmp_path, other.url).pull() == {"stored": 2}


def test_a_damaged_instance_holds_up_no_other_and_is_tried_again_daily(orthanc, lake, tmp_path):
    good = instance(1)
    orthanc.upload(good)
    stored = [path for path in orthanc.database.rglob("*-*") if path.is_file()]
    names = [orthanc.upload(instance(number)) for number in (2, 3)]
    damaged, *_ = [path for path in orthanc.database.rglob("*-*") if path.is_file() and path not in stored
                   and b"DICM" in path.read_bytes()[:132]]  # fmt: skip
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    # Orthanc keeps what it has read lately in memory.
    orthanc.stop()
    orthanc.start()
    assert lake.pull() == {"stored": 2, "failed": 1}
    (failed,) = State(lake.artifacts).position(orthanc.url).failed
    assert failed in names
    damaged.write_bytes(whole)
    assert lake.pull() == {}
    lake.now += timedelta(days=1)
    orthanc.stop()
    orthanc.start()
    assert lake.pull() == {"stored": 1}
    assert len(lake.landed()) == 3
    assert State(lake.artifacts).position(orthanc.url).failed == ()


def test_an_instance_deleted_meanwhile_is_gone_and_no_failure(orthanc, lake):
    client = OrthancClient(OrthancOptions(orthanc.url, *USER))
    assert client.fetch(UNKNOWN) is None
    assert client.instances_of(UNKNOWN) is None
    client.close()


def test_nothing_is_asked_to_be_compressed(orthanc):
    """Orthanc compresses whatever a client allows, and is ten times slower then."""
    name = orthanc.upload(instance(1))
    client = OrthancClient(OrthancOptions(orthanc.url, *USER))
    told = client._ask(f"/instances/{name}/file", lambda response: (response.headers, response.read()))
    assert "content-encoding" not in told[0]
    assert told[1] == instance(1)
    client.close()


def test_a_connection_that_orthanc_has_closed_is_replaced(orthanc, lake):
    orthanc.upload(instance(1))
    lake.pull()
    orthanc.stop()
    orthanc.start()
    orthanc.upload(instance(2))
    assert lake.pull() == {"stored": 1}


def test_a_wrong_password_and_a_dead_server_are_transient_and_keep_the_position(orthanc, lake, tmp_path):
    orthanc.upload(instance(1))
    with pytest.raises(OrthancUnavailable, match=r"answers 401; see orthanc\.user"):
        Lake(tmp_path, orthanc.url, password="wrong").pull()
    orthanc.stop()
    with pytest.raises(OrthancUnavailable, match=r"does not answer \(ConnectionRefusedError\)"):
        lake.pull()
    orthanc.start()
    assert lake.pull() == {"stored": 1}


def test_a_server_is_trusted_by_its_ca_file_alone(orthanc, tmp_path):
    orthanc.upload(instance(1))
    made, key = certificate(tmp_path)
    with behind_tls(orthanc.port, made, key) as url:
        with pytest.raises(OrthancUnavailable, match="does not answer"):
            OrthancClient(OrthancOptions(url, *USER)).last_change()
        client = OrthancClient(OrthancOptions(url, *USER, str(made)))
        assert client.last_change() == orthanc.last_change()
        client.close()


def test_a_full_disk_keeps_the_position(orthanc, tmp_path):
    orthanc.upload(instance(1))
    lake = Lake(tmp_path, orthanc.url, min_free_bytes=1 << 60)
    with pytest.raises(OutOfSpace):
        lake.pull()
    assert lake.since() == 0
    assert Lake(tmp_path, orthanc.url).pull() == {"stored": 1}


def test_an_unreadable_position_begins_anew(orthanc, lake, tmp_path):
    orthanc.upload(instance(1))
    lake.pull()
    (tmp_path / "output/state/orthanc.json").write_bytes(b'{"since":')
    assert lake.pull() == {"unchanged": 1}


def test_another_server_is_told_from_orthanc(services):
    from app.api.server import listen

    with listen("127.0.0.1", 0) as sock:  # nobody accepts: the address is only taken
        port = sock.getsockname()[1]
    client = OrthancClient(OrthancOptions(f"http://127.0.0.1:{port}"))
    with pytest.raises(OrthancUnavailable):
        client.last_change()
    client.close()


def settings(tmp_path, url, **more):
    login = {"orthanc__url": url, "orthanc__user": USER[0], "orthanc__password": USER[1]}
    return lake_settings(tmp_path, **login, **more)


ROUTE = "/api/v1/ingestion/studies"


def test_a_requested_study_is_fetched_whole(orthanc, tmp_path):
    wanted = [orthanc.upload(instance(number)) for number in (1, 2)]
    series = f"{data.STUDY}.9"
    wanted.append(orthanc.upload(instance(3, SeriesInstanceUID=series)))
    other = orthanc.upload(instance(4, StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.4"))
    services = open_services(settings(tmp_path, orthanc.url))
    with TestClient(create_app(services), base_url="http://localhost") as client:
        services.orthanc.pull()
        for name in wanted:
            (tmp_path / f"landing/orthanc/{name}.dcm").unlink()
        study = orthanc.study_of(wanted[0])
        for body in ({"ID": study, "Path": "Study"}, {"ID": study, "Path": f"/studies/{study}"}):
            answer = client.post(ROUTE, json=body)
            assert (answer.status_code, answer.json()) == (202, {"ID": study, "success": True})
        # durable: another process that polls finds the request
        with open_orthanc(settings(tmp_path, orthanc.url)) as poller:
            assert poller.pull() == {"stored": 3}
            assert poller.pull() == {}
    landed = {path.name for path in (tmp_path / "landing/orthanc").iterdir()}
    assert landed == {f"{name}.dcm" for name in (*wanted, other)}


def test_orthancs_own_script_is_understood(tmp_path):
    """`HttpPost` sends JSON as a form, once, and Orthanc answers nobody until its script is done."""
    port = free_port()
    script = tmp_path / "hook.lua"
    script.write_text(
        "function OnStableStudy(id)\n"
        f'  HttpPost(\'http://127.0.0.1:{port}{ROUTE}\', \'{{"ID":"\' .. id .. \'","Path":"Study"}}\')\n'
        "end\n"
    )
    with Orthanc(tmp_path / "orthanc", LuaScripts=[str(script)]) as orthanc:
        told = {"orthanc__url": orthanc.url, "orthanc__user": USER[0], "orthanc__password": USER[1]}
        service = Service(tmp_path / "lake", **told, orthanc__poll_s=600)
        service.port, service.env["DICOMLAKE__API__PORT"] = port, str(port)
        service.url = f"http://127.0.0.1:{port}"
        with service:
            name = orthanc.upload(instance(1))
            assert wait_until(lambda: f"orthanc/{name}.dcm" in service.current()), service.log.read_text()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"ID": UNKNOWN, "Path": "Study"}, 404),
        ({"ID": "../instances", "Path": "Study"}, 404),
        ({"ID": UNKNOWN, "Path": "Series"}, 400),
        ({"ID": UNKNOWN, "Path": f"/series/{UNKNOWN}"}, 400),
        ({"ID": 7, "Path": "Study"}, 400),
        ([], 400),
    ],
)
def test_what_is_no_known_study_is_refused(orthanc, tmp_path, body, status):
    services = open_services(settings(tmp_path, orthanc.url))
    with TestClient(create_app(services), base_url="http://localhost") as client:
        answer = client.post(ROUTE, json=body)
        assert answer.status_code == status
        assert answer.json()["success"] is False
    assert not (tmp_path / "output/state").exists()


def test_a_request_while_orthanc_is_down_is_503_and_without_one_404(tmp_path, client):
    assert client.post(ROUTE, json={"ID": UNKNOWN, "Path": "Study"}).status_code == 404
    services = open_services(settings(tmp_path, f"http://127.0.0.1:{free_port()}"))
    with TestClient(create_app(services), base_url="http://localhost") as other:
        answer = other.post(ROUTE, json={"ID": UNKNOWN, "Path": "Study"})
    assert answer.status_code == 503
    assert "orthanc.url" in answer.json()["error"]


def run(tmp_path, *words, **told):
    places = {
        "source.url": f"file:{tmp_path / 'landing'}",
        "artifacts.url": f"file:{tmp_path / 'output'}",
        **told,
    }
    options = [part for name, value in places.items() for part in ("--set", f"{name}={value}")]
    return CliRunner().invoke(cli, [*options, *words])


def test_pull_needs_the_two_storages_alone_and_prints_what_it_did(orthanc, tmp_path):
    for number in range(3):
        orthanc.upload(instance(number))
    told = {"orthanc.url": orthanc.url, "orthanc.user": USER[0], "orthanc.password": USER[1]}
    told |= {"warehouse.url": "nowhere:x", "bus.url": "nowhere:x"}
    result = run(tmp_path, "pull", "orthanc", "--once", **told)
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"stored": 3})
    assert not (tmp_path / "lake.db").exists()


def test_pull_says_what_is_missing(tmp_path):
    with pytest.raises(ConfigError, match=r"orthanc\.url: is empty"):
        open_orthanc(lake_settings(tmp_path)).__enter__()
    for wrong in ("ftp://x", "http://user:secret@host"):
        with pytest.raises(ConfigError, match=r"orthanc\.url"):
            lake_settings(tmp_path, orthanc__url=wrong)
    with pytest.raises(ConfigError, match=r"orthanc\.ca_file /nowhere/ca\.pem cannot be read"):
        open_services(lake_settings(tmp_path, orthanc__url="https://x", orthanc__ca_file="/nowhere/ca.pem"))


def test_the_password_is_masked(tmp_path):
    result = run(tmp_path, "config", "show", **{"orthanc.password": "geheim"})
    assert "geheim" not in result.output
    assert '"orthanc.password","value":"***"' in result.output
