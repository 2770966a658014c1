"""Frames without the text that was burned into them."""

from contextlib import closing
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from app.dicom.deidentify.pixels.boxes import Box, cover
from app.dicom.deidentify.pixels.clean import PixelOptions, clean_frames, fill_value, hidden
from app.workers.pool import PRELOAD, Workers
from tests.data import part10
from tests.dicom.deidentify.pixels import tasks
from tests.dicom.pictures import bundled, picture
from tests.parts import need

BLIND = PixelOptions(find_text=False)
LINES = ("ANDERSON, ANNA", "ID: 48151623", "DOB 12/11/1962")


@pytest.fixture
def rapidocr() -> None:
    here = find_spec("rapidocr") is not None and find_spec("onnxruntime") is not None
    need("rapidocr", here, "install the extra `pixels`")


def burned(
    ground: np.ndarray, ink: int, at: tuple[int, int] = (8, 10), lines: tuple[str, ...] = LINES
) -> Box:
    """Write lines into a frame, in place, and return where they stand."""
    glyphs = Image.new("L", ground.shape[1::-1])
    draw, font = ImageDraw.Draw(glyphs), ImageFont.load_default(16)
    for number, text in enumerate(lines):
        draw.text((at[0], at[1] + 20 * number), text, fill=255, font=font)
    mask = np.asarray(glyphs) > 127
    ground[mask] = ink
    rows, columns = np.nonzero(mask)
    return Box(int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)


def described(frames: np.ndarray, photometric: str = "MONOCHROME2", **elements: object) -> Dataset:
    samples = 3 if frames.ndim == 4 else 1
    return picture(
        b"",
        frames.shape[1],
        frames.shape[2],
        BitsAllocated=frames.dtype.itemsize * 8,
        SamplesPerPixel=samples,
        PixelData=frames.tobytes(),
        PhotometricInterpretation=photometric,
        NumberOfFrames=str(len(frames)),
        PlanarConfiguration=0 if samples == 3 else None,
        **elements,
    )


def noise(shape: tuple[int, ...], level: int, kind: type = np.uint8) -> np.ndarray:
    return (
        np.random.default_rng(7)
        .normal(level, level / 8, shape)
        .clip(1, 250 if kind is np.uint8 else None)
        .astype(kind)
    )


def test_ultrasound_is_cut_down_to_its_regions_in_every_frame():
    frames = noise((2, 40, 60), 80)
    region = Dataset()
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 10, 20
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 49, 39
    dataset = described(frames, SequenceOfUltrasoundRegions=Sequence([region]))
    before = frames.copy()
    cleaned = clean_frames(frames, dataset, BLIND)
    assert (cleaned.frames[:, 20:40, 10:50] == before[:, 20:40, 10:50]).all()
    assert (cleaned.frames[~cover([Box(10, 20, 50, 40)], (40, 60))[None].repeat(2, 0)] == before.min()).all()
    assert (frames == before).all()
    assert cleaned.residual == ()


def test_frames_without_anything_to_mask_are_returned_as_they_are():
    frames = noise((1, 40, 60), 80)
    cleaned = clean_frames(frames, described(frames), BLIND)
    assert cleaned.frames is frames
    assert (cleaned.boxes, cleaned.residual) == ((), ())


@pytest.mark.parametrize(
    ("photometric", "black"),
    [("MONOCHROME2", 3), ("MONOCHROME1", 250), ("RGB", [0, 0, 0]), ("YBR_FULL", [0, 128, 128])],
)
def test_a_mask_is_black_as_the_frames_are_shown(photometric, black):
    shape = (1, 2, 2, 3) if isinstance(black, list) else (1, 2, 2)
    frames = np.full(shape, 100, np.uint8)
    frames.reshape(-1)[:2] = 3, 250
    assert fill_value(frames, described(frames, photometric), photometric).tolist() == black


def test_a_mask_in_a_palette_is_its_darkest_entry():
    dataset = bundled("examples_palette.dcm")
    frames = dataset.pixel_array[None]
    index = int(fill_value(frames, dataset, "PALETTE COLOR"))
    tables = [
        np.frombuffer(dataset[f"{name}PaletteColorLookupTableData"].value, "<u2")
        for name in ("Red", "Green", "Blue")
    ]
    sums = sum(table.astype(int) >> 8 for table in tables)
    assert sums[index] == sums[np.unique(frames)].min()


def test_a_mask_looks_like_its_surroundings_when_it_is_looked_at_again():
    view = np.full((30, 40, 3), 90, np.uint8)
    view[10:20, 10:30] = 255
    boxes = [Box(10, 10, 30, 20)]
    assert (hidden(view, boxes, cover(boxes, (30, 40))) == 90).all()
    assert view.max() == 255


