"""Small previews of big JPEG 2000 frames: fewer resolutions decoded, the same picture."""

import time
from statistics import median

import imagecodecs
import numpy as np
import pytest
from pydicom.dataset import Dataset

from app.dicom.pixels.decoders import decode_frame
from app.dicom.pixels.image_header import read_header
from app.dicom.pixels.reduced import read_reduced
from app.dicom.render.preview import picture as draw_picture
from app.dicom.render.preview import render
from app.model.errors import Unrenderable
from app.model.options import DEFAULT_LIMITS, DatasetLimits, PreviewOptions
from tests.dicom.pictures import HTJ2K, J2K, JPEG_LS, encapsulated, picture


def coded(pixels: np.ndarray, bits: int = 8, syntax: str = J2K) -> bytes:
    if syntax == HTJ2K:
        return imagecodecs.htj2k_encode(pixels, reversible=True)
    return imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True, level=0, bitspersample=bits)


def dataset_of(pixels: np.ndarray, bits: int = 8, syntax: str = J2K, **elements: object) -> Dataset:
    signed = int(pixels.dtype.kind == "i")
    said = {
        "BitsAllocated": 8 * pixels.itemsize,
        "BitsStored": bits,
        "PixelRepresentation": signed,
        **elements,
    }
    return picture(encapsulated(coded(pixels, bits, syntax)), *pixels.shape[:2], syntax, **said)


def halved(pixels: np.ndarray, bits: int = 8, times: int = 2, **elements: object) -> np.ndarray:
    """Return the stored values of a frame that was halved while it was decoded."""
    header = read_header(dataset_of(pixels, bits, **elements))
    values, _ = decode_frame(coded(pixels, bits), header, DEFAULT_LIMITS, times)
    return values


@pytest.mark.parametrize(
    ("kind", "bits", "value"),
    [("u1", 8, 200), ("u2", 12, 3000), ("u2", 16, 60000), ("i2", 16, -2000), ("i2", 12, -7), ("i1", 8, -5)],
)
def test_halved_samples_keep_their_value(kind, bits, value):
    pixels = halved(np.full((65, 100), value, kind), bits)
    assert pixels.shape == (17, 25)
    assert np.unique(pixels).tolist() == [value]


def test_halved_colours_are_those_of_the_whole():
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, :32], pixels[:, 32:] = (200, 30, 60), (10, 220, 90)
    small = halved(pixels, SamplesPerPixel=3, PhotometricInterpretation="RGB")
    assert (small[8, 2].tolist(), small[8, 13].tolist()) == ([200, 30, 60], [10, 220, 90])


def test_colours_of_more_than_eight_bits_are_decoded_whole():
    pixels = np.full((64, 64, 3), 60000, np.uint16)
    found = halved(pixels, 16, SamplesPerPixel=3, PhotometricInterpretation="RGB")
    assert (found.shape, int(found[0, 0, 0])) == ((64, 64, 3), 60000)


def test_frame_is_halved_only_as_often_as_it_has_resolutions():
    data = imagecodecs.jpeg2k_encode(np.zeros((64, 64), np.uint8), codecformat="j2k", level=0, resolutions=2)
    header = read_header(picture(encapsulated(data), 64, 64, J2K))
    assert [decode_frame(data, header, DEFAULT_LIMITS, times)[0].shape for times in (1, 9)] == [
        (32, 32),
        (32, 32),
    ]


def test_frame_whose_markers_only_one_decoder_understands_is_read_whole():
    data = coded(np.full((64, 64), 7, np.uint8))
    qcd = data.index(b"\xff\x5c")
    odd = data[:qcd] + b"\xff\x30\0\0" + data[qcd:]  # ISO 15444-1 A.1: no length follows FF30
    header = read_header(picture(encapsulated(odd), 64, 64, J2K))
    cells, _ = decode_frame(odd, header, DEFAULT_LIMITS, 2)
    assert (cells.shape, np.unique(cells).tolist()) == ((64, 64), [7])


BLACK = np.zeros((1024, 1040), np.uint8)


@pytest.mark.parametrize("syntax", [J2K, HTJ2K])
def test_big_frame_stays_larger_than_it_is_wanted(syntax):
    dataset = dataset_of(BLACK, syntax=syntax)
    shapes = [
        read_reduced(dataset, 0, scale, DEFAULT_LIMITS).pixels.shape
        for scale in (1.0, 0.36, 0.35, 0.18, 0.17)
    ]
    assert shapes == [(1024, 1040), (1024, 1040), (512, 520), (512, 520), (256, 260)]


