"""The schemas, the AsyncAPI document and the examples agree with each other and with the code."""

import json
import re
from importlib.util import find_spec

import jsonschema
import pytest

from app.announce import announcements
from tests.parts import ROOT, need

TYPES = {
    announcements.STORED,
    announcements.REMOVED,
    announcements.SETTLED,
    announcements.DEAD_LETTERED,
}
PAGE = (ROOT / "docs/announcements.md").read_text()
EXAMPLES = dict(re.findall(r"^### (dicomlake\.\S+)$.*?^```json\n(.*?)^```$", PAGE, re.M | re.S))


def schema(kind):
    return json.loads((ROOT / f"docs/schemas/{kind.removeprefix('dicomlake.')}.json").read_text())


def test_every_type_has_a_schema_and_an_example():
    files = {f"dicomlake.{path.stem}" for path in (ROOT / "docs/schemas").glob("*.json")}
    assert files == EXAMPLES.keys() == TYPES


@pytest.mark.parametrize("kind", sorted(TYPES))
def test_the_example_fits_the_schema(kind):
    jsonschema.Draft202012Validator.check_schema(schema(kind))
    checker = jsonschema.Draft202012Validator(schema(kind) | {"additionalProperties": False})
    assert [fault.message for fault in checker.iter_errors(json.loads(EXAMPLES[kind]))] == []


@pytest.fixture
def asyncapi():
    need("PyYAML", find_spec("yaml") is not None, "make .venv/.test")
    import yaml

    return yaml.safe_load((ROOT / "docs/asyncapi.yaml").read_text())


def test_the_asyncapi_document_has_every_type_with_its_schema(asyncapi):
    messages = asyncapi["components"]["messages"].values()
    assert {message["name"] for message in messages} == TYPES
    for message in messages:
        path = ROOT / "docs" / message["payload"]["$ref"]
        assert json.loads(path.read_text()) == schema(message["name"])


def test_every_reference_in_it_is_there(asyncapi):
    for target in re.findall(r"\$ref: '#/([^']+)'", (ROOT / "docs/asyncapi.yaml").read_text()):
        place = asyncapi
        for name in target.split("/"):
            place = place[name]


def test_the_headers_of_a_message_are_as_it_says(asyncapi):
    row = {"row_id": "a" * 64, "object_uri": "gs://in/a.dcm", "event_time": None, "generation": 1}
    headers = asyncapi["components"]["messageTraits"]["cloudEvent"]["headers"]
    checker = jsonschema.Draft202012Validator(headers | {"additionalProperties": False})
    for one in (announcements.stored(row), announcements.removed(row)):
        sent = {f"ce_{name}": value for name, value in one.attributes.items()}
        assert [
            fault.message for fault in checker.iter_errors(sent | {"content-type": "application/json"})
        ] == []
