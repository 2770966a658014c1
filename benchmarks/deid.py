"""How often de-identification acts as it should, in the ten categories of MIDI-B, and what it costs.

    make deid-bench          or  .venv/bin/python -m benchmarks.deid [--profile NAME] [FOLDER]

The files are those that pydicom bundles, or those of a folder. Into each, an identity and stray copies of it
are planted: exact, in another case, glued to other letters, spaced, and reformatted. They go through a
profile, `research` unless another is named, and pydicom looks at what came out: what the profile keeps must
be as it was. A category's score is its share of correct actions, as in MIDI-B (MICCAI 2024). Pictures that
are held back count in `pixels_hidden` alone: nothing of them is released.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom._uid_dict import UID_dictionary
from pydicom.data import data_manager
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from app.dicom import clean_copy
from app.dicom.deidentify.actions import STAMPED
from app.dicom.deidentify.profile import PROFILES, Profile
from app.dicom.deidentify.table import ROWS, is_plane
from app.dicom.pixels.frames import read_frame
from app.dicom.read.dataset import read_dataset
from app.model.errors import CannotDeidentify, PermanentError
from app.model.keys import Keys, is_replacement
from app.model.options import DescribeOptions
from app.model.values import Content, ObjectRef

SECRET = b"a secret of the benchmark, 32 b."
CATEGORIES = (
    *("tag_retained", "text_notnull", "text_retained", "text_removed", "date_shifted"),
    *("uid_changed", "uid_consistent", "patid_consistent", "pixels_hidden", "pixels_retained"),
)
STAYS = "CT THORAX W CONTRAST"
TEXTS = (
    "ContrastBolusRoute",
    "ConvolutionKernel",
    "AcquisitionContrast",
    "ProtocolName",
    "SeriesDescription",
)
NOT_NULL = ("PatientID", "PatientName", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality")
DATES = ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")


def spellings(name: str, number: str, born: date) -> Iterator[str]:
    """Yield the ways in which an identity strays into text."""
    yield f"for {name} here"
    yield f"for {name.lower()} here"
    yield f"pt{name}scan"
    yield " ".join(name)
    yield f"id {number}"
    yield f"id {number[:4]} {number[4:]}"
    yield f"id-{'-'.join((number[:3], number[3:6], number[6:]))}"
    yield f"born {born:%d.%m.%Y}"
    yield f"born {born:%B %d, %Y}"
    yield f"born {born:%d%m%Y}"
    yield f"born_{born:%d_%m_%Y}"
    yield f"id{number}x"


def plant(dataset: Dataset, index: int) -> dict[str, str]:
    """Give a data set an identity of its own; return attribute -> the identifier that strayed into it."""
    name, number = f"Quagmire{chr(65 + index % 26)}{chr(65 + index // 26)}", f"MRN{4821300 + index}"
    born = date(1931, 3, 4) + timedelta(index)
    dataset.PatientName, dataset.PatientID = f"{name}^Glenn", number
    dataset.PatientBirthDate = f"{born:%Y%m%d}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = (
        f"1.2.826.0.1.99{index}.1",
        f"1.2.826.0.1.99{index}.2",
    )
    dataset.StudyDescription, dataset.Modality = STAYS, dataset.get("Modality") or "OT"
    for keyword in DATES:
        setattr(dataset, keyword, f"{date(2019, 5, 6) + timedelta(index):%Y%m%d}")
    inner = Dataset()
    inner.ReferencedSOPInstanceUID, inner.PatientID = dataset.SOPInstanceUID, number
    inner.PatientName = f"{name}^Glenn"
    dataset.ReferencedInstanceSequence = Sequence([inner])
    planted = {}
    for place, text in enumerate(spellings(name, number, born)):
        keyword = TEXTS[place % len(TEXTS)]
        if keyword in planted:
            item = Dataset()
            item.CodeMeaning = text
            items = dataset.get("AnatomicRegionSequence") or ()
            dataset.AnatomicRegionSequence = Sequence([*items, item])
            planted[f"AnatomicRegionSequence/{len(items)}"] = text
        else:
            setattr(dataset, keyword, text)
            planted[keyword] = text
    return planted


def squeezed(text: object) -> str:
    """Return letters and digits without case."""
    return "".join(filter(str.isalnum, str(text))).casefold()


def text_at(dataset: Dataset, path: str) -> str:
    """Return the text at a keyword, or of an item of the sequence of anatomic regions."""
    keyword, _, index = path.partition("/")
    if not index:
        return str(dataset.get(keyword, ""))
    return str(dataset[keyword].value[int(index)].get("CodeMeaning", ""))


class Score:
    """Counts right and all actions of each category, by what a profile promises."""

    def __init__(self, profile: Profile) -> None:
        self.profile, self.actions = profile, profile.actions()
        self.right: Counter[str] = Counter()
        self.all: Counter[str] = Counter()
        self.uids: dict[str, set[str]] = {}
        self.patients: dict[str, set[str]] = {}
        self.wrong: list[str] = []

    def add(self, category: str, right: bool, what: str) -> None:
        """Count one action."""
        self.all[category] += 1
        self.right[category] += right
        if not right:
            self.wrong.append(f"{category}: {what}")

    def file(self, name: str, before: Dataset, after: Dataset, planted: dict[str, str]) -> None:
        """Count every action in one file."""
        for element in before:
            listed = (
                element.tag in ROWS
                or element.tag in STAMPED
                or element.tag.is_private
                or is_plane(int(element.tag))
            )
            if not listed and element.keyword not in (*TEXTS, "") and element.tag.group > 8:
                self.add("tag_retained", element.tag in after, f"{name} {element.keyword}")
                plain = element.VR in ("CS", "LO", "SH") and element.value and element.tag in after
                if plain:
                    same = str(element.value) == str(after[element.tag].value)
                    self.add("text_retained", same, f"{name} {element.keyword}")
        stays = self.actions[tag_for_keyword("StudyDescription") or 0] in ("K", "C")
        same = after.get("StudyDescription") == STAYS
        self.add("text_retained" if stays else "text_removed", same == stays, f"{name} StudyDescription")
        for keyword in NOT_NULL:
            self.add("text_notnull", bool(after.get(keyword)), f"{name} {keyword}")
        self.add("text_removed", after.get("PatientBirthDate") == "", f"{name} PatientBirthDate")
        parts = (str(before.PatientName).split("^")[0], before.PatientID, "1931", "031")
        for path, text in planted.items():
            left = squeezed(text_at(after, path))
            found = [part for part in parts if squeezed(part) in squeezed(text) and squeezed(part) in left]
            self.add("text_removed", not found, f"{name} {path}")
        shift = timedelta(
            Keys(SECRET).days(f"patient\n{before.get('IssuerOfPatientID', '')}\n{before.PatientID}")
        )
        for keyword in DATES:
            day = before[keyword].value
            moved = f"{date(int(day[:4]), int(day[4:6]), int(day[6:])) + shift:%Y%m%d}"
            right = {"K": (day,), "C": (moved,), "X": (None, "", "19000101")}[self.profile.dates]
            self.add("date_shifted", after.get(keyword) in right, f"{name} {keyword}")
        for uid, other in (*self._uids(before, after),):
            public = uid in UID_dictionary  # as that of a palette of the standard
            right = uid == other if "uids" in self.profile.options else public or is_replacement(other)
            self.add("uid_changed", right, f"{name} UID")
            self.uids.setdefault(uid, set()).add(other)
        inner = after.ReferencedInstanceSequence[0]
        for place in (after, inner):
            self.patients.setdefault(str(before.PatientID), set()).add(str(place.PatientID))

    @staticmethod
    def _uids(before: Dataset, after: Dataset) -> Iterator[tuple[str, str]]:
        for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
            if before.get(keyword) and after.get(keyword):
                yield str(before[keyword].value), str(after[keyword].value)
        yield str(before.SOPInstanceUID), str(after.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID)
        yield str(before.SOPInstanceUID), str(after.file_meta.MediaStorageSOPInstanceUID)

    def table(self) -> str:
        """Return the scores as a table."""
        for uid, others in self.uids.items():
            self.add("uid_consistent", len(others) == 1, uid)
        for patient, others in self.patients.items():
            self.add("patid_consistent", len(others) == 1, patient)
        lines = ["| action | right | of | % |", "|---|---:|---:|---:|"]
        for category in CATEGORIES:
            count = self.all[category]
            share = f"{100 * self.right[category] / count:.2f}" if count else ""
            lines.append(f"| {category} | {self.right[category]} | {count} | {share} |")
        right, count = self.right.total(), self.all.total()
        return "\n".join([*lines, f"| **all** | {right} | {count} | **{100 * right / count:.2f}** |"])


def content(data: bytes) -> Content:
    """Return bytes as the storage hands them over."""
    return Content(ObjectRef("", "file", 1), "file:///file", len(data), data=data)


def measure(paths: list[Path], score: Score) -> list[float]:
    """Clean each file and score it; return the milliseconds of processor time that each took."""
    took = []
    for index, path in enumerate(paths):
        dataset = dcmread(path, force=True)
        if "SOPClassUID" not in dataset or "SOPInstanceUID" not in dataset:
            continue
        planted = plant(dataset, index)
        buffer = io.BytesIO()
        try:
            dataset.save_as(buffer, enforce_file_format=True)
            before = read_dataset(content(buffer.getvalue()))
        except (PermanentError, ValueError, AttributeError, TypeError):
            continue  # broken on purpose, as some of pydicom's files are
        begin = time.process_time()
        try:
            made = clean_copy(content(buffer.getvalue()), score.profile, SECRET, DescribeOptions())
        except CannotDeidentify:
            if "PixelData" in dataset:
                score.add("pixels_hidden", True, path.name)
            continue
        except PermanentError:
            continue
        took.append(1000 * (time.process_time() - begin))
        after = dcmread(io.BytesIO(made.data))
        score.file(path.name, dcmread(io.BytesIO(buffer.getvalue())), after, planted)
        if "PixelData" in dataset:
            same = np.array_equal(
                read_frame(before, 0).pixels, read_frame(read_dataset(content(made.data)), 0).pixels
            )
            score.add("pixels_retained", same, path.name)
    return took


def main() -> None:
    """Print the scores, and exit with 1 below 99.9 %."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=Path(data_manager.DATA_ROOT) / "test_files")
    parser.add_argument("--profile", choices=sorted(PROFILES), default="research")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    score = Score(PROFILES[chosen.profile])
    took = sorted(measure(sorted(chosen.folder.glob("*.dcm")), score))
    print(score.table())
    median, most = took[len(took) // 2], took[-1]
    print(f"\n{len(took)} files released; CPU a file: {median:.0f} ms median, {most:.0f} ms at most")
    for fault in score.wrong[:20]:
        print(fault, file=sys.stderr)
    if score.right.total() < 0.999 * score.all.total():
        sys.exit(1)


if __name__ == "__main__":
    main()
