"""Every limit on a data set, from its setting to a worker: what is past it is refused with its name."""

import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from app import config
from app.cli.commands import cli
from app.cli.one_file import draw
from app.dicom import describe
from app.dicom.pixels.frames import read_frame
from app.model.errors import ConfigError, LimitExceeded, Unrenderable
from app.model.options import DatasetLimits, DescribeOptions
from app.model.values import Instance
from app.workers.pool import Workers
from tests import data
from tests.dicom.pictures import J2K, JPEG_PROGRESSIVE, RLE, encapsulated, frame_error, picture, rle

DEFLATED = data.DeflatedExplicitVRLittleEndian


def nested(depth: int) -> bytes:
    """Return a file of so many sequences one in the other, of undefined length."""
    head = data.element(0x0040A730, "SQ", length=0xFFFFFFFF) + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    tail = b"\xfe\xff\x0d\xe0" + bytes(4) + b"\xfe\xff\xdd\xe0" + bytes(4)
    return data.raw(head * depth + tail * depth)


def crowded(count: int) -> bytes:
    """Return a file of so many elements, half of them and an item in a sequence."""
    inner = b"".join(data.element(0x00110000 + n, "LO") for n in range(0x1000, 0x1000 + count // 2))
    item = b"\xfe\xff\x00\xe0" + len(inner).to_bytes(4, "little") + inner
    outer = (data.element(0x00110000 + n, "LO") for n in range(0x1000, 0x1000 + count - count // 2 - 2))
    return data.raw(data.element(0x00081140, "SQ", item), *outer)


def inflating(size: int) -> bytes:
    """Return a file whose deflated data set has so many bytes, nearly all of them zero."""
    return data.raw(data.element(0x00091010, "OB", bytes(size - 12)), syntax=DEFLATED)


def image(rows: int, columns: int, syntax: str, *fragments: bytes) -> bytes:
    """Return a file of one grey frame."""
    dataset = picture(encapsulated(*fragments), rows, columns, syntax, SOPInstanceUID=data.SOP)
    dataset["PixelData"].is_undefined_length = True
    return data.part10(dataset, syntax)


def fragmented(count: int) -> bytes:
    """Return a file of one frame in so many fragments; all but the first are empty."""
    return image(1, 1, RLE, rle(b"\0\7"), *[b""] * (count - 1))


def multiframe(count: int) -> bytes:
    """Return a file of so many frames of one pixel."""
    return data.part10(picture(bytes(count), 1, 1, NumberOfFrames=count, SOPInstanceUID=data.SOP))


def tiled(count: int) -> bytes:
    """Return a file of one JPEG 2000 frame in so many tiles."""
    stream = io.BytesIO()
    black = Image.fromarray(np.zeros((1, count), np.uint8))
    black.save(stream, "JPEG2000", tile_size=(1, 1), num_resolutions=1, no_jp2=True)
    return image(1, count, J2K, stream.getvalue())


def scanned(count: int) -> bytes:
    """Return a file of one progressive JPEG frame of so many scans, the last of them again and again."""
    stream = io.BytesIO()
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(stream, "JPEG", progressive=True)
    plain, end = stream.getvalue()[:-2], stream.getvalue()[-2:]
    last = plain[plain.rindex(b"\xff\xda") :]
    return image(16, 16, JPEG_PROGRESSIVE, plain + last * (count - plain.count(b"\xff\xda")) + end)


# setting -> its minimum, a file one past it, the reason
COST_THE_OBJECT = {
    "depth": (16, nested(17), "sequences are nested deeper than limits.depth (16)"),
    "elements": (10_000, crowded(10_001), "more elements and items than limits.elements (10000)"),
    "fragments": (10_000, fragmented(10_001), "more fragments than limits.fragments (10000)"),
    "inflated_bytes": (
        16 << 20,
        inflating((16 << 20) + 1),
        "the data set inflates to more than limits.inflated_bytes (16777216)",
    ),
}
COST_THE_PICTURE = {
    "frames": (10_000, multiframe(10_001), "the object has more frames than limits.frames (10000)"),
    "tiles": (256, tiled(257), "the frame has more tiles than limits.tiles (256)"),
    "scans": (32, scanned(33), "the frame has more scans than limits.scans (32)"),
}
NOTHING_TO_DRAW = {"elements", "inflated_bytes"}


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with closing(Workers(1, 1 << 30, 60.0)) as pool:
        yield pool


def options(name: str, value: int) -> DescribeOptions:
    """Return what a worker is given under the default settings, but for one."""
    return config.load({}, {name: value}).settings.describe_options()


def run(workers: Workers, file: bytes, given: DescribeOptions) -> Instance:
    return workers.run(describe, data.content(file), given)


@pytest.mark.parametrize("name", COST_THE_OBJECT)
def test_past_a_limit_of_reading_the_object_fails_and_the_reason_names_the_setting(workers, name):
    low, file, reason = COST_THE_OBJECT[name]
    with pytest.raises(LimitExceeded) as caught:
        run(workers, file, options(f"limits.{name}", low))
    assert (caught.value.code, caught.value.text) == ("limit_exceeded", reason)


@pytest.mark.parametrize("name", COST_THE_PICTURE)
def test_past_a_limit_of_drawing_the_row_is_kept_and_the_reason_names_the_setting(workers, name):
    low, file, reason = COST_THE_PICTURE[name]
    given = options(f"limits.{name}", low)
    found = run(workers, file, given)
    assert (found.preview, found.preview_error) == (None, "limit_exceeded")
    assert found.columns["sop_instance_uid"] == data.SOP
    with pytest.raises(Unrenderable) as caught:
        workers.run(draw, data.content(file), given.preview)
    assert (caught.value.code, caught.value.text) == ("limit_exceeded", reason)


@pytest.mark.parametrize("name", COST_THE_OBJECT | COST_THE_PICTURE)
def test_at_the_limit_a_file_passes(workers, name):
    low, file, _ = (COST_THE_OBJECT | COST_THE_PICTURE)[name]
    found = run(workers, file, options(f"limits.{name}", low + 1))
    assert found.preview_error == ("no_pixel_data" if name in NOTHING_TO_DRAW else None)


def test_a_data_set_may_inflate_by_any_ratio_up_to_32_mib_and_then_by_the_one_that_is_set(workers):
    strict = options("limits.inflated_ratio", 10)
    run(workers, inflating(32 << 20), strict)
    large = inflating((32 << 20) + 1)
    with pytest.raises(LimitExceeded) as caught:
        run(workers, large, strict)
    assert caught.value.text == "the data set inflates by more than limits.inflated_ratio (10)"
    run(workers, large, options("limits.inflated_ratio", 2000))


def test_more_pixels_than_the_workers_may_draw_cost_the_picture(workers):
    file = multiframe(2)
    wide = data.part10(picture(bytes(6), 2, 3, SOPInstanceUID=data.SOP))
    given = options("workers.max_pixels", 5)
    assert run(workers, file, given).preview_error is None
    assert run(workers, wide, given).preview_error == "image_too_large"
    with pytest.raises(Unrenderable, match=r"more samples than workers.max_pixels \(5\)"):
        workers.run(draw, data.content(wide), given.preview)


def test_the_deepest_that_may_be_set_is_still_written_and_drawn(workers):
    found = run(workers, nested(80), options("limits.depth", 80))
    assert (found.document.count(b'"0040A730"'), found.metadata.count("ContentSequence")) == (80, 80)
    assert found.preview_error is None


def test_fragments_are_also_counted_where_an_offset_table_made_it_needless_to_read_them():
    fragments = [rle(b"\0\7"), *[b""] * 3, rle(b"\0\7")]
    offsets = [0, len(fragments[0]) + 8 + 3 * 8]
    dataset = picture(encapsulated(*fragments, offsets=offsets), 1, 1, RLE, NumberOfFrames=2)
    assert frame_error(dataset, fragments=3) == "limit_exceeded"
    assert read_frame(dataset, 0, DatasetLimits(fragments=4)).pixels.tolist() == [[7]]
    assert read_frame(dataset, 1, DatasetLimits(fragments=1)).pixels.tolist() == [[7]]


def test_a_dead_letter_says_which_limit_to_raise_and_then_the_file_is_stored(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep.dcm").write_bytes(nested(17))
    say = CliRunner().invoke
    told = say(cli, ["--set", "limits.depth=16", "ingest", "deep.dcm"])
    reason = f"describe: {COST_THE_OBJECT['depth'][2]}"
    assert (told.exit_code, json.loads(told.stdout.splitlines()[0])["reason"]) == (1, reason)
    (letter,) = json.loads(say(cli, ["query", "--json", "SELECT code, reason FROM dead_letters"]).stdout)
    assert letter == {"code": "limit_exceeded", "reason": reason}
    assert say(cli, ["ingest", "deep.dcm"]).exit_code == 0


def test_a_member_over_a_limit_says_which(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("study.zip", "w") as archive:
        archive.writestr("deep.dcm", nested(17))
    said = CliRunner().invoke(cli, ["--set", "limits.depth=16", "ingest", "study.zip"])
    line = json.loads(said.stdout.splitlines()[0])
    assert line["reason"] == 'describe: 1 member(s) failed: "deep.dcm" (limit_exceeded: limits.depth)'


def test_the_limits_without_settings_are_those_of_the_default_settings():
    assert config.load({}).settings.describe_options() == DescribeOptions()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("depth", 81),
        *((name, low - 1) for name, (low, *_) in (COST_THE_OBJECT | COST_THE_PICTURE).items()),
        ("inflated_ratio", 9),
    ],
)
def test_a_limit_out_of_its_bounds_stops_the_start(name, value):
    with pytest.raises(ConfigError, match=rf"^limits\.{name} \(from command line\): input should be "):
        options(f"limits.{name}", value)
