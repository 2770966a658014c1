"""File to JSON and PNG: ours against dcmtk's processes and against plain pydicom with Pillow.

    python -m benchmarks.previews [--runs N] [--only WORD]

The files are made here: slopes, shapes and noise, so that they compress about as real ones do. Times are CPU
milliseconds (user and system, children too), medians of runs in turn; ours is warm and in this process, as in
a worker. dcmtk runs dcm2json, on a copy without pixels, and dcmj2pnm or dcml2pnm, at full size unless it says
"both". It does not decode JPEG 2000: there it gets the plain file, and the time in which OpenJPEG decodes the
frame is added. Plain pydicom decodes only what Pillow can.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import ExplicitVRLittleEndian

from app.dicom import describe
from app.model.options import DescribeOptions, PreviewOptions
from app.model.values import Content, ObjectRef
from tests.data import identity, part10

JPEG, LOSSLESS, JPEG_LS = (f"1.2.840.10008.1.2.4.{n}" for n in (50, 70, 80))
J2K, HTJ2K, RLE = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.5"
ENCODERS: dict[str, Callable[[np.ndarray], bytes]] = {
    JPEG: lambda frame: imagecodecs.jpeg8_encode(frame, level=90),
    LOSSLESS: lambda frame: imagecodecs.jpeg8_encode(frame, lossless=True),
    JPEG_LS: imagecodecs.jpegls_encode,
    J2K: lambda frame: imagecodecs.jpeg2k_encode(frame, codecformat="j2k", reversible=True, level=0),
    HTJ2K: lambda frame: imagecodecs.htj2k_encode(frame, reversible=True),
}
DCMTK = ("dcm2json", "dcmj2pnm", "dcml2pnm")


@dataclass(frozen=True)
class Case:
    """What is measured. aim: most that ours may take by dcmtk's. both: dcmtk makes its picture small too."""

    name: str
    size: tuple[int, int]
    syntax: str = ExplicitVRLittleEndian
    max_side: int = 0
    aim: float | None = None
    frames: int = 1
    color: bool = False
    both: bool = False


CT, DX, MG, US = (512, 512), (3000, 2500), (4096, 3328), (600, 800)
CASES = (
    Case("CT raw", CT, aim=0.05),
    Case("CT RLE", CT, RLE),
    Case("CT JPEG 2000", CT, J2K, aim=0.5),
    Case("CT HTJ2K", CT, HTJ2K),
    Case("DX raw", DX, aim=0.05),
    Case("DX RLE", DX, RLE, aim=0.06),
    Case("DX JPEG lossless", DX, LOSSLESS, aim=0.12),
    Case("DX JPEG-LS", DX, JPEG_LS, aim=0.18),
    Case("DX JPEG 2000", DX, J2K, aim=0.5),
    Case("DX JPEG 2000, 2048 px", DX, J2K, 2048),
    Case("DX JPEG 2000, 512 px", DX, J2K, 512, aim=0.05),
    Case("DX JPEG 2000, both 512", DX, J2K, 512, both=True),
    Case("DX HTJ2K, both 512", DX, HTJ2K, 512, both=True),
    Case("MG raw", MG, aim=0.05),
    Case("MG JPEG lossless", MG, LOSSLESS, aim=0.12),
    Case("US raw, 60 frames", US, frames=60, color=True),
    Case("US JPEG, 60 frames", US, JPEG, frames=60, color=True),
)


def pixels(case: Case) -> np.ndarray:
    """Return 12-bit grey or 8-bit colours: a slope, waves of several sizes, and noise."""
    rows, columns = case.size
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    image = 1500 + 0.2 * x + sum(300 * np.sin(x / s) * np.cos(y / (s + 9)) for s in (17, 90, 400))
    image += np.random.default_rng(rows).normal(0, 12, case.size).astype(np.float32)
    grey = np.clip(image, 0, 4095).astype("<u2")
    return np.repeat((grey >> 4).astype(np.uint8)[..., None], 3, axis=2) if case.color else grey


def dicom(case: Case, syntax: str) -> bytes:
    """Return the file of a case."""
    frame, bits = pixels(case), 8 if case.color else 12
    dataset = identity(Modality=case.name[:2], Rows=case.size[0], Columns=case.size[1])
    dataset.SamplesPerPixel = 3 if case.color else 1
    dataset.PhotometricInterpretation = "RGB" if case.color else "MONOCHROME2"
    if case.color:
        dataset.PlanarConfiguration = 0
        dataset.PhotometricInterpretation = "YBR_FULL_422" if syntax == JPEG else "RGB"
    else:
        dataset.WindowCenter, dataset.WindowWidth = "1800", "2400"
    dataset.NumberOfFrames = case.frames
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8 * frame.itemsize, bits, bits - 1
    dataset.PixelRepresentation = 0
    dataset.PixelData = frame.tobytes() * case.frames
    dataset["PixelData"].VR = "OW"
    if syntax in ENCODERS:
        dataset.PixelData = encapsulate([ENCODERS[syntax](frame)] * case.frames)
        dataset["PixelData"].VR = "OB"
    elif syntax == RLE:
        plain = dcmread(io.BytesIO(part10(dataset)))
        plain.compress(RLE, generate_instance_uid=False)
        return part10(plain, RLE)
    return part10(dataset, syntax)


