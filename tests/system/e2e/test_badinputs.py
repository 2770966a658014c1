"""629 hostile and broken files through the running service; prints how each kind of them ended.

Classes: `ok` a row with its preview, `warn` a row with warnings, `nopreview` a row that says why there is no
preview, `perm` one dead letter and no row, `archive` the rows and the refusals of members that the manifest
counts, `ignored` nothing but a line of the log.
"""

import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.parts import shared
from tests.system.e2e.hostile import kinds
from tests.system.e2e.observer import Events, Observer, Weighed
from tests.system.e2e.service import Service, paths, until

LIMIT_KIB = 512 * 1024
OUTSIDE = [Path("/opt/escaped"), Path("/opt/pwned")]
"""What hostile names and preambles would make."""
SETTINGS = {"delivery__permanent_attempts": 1}
REFUSED = re.compile(r"(\d+) member\(s\) failed")
OTHERWISE = {
    "control/jpeg12_ok": "warn",  # its window leaves the picture nearly one grey, and is replaced
    "uid/missing_all": "warn",  # real files are like that, and have a picture
}
"""Where this service ends otherwise than the manifest allows, and how it must."""


class Ended:
    """How every object ended: its rows, dead letters and lines of the log."""

    def __init__(self, service: Service, events: Events) -> None:
        self.prefix = f"file://{service.landing}/"
        self.rows = self.by_object(service.rows("SELECT * FROM instances_current"))
        self.letters = self.by_object(service.rows("SELECT * FROM dead_letters"))
        self.retried = service.rows("SELECT object_uri, code FROM failures WHERE NOT permanent")
        self.lines = events.ended()
        endings = Counter(path.suffix for path in paths(service.lake / "output"))
        self.documents, self.pictures = endings[".json"], endings[".png"]

    def by_object(self, rows: Iterable[dict]) -> dict[str, list[dict]]:
        found = defaultdict(list)
        for row in rows:
            found[row["object_uri"].removeprefix(self.prefix)].append(row)
        return found

    def classes(self, case: dict) -> set[str]:
        """Return the classes that the end of a case can be called."""
        rows, letters = self.rows[case["file"]], self.letters[case["file"]]
        unpacked = case["expect"] == "archive"
        if unpacked and members(rows, letters) == case["must"]["members"]:
            return {"archive"}
        if not rows:
            return {"perm" if len(letters) == 1 else self.lines[case["file"]][-1]["status"]}
        if letters or len(rows) > 1:
            listed = all(row["member"] for row in rows) and not unpacked
            return {"archive" if listed else "other rows or dead letters"}
        found = {"warn"} if json.loads(rows[0]["warnings"]) else set()
        return found | {"nopreview"} if rows[0]["preview_error"] else found or {"ok"}

    def codes(self, name: str) -> list[str]:
        return [row["preview_error"] for row in self.rows[name]] + [one["code"] for one in self.letters[name]]


def members(rows: list[dict], letters: list[dict]) -> dict[str, int]:
    """Return how many members were stored with a picture, and how many the dead letter says were refused."""
    stored = sum(row["preview_error"] is None for row in rows)
    refused = sum(int(number) for letter in letters for number in REFUSED.findall(letter["reason"]))
    return {kind: count for kind, count in (("ok", stored), ("perm", refused)) if count}


def run(lake: Path, files: Iterator[tuple[str, bytes]], at_once: int) -> tuple[Ended, Observer]:
    """Drop files into a new service, so many at a time, and return how all ended; none may hang."""
    with Weighed(lake, **SETTINGS) as service:
        observer, events, dropped = Observer(service), Events(service), set()
        observer.start()
        for name, content in files:
            dropped.add(name)
            service.drop(name, content)
            arrived = until(lambda: len(dropped) - len(events.ended()) < at_once, 120)
            assert arrived, dropped - events.ended().keys()
        assert until(lambda: dropped <= events.ended().keys(), 120), dropped - events.lines.keys()
        observer.end()
        ended = Ended(service, events)
    return ended, observer


