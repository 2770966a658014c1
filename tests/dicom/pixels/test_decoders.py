"""Compressed frames: right pixels, right colours, and what is refused before a decoder sees it."""

import io
import time
import zlib
from contextlib import suppress

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from app.dicom.pixels.frames import read_frame
from app.model.errors import Unrenderable
from tests.dicom.pictures import (
    DEFLATED_FRAMES,
    HTJ2K,
    J2K,
    J2K_LOSSY,
    JPEG_BASELINE,
    JPEG_LOSSLESS,
    JPEG_LOSSLESS_14,
    JPEG_LS,
    JPEG_PROGRESSIVE,
    JPEG_XL,
    RLE,
    bundled,
    encapsulated,
    frame_error,
    picture,
    rle,
    words,
)
from tests.parts import shared

BARS = [(255, 0, 0), (255, 128, 128), (0, 255, 0), (128, 255, 128), (0, 0, 255)]
BARS += [(128, 128, 255), (0, 0, 0), (64, 64, 64), (192, 192, 192), (255, 255, 255)]
"""Colours of pydicom's SC_rgb files, ten rows each."""


def test_rle_puts_the_most_significant_byte_first():
    # PS3.5 G.2: segments of high bytes, then low bytes; a run of two zeros, then two literal bytes.
    dataset = picture(encapsulated(rle(b"\xff\1", b"\1\2\3")), 1, 2, RLE, BitsAllocated=16)
    assert read_frame(dataset, 0).pixels.tolist() == [[0x0102, 0x0103]]


def test_rle_with_another_number_of_segments_is_refused():
    assert frame_error(picture(encapsulated(rle(b"\1\1\2")), 1, 2, RLE, BitsAllocated=16)) == "bad_codestream"


@pytest.mark.parametrize("size", [1, 6, 62])
def test_rle_that_ends_inside_its_header_is_refused(size):
    frame = rle(b"\1\1\2")[:size]
    assert frame_error(picture(encapsulated(frame), 1, 2, RLE)) == "bad_codestream"


def test_rle_of_one_bit_holds_packed_bytes():
    dataset = picture(encapsulated(rle(b"\1\x05\x01")), 1, 9, RLE, BitsAllocated=1)
    assert read_frame(dataset, 0).pixels.tolist() == [[1, 0, 1, 0, 0, 0, 0, 0, 1]]


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def test_deflated_frames_are_inflated_one_by_one():
    pixels = encapsulated(deflated(words(1, 2)), deflated(words(3, 4)))
    dataset = picture(pixels, 1, 2, DEFLATED_FRAMES, BitsAllocated=16, NumberOfFrames=2)
    assert read_frame(dataset, 1).pixels.tolist() == [[3, 4]]


def test_deflated_frame_that_ends_early_is_truncated():
    dataset = picture(encapsulated(deflated(b"\1")), 1, 2, DEFLATED_FRAMES, BitsAllocated=16)
    assert frame_error(dataset) == "truncated_pixel_data"


LOSSLESS = [
    "MR_small_RLE",
    "MR_small_bigendian",
    "MR_small_implicit",
    "MR_small_jp2klossless",
    "MR_small_jpeg_ls_lossless",
]


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_frame_equals_the_plain_one(name):
    plain = np.frombuffer(bundled("MR_small.dcm").PixelData, "<i2").reshape(64, 64)
    assert np.array_equal(read_frame(bundled(f"{name}.dcm"), 0).pixels, plain)


COLOURS = ["rgb_jpeg_dcmtk", "rgb_jpeg_gdcm", "rgb_jpeg_lossy_gdcm", "rgb_rle", "rgb_gdcm_KY"]
COLOURS += ["rgb_dcmtk_+eb+cr", "rgb_dcmtk_+eb+cy+n1", "rgb_dcmtk_+eb+cy+np", "rgb_dcmtk_+eb+cy+s4"]


@pytest.mark.parametrize("name", COLOURS)
def test_colour_bars_have_their_colours(name):
    frame = read_frame(bundled(f"SC_{name}.dcm"), 0)
    assert frame.photometric == "RGB"
    for bar, colour in enumerate(BARS):
        assert np.abs(frame.pixels[5 + 10 * bar, 50].astype(int) - colour).max() <= 6  # lossy, subsampled


def noise(bits: int, signed: bool = False, samples: int = 1) -> np.ndarray:
    """Return 40 x 24 random samples that fill the bits."""
    kind = f"{'i' if signed else 'u'}{1 if bits <= 8 else 2}"
    low = -(1 << (bits - 1)) if signed else 0
    shape = (40, 24) if samples == 1 else (40, 24, samples)
    return np.random.default_rng(bits).integers(low, low + (1 << bits), shape).astype(kind)