@pytest.mark.usefixtures("rapidocr")
class TestText:
    """Text is found by rapidocr."""

    @pytest.mark.parametrize(
        ("level", "ink", "kind", "photometric"),
        [
            (40, 255, np.uint8, "MONOCHROME2"),
            (200, 0, np.uint8, "MONOCHROME2"),
            (900, 4000, np.uint16, "MONOCHROME1"),
            (900, 4000, np.int16, "MONOCHROME2"),
        ],
    )
    def test_lines_are_masked_and_the_rest_is_kept(self, level, ink, kind, photometric):
        frames = noise((1, 200, 300), level, kind)
        box = burned(frames[0], ink)
        dataset = described(frames, photometric, PixelRepresentation=int(kind is np.int16))
        cleaned = clean_frames(frames, dataset)
        assert not ((frames[0] == ink) & ~cover(cleaned.boxes, (200, 300))).any()
        for one in cleaned.boxes:
            assert len(np.unique(cleaned.frames[0, one.top : one.bottom, one.left : one.right])) == 1
        changed = cleaned.frames[0] != frames[0]
        assert not changed[~cover([box.grown(24, 16)], (200, 300))].any()
        assert len(cleaned.boxes) == 3
        assert cleaned.residual == ()

    def test_text_in_one_frame_of_many_is_masked_in_all(self):
        frames = np.stack([np.roll(noise((200, 300), 50), 40 * number, axis=1) for number in range(5)])
        box = burned(frames[3], 255)
        cleaned = clean_frames(frames, described(frames))
        inside = cleaned.frames[:, box.top : box.bottom, box.left : box.right]
        assert (inside == frames.min()).mean() > 0.8
        assert (cleaned.frames[3] == 255).sum() == (frames[3] == 255).sum() - (
            frames[3, box.top : box.bottom, box.left : box.right] == 255
        ).sum()

    def test_colours_are_masked(self):
        frames = np.repeat(noise((1, 200, 300), 60)[..., None], 3, axis=3)
        box = burned(frames[0, ..., 1], 255)
        cleaned = clean_frames(frames, described(frames, "RGB"))
        assert (cleaned.frames[0, box.top : box.bottom, box.left : box.right, 1] != 255).all()

    @pytest.mark.parametrize(("ground", "ink"), [(400, 100), (3500, 4000)])
    def test_text_that_the_window_does_not_show_is_found(self, ground, ink):
        # Black letters on air that the window shows black already, white ones on metal that it shows white.
        frames = noise((1, 300, 300), 1500, np.uint16)
        frames[0, :200] = np.random.default_rng(8).normal(ground, 20, (200, 300))
        burned(frames[0], ink)
        cleaned = clean_frames(frames, described(frames, WindowCenter="1500", WindowWidth="1000"))
        assert len(cleaned.boxes) == 3

    def test_a_window_beside_all_values_hides_nothing(self):
        frames = noise((1, 200, 300), 400, np.uint16)
        burned(frames[0], 100)
        cleaned = clean_frames(frames, described(frames, WindowCenter="9000", WindowWidth="1000"))
        assert len(cleaned.boxes) == 3

    def test_an_organ_is_no_letter(self):
        y, x = np.mgrid[0:400, 0:400]
        body = np.where(((y - 200) / 120) ** 2 + ((x - 200) / 170) ** 2 < 1, 900, 20)
        frames = (body + noise((400, 400), 40, np.int64))[None].astype(np.uint16)
        cleaned = clean_frames(frames, described(frames))
        assert (cleaned.boxes, cleaned.residual) == ((), ())

    def test_the_same_frames_give_the_same_boxes(self):
        frames = noise((1, 200, 300), 40)
        burned(frames[0], 255)
        dataset = described(frames)
        assert clean_frames(frames, dataset).boxes == clean_frames(frames, dataset).boxes

    def test_a_confined_worker_finds_text(self):
        frames = noise((1, 200, 300), 40)
        burned(frames[0], 255)
        data = part10(described(frames))
        preload = (*PRELOAD, "tests.dicom.deidentify.pixels.tasks")
        with closing(Workers(1, 1 << 30, 120.0, preload=preload)) as workers:
            assert len(workers.run(tasks.masked, data)) == 3

    def test_calculated_frames_are_not_looked_at(self):
        frames = noise((1, 200, 300), 40)
        burned(frames[0], 255)
        assert clean_frames(frames, described(frames, Modality="RTDOSE")).frames is frames
