"""`config check` refuses what `serve` refuses, with the same sentences, and makes nothing."""

import os
import shutil
import socket
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from app import config
from app.cli.commands import cli
from app.services import open_services
from app.storage.local.storage import LocalStorage
from tests.bus.conftest import unreachable

CLOUD = {
    "source.url": "gs://landing",
    "artifacts.url": "gs://output",
    "warehouse.url": "bigquery:demo-project.lake",
    "bus.url": "pubsub:projects/p/topics/changes",
    "bus.dead_letter_topic": "projects/p/topics/letters",
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to be in, so that the default lake would be there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def say(command, settings):
    settings = {"api.port": 0, **settings}
    words = [word for path, value in settings.items() for word in ("--set", f"{path}={value}")]
    result = CliRunner().invoke(cli, [*words, *command])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def tree(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def assert_refused(settings, *sentences):
    """Both commands name each fault, and both leave the folder as it was."""
    before = tree(Path.cwd())
    checked = say(["config", "check"], settings)
    assert checked[:2] == (2, "")
    for sentence in sentences:
        assert sentence in checked[2]
    assert tree(Path.cwd()) == before
    assert say(["serve"], settings) == checked
    assert tree(Path.cwd()) == before


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"source.url": "ftp://x"}, "Error: source.url 'ftp://x' has no known scheme; begin it with one of"),
        ({"artifacts.url": "output"}, "Error: artifacts.url 'output' has no known scheme"),
        ({"warehouse.url": "oracle:x"}, "Error: warehouse.url 'oracle:x' has no known scheme"),
        ({"bus.url": "local:"}, "Error: bus.url 'local:' has no known scheme"),
        ({"api.auth": "iam"}, "Error: api.auth iam: needs api.audience and api.service_accounts"),
        ({"api.auth": "oidc", "api.audience": "x"}, "Error: api.auth oidc: needs api.audience and api.serv"),
        ({"api.host": "0.0.0.0"}, "Error: api.auth none: anyone who can reach api.host '0.0.0.0' could push"),
        ({"artifacts.url": "file:./lake/landing", "artifacts.images": ""}, "overlap: previews would be read"),
        (CLOUD | {"source.url": "gs://output/images/x"}, "overlap: previews would be read as new objects"),
        ({"preview.window": "40,0"}, "Error: preview.window (from command line): is not of this form: "),
        ({"preview.window": "1.2.3,4"}, "Error: preview.window (from command line): "),
        ({"preview.window": "40,1e999"}, "Error: preview.window (from command line): is not of this form: "),
        ({"source.buckets": '["more"]'}, "Error: source.buckets: a folder is the only bucket"),
        ({"source.url": "file:/"}, "Error: source.url: the whole machine cannot be watched; name a folder"),
        ({"source.url": "file://host/x"}, "Error: source.url: 'file://host/x' names a host"),
        ({"source.url": "file:a\0b"}, "Error: source.url: 'file:a\\x00b' is no usable path (ValueError)"),
        ({"artifacts.url": "file:a\0b"}, "Error: artifacts.url: 'file:a\\x00b' is no usable path"),
        ({"source.url": "file:a\nb"}, "a storage needs a path of UTF-8 text in one line"),
        ({"bus.url": "local:lake/landing/q.db"}, "lies in the watched folder"),
        ({"warehouse.url": "sqlite:a\0b/lake.db"}, "Error: warehouse.url: "),
        ({"bus.url": "local:a\0b/lake.db"}, "Error: bus.url: the folder of the queue"),
        (CLOUD | {"source.url": "gs://UPPER"}, "Error: source.url: 'gs://UPPER' names no place; write gs://"),
        (CLOUD | {"warehouse.url": "bigquery:lake"}, "Error: warehouse.url 'bigquery:lake': write it as"),
        (
            CLOUD | {"warehouse.url": "bigquery:demo-project.lake?write=insertall"},
            "Error: warehouse.url: no option write; known: endpoint, write_endpoint",
        ),
        (CLOUD | {"bus.url": "pubsub:changes"}, "Error: bus.url names the topic 'changes'"),
        (CLOUD | {"bus.dead_letter_topic": "letters"}, "Error: bus.dead_letter_topic names the topic"),
        (
            CLOUD | {"bus.dead_letter_topic": "projects/p/topics/changes"},
            "Error: bus.dead_letter_topic projects/p/topics/changes is that of bus.url",
        ),
        (CLOUD | {"bus.dead_letter_topic": ""}, "Error: bus.dead_letter_topic is empty"),
        ({"api.host": "no host at all"}, "Error: api.host: cannot listen on no host at all:0 ("),
        ({"api.host": "192.0.2.1"}, "Error: api.host: cannot listen on 192.0.2.1:0 (OSError); see api.host"),
    ],
)
def test_what_serve_refuses_is_refused(here, settings, sentence):
    assert_refused(settings, sentence)