ENCODERS = {
    JPEG_LOSSLESS: lambda a: imagecodecs.jpeg8_encode(a, lossless=True),
    JPEG_LS: imagecodecs.jpegls_encode,
    J2K: lambda a: imagecodecs.jpeg2k_encode(a, codecformat="j2k", reversible=True, level=0),
    HTJ2K: lambda a: imagecodecs.htj2k_encode(a, reversible=True),
    JPEG_XL: lambda a: imagecodecs.jpegxl_encode(a, lossless=True),
}


@pytest.mark.parametrize(("bits", "signed"), [(8, False), (16, False), (16, True)])
@pytest.mark.parametrize("syntax", ENCODERS)
def test_lossless_grey_survives_its_codec(syntax, bits, signed):
    pixels = noise(bits, signed)
    # Only JPEG 2000 knows signed samples; the others hold the same bits unsigned.
    plain = pixels if syntax in (J2K, HTJ2K) else pixels.view(f"u{pixels.itemsize}")
    data = encapsulated(ENCODERS[syntax](plain))
    dataset = picture(data, 40, 24, syntax, BitsAllocated=bits, PixelRepresentation=int(signed))
    assert np.array_equal(read_frame(dataset, 0).pixels, pixels)


# Without being told, the encoder says 12 bits of any 16 that it packs.
WHOLE_CELLS = {JPEG_LOSSLESS: lambda a: imagecodecs.jpeg8_encode(a, lossless=True, bitspersample=16)}


@pytest.mark.parametrize(
    ("high_bit", "signed", "expected"),
    [(11, 0, [0x001, 0xFFF, 0x800]), (11, 1, [1, -1, -2048]), (15, 0, [0xF00, 0x1FF, 0x580])],
)
@pytest.mark.parametrize("syntax", [RLE, *ENCODERS])
def test_bits_beside_the_stored_ones_are_dropped_whatever_packed_the_cells(
    syntax, high_bit, signed, expected
):
    if syntax == JPEG_XL and high_bit == 15:
        expected = [0x001, 0xFFF, 0x800]  # its precision is not read: values are taken to lie lowest
    cells = np.array([[0xF001, 0x1FFF, 0x5800]], np.uint16).repeat(8, 0)
    if syntax == RLE:
        frame = rle(*[b"\x17" + bytes((cells >> shift).astype(np.uint8)) for shift in (8, 0)])
    else:
        frame = WHOLE_CELLS.get(syntax, ENCODERS[syntax])(cells)
    stored = {"BitsStored": 12, "HighBit": high_bit, "PixelRepresentation": signed}
    dataset = picture(encapsulated(frame), 8, 3, syntax, BitsAllocated=16, **stored)
    assert read_frame(dataset, 0).pixels.tolist() == [expected] * 8


def test_signed_cells_of_a_codestream_lose_the_bits_beside_the_stored_ones():
    cells = np.array([[0x1001, 0x0FFF - 0x8000, 0x0800]], np.int16).repeat(8, 0)
    stored = {"BitsStored": 12, "PixelRepresentation": 1}
    dataset = picture(encapsulated(ENCODERS[J2K](cells)), 8, 3, J2K, BitsAllocated=16, **stored)
    assert read_frame(dataset, 0).pixels.tolist() == [[1, -1, -2048]] * 8


def test_values_of_a_codestream_of_the_stored_precision_lie_lowest_whatever_the_high_bit():
    cells = np.array([[0x001, 0xFFF, 0x800]], np.uint16).repeat(8, 0)
    frame = imagecodecs.jpeg2k_encode(cells, codecformat="j2k", reversible=True, level=0, bitspersample=12)
    dataset = picture(encapsulated(frame), 8, 3, J2K, BitsAllocated=16, BitsStored=12, HighBit=15)
    assert read_frame(dataset, 0).pixels.tolist() == cells.tolist()


def test_lossy_samples_past_the_stored_bits_do_not_wrap_around_to_black():
    cells = np.full((8, 3), 4097, np.uint16)
    frame = imagecodecs.jpeg2k_encode(cells, codecformat="j2k", reversible=True, level=0)
    dataset = picture(encapsulated(frame), 8, 3, J2K_LOSSY, BitsAllocated=16, BitsStored=12)
    assert read_frame(dataset, 0).pixels.tolist() == cells.tolist()


@pytest.mark.parametrize("syntax", ENCODERS)
def test_lossless_colour_survives_its_codec(syntax):
    pixels = noise(8, samples=3)
    data = encapsulated(ENCODERS[syntax](pixels))
    dataset = picture(data, 40, 24, syntax, SamplesPerPixel=3, PhotometricInterpretation="RGB")
    frame = read_frame(dataset, 0)
    assert np.array_equal(frame.pixels, pixels)
    assert frame.photometric == "RGB"