def test_small_frames_and_other_syntaxes_are_read_whole():
    small = dataset_of(np.zeros((512, 512), np.uint8))
    assert read_reduced(small, 0, 0.1, DEFAULT_LIMITS).pixels.shape == (512, 512)
    other = picture(encapsulated(imagecodecs.jpegls_encode(BLACK)), *BLACK.shape, JPEG_LS)
    assert read_reduced(other, 0, 0.1, DEFAULT_LIMITS).pixels.shape == BLACK.shape


def test_small_preview_is_the_whole_one_made_small():
    y, x = np.mgrid[0:1101, 0:1003]
    pixels = (2000 + 1500 * np.sin(x / 90) * np.cos(y / 140)).astype("<u2")
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    coarse = dataset_of(pixels, 12, **window)
    whole = picture(pixels.tobytes(), *pixels.shape, BitsAllocated=16, BitsStored=12, **window)
    small, expected = (render(d, PreviewOptions(max_side=180), 0).astype(int) for d in (coarse, whole))
    assert small.shape == expected.shape == (180, 164)
    # Low resolutions lie up to a third of a pixel to the upper left; the slope is six levels a pixel.
    assert np.abs(small - expected).max() <= 3


def test_halving_does_not_get_round_the_limit_of_pixels():
    with pytest.raises(Unrenderable) as caught:
        read_reduced(dataset_of(BLACK), 0, 0.1, DatasetLimits(pixels=BLACK.size - 1))
    assert caught.value.code == "image_too_large"


def waves(rows: int = 1100, columns: int = 1000) -> np.ndarray:
    """Return values from 500 to 3500, as 16-bit cells that no bit beside the lower twelve is set in."""
    y, x = np.mgrid[0:rows, 0:columns]
    return (2000 + 1500 * np.sin(x / 90) * np.cos(y / 140)).astype(np.uint16)


def reduced(pixels: np.ndarray, bits: int = 16, scale: float = 0.17, **elements: object) -> np.ndarray:
    """Return a frame of 12-bit values as a preview reads it, of cells that were encoded whole."""
    stored = {"BitsStored": 12, "HighBit": 11, **elements}
    return read_reduced(dataset_of(pixels, bits, **stored), 0, scale, DEFAULT_LIMITS).pixels


@pytest.mark.parametrize("syntax", [J2K, HTJ2K])
def test_whole_cells_without_bits_beside_the_stored_ones_are_reduced(syntax):
    dataset = dataset_of(waves(), 16, syntax, BitsStored=12, HighBit=11)
    pixels = read_reduced(dataset, 0, 0.17, DEFAULT_LIMITS).pixels
    assert pixels.shape == (275, 250)
    assert np.abs(pixels[10, 10] - waves()[40, 40].astype(int)) < 20


def test_whole_signed_cells_are_reduced():
    pixels = reduced(waves().astype(np.int16) - 2000)
    assert (pixels.shape, pixels.dtype.kind) == ((275, 250), "i")
    assert -1510 < pixels.min() < -1450
    assert 1450 < pixels.max() < 1510


def test_values_above_unused_bits_are_reduced():
    cells = waves() << 4 | np.arange(1000, dtype=np.uint16) % 16
    pixels = reduced(cells, HighBit=15)
    assert pixels.shape == (275, 250)
    assert 490 < pixels.min() < pixels.max() < 3510


BESIDE = {
    "every other row": np.s_[::2],
    "a square": np.s_[400:440, 400:440],
    "a line": np.s_[300:303],
}


