import json
import pickle
from dataclasses import fields, is_dataclass

import jsonschema
import pytest

from app import config
from app.model.errors import ConfigError
from app.model.options import ArchiveLimits, DimseOptions, MetadataOptions, OrthancOptions
from tests.parts import ROOT
from tools import generate


def test_the_embedded_default_needs_no_setting():
    settings = config.load({}).settings
    assert settings.source.url == "file:./lake/landing"
    assert (settings.api.host, settings.api.port) == ("127.0.0.1", 8080)
    assert settings.delivery.permanent_attempts == 5


def test_layers_are_merged_leaf_by_leaf_and_the_later_wins(tmp_path):
    file = tmp_path / "settings.json"
    file.write_text('{"preview": {"max_side": 1, "frame": "first"}, "api": {"port": 1}}')
    environ = {
        "DICOMLAKE_CONFIG_FILE": str(file),
        "DICOMLAKE_CONFIG": '{"preview": {"max_side": 2}, "api": {"port": 2}}',
        "DICOMLAKE__API__PORT": "3",
    }
    loaded = config.load(environ, {"api.port": 4})
    settings = loaded.settings
    assert (settings.preview.max_side, settings.preview.frame, settings.preview.window) == (
        2,
        "first",
        "auto",
    )
    assert settings.api.port == 4
    assert loaded.origins["api.port"] == "command line"
    assert loaded.origins["preview.max_side"] == "DICOMLAKE_CONFIG"
    assert loaded.origins["preview.window"] == "defaults"
    assert config.load(environ).settings.api.port == 3


def test_port_is_honoured_below_the_own_variable():
    assert config.load({"PORT": "99"}).settings.api.port == 99
    assert config.load({"PORT": "99", "DICOMLAKE__API__PORT": "98"}).settings.api.port == 98


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({"DICOMLAKE__API__PROT": "1"}, "api.prot (from DICOMLAKE__API__PROT): is no setting"),
        ({"DICOMLAKE__APE__PORT": "1"}, "ape: is no setting"),
        (
            {"DICOMLAKE__API__PORT": "x"},
            "api.port (from DICOMLAKE__API__PORT): input should be a valid integer",
        ),
        ({"DICOMLAKE_CONFIG": '{"api": {"port": "1"}}'}, "api.port (from DICOMLAKE_CONFIG)"),
        ({"DICOMLAKE_CONFIG": '{"api": 1}'}, "api (from DICOMLAKE_CONFIG): is not a section"),
        ({"DICOMLAKE_CONFIG": "nonsense"}, "DICOMLAKE_CONFIG: is not JSON"),
        ({"DICOMLAKE_CONFIG": '{\n"api" 1}'}, "DICOMLAKE_CONFIG: is not JSON (line 2, column 7)"),
        ({"DICOMLAKE_CONFIG": "[]"}, "DICOMLAKE_CONFIG: is not a JSON object"),
        ({"DICOMLAKE_CONFIG": "[" * 100_000}, "DICOMLAKE_CONFIG: is not JSON"),
        ({"DICOMLAKE__API__PORT": "[" * 100_000}, "api.port (from DICOMLAKE__API__PORT)"),
        ({"DICOMLAKE__SOURCE__URL": "file:\udcff"}, "source (from DICOMLAKE__SOURCE__URL): is not valid"),
        ({"DICOMLAKE__\udcff__X": "1"}, r"\udcff (from DICOMLAKE__\udcff__X): is not valid Unicode"),
        (
            {"DICOMLAKE_CONFIG": '{"api": {"\\ud800": 1}}'},
            "api (from DICOMLAKE_CONFIG): is not valid Unicode",
        ),
        ({"DICOMLAKE_CONFIG_FILE": "nul\0byte"}, "cannot be read (ValueError)"),
        ({"DICOMLAKE_CONFIG_FILE": "/nowhere"}, "DICOMLAKE_CONFIG_FILE /nowhere: cannot be read"),
        (
            {"DICOMLAKE__SOURCE__EXPECT": "("},
            "source.expect (from DICOMLAKE__SOURCE__EXPECT): is not a regular",
        ),
        *(
            (
                {"DICOMLAKE__PREVIEW__WINDOW": window},
                "preview.window (from DICOMLAKE__PREVIEW__WINDOW): is not of this form: auto, or centre,width"
                " in the units of the image, such as 40,400; the width is above 0",
            )
            for window in (
                "wide",
                "40",
                "40,",
                "40,-1",
                "40,0",
                "1e400,1",
                "1.2.3,4",
                "nan,1",
                "40,400,SIGMOID",
            )
        ),
        (
            {"DICOMLAKE__PREVIEW__FRAME": "0"},
            "is not of this form: representative, first, or a frame number from 1",
        ),
        ({"DICOMLAKE__METADATA__KEYS": "name"}, "metadata.keys"),
        *(
            (
                {"DICOMLAKE__BUS__SUBSCRIPTION": given},
                "bus.subscription (from DICOMLAKE__BUS__SUBSCRIPTION): is neither a name nor a list of names",
            )
            for given in ("1", "[1]", '{"a": "b"}')
        ),
        (
            {"DICOMLAKE__ARTIFACTS__IMAGES": "../x/"},
            "artifacts.images (from DICOMLAKE__ARTIFACTS__IMAGES): is not of this form: prefix of PNG"
            " previews; ends in /, or empty",
        ),
        ({"DICOMLAKE__ARTIFACTS__METADATA": "cache/json/"}, "artifacts.metadata"),
        ({"DICOMLAKE__DELIVERY__DEADLINE_S": "0"}, "delivery.deadline_s"),
        # What a timer or the system does not take would fail every event instead of the start.
        ({"DICOMLAKE__DELIVERY__ACK_DEADLINE_S": "Infinity"}, "delivery.ack_deadline_s"),
        ({"DICOMLAKE__WORKERS__TIMEOUT_S": "1e10"}, "workers.timeout_s"),
        ({"DICOMLAKE__WORKERS__MEMORY_BYTES": str(1 << 64)}, "workers.memory_bytes"),
        ({"DICOMLAKE__WORKERS__MEMORY_BYTES": "1536"}, "workers.memory_bytes"),
    ],
)
def test_a_fault_stops_the_start_and_names_its_path(environ, path):
    with pytest.raises(ConfigError) as caught:
        config.load(environ)
    assert path in caught.value.text


