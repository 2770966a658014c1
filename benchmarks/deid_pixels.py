"""Text burned into pixels: how much of it is found and masked, how much of the picture with it, at what cost.

    python -m benchmarks.deid_pixels [--count N] [--seed N] [--only WORD] [--pictures DIR] [--injected DIR]

Pictures are made by `benchmarks.burned_text`, one half with text and one without; or they are files into
which a program burned text, with its manifest. Each is read from the bytes of a
file, cleaned, written as pixel data and read again. A line is masked if what is left in its box is no longer
like what was there: a correlation of at most 0.5. Every line that stays legible is named.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from app.dicom.deidentify.pixels import clean_frames, encode, read_frames
from app.dicom.deidentify.pixels.boxes import Box, cover
from app.dicom.deidentify.pixels.regions import region_boxes
from app.dicom.deidentify.pixels.text import find_lines
from app.dicom.read.dataset import read_dataset
from benchmarks.burned_text import Line, samples
from tests.data import content, part10

AIMS = {"recall": 0.97, "precision": 0.80, "masked": 0.01, "cpu": 1.0, "rss": 1.0}


@dataclass
class Tally:
    """Counts of one kind of pictures, and their sums."""

    pictures: int = 0
    lines: int = 0
    legible: list[str] = field(default_factory=list)
    boxes: int = 0
    right: int = 0
    clean: float = 0.0
    masked: float = 0.0
    cpu: float = 0.0
    megapixels: float = 0.0
    refused: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def row(self) -> str:
        recall = 1 - len(self.legible) / self.lines if self.lines else 1.0
        precision = self.right / self.boxes if self.boxes else 1.0
        return (
            f"{self.pictures:8} {self.lines:6} {recall:7.3f} {precision:10.3f} "
            f"{self.masked / max(self.clean, 1):8.2%} {self.cpu / max(self.megapixels, 1e-9):7.2f} "
            f"{len(self.refused):8}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=60, help="pictures with text, and as many without")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="only pictures whose name has this word")
    parser.add_argument("--pictures", type=Path, help="write what was looked at, before beside after")
    parser.add_argument("--injected", type=Path, help="a folder with manifest.json of phi_inject.py")
    options = parser.parse_args()
    find_lines(np.indices((64, 64, 3)).sum(axis=0).astype(np.uint8))  # loads the models
    tallies: dict[str, Tally] = {}
    files = injected(options.injected) if options.injected else made(options.count, options.seed)
    for name, data, lines in files:
        if options.only in name:
            tallies.setdefault(name.split("-")[0], Tally()).add(judged(name, data, lines, options.pictures))
    print("kind     pictures  lines  recall  precision   masked  CPU/MP  refused")
    total = Tally()
    for kind, tally in tallies.items():
        print(f"{kind:8.8} {tally.row()}")
        total.add(tally)
    print(f"{'all':8} {total.row()}")
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory {rss:.2f} GB; aims: {AIMS}")
    for word, names in (("legible", total.legible), ("refused", total.refused)):
        for name in names:
            print(f"{word}: {name}")
    sys.exit(0 if total.lines and len(total.legible) <= (1 - AIMS["recall"]) * total.lines else 1)


def made(count: int, seed: int) -> Iterator[tuple[str, bytes, tuple[Line, ...]]]:
    """Yield names, files and lines of pictures with text and without."""
    for clean in (False, True):
        for sample in samples(count, seed, clean):
            yield sample.name, part10(sample.dataset), sample.lines


def injected(folder: Path) -> Iterator[tuple[str, bytes, tuple[Line, ...]]]:
    """Yield the files into which phi_inject.py burned text."""
    for entry in json.loads((folder / "manifest.json").read_text())["files"]:
        lines = tuple(
            Line(canary["tokens"][0], tuple(canary["box"]), canary["frames"][0])
            for canary in entry["canaries"]
            if canary["mode"] == "pixels"
        )
        if lines:
            yield entry["file"], (folder / entry["file"]).read_bytes(), lines


def judged(name: str, data: bytes, lines: tuple[Line, ...], pictures: Path | None) -> Tally:
    """Clean one file and count."""
    dataset = read_dataset(content(data))
    frames = read_frames(dataset)
    began = time.process_time()
    cleaned = clean_frames(frames.pixels, dataset, photometric=frames.photometric)
    took = time.process_time() - began
    encoded = encode(dataset, type(frames)(cleaned.frames, frames.photometric))
    for tag, (vr, value) in encoded.elements.items():
        dataset[tag] = RawDataElement(Tag(tag), vr, len(value), value, 0, False, True)
    after = cleaned.frames
    shape = after.shape[1], after.shape[2]
    known = set(region_boxes(dataset, shape))
    boxes = [box for box in cleaned.boxes if box not in known]
    truth = [Box(*line.box) for line in lines]
    text = cover([box.grown(6, 6) for box in truth], shape) | cover(known, shape)
    masked = cover(boxes, shape)
    views = 1 if len(after) == 1 else 2
    tally = Tally(1, len(lines), boxes=len(boxes), cpu=took, megapixels=views * shape[0] * shape[1] / 1e6)
    tally.clean, tally.masked = float((~text).sum()), float((masked & ~text).sum())
    tally.right = sum(bool((text & cover([box], shape)).any()) for box in boxes)
    tally.refused = [f"{name} {box}" for box in cleaned.residual]
    for index, line in enumerate(lines):
        if legible(frames.pixels[line.frame], after[line.frame], line.box):
            tally.legible.append(f"{name} line {index} {line.box} {line.text!r}")
    if pictures is not None:
        show(pictures / f"{name}.png", frames.pixels, after, lines)
    return tally


def legible(before: np.ndarray, after: np.ndarray, box: tuple[int, int, int, int]) -> bool:
    """Return whether what is in a box still looks like what was there."""
    left, top, right, bottom = box
    one, other = (grey(frame)[top:bottom, left:right].reshape(-1) for frame in (before, after))
    if other.std() < 1e-6:
        return False
    return bool(np.corrcoef(one, other)[0, 1] > 0.5)


def grey(frame: np.ndarray) -> np.ndarray:
    return frame.astype(np.float64).mean(axis=-1) if frame.ndim == 3 else frame.astype(np.float64)


def show(path: Path, before: np.ndarray, after: np.ndarray, lines: tuple[Line, ...]) -> None:
    """Write a frame before and after, by its own range."""
    index = lines[0].frame if lines else 0
    low, high = float(grey(before[index]).min()), float(grey(before[index]).max())
    pair = np.concatenate([grey(before[index]), grey(after[index])], axis=1)
    scaled = np.clip((pair - low) / max(high - low, 1e-9), 0, 1) * 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scaled.astype(np.uint8)).save(path)


if __name__ == "__main__":
    main()
