"""Small inputs made after public reports, each with its right value: what a user gets of them."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from app.cli.commands import cli
from app.dicom import describe
from app.model.options import DescribeOptions, PreviewOptions
from app.model.values import Instance
from tests import data
from tests.parts import SHARED, shared

FOLDER = SHARED / "fieldcases"
CASES = json.loads((FOLDER / "cases.json").read_text()) if FOLDER.exists() else []


def of(case: dict) -> Instance:
    path = shared("fieldcases") / case["file"]
    return describe(data.content(path.read_bytes()), DescribeOptions(preview=PreviewOptions(enabled=False)))


def picture(case: dict, folder: Path) -> np.ndarray:
    """Return what `render` draws of a case, as it is stored."""
    path = str(shared("fieldcases") / case["file"])
    words = [*(case["args"] or ()), "render", path, "-o", str(folder / "x.png"), "--max-side", "0"]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    return np.asarray(Image.open(folder / "x.png")).astype(int)


def at(document: dict, path: str) -> object:
    """Return the entry at a path of tags and indexes of items."""
    for part in path.split("/"):
        document = document["Value"][int(part)] if len(part) < 8 else document[part]
    return document


def test_there_are_cases():
    assert len(json.loads((shared("fieldcases") / "cases.json").read_text())) >= 20


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_a_case_of_the_field_ends_as_it_should(case, tmp_path):
    instance = of(case)
    document = json.loads(instance.document)
    assert {name: instance.columns[name] for name in case.get("col", {})} == case.get("col", {})
    for path, entry in case.get("json", {}).items():
        assert at(document, path) == entry
    assert [tag for tag in case.get("absent", ()) if tag in document] == []
    assert set(case.get("warn", ())) <= {warning.tag for warning in instance.warnings}
    if case["image"]:
        expected = np.load(shared("fieldcases") / case["expected_image"])
        drawn = picture(case, tmp_path)
        assert drawn.shape == expected.shape
        assert np.abs(drawn - expected).max() <= case["tol"]
    match case.get("check"):
        case "starts":
            value = at(document, case["path"])["Value"][0]
            assert (value["Alphabetic"] if isinstance(value, dict) else value).startswith(case["starts"])
        case "un_be":
            assert document["00189087"] == {"vr": "FD", "Value": [1000.0]}
            assert document["00189602"] == {"vr": "FD", "Value": [2.5]}
        case "mid":
            (row, column), (low, high) = case["px"], case["mid"]
            assert low <= picture(case, tmp_path)[row, column] <= high
        case "aspect":
            height, width = picture(case, tmp_path).shape[:2]
            assert abs(width / height - case["aspect"]) < 0.02