@pytest.mark.parametrize("bit", [12, 15])
@pytest.mark.parametrize("where", BESIDE)
def test_frame_with_bits_beside_the_stored_ones_is_decoded_whole(bit, where):
    cells = waves() // 2 + 1500
    cells[BESIDE[where]] |= 1 << bit
    assert np.array_equal(reduced(cells), waves() // 2 + 1500)


def test_black_with_a_bit_beside_the_stored_ones_is_not_taken_for_white():
    cells = np.zeros((1100, 1000), np.uint16)
    cells[400:480, 400:480] = 0x1000
    assert reduced(cells).max() == 0


def test_signed_cells_with_bits_beside_the_stored_ones_are_decoded_whole():
    cells = waves().astype(np.int16) - 2000
    cells[400:440, 400:440] ^= 0x4000
    assert np.array_equal(reduced(cells), waves().astype(int) - 2000)


@pytest.mark.parametrize(("dark", "bright", "kind"), [(0, 4095, "u2"), (-2048, 2047, "i2")])
def test_overshoot_beside_an_edge_is_no_bit_beside_the_stored_ones(dark, bright, kind):
    cells = np.full((1100, 1000), dark, kind)
    for left in (203, 402, 601):
        cells[200:900, left : left + 90] = bright
    pixels = reduced(cells)
    assert pixels.shape == (275, 250)
    assert (pixels.min(), pixels.max(), pixels[100, 60]) == (dark, bright, bright)


@pytest.mark.parametrize("encoded", ["u2", "i2"])
def test_values_that_the_codestream_does_not_sign_as_the_data_set_does_are_not_averaged(encoded):
    cells = np.tile(np.array([1, -1], np.int16), (1024, 512))
    dataset = dataset_of(cells.view(encoded), 16, PixelRepresentation=int(encoded == "u2"))
    expected = {1, -1} if encoded == "u2" else {1, 65535}
    assert set(np.unique(read_reduced(dataset, 0, 0.1, DEFAULT_LIMITS).pixels).tolist()) == expected


def test_overlay_in_the_pixels_has_the_frame_decoded_whole():
    cells = np.zeros((1100, 1000), np.uint16)
    cells[:, ::10] = 0x1000
    dataset = dataset_of(cells, 16, BitsStored=12, HighBit=11, WindowCenter=2048, WindowWidth=4096)
    dataset.add_new(0x60000010, "US", 1100)
    dataset.add_new(0x60000011, "US", 1000)
    dataset.add_new(0x60000100, "US", 16)
    dataset.add_new(0x60000102, "US", 12)
    assert np.unique(render(dataset, PreviewOptions(max_side=100), 0)).tolist() == [0]


def test_numbers_of_colours_and_of_segments_are_not_averaged():
    cells = np.tile(np.array([0, 200], np.uint8), (1024, 512))
    for elements in ({"PhotometricInterpretation": "PALETTE COLOR"}, {"SegmentationType": "LABELMAP"}):
        pixels = read_reduced(dataset_of(cells, **elements), 0, 0.1, DEFAULT_LIMITS).pixels
        assert np.unique(pixels).tolist() == [0, 200]


def cpu_ratio(dataset: Dataset, side: int) -> float:
    """Return the CPU of a preview of this side by that of one at full size."""
    times: dict[int, list[float]] = {0: [], side: []}
    for _ in range(3):
        for longest, spent in times.items():
            began = time.process_time()
            draw_picture(dataset, PreviewOptions(max_side=longest))
            spent.append(time.process_time() - began)
    return median(times[side]) / median(times[0])


def noisy(rows: int, columns: int) -> np.ndarray:
    noise = np.random.default_rng(1).normal(0, 12, (rows, columns))
    return (waves(rows, columns) + noise).astype(np.uint16)


def test_small_preview_costs_a_fraction_of_a_full_size_one():
    assert cpu_ratio(dataset_of(noisy(3000, 2500), 16, BitsStored=12, HighBit=11), 512) < 0.3


def test_small_slide_costs_a_fraction_of_a_full_size_one():
    tile = coded(noisy(512, 512), 16)
    slide = {"NumberOfFrames": 16, "TotalPixelMatrixRows": 2048, "TotalPixelMatrixColumns": 2048}
    bits = {"BitsAllocated": 16, "BitsStored": 12, "WindowCenter": 2048, "WindowWidth": 4096}
    dataset = picture(encapsulated(*[tile] * 16), 512, 512, J2K, **slide, **bits)
    assert cpu_ratio(dataset, 256) < 0.3


def test_overlays_need_the_whole_frame():
    dataset = dataset_of(BLACK)
    dataset.add_new(0x60000010, "US", 1024)
    dataset.add_new(0x60000011, "US", 1040)
    dataset.add_new(0x60003000, "OB", b"\xff" * (1024 * 1040 // 8))
    assert np.unique(render(dataset, PreviewOptions(max_side=16, overlays=True), 0)).tolist() == [255]


def test_overlays_that_are_not_there_need_no_whole_frame():
    y, x = np.mgrid[0:1024, 0:1024]
    dataset = dataset_of(((x // 3 + y // 5) % 2 * 255).astype(np.uint8))
    drawn, plain = (render(dataset, PreviewOptions(max_side=100, overlays=on), 0) for on in (True, False))
    assert np.array_equal(drawn, plain)
