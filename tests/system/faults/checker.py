"""Look at a lake from outside, with Python's own SQLite, the file system and a model of what happened to it.

    python -m tests.system.faults.checker LAKE

It shares no code with the service. `LAKE/model.json` tells what is in the landing folder and which versions
there ever were; the invariants are

    I1  every published event ends: a row, a dead letter, or superseded
    I2  one current row for each live object, of its newest version; none for what is gone
    I3  never both a row and an open dead letter
    I4  row, document and picture are of the same version, and named for it; no artifact without a row
    I5  what a row says is what was written, so no read was short, torn or of another version
    I6  every current row and every removal was announced, and nothing that has no row
"""

from __future__ import annotations

import json
import sqlite3
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, fields
from pathlib import Path

from PIL import Image

from tests.system.e2e.service import paths

STORED = {"good", "archive", "crashing"}
CODES = {"text": "not_dicom", "truncated": "truncated", "refused": "row_rejected"}
Key = tuple[str, str]
"""Name of an object, and the member or nothing."""


@dataclass
class Findings:
    """What is not as it must be, by name."""

    lost: list[object] = field(default_factory=list)
    wrong: list[object] = field(default_factory=list)
    doubled: list[object] = field(default_factory=list)
    ghosts: list[object] = field(default_factory=list)
    without_letter: list[object] = field(default_factory=list)
    wrongly_given_up: list[object] = field(default_factory=list)
    row_and_letter: list[object] = field(default_factory=list)
    unexplained: list[object] = field(default_factory=list)
    artifacts_missing: list[object] = field(default_factory=list)
    artifacts_left_over: list[object] = field(default_factory=list)
    unannounced: list[object] = field(default_factory=list)
    phantoms: list[object] = field(default_factory=list)

    def any(self) -> bool:
        """Tell whether anything was found."""
        return any(self.counts().values())

    def counts(self) -> dict[str, int]:
        """Return how much was found of each."""
        return {one.name: len(getattr(self, one.name)) for one in fields(self)}

    def lines(self, most: int = 10) -> Iterator[str]:
        """Yield what was found, not all of it if it is much."""
        for one in fields(self):
            yield from (f"{one.name}: {found}" for found in getattr(self, one.name)[:most])


class Lake:
    """What there is: files, rows, letters and lines of the log."""

    def __init__(self, lake: Path) -> None:
        model = json.loads((lake / "model.json").read_text())
        self.objects: dict[str, dict[str, object]] = model["objects"]
        self.history = {(name, mtime_ns): kind for name, mtime_ns, kind in model["history"]}
        self.landing, self.output = lake / "landing", lake / "output"
        with closing(sqlite3.connect(f"file:{lake / 'lake.db'}?mode=ro", uri=True, timeout=30)) as database:
            database.row_factory = sqlite3.Row
            self.intact = database.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
            self.current = self._rows(database, "SELECT * FROM instances_current")
            self.rows = self._rows(
                database, "SELECT row_id, object_uri, generation, event_type, member FROM instances"
            )
            self.open = self._rows(database, "SELECT * FROM dead_letters")
            given_up = self._rows(database, "SELECT attributes FROM dead_letter")
            self.seen = {row["name"]: row for row in self._rows(database, "SELECT * FROM landing")}
        with closing(sqlite3.connect(f"file:{lake / 'announced.db'}?mode=ro", uri=True)) as queue:
            attributes = queue.execute("SELECT attributes FROM queue").fetchall()
        self.announced = {json.loads(text)["ce-id"] for (text,) in attributes}
        self.given_up = [json.loads(str(row["attributes"])) for row in given_up]
        self.log = [line for line in map(_line, (lake / "service.log").open("rb")) if line]

    def name(self, row: dict[str, object]) -> str:
        """Return the object's name of a row."""
        return str(row["object_uri"]).removeprefix(f"file://{self.landing}/")

    @staticmethod
    def _rows(database: sqlite3.Connection, sql: str) -> list[dict[str, object]]:
        return [dict(row) for row in database.execute(sql)]


def _line(text: bytes) -> dict[str, object]:
    """Return a line of the log, nothing if a kill has torn it."""
    try:
        line = json.loads(text)
    except ValueError:
        return {}
    return line if isinstance(line, dict) else {}


def check(folder: Path) -> Findings:
    """Return what is wrong with a lake in which everything has come to an end."""
    lake, findings = Lake(folder), Findings()
    if not lake.intact:
        findings.wrong.append("the database is corrupt")
    if set(lake.objects) != {
        str(path.relative_to(lake.landing)) for path in paths(lake.landing) if path.is_file()
    }:
        findings.wrong.append("the landing folder was changed")
    _check_view(lake, findings)
    _check_letters(lake, findings)
    _check_events(lake, findings)
    _check_artifacts(lake, findings)
    _check_announcements(lake, findings)
    return findings


