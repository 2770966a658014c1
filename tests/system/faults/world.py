"""The world around the service: files come, change and go; and the model of what must be true in the end.

Every version of an object has a number of its own, in its UID, its patient and its pixels, so that a row, a
document and a picture can be told apart from those of any other version.
"""

from __future__ import annotations

import functools
import io
import json
import os
import random
import time
import zipfile
from pathlib import Path

from tests.data import identity, part10
from tests.system.faults.plan import CRASHING, REFUSED

FIRST = 10**9
"""Numbers have ten digits, so that one file serves as the template of all."""
KINDS = {"good": 84, "archive": 5, "text": 3, "truncated": 2, "refused": 3, "crashing": 3}
"""How often each kind comes, in percent."""
MARKS = {"refused": REFUSED, "crashing": CRASHING}
IN_PLACE, OLD = 0.1, 0.05
"""Share of the writes that go into the file itself, and of those that bring an old modification time."""
QUIET_S = 0.5
"""A file is not written in place sooner: two such writes within one tick of the clock look alike."""


def bars(number: int) -> bytes:
    """Return two rows of 32 pixels: the bits of a number, and their opposites."""
    bits = [255 * (number >> bit & 1) for bit in range(32)]
    return bytes([*bits, *(255 - bit for bit in bits)])


@functools.cache
def _template() -> bytes:
    dataset = identity(
        SOPInstanceUID=f"2.25.{FIRST}",
        PatientID=f"N{FIRST}",
        StudyDescription="ORDINARY",
        Rows=2,
        Columns=32,
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
        PixelRepresentation=0,
        PixelData=bars(FIRST),
    )
    dataset["PixelData"].VR = "OB"
    return part10(dataset)


def version(number: int, kind: str = "good") -> bytes:
    """Return the file of one version."""
    mark = MARKS.get(kind, "ORDINARY").encode()
    data = _template().replace(str(FIRST).encode(), str(number).encode())
    return data.replace(bars(FIRST), bars(number)).replace(b"ORDINARY", mark)


class World:
    """A folder in which a seeded somebody works; `objects` and `history` are what he did."""

    def __init__(self, landing: Path, staging: Path, names: int, seed: int) -> None:
        self.landing, self._staging = landing, staging
        self._random = random.Random(seed)
        self._names = [f"{number % 20:02}/{number:05}.dcm" for number in range(names)]
        self._touched: dict[str, float] = {}
        self._number = FIRST
        self.objects: dict[str, dict[str, object]] = {}
        self.history: list[tuple[str, int, str]] = []
        staging.mkdir(parents=True)

    def furnish(self) -> set[str]:
        """Put one file into each folder that nobody touches again, and return their names.

        Where all known files of a folder vanish while the service is dead, their removals are held back, as
        those of an unmounted disk. That is right, but nothing that this world could tell from a loss.
        """
        kept = {f"{os.path.dirname(name)}/kept.dcm" for name in self._names}
        for name in sorted(kept):
            self.write(name, "good")
        return kept

    def act(self) -> str:
        """Write, overwrite or delete one file and return its name."""
        name = self._random.choice(self._names)
        if name in self.objects and self._random.random() < 0.4:
            self.delete(name)
        else:
            self.write(name, self._random.choices([*KINDS], [*KINDS.values()])[0])
        self._touched[name] = time.monotonic()
        return name

    def write(self, name: str, kind: str) -> None:
        """Make a new version of a kind under a name."""
        numbers = self._numbers(kind)
        path, data = self.landing / name, self._bytes(kind, numbers)
        path.parent.mkdir(parents=True, exist_ok=True)
        quiet = time.monotonic() - self._touched.get(name, 0.0) > QUIET_S
        if quiet and self._random.random() < IN_PLACE:
            with path.open("wb", buffering=0) as stream:
                stream.write(data[: len(data) // 2])
                time.sleep(0.01)
                stream.write(data[len(data) // 2 :])
        else:
            self._move_in(path, data)
        self.objects[name] = {"kind": kind, "numbers": numbers}
        self.history.append((name, path.stat().st_mtime_ns, kind))

    def delete(self, name: str) -> None:
        """Remove a file."""
        (self.landing / name).unlink()
        del self.objects[name]

    def save(self, model: Path) -> None:
        """Write the model down for the checker."""
        model.write_text(json.dumps({"objects": self.objects, "history": self.history}))

    def _move_in(self, path: Path, data: bytes) -> None:
        staged = self._staging / "file"
        staged.write_bytes(data)
        if self._random.random() < OLD:
            old = self._random.randrange(10**18, 10**18 + 10**17)  # in the years 2001 to 2004
            os.utime(staged, ns=(old, old))
        staged.replace(path)

    def _numbers(self, kind: str) -> dict[str, int]:
        members = ["a/1.dcm", "a/2.dcm", "b.dcm"] if kind == "archive" else [""]
        self._number += len(members)
        return {member: self._number - place for place, member in enumerate(members)}

    def _bytes(self, kind: str, numbers: dict[str, int]) -> bytes:
        if kind == "archive":
            buffer = io.BytesIO()
            with zipfile.ZipFile(buffer, "w") as archive:
                for member, number in numbers.items():
                    archive.writestr(member, version(number))
            return buffer.getvalue()
        if kind == "text":
            return f"version {numbers['']}\n".encode()
        data = version(numbers[""], kind)
        return data[:-40] if kind == "truncated" else data