def with_scan(data: bytes, spectral_end: int, approximation: int) -> bytes:
    """Return a JPEG whose scans end in these two parameters: Se, and Ah and Al."""
    position = data.index(b"\xff\xda")
    while position >= 0:
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        data = data[: end - 2] + bytes((spectral_end, approximation)) + data[end:]
        position = data.find(b"\xff\xda", end)
    return data


def scan_by_scan(pixels: np.ndarray) -> bytes:
    """Return a lossless JPEG with a scan for each component."""
    scans, plane = [], b""
    for part in range(3):
        plane = ENCODERS[JPEG_LOSSLESS](np.ascontiguousarray(pixels[..., part]))
        tables, scan = plane.index(b"\xff\xc4"), plane.index(b"\xff\xda")
        # One component: length 8, count 1, then its id.
        scans.append(plane[tables : scan + 5] + bytes((part + 1,)) + plane[scan + 6 : -2])
    head = plane[plane.index(b"\xff\xc3") :][:10]
    frame = head[:2] + b"\0\x11" + head[4:9] + b"\3\1\x11\0\2\x11\0\3\x11\0"
    return b"\xff\xd8" + frame + b"".join(scans) + b"\xff\xd9"


# ISO 10918-1 B.2.3: in a lossless scan Se and Ah are 0 and mean nothing, Al is the point transform.
MEANINGLESS = [(63, 0x00), (0, 0x10), (63, 0x10), (255, 0xF0), (0, 0x0F)]


@pytest.mark.parametrize(("spectral_end", "approximation"), MEANINGLESS)
@pytest.mark.parametrize(("syntax", "predictor"), [(JPEG_LOSSLESS, 1), (JPEG_LOSSLESS_14, 6)])
def test_parameters_that_mean_nothing_in_a_lossless_scan_are_ignored(
    syntax, predictor, spectral_end, approximation
):
    pixels = noise(12)
    frame = imagecodecs.jpeg8_encode(pixels, lossless=True, predictor=predictor, bitspersample=12)
    odd = with_scan(frame, spectral_end, approximation)
    dataset = picture(encapsulated(odd), 40, 24, syntax, BitsAllocated=16, BitsStored=12)
    assert np.array_equal(read_frame(dataset, 0).pixels, pixels)


def test_every_scan_of_a_lossless_frame_may_have_odd_parameters():
    pixels = noise(8, samples=3)
    data = encapsulated(with_scan(scan_by_scan(pixels), 63, 0x10))
    dataset = picture(data, 40, 24, JPEG_LOSSLESS, SamplesPerPixel=3, PhotometricInterpretation="RGB")
    assert np.array_equal(read_frame(dataset, 0).pixels, pixels)