def check(ended: Ended, observer: Observer, lake: Path, count: int, cpu_s: float) -> None:
    """Check what holds whatever a file is; all together may cost `cpu_s`, about twice what they do."""
    print(f"CPU s: all {observer.cpu_s:.1f}, the server between two answers at most {observer.busy_s:.2f}")
    print(f"most MiB: a process {observer.peak_kib >> 10}, the server {observer.own_kib >> 10}")
    print(f"/health: {observer.asked} asked, {observer.silent} unanswered")
    assert [name for name, lines in ended.lines.items() if len(lines) != 1] == []
    assert (len(ended.lines), ended.retried) == (count, [])
    assert 0 < observer.cpu_s < cpu_s
    assert 0 < observer.peak_kib < LIMIT_KIB
    assert (observer.silent, observer.busy_s < 1) == (0, True)
    rows = [row for rows in ended.rows.values() for row in rows]
    assert ended.documents == len(rows)
    assert ended.pictures == sum(row["preview_error"] is None for row in rows)
    for document in (lake / "output").rglob("*.json"):
        json.loads(document.read_bytes(), parse_constant=refuse_constant)
    assert [path for path in OUTSIDE if path.exists()] == []
    assert {path.name for path in lake.parent.iterdir()} == {lake.name, "lake.usage"}
    assert {path.name for path in lake.iterdir() if not path.name.startswith("lake.db")} == {
        "landing",
        "output",
        "service.log",
    }


def refuse_constant(text: str) -> None:
    raise ValueError(text)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Make the files, in two processes as that takes half a minute; return the lines of the manifest."""
    script, folder = shared("tools", "badinputs") / "badinputs.py", tmp_path_factory.mktemp("badinputs")
    parts = {folder / "archives": "archive/*", folder / "others": "[!a]*"}
    makers = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", script, "--out", part, "--only", names],
            stdout=subprocess.DEVNULL,
        )
        for part, names in parts.items()
    ]
    assert [maker.wait() for maker in makers] == [0, 0]
    lines = [(part, line) for part in parts for line in (part / "manifest.jsonl").read_text().splitlines()]
    return [{"path": part / case["file"], **case} for part, line in lines for case in [json.loads(line)]]


def test_every_file_ends_in_its_class(cases, tmp_path):
    """Takes about a minute, some twenty seconds of it to make the files."""
    assert len(cases) == 629
    files = ((case["file"], case["path"].read_bytes()) for case in cases)
    ended, observer = run(tmp_path / "lake", files, at_once=8)
    table, wrong, other = Counter(), [], {}
    for case in cases:
        found = ended.classes(case)
        table[case["group"], case["expect"], " ".join(sorted(found))] += 1
        if case["name"] in OTHERWISE:
            other[case["name"]] = " ".join(found)
        elif not found & {case["expect"], *case["allow"]}:
            wrong.append((case["name"], case["expect"], case["allow"], found, ended.codes(case["file"])))
    print("\ngroup              expected   found                files")
    for key, count in sorted(table.items()):
        print("{:18} {:10} {:20} {:5}".format(*key, count))
    print(*wrong, sep="\n")
    right = len(cases) - len(wrong) - len(other)
    print(f"{right} of {len(cases)} in an expected or allowed class, by a rule of our own {other}")
    assert wrong == []
    assert other == OTHERWISE
    check(ended, observer, tmp_path / "lake", len(cases), cpu_s=60)


def test_the_kinds_that_matter_end_as_they_must(tmp_path):
    made = kinds()
    files = ((name, content) for name, (content, _, _) in made.items())
    ended, observer = run(tmp_path / "lake", files, at_once=2)
    found = {name: outcome(ended.rows[name], ended.letters[name]) for name in made}
    assert found == {name: (how, code) for name, (_, how, code) in made.items()}
    check(ended, observer, tmp_path / "lake", len(made), cpu_s=45)


def outcome(rows: list[dict], letters: list[dict]) -> tuple[str, str | None]:
    if letters:
        return "both" if rows else "dead", letters[0]["code"]
    return ("row", rows[0]["preview_error"]) if rows else ("none", None)
