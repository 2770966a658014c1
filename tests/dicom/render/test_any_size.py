"""Objects of 4 GB are described in a worker of 384 MiB, reading under one percent of their bytes."""

import io
import json
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.model.errors import LimitExceeded
from app.workers.pool import Workers
from benchmarks.huge import FRAMES, MIB, PARTS, Described, described, write
from tests.parts import need


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    need("a limit on address space", sys.platform == "linux", "run on Linux")
    with closing(Workers(1, 384 * MIB, 60.0, preload=PARTS)) as pool:
        yield pool


def run(workers: Workers, folder: Path, kind: str) -> Described:
    """Write an object, describe it in a worker of 384 MiB and take it away."""
    path = folder / "huge.dcm"
    try:
        write(path, kind)
        assert path.stat().st_size > 4_000_000_000
        return described(workers, path)
    finally:
        path.unlink()


IMAGES = (
    "native",
    "basic offset table",
    "extended offset table",
    "no offset table",
    "two fragments a frame",
)


@pytest.mark.parametrize("kind", IMAGES)
def test_the_middle_frame_and_the_elements_behind_the_pixels_are_found(workers, tmp_path, kind):
    found = run(workers, tmp_path, kind)
    assert found.taken < 40_000_000
    row = json.loads(found.instance.metadata)
    assert (row["PatientID"], row["7FE1,MAKER TEST,01"]) == ("P-1", "behind")
    assert found.instance.preview_error is None
    pixels = np.asarray(Image.open(io.BytesIO(found.instance.preview or b"")))
    side = pixels.shape[0]
    assert pixels[side // 2, side // 4] < 8
    assert pixels[side // 2, 3 * side // 4] > 247


def test_the_heads_of_fragments_are_read_and_not_the_fragments(workers, tmp_path):
    found = run(workers, tmp_path, "no offset table")
    assert found.taken < 1_000_000 + 128 * FRAMES


def test_a_value_in_a_sequence_stays_in_the_object(workers, tmp_path):
    found = run(workers, tmp_path, "value in a sequence")
    item = json.loads(found.instance.document)["00091001"]["Value"][0]
    assert "length=4286578688" in item["00091002"]["BulkDataURI"]
    assert item["00104000"]["Value"] == ["behind"]
    assert found.taken < 1_000_000


def test_a_text_stays_in_the_object(workers, tmp_path):
    found = run(workers, tmp_path, "text")
    assert "length=4286578688" in json.loads(found.instance.document)["0040A160"]["BulkDataURI"]
    assert json.loads(found.instance.metadata)["PatientID"] == "P-1"
    assert found.taken < 1_000_000


def test_what_inflates_to_too_much_is_refused_before_the_memory_is_full(workers, tmp_path):
    with pytest.raises(LimitExceeded, match=r"limits\.inflated_bytes"):
        run(workers, tmp_path, "deflated")