def test_point_transform_of_a_lossless_scan_is_kept():
    # H.1.2: samples were divided by 2^Al before they were coded, and are multiplied by it again.
    pixels = noise(8) >> 4
    data = encapsulated(with_scan(ENCODERS[JPEG_LOSSLESS](pixels), 63, 0x02))
    first = read_frame(picture(data, 40, 24, JPEG_LOSSLESS), 0).pixels
    assert np.array_equal((np.diff(first.astype(int)) % 256) // 4 % 16, np.diff(pixels.astype(int)) % 16)


def halved_j2k(planes: list[np.ndarray], across: int, down: int) -> bytes:
    """Return one J2K codestream of three components, all but the first subsampled.

    Of a codestream without decompositions the body of its tile is one packet, and the packets of the
    components follow each other (ISO 15444-1 B.12.1.1).
    """
    streams = [
        imagecodecs.jpeg2k_encode(plane, codecformat="j2k", reversible=True, level=0, resolutions=1)
        for plane in planes
    ]
    packets = b"".join(s[s.index(b"\xff\x93") + 2 : -2] for s in streams)
    first = streams[0]
    size = first.index(b"\xff\x51")
    length = int.from_bytes(first[size + 2 : size + 4], "big")
    parts = b"\7\1\1" + bytes((7, across, down)) * 2
    siz = b"\xff\x51" + (38 + 9).to_bytes(2, "big") + first[size + 4 : size + 38] + b"\0\3" + parts
    main = first[:size] + siz + first[size + 2 + length : first.index(b"\xff\x90")]
    tile = b"\xff\x90\0\x0a\0\0" + (14 + len(packets)).to_bytes(4, "big") + b"\0\1\xff\x93"
    return main + tile + packets + b"\xff\xd9"


@pytest.mark.parametrize("shape", [(40, 24), (39, 23), (1, 1)])
@pytest.mark.parametrize(("across", "down"), [(2, 1), (2, 2)])
@pytest.mark.parametrize("photometric", ["YBR_FULL_422", "YBR_FULL", "RGB"])
def test_subsampled_colour_differences_of_jpeg_2000_are_spread(photometric, across, down, shape):
    rows, columns = shape
    half = (-(-rows // down), -(-columns // across))
    planes = [np.full(shape, 76, np.uint8), np.full(half, 85, np.uint8), np.full(half, 255, np.uint8)]
    planes[0][:, columns // 2 :] = 29
    planes[1][:, half[1] // 2 :] = 255
    planes[2][:, half[1] // 2 :] = 107
    data = encapsulated(halved_j2k(planes, across, down))
    dataset = picture(data, *shape, J2K, SamplesPerPixel=3, PhotometricInterpretation=photometric)
    frame = read_frame(dataset, 0)
    assert (frame.photometric, frame.pixels.shape) == ("RGB", (*shape, 3))
    # PS3.3 C.7.6.3.1.2: pure red is Y 76, Cb 85, Cr 255; pure blue is Y 29, Cb 255, Cr 107.
    assert np.abs(frame.pixels[-1, -1].astype(int) - (0, 0, 255)).max() <= 2
    if columns > 1:
        assert np.abs(frame.pixels[0, 0].astype(int) - (255, 0, 0)).max() <= 2


def test_unsigned_codestream_of_a_signed_image_gets_its_sign():
    # pydicom documents -2000 as the value outside the field of view of this file.
    assert read_frame(bundled("J2K_pixelrep_mismatch.dcm"), 0).pixels[0, 0] == -2000


@pytest.mark.parametrize(
    ("change", "expected"), [({"Rows": 65}, "bad_codestream"), ({"Columns": 63}, "bad_codestream")]
)
@pytest.mark.parametrize("name", ["MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"])
def test_codestream_of_other_dimensions_is_refused(name, change, expected):
    dataset = bundled(name)
    for keyword, value in change.items():
        setattr(dataset, keyword, value)
    assert frame_error(dataset) == expected


def test_frame_kind_must_be_legal_for_the_transfer_syntax():
    dataset = bundled("MR_small_jpeg_ls_lossless.dcm")
    dataset.file_meta.TransferSyntaxUID = JPEG_BASELINE
    assert frame_error(dataset) == "bad_codestream"


@pytest.mark.parametrize("syntax", [JPEG_BASELINE, JPEG_LOSSLESS, JPEG_LS])
def test_jpeg_that_lacks_only_its_end_marker_is_whole(syntax):
    pixels = noise(8)
    data = ENCODERS.get(syntax, imagecodecs.jpeg8_encode)(pixels)
    assert data.endswith(b"\xff\xd9")
    whole = read_frame(picture(encapsulated(data), 40, 24, syntax), 0).pixels
    assert np.array_equal(read_frame(picture(encapsulated(data[:-2]), 40, 24, syntax), 0).pixels, whole)


@pytest.mark.parametrize("syntax", [JPEG_BASELINE, JPEG_LOSSLESS, JPEG_LS])
def test_jpeg_that_lacks_samples_is_refused(syntax):
    pixels = noise(8)
    data = ENCODERS.get(syntax, imagecodecs.jpeg8_encode)(pixels)
    whole = read_frame(picture(encapsulated(data), 40, 24, syntax), 0).pixels
    refused = []
    for cut in [*range(3, 20), 50, 300]:
        with suppress(Unrenderable):
            # The last byte may hold nothing but padding bits.
            found = read_frame(picture(encapsulated(data[:-cut]), 40, 24, syntax), 0).pixels
            assert np.array_equal(found, whole), cut
            continue
        refused.append(cut)
    assert refused[-17:] == [*range(5, 20), 50, 300]


def test_progressive_jpeg_without_an_end_may_lack_a_scan():
    buffer = io.BytesIO()
    Image.fromarray(noise(8)).save(buffer, "JPEG", progressive=True)
    data = encapsulated(buffer.getvalue()[:-2])
    assert frame_error(picture(data, 40, 24, JPEG_PROGRESSIVE)) == "truncated_pixel_data"


def test_jpeg_ls_that_made_its_decoder_search_for_seconds_is_refused_at_once():
    for path in sorted(shared("tools", "badinputs", "seeds", "crash").glob("charls_*")):
        data = encapsulated(path.read_bytes())
        began = time.process_time()
        assert frame_error(picture(data, 64, 64, JPEG_LS, BitsAllocated=16, BitsStored=12)) == "decode_failed"
        assert time.process_time() - began < 0.5


def test_mutated_codestreams_never_raise_anything_else():
    random = np.random.default_rng(7)
    for name in ("SC_rgb_jpeg_dcmtk", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless", "MR_small_RLE"):
        dataset = bundled(f"{name}.dcm")
        good = bytes(dataset.PixelData)
        for _ in range(100):
            bad = bytearray(good)
            for position in random.integers(8, min(len(bad), 400), 3):
                bad[position] = int(random.integers(256))
            dataset.PixelData = bytes(bad)
            with suppress(Unrenderable):
                read_frame(dataset, 0)
