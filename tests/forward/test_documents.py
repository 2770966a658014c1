"""The OpenAPI document and the example agree with what is sent."""

import json
import re
from importlib.util import find_spec

import jsonschema
import pytest

from app.forward import Options, open_receivers
from app.model.deliveries import FACTS
from app.model.values import Picture
from tests.parts import ROOT, need
from tests.receiver import PictureReceiver


@pytest.fixture
def document():
    need("PyYAML", find_spec("yaml") is not None, "make .venv/.test")
    import yaml

    return yaml.safe_load((ROOT / "docs/receiver.yaml").read_text())


def test_what_is_sent_fits_the_document(document):
    server = PictureReceiver()
    (receiver,) = open_receivers([server.url], Options(30)).values()
    receiver.forward(Picture("a" * 64, "acme/ct.dcm", dict.fromkeys(FACTS), b"png"))
    receiver.close()
    server.close()
    (body,) = server.accepted.values()
    checker = jsonschema.Draft202012Validator({"$ref": "#/components/schemas/Picture", **document})
    assert [fault.message for fault in checker.iter_errors(body)] == []
    facts = document["components"]["schemas"]["Facts"]["properties"]
    assert facts.keys() | {"picture"} == body.keys()


def test_the_example_has_what_is_sent():
    (example,) = re.findall(r"^```json\n(.*?)^```$", (ROOT / "docs/forward.md").read_text(), re.M | re.S)
    assert list(json.loads(example)) == ["row_id", "file_name", *FACTS, "picture"]