def test_all_faults_are_named_at_once(here):
    faults = {
        "log.level": "loud",
        "preview.window": "40,0",
        "source.url": "ftp://x",
        "artifacts.url": "file:a\0b",
        "warehouse.url": "bigquery:lake",
        "bus.url": "pubsub:changes",
        "bus.dead_letter_topic": "letters",
        "api.auth": "iam",
        "api.host": "192.0.2.1",
        "api.prot": "1",
        "delivery.deadline_s": "900",
    }
    named = ("source.url 'ftp:", "artifacts.url", "warehouse.url", "bus.url", "bus.dead_letter_topic")
    assert_refused(
        faults, "log.level", "preview.window", "api.prot", "api.auth iam", "api.host", "delivery: ", *named
    )


def test_a_fault_makes_no_other_of_the_default_in_its_place(here):
    status, _, why = say(["config", "check"], CLOUD | {"bus.dead_letter_topic": "7\ud800"})
    assert (status, why) == (2, "Error: bus (from command line): is not valid Unicode\n")
    status, _, why = say(["config", "check"], CLOUD | {"delivery.permanent_attempts": "x"})
    assert status == 2
    assert why.startswith("Error: delivery.permanent_attempts (from command line): input should be")
    assert why.count(";") == 0


def test_a_setting_that_is_none_hides_no_other_fault(here):
    assert_refused(
        {"a.b": "1", "source.u": "1", "source.url": "x"}, "a: is no setting", "source.url 'x' has no"
    )


@pytest.mark.parametrize("setting", ["source.url", "artifacts.url", "warehouse.url", "bus.url"])
def test_a_file_in_the_place_of_a_folder_is_refused(here, setting):
    (here / "file").write_text("")
    scheme = {"warehouse.url": "sqlite", "bus.url": "local"}.get(setting, "file")
    assert_refused(
        {setting: f"{scheme}:file/below/it"}, f"{setting}: ", f" {here}/file/below", "cannot be made"
    )
    if scheme == "file":
        assert_refused({setting: f"{scheme}:file"}, f"Error: {setting}: {here}/file is a file")


@pytest.mark.parametrize(("setting", "scheme"), [("warehouse.url", "sqlite"), ("bus.url", "local")])
def test_what_is_no_database_is_refused(here, setting, scheme):
    (here / "text").write_text("this is no database, however long one looks at it" * 50)
    (here / "folder").mkdir()
    assert_refused({setting: f"{scheme}:text"}, f"{setting}: {here}/text", "(SQLITE_NOTADB)")
    assert_refused({setting: f"{scheme}:folder"}, f"{setting}: {here}/folder is a folder")


def test_a_database_of_another_program_is_refused(here):
    with closing(sqlite3.connect(here / "other.db")) as other:
        other.execute("CREATE TABLE instances (host TEXT)")
    assert_refused(
        {"warehouse.url": "sqlite:other.db"}, "Error: warehouse.url: the file holds a table instances"
    )


def test_the_index_of_a_folder_without_a_queue_is_looked_at_too(here):
    (here / "in.index.db").write_text("this is no database, however long one looks at it" * 50)
    settings = CLOUD | {"source.url": "file:in"}
    assert_refused(
        settings, f"Error: source.url: the index {here}/in.index.db cannot be opened (SQLITE_NOTADB)"
    )


def test_a_folder_that_is_gone_with_objects_known_in_it_is_refused(here):
    storage = LocalStorage("file:lake/landing", here / "lake/lake.db")
    (here / "lake/landing/a").write_bytes(b"x")
    storage.remember("a", storage.current("a"))
    storage.close()
    shutil.rmtree(here / "lake/landing")
    assert_refused(
        {"bus.url": "local:lake/lake.db"}, "Error: source.url: the folder", "is gone but 1 objects"
    )


@pytest.fixture
def nobody(monkeypatch):
    """Be a user whom permissions bind, in an empty folder of that user."""
    assert_refused({"api.port": "many"}, "api.port")  # imports all, which that user may not read
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.chdir(folder)
        if os.geteuid() != 0:
            yield Path(folder)
            return
        os.chown(folder, 65534, 65534)
        os.setresuid(65534, 65534, 0)  # the real one too, by which os.access judges
        try:
            yield Path(folder)
        finally:
            os.setresuid(0, 0, 0)
            monkeypatch.undo()


def test_a_folder_that_this_user_may_not_use_is_refused(nobody):
    (nobody / "closed").mkdir(mode=0o500)
    assert_refused({"artifacts.url": "file:closed"}, "Error: artifacts.url: ", "cannot be written")
    assert_refused({"warehouse.url": "sqlite:closed/a/lake.db"}, "Error: warehouse.url: ", "cannot be made")


@pytest.mark.parametrize("settings", [{}, CLOUD, {"artifacts.url": "file:./lake/landing"}])
def test_what_serve_takes_is_valid_before_there_is_a_lake(here, settings):
    assert say(["config", "check"], settings) == (0, "", "the configuration is valid\n")
    assert list(here.iterdir()) == []


def test_what_serve_takes_is_valid_while_it_runs(here):
    with socket.socket() as taken, closing(open_services(config.load({}).settings)) as services:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        services.bus.start(unreachable)
        port = taken.getsockname()[1]
        before = tree(here)
        assert say(["config", "check"], {"api.port": port})[0] == 0
        assert tree(here) == before
    assert say(["config", "check"], {}) == (0, "", "the configuration is valid\n")