def test_the_metadata_options_are_those_of_the_settings():
    environ = {
        "DICOMLAKE__METADATA__KEYS": "tag",
        "DICOMLAKE__METADATA__INCLUDE": '["PatientID", "00280010"]',
    }
    options = config.load(environ).settings.describe_options().metadata
    assert (options.keys, options.include) == ("tag", ("PatientID", "00280010"))
    assert config.load({}).settings.describe_options().metadata.keys == "keyword"


LANES = ["projects/p/subscriptions/live", "projects/p/subscriptions/backfill"]


@pytest.mark.parametrize(
    "environ",
    [
        {"DICOMLAKE__BUS__SUBSCRIPTION": json.dumps(LANES)},
        {"DICOMLAKE__BUS__SUBSCRIPTION": ", ".join(LANES)},
        {"DICOMLAKE_CONFIG": json.dumps({"bus": {"subscription": LANES}})},
        {"DICOMLAKE_CONFIG": json.dumps({"bus": {"subscription": ",".join(LANES)}})},
    ],
)
def test_subscriptions_are_a_list_or_a_text_with_commas(environ):
    assert config.load(environ).settings.bus.subscriptions() == tuple(LANES)


def test_one_subscription_is_a_text_and_none_is_empty():
    one = config.load({"DICOMLAKE__BUS__SUBSCRIPTION": LANES[0]}).settings.bus
    assert one.subscriptions() == (LANES[0],)
    assert config.load({}).settings.bus.subscriptions() == ()


def test_the_schema_permits_both_forms_of_subscriptions():
    schema = json.loads((ROOT / "app/config/schema.json").read_text())
    for value in ("", LANES[0], LANES, []):
        jsonschema.validate({"bus": {"subscription": value}}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"bus": {"subscription": [1]}}, schema)


def test_every_fault_is_named_at_once():
    with pytest.raises(ConfigError) as caught:
        config.load({"DICOMLAKE__API__PORT": "x", "DICOMLAKE__LOG__LEVEL": "loud"})
    assert "api.port" in caught.value.text
    assert "log.level" in caught.value.text


