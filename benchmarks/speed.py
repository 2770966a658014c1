"""Guard against lost speed: ours against plain pydicom on the same files, in CPU of one process.

    python -m benchmarks.speed

Prints the ratios and fails with one line for each that is past its limit. Limits are about 1.7 times what was
measured, so a busy machine passes and a lost factor does not. benchmarks.previews compares with the fastest
other tools; this one takes twelve seconds of CPU and is part of every check.
"""

from __future__ import annotations

import io
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array

from app.dicom import describe
from app.dicom.read.dataset import read_dataset
from app.dicom.render.preview import preview
from app.model.options import DescribeOptions, PreviewOptions
from benchmarks import previews
from tests.data import content, enhanced, identity, part10

RT_STRUCTURE_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"
RUNS, TIMED_S = 7, 0.03
"""Timings of each way, and about the least CPU that one of them takes."""
SIDE = 512
"""Longest side of the pictures: most frames have to be made smaller, as by default."""
FRAMES, ROWS = 100, 128


@dataclass(frozen=True)
class Case:
    """A kind of file. metadata, picture: CPU that ours may take by pydicom's; None where nothing is drawn."""

    name: str
    data: Callable[[], bytes]
    metadata: float
    picture: float | None = None


def big_ct() -> bytes:
    """Return pydicom's own CT with the elements of a scanner, private ones too, and a bigger frame."""
    dataset = dcmread(str(get_testdata_file("CT_small.dcm", download=False)))
    dataset.Rows, dataset.Columns = previews.CT
    dataset.PixelData = previews.pixels(previews.Case("CT", previews.CT)).tobytes()
    return part10(dataset)


def big_mr() -> bytes:
    frame = previews.pixels(previews.Case("MR", (ROWS, ROWS)))
    return enhanced(frames=FRAMES, Rows=ROWS, Columns=ROWS, PixelData=frame.tobytes() * FRAMES)


def structures(rois: int = 10, contours: int = 20, points: int = 50) -> bytes:
    """Return an RTSTRUCT: sequences in sequences, and tens of thousands of decimal strings."""
    coordinates = [f"{n * 0.37 - 250:.2f}" for n in range(3 * points)]
    regions = []
    for number in range(rois):
        region = Dataset()
        region.ReferencedROINumber = number
        region.ContourSequence = []
        for _ in range(contours):
            contour = Dataset()
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = points
            contour.ContourData = coordinates
            region.ContourSequence.append(contour)
        regions.append(region)
    return part10(identity(RT_STRUCTURE_CLASS, Modality="RTSTRUCT", ROIContourSequence=regions))


def compressed(name: str, size: tuple[int, int], syntax: str, frames: int = 1) -> Callable[[], bytes]:
    case = previews.Case(name, size, syntax, frames=frames, color=name == "US")
    return lambda: previews.dicom(case, syntax)


CASES = (
    Case("CT raw", big_ct, metadata=0.65, picture=0.22),
    # pydicom leaves the items of the 100 frames unread; we check all of them first.
    Case("MR enhanced, 100 frames", big_mr, metadata=0.38, picture=3.6),
    Case("RTSTRUCT", structures, metadata=0.09),
    Case("DX JPEG 2000", compressed("DX", (1800, 1500), previews.J2K), metadata=1.1, picture=0.35),
    Case("CT RLE", compressed("CT", previews.CT, previews.RLE), metadata=1.1, picture=0.17),
    Case("US JPEG, 20 frames", compressed("US", previews.US, previews.JPEG, 20), metadata=1.1, picture=0.35),
)


def our_metadata(data: bytes) -> None:
    describe(content(data), DescribeOptions().without_preview())


def our_picture(data: bytes) -> None:
    preview(read_dataset(content(data)), PreviewOptions(max_side=SIDE))


def their_metadata(data: bytes) -> None:
    json.dumps(dcmread(io.BytesIO(data), stop_before_pixels=True).to_json_dict())


def their_picture(data: bytes) -> None:
    dataset = dcmread(io.BytesIO(data))
    image = pixel_array(dataset, index=int(dataset.get("NumberOfFrames", 1)) // 2)
    if image.ndim == 2:
        shown = apply_voi_lut(apply_modality_lut(image, dataset), dataset).astype(float)
        image = ((shown - shown.min()) / (shown.max() - shown.min()) * 255).astype(np.uint8)
    picture = Image.fromarray(image)
    picture.thumbnail((SIDE, SIDE))
    picture.save(io.BytesIO(), "PNG")


def cpu_ratio(
    ours: Callable[[bytes], None], theirs: Callable[[bytes], None], data: bytes, runs: int
) -> float:
    """Return the median CPU of ours by that of theirs, run in turn; short ones are repeated to be timed."""
    spent: dict[Callable[[bytes], None], list[float]] = {ours: [], theirs: []}
    warm = {run: min(cpu_s(run, data, 1) for _ in range(2)) for run in spent}
    for _ in range(runs):
        for run, times in spent.items():
            times.append(cpu_s(run, data, 1 + int(TIMED_S / max(warm[run], 1e-6))))
    return statistics.median(spent[ours]) / statistics.median(spent[theirs])


def cpu_s(run: Callable[[bytes], None], data: bytes, times: int) -> float:
    """Return the CPU seconds of one of so many calls."""
    began = time.process_time()
    for _ in range(times):
        run(data)
    return (time.process_time() - began) / times


def losses(cases: Sequence[Case], runs: int = RUNS) -> Iterator[str]:
    """Print the ratios of each case; yield a sentence for each that is past its limit twice."""
    for case in cases:
        data = case.data()
        ways = {
            "metadata": (our_metadata, their_metadata, case.metadata),
            "picture": (our_picture, their_picture, case.picture),
        }
        for what, (ours, theirs, limit) in ways.items():
            if limit is None:
                continue
            ratio = cpu_ratio(ours, theirs, data, runs)
            if ratio > limit:
                ratio = min(ratio, cpu_ratio(ours, theirs, data, runs))
            print(f"| {case.name:23} | {what:8} | {ratio:6.3f} | {limit:6.3f} |", flush=True)
            if ratio > limit:
                yield (
                    f"{case.name}: the {what} takes {ratio:.3f} of pydicom's CPU, more than {limit}; "
                    "find the change that lost it, or raise the limit in benchmarks/speed.py"
                )


def main(cases: Sequence[Case] = CASES) -> None:
    """Measure the cases; exit 1 where speed was lost."""
    print("| file | what | CPU by pydicom's | limit |\n|---|---|---:|---:|")
    if lost := list(losses(cases)):
        sys.exit("\n".join(f"speed lost: {text}" for text in lost))


if __name__ == "__main__":
    main()
