"""The development corpus: known pixels, the look of another renderer, an end for every file."""

import csv
import hashlib
import warnings
from collections import Counter

import numpy as np
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset

from app.dicom.pixels.frames import Frame, read_frame
from app.dicom.pixels.image_header import read_header
from app.dicom.pixels.reduced import MIN_PIXELS
from app.dicom.render.geometry import resize
from app.dicom.render.modality_lut import modality_transform
from app.dicom.render.preview import draw, preview, render
from app.model.errors import Unrenderable
from app.model.options import PreviewOptions
from tests.parts import shared


def corpus_rows(*path: str) -> list[dict[str, str]]:
    with open(shared(*path), encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_forced(name: str) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dcmread(shared("corpus") / name, force=True)


def all_frames(name: str) -> np.ndarray:
    dataset = read_forced(name)
    header = read_header(dataset)
    frames = [read_frame(dataset, index).pixels for index in range(header.frames)]
    return np.stack(frames) if header.frames > 1 else frames[0]


def test_corpus_decodes_to_the_known_pixels():
    """Lossless frames must be equal; YCbCr is decoded to RGB here and DCT decoders may differ by one."""
    exact = 0
    for row in corpus_rows("corpus", "MANIFEST.csv"):
        loose = row["photometric"].startswith("YBR_FULL") or "jpeg-extended" in row["file"]
        if not row["decoded_sha256"] or (loose and "jpegls" not in row["file"]):
            continue
        pixels = np.ascontiguousarray(all_frames(row["file"]).astype(np.dtype(row["decoded_dtype"])))
        assert hashlib.sha256(pixels.tobytes()).hexdigest() == row["decoded_sha256"], row["file"]
        exact += 1
    assert exact > 130


def test_corpus_groups_of_the_same_pixels_decode_equal():
    groups: dict[str, list[str]] = {}
    for row in corpus_rows("truth", "same-pixels-dev.csv"):
        groups.setdefault(row["group"], []).append(row["file"])
    for files in groups.values():
        first = all_frames(files[0])
        for name in files[1:]:
            assert np.array_equal(first, all_frames(name)), name


def test_corpus_pairs_equal_the_reference_of_the_working_group():
    for row in corpus_rows("truth", "wg04-reference-pairs-dev.csv"):
        if row["codec_is"] == "lossless":
            pixels = np.ascontiguousarray(all_frames(row["file"]))
            assert hashlib.sha256(pixels.tobytes()).hexdigest() == row["reference_pixels_sha256"], row["file"]


NOT_OURS = {
    # Lossy 12-bit frames: a decoder may round its cosines in another way.
    "ct_jpeg-progressive_mono2_ctimage-jpegprocess10-12-ts1-2-4-55.dcm",
    "ct_jpeg-spectral_mono2_ctimage-jpegprocess6-8-ts1-2-4-53.dcm",
    # Equal to the plain frame and to every other lossless coding of it, see the groups above.
    "ct_jpeg-sv1_mono2_ctimage-jpegprocess14sv1-ts1-2-4-70.dcm",
}


def test_corpus_decodes_as_a_stack_of_other_codecs_expects():
    """Hashes of a viewer with codecs in WebAssembly: of grey after rescaling, of colours as drawn."""
    wrong = set()
    for row in corpus_rows("truth", "cornerstone-pixel-hashes.csv"):
        dataset = read_forced(row["file"])
        frame = read_frame(dataset, 0)
        if frame.pixels.ndim == 3 or frame.photometric == "PALETTE COLOR":
            pixels = draw(dataset, frame, PreviewOptions())
        else:
            kind = np.float32 if "float32" in row["what_is_hashed"] else np.int16
            pixels = modality_transform(dataset, frame.header, 0).apply(frame.pixels).astype(kind)
        if hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest() != row["expected_pixel_sha256"]:
            wrong.add(row["file"])
    assert wrong == NOT_OURS


def reference(row: dict[str, str]) -> tuple[Dataset, np.ndarray, PreviewOptions]:
    """Return a file, dcmtk's picture of it, and options that ask for the same picture."""
    dataset = read_forced(row["file"])
    expected = np.asarray(Image.open(shared("truth", "dcmtk-rendered-dev") / f"{row['file'][:-4]}.png"))
    frame = read_frame(dataset, 0)
    window = whole_range(dataset, frame) if "+Wm" in row["png_cmd"] and frame.pixels.ndim == 2 else "auto"
    return dataset, expected, PreviewOptions(window=window, overlays=True)


def whole_range(dataset: Dataset, frame: Frame) -> str:
    """Return the window from the least value of a frame to its greatest."""
    values = modality_transform(dataset, frame.header, 0).apply(frame.pixels)
    low, high = float(values.min()), float(values.max())
    return f"{(low + high) / 2},{max(high - low, 1e-9)},linear-exact"


EXPLAINED = {
    # dcmtk shows a constant frame black; it has no window to ask for.
    "ct_explicit_mono2_mf.dcm",
    "seg_explicit_mono2_seg-image-sm-dots-tiled-full.dcm",
    "sm_explicit_mono2_sm-image-grayscale.dcm",
    "xa_explicit_mono2_xa-minimal.dcm",
    # dcmtk does not know elements whose VR is UN, so it misses window and rescale.
    "ct_j2k-ll_mono2_ctimage-jpeg2000losslessonly-ts1-2-4-90_2.dcm",
    "ct_j2k_mono2_ctimage-jpeg2000-ts1-2-4-91_2.dcm",
    "ct_jpegls-near_mono2_ctimage-jpeglslossy-ts1-2-4-81_2.dcm",
    # dcmtk rounds modality values to integers; the slope is 0.001.
    "mr_explicit_mono2_001_2.dcm",
    # dcmtk's grey values do not even rise with the 32-bit stored values.
    "rtdose_bigendian_mono2_rtdose-expb-1frame.dcm",
    # Half of the pixel data are missing; dcmtk draws the rest black.
    "mr_explicit_mono2_test-dcm.dcm",
    # dcmtk converts YBR_FULL with its own rounding: two grey levels.
    "ot_explicit_ybrfull_sc-ybr-full-uncompressed.dcm",
    "us_rle_ybrfull_ybr-full-rle.dcm",
}


def test_corpus_looks_as_dcmtk_shows_it():
    """Print, for every file that dcmtk draws, the mean and the largest difference in grey levels."""
    compared, wrong = 0, []
    with open(shared("truth", "dcmtk-rendered-dev") / "INDEX.csv", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["png"] == "yes"]
    for row in rows:
        if "+Sxv" in row["png_cmd"]:
            print(f"     -     -  {row['file']}: dcmtk made it smaller")
            continue
        try:
            dataset, expected, options = reference(row)
        except Unrenderable as exc:
            print(f"     -     -  {row['file']}: {exc.code} (explained)")
            wrong.append(row["file"])
            continue
        pixels = draw(dataset, read_frame(dataset, 0), options).astype(int)
        if expected.ndim == 3 and pixels.ndim == 2:
            expected = expected[..., 0]
        off = np.abs(pixels - expected)
        print(f"{off.mean():6.2f} {off.max():5}  {row['file']}{' (explained)' * (row['file'] in EXPLAINED)}")
        wrong += [row["file"]] if off.max() > 1 else []
        compared += 1
    assert compared > 110
    assert set(wrong) == EXPLAINED


def test_corpus_halved_while_decoded_looks_like_the_whole_made_small():
    """JPEG 2000 at a sixth; its low resolutions lie up to a third of a pixel to the upper left."""
    compared = 0
    for row in corpus_rows("corpus", "MANIFEST.csv"):
        dataset = read_forced(row["file"])
        if "2000" not in row["transfer_syntax"] or not row["decoded_sha256"]:
            continue
        frame = read_frame(dataset, 0)
        if frame.header.pixels < MIN_PIXELS:
            continue
        side = max(frame.header.rows, frame.header.columns) // 6
        options = PreviewOptions(max_side=side, window=whole_range(dataset, frame))
        small = render(dataset, options, 0).astype(int)
        whole = resize(draw(dataset, frame, options), small.shape[:2])
        off = np.abs(small - whole)
        print(f"{off.mean():6.2f}  {row['file']}")
        assert off.mean() < 4, row["file"]
        compared += 1
    assert compared >= 4


def test_corpus_ends_as_a_picture_or_a_code():
    ends = Counter[str]()
    for path in sorted(shared("corpus").glob("*.dcm")):
        try:
            preview(read_forced(path.name), PreviewOptions(max_side=256))
            end = "picture"
        except Unrenderable as exc:
            end = exc.code
        print(f"{end:24} {path.name}")
        ends[end] += 1
    assert ends == {
        "picture": 174,
        "no_pixel_data": 32,
        "bad_codestream": 3,
        "truncated_pixel_data": 2,
        "bad_image_header": 2,
    }