def test_the_schema_that_ships_is_the_one_of_the_code_and_the_defaults_fit_it():
    text = (ROOT / "app/config/schema.json").read_text()
    assert text == generate.schema_text(), "run `make schemas`"
    jsonschema.validate(json.loads((ROOT / "config.defaults.json").read_text()), json.loads(text))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"api": {"prot": 1}}, json.loads(text))


def test_every_default_is_in_the_file_and_declared_once():
    """In the file itself, or in a class of options, from which it gets into the file."""
    text = (ROOT / "config.defaults.json").read_text()
    assert text == generate.defaults_text(), "run `make schemas`"
    defaults = json.loads(text)
    for name, field in config.Settings.model_fields.items():
        leaves = config.SECTIONS[name]
        assert set(defaults[name]) == set(leaves)
        assert all(leaf.description for leaf in leaves.values())
        declared = {own.name for own in fields(field.annotation)} if is_dataclass(field.annotation) else set()
        assert {key for key, leaf in leaves.items() if not leaf.is_required()} <= declared


def test_sections_are_the_classes_that_rooms_take():
    settings = config.load({}).settings
    assert type(settings.archive) is ArchiveLimits
    assert type(settings.dimse) is DimseOptions
    assert type(settings.orthanc) is OrthancOptions
    assert type(settings.describe_options().metadata) is MetadataOptions


def test_a_worker_needs_no_validation_to_read_its_options():
    """What is pickled for a worker is of classes of the model, in every part."""
    settings = config.load({}).settings
    task = pickle.dumps((settings.describe_options(), settings.archive))
    assert b"app.model.options" in task
    assert b"app.config" not in task


def test_the_password_of_orthanc_is_not_shown():
    settings = config.load({}, {"orthanc.password": "swordfish"}).settings
    assert settings.orthanc.password == "swordfish"
    assert "swordfish" not in repr(settings)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            {"delivery.deadline_s": 600, "delivery.ack_deadline_s": 600},
            "delivery: deadline_s is not below ack_deadline_s",
        ),
        (
            {"delivery.backoff_min_s": 2, "delivery.backoff_max_s": 1},
            "delivery: backoff_min_s is above backoff_max_s",
        ),
        (
            {"bus.url": "pubsub:projects/p/topics/t"},
            "bus.dead_letter_topic is empty, where delivery.permanent_attempts would send what fails"
            " for good; name a topic, or set delivery.permanent_attempts to 0",
        ),
    ],
)
def test_settings_that_do_not_fit_together_stop_the_start(arguments, sentence):
    with pytest.raises(ConfigError) as caught:
        config.load({}, arguments)
    assert caught.value.text == sentence


@pytest.mark.parametrize(
    "arguments",
    [
        {"delivery.deadline_s": 599.9, "delivery.ack_deadline_s": 600},
        {"delivery.backoff_min_s": 1, "delivery.backoff_max_s": 1},
        {"bus.url": "pubsub:projects/p/topics/t", "delivery.permanent_attempts": 0},
        {"bus.url": "pubsub:projects/p/topics/t", "bus.dead_letter_topic": "projects/p/topics/d"},
    ],
)
def test_settings_that_just_fit_together_start(arguments):
    config.load({}, arguments)


@pytest.mark.parametrize(
    ("arguments", "project"),
    [
        ({}, ""),
        ({"warehouse.url": "bigquery:my-project.lake"}, "my-project"),
        ({"warehouse.url": "bigquery:example.org:my-project.lake?write=storage"}, "example.org:my-project"),
        (
            {
                "bus.url": "pubsub:projects/hub/topics/events",
                "bus.dead_letter_topic": "projects/my-project/topics/letters",
            },
            "my-project",
        ),
    ],
)
def test_the_project_is_that_of_the_tables_or_the_dead_letters(arguments, project):
    assert config.load({}, arguments).settings.project() == project


@pytest.mark.parametrize(
    "window",
    ["auto", "40,400", "-40.5,.5", "0,1", "0.0,0.1", ".5,1.", "1e3,1e-3", "1234.5e-2,10e1", "-0,001"],
)
def test_a_window_is_two_numbers(window):
    assert config.load({}, {"preview.window": window}).settings.preview.window == window