def cpu_ms() -> float:
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return 1000 * sum(usage.ru_utime + usage.ru_stime for usage in spent)


def took(call: Callable[[], object]) -> float:
    began = cpu_ms()
    call()
    return cpu_ms() - began


def ours(data: bytes, case: Case) -> Callable[[], object]:
    content = Content(ObjectRef("bucket", "name", 1), "gs://bucket/name", len(data), data=data)
    options = DescribeOptions(preview=PreviewOptions(max_side=case.max_side))

    def run() -> None:
        instance = describe(content, options)
        assert instance.preview is not None, instance.preview_error

    return run


def dcmtk(case: Case, data: bytes, folder: Path) -> Callable[[], object]:
    """Return what runs dcmtk's two programs on the file, or on the plain one where it cannot decode it."""
    alien = case.syntax in (J2K, HTJ2K)
    image, header = folder / "image.dcm", folder / "header.dcm"
    image.write_bytes(dicom(case, ExplicitVRLittleEndian) if alien else data)
    dataset = dcmread(io.BytesIO(data))
    del dataset.PixelData
    header.write_bytes(part10(dataset))
    frame = ENCODERS[case.syntax](pixels(case)) if alien else b""
    size = ["+Sxv", str(case.size[1] * case.max_side // max(case.size))] if case.both else []
    window = [] if case.color else ["+Wi", "1"]
    program = "dcml2pnm" if case.syntax == JPEG_LS else "dcmj2pnm"
    draw = [program, "+on", "+F", str(case.frames // 2 + 1), *window, *size, image, folder / "image.png"]

    def run() -> None:
        subprocess.run(["dcm2json", header, folder / "header.json"], check=True, capture_output=True)
        subprocess.run(draw, check=True, capture_output=True)
        if alien:
            imagecodecs.jpeg2k_decode(frame)

    return run


def naive(data: bytes, case: Case) -> Callable[[], object]:
    """Return what most people write first."""

    draw = naive_picture(data, case)

    def run() -> None:
        json.dumps(without_pixels(dcmread(io.BytesIO(data))).to_json_dict())
        draw()

    return run


def naive_picture(data: bytes, case: Case) -> Callable[[], object]:
    def run() -> None:
        dataset = dcmread(io.BytesIO(data))
        image = dataset.pixel_array[case.frames // 2] if case.frames > 1 else dataset.pixel_array
        if not case.color:
            shown = apply_voi_lut(apply_modality_lut(image, dataset), dataset).astype(float)
            image = ((shown - shown.min()) / (shown.max() - shown.min()) * 255).astype(np.uint8)
        picture = Image.fromarray(image)
        if case.max_side:
            picture.thumbnail((case.max_side, case.max_side))
        picture.save(io.BytesIO(), "PNG")

    return run


def without_pixels(dataset: Dataset) -> Dataset:
    return dataset[:0x7FE00000]


def measure(case: Case, runs: int) -> str:
    """Return a line of the table."""
    data = dicom(case, case.syntax)
    with tempfile.TemporaryDirectory() as name:
        ways = {"ours": ours(data, case), "dcmtk": dcmtk(case, data, Path(name)), "naive": naive(data, case)}
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(runs + 1):  # the first warms up
            for way, run in ways.items():
                try:
                    times[way].append(took(run))
                except (NotImplementedError, RuntimeError):
                    times[way].append(float("nan"))  # no decoder for the syntax
    mine, tool, plain = (statistics.median(times[way][1:]) for way in ways)
    verdict = "" if case.aim is None else "met" if mine <= case.aim * tool else "missed"
    aim = "" if case.aim is None else f"{case.aim:.2f}"
    numbers = f"{mine:7.1f} | {tool:7.1f} | {mine / tool:5.3f} | {aim:4} | {verdict:6} | {plain:7.1f}"
    return f"| {case.name:22} | {len(data) / 1e6:6.1f} | {numbers} | {mine / plain:5.3f} |"


def main() -> None:
    """Measure every case and print the table."""
    parser = argparse.ArgumentParser(description="File to JSON and PNG against others.")
    parser.add_argument("--runs", type=int, default=5, help="of each way, besides one to warm up")
    parser.add_argument("--only", default="", help="cases with this word in their name")
    arguments = parser.parse_args()
    if missing := [tool for tool in DCMTK if shutil.which(tool) is None]:
        sys.exit(f"{missing[0]} is not on this machine: install dcmtk")
    print("| file | MB | ours, ms | dcmtk, ms | ratio | aim | | pydicom + Pillow, ms | ratio |")
    print("|---|---:|---:|---:|---:|---:|---|---:|---:|")
    for case in CASES:
        if arguments.only in case.name:
            print(measure(case, arguments.runs), flush=True)


if __name__ == "__main__":
    main()