def _check_view(lake: Lake, findings: Findings) -> None:
    expected: dict[Key, tuple[str, int]] = {
        (name, member): (str(one["kind"]), number)
        for name, one in lake.objects.items()
        if one["kind"] in STORED
        for member, number in dict(one["numbers"]).items()  # type: ignore[call-overload]
    }
    newest: defaultdict[str, int] = defaultdict(int)
    for row in lake.rows:
        newest[lake.name(row)] = max(newest[lake.name(row)], int(str(row["generation"])))
    found: defaultdict[Key, list[dict[str, object]]] = defaultdict(list)
    for row in lake.current:
        found[lake.name(row), str(row["member"] or "")].append(row)
    findings.lost += expected.keys() - found.keys()
    findings.ghosts += found.keys() - expected.keys()
    findings.doubled += [key for key, rows in found.items() if len(rows) > 1]
    for key in expected.keys() & found.keys():
        kind, number = expected[key]
        row = found[key][0]
        if row["generation"] != newest[key[0]]:
            findings.wrong.append((key, "is not of the newest generation"))
        if (row["sop_instance_uid"], row["patient_id"]) != (f"2.25.{number}", f"N{number}"):
            findings.wrong.append((key, "tells of another version"))
        _check_files(key, kind, number, row, findings)


def _check_files(key: Key, kind: str, number: int, row: dict[str, object], findings: Findings) -> None:
    document = _path(row["metadata_uri"])
    if document is None or not document.is_file():
        findings.artifacts_missing.append((key, "document"))
    elif json.loads(document.read_bytes())["00080018"]["Value"] != [f"2.25.{number}"]:
        findings.wrong.append((key, "the document is of another version"))
    elif f".{row['generation']}" not in document.as_posix():
        findings.wrong.append((key, "the document is not named for its version"))
    picture = _path(row["preview_uri"])
    if kind == "crashing":
        if picture is not None or row["preview_error"] != "worker_crashed":
            findings.wrong.append((key, "a picture of what cannot be drawn"))
    elif picture is None or not picture.is_file():
        findings.artifacts_missing.append((key, "picture", row["preview_error"]))
    elif _number(picture) != number:
        findings.wrong.append((key, "the picture is of another version"))


def _path(uri: object) -> Path | None:
    return None if uri is None else Path(str(uri).removeprefix("file://"))


def _number(picture: Path) -> int:
    """Return the number that a picture shows as 32 bars."""
    with Image.open(picture) as image:
        return sum((image.getpixel((bit, 0)) > 127) << bit for bit in range(32))


def _check_letters(lake: Lake, findings: Findings) -> None:
    letters = {(str(row["object"]), row["generation"]): row for row in lake.open}
    for name, one in lake.objects.items():
        if one["kind"] in CODES:
            letter = letters.get((name, lake.seen.get(name, {}).get("generation")))
            if letter is None or letter["code"] != CODES[str(one["kind"])]:
                findings.without_letter.append((name, one["kind"], letter and letter["code"]))
    for (name, generation), letter in letters.items():
        kind = lake.history.get((name, generation))
        if letter["code"] not in CODES.values() or kind in STORED:
            findings.wrongly_given_up.append((name, kind, letter["code"]))
    stored = {(row["object_uri"], row["generation"], row["event_type"]) for row in lake.rows}
    findings.row_and_letter += [
        row["object"]
        for row in lake.open
        if (row["object_uri"], row["generation"], row["event_type"]) in stored
    ]
    counts = Counter((row["object_uri"], row["generation"], row["event_type"]) for row in lake.open)
    findings.doubled += [key for key, count in counts.items() if count > 1]


def _check_events(lake: Lake, findings: Findings) -> None:
    """Every published event has ended in a way that can be looked up."""
    ended = {(lake.name(row), row["generation"], row["event_type"]) for row in lake.rows}
    ended |= {(one["objectId"], int(one["objectGeneration"]), one["eventType"]) for one in lake.given_up}
    told = ("superseded", "ignored")
    ended |= {_event(line) for line in lake.log if line.get("status") in told}
    published = {_event(line) for line in lake.log if line.get("message") == "published"}
    findings.unexplained += published - ended


def _event(line: dict[str, object]) -> tuple[object, ...]:
    return line.get("object"), line.get("generation"), line.get("event_type")


def _check_artifacts(lake: Lake, findings: Findings) -> None:
    """Nothing lies in the output to which no row points."""
    named = {_path(row[column]) for row in lake.current for column in ("metadata_uri", "preview_uri")}
    for path in sorted(paths(lake.output)):
        torn = path.name.startswith(".dicomlake-")  # a write that a kill has torn; swept after an hour
        if path.is_file() and path not in named and not torn:
            findings.artifacts_left_over.append(path.relative_to(lake.output).as_posix())


def _check_announcements(lake: Lake, findings: Findings) -> None:
    """What is there or was removed has been announced, under the id of its row."""
    expected = {str(row["row_id"]) for row in lake.current}
    expected |= {str(row["row_id"]) for row in lake.rows if row["event_type"] == "OBJECT_DELETE"}
    findings.unannounced += expected - lake.announced
    findings.phantoms += lake.announced - {str(row["row_id"]) for row in lake.rows}


def main() -> None:
    """Check one lake; exit 1 if anything is wrong."""
    findings = check(Path(sys.argv[1]).resolve())
    print(json.dumps(findings.counts()))
    for line in findings.lines():
        print(f"  {line}", file=sys.stderr)
    sys.exit(findings.any())


if __name__ == "__main__":
    main()
