"""Fuzz every subject, print a line for each; exit 1 if a mutant did what no mutant may do."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.system.fuzz.campaign import KINDS, Result, fuzz, pool
from tests.system.fuzz.subject import Subject
from tests.system.fuzz.subjects import SUBJECTS

MOST_SHOWN = 20
COLUMNS = ("mutants", "reached", "made", *KINDS, "most CPU", "seconds")


def main(arguments: Sequence[str], subjects: Mapping[str, Subject] = SUBJECTS) -> int:
    """Run the campaign; return the exit code."""
    given = _read(arguments, subjects)
    found = 0
    print(f"{'subject':20}", *(f"{column:>10}" for column in COLUMNS), " refused", flush=True)
    with pool() as workers:
        for name in given.subjects or subjects:
            numbers = range(given.first, given.first + given.mutants)
            result = fuzz(workers, name, subjects[name], numbers, _progress(name, given.mutants))
            print(line(name, result), flush=True)
            for number, kind, what in sorted(result.found)[:MOST_SHOWN]:
                print(
                    f"  {kind}: {what}\n    python -m tests.system.fuzz '{name}' --first {number} --mutants 1"
                )
            if given.keep:
                _keep(given.keep, name, subjects[name], result)
            found += len(result.found)
    return int(found > 0)


def _read(arguments: Sequence[str], subjects: Mapping[str, Subject]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.system.fuzz", description=__doc__)
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help=f"of {', '.join(subjects)}; or all")
    parser.add_argument("--mutants", type=int, default=30_000, help="of each subject")
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant")
    parser.add_argument("--keep", type=Path, help="folder to write the mutants to that were found")
    given = parser.parse_args(arguments)
    if unknown := set(given.subjects) - set(subjects):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    return given


def line(name: str, result: Result) -> str:
    """Return the line of the table for a subject."""
    share = f"{result.reached / max(1, result.mutants):.0%}"
    counts = (result.mutants, share, result.made, *(result.count(kind) for kind in KINDS))
    times = f"{result.most_cpu_s:9.2f}s {result.took_s:9.0f}s"
    codes = ", ".join(f"{code} {count}" for code, count in result.refused.most_common())
    return f"{name:20} {' '.join(f'{count:>10}' for count in counts)} {times}  {codes}"


def _progress(name: str, mutants: int) -> Callable[[int], None]:
    def show(done: int) -> None:
        end = "\n" if done == mutants else "\r"
        print(f"{name}: {done} of {mutants}", end=end, file=sys.stderr, flush=True)

    return show


def _keep(folder: Path, name: str, subject: Subject, result: Result) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, _, _ in result.found:
        mutant = subject.spoil(subject.seeds(), name, number)
        (folder / f"{name.replace(' ', '-')}-{number}").write_bytes(mutant)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
