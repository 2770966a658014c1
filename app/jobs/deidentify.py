"""`deidentify`: make a clean copy of every file of a folder, or check a folder that should be clean."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from app.archive import is_archive
from app.jobs.advice import what_to_do
from app.jobs.file_content import content_at_hand, files_below
from app.jobs.ingest import Emit, Line, Progress, at_once
from app.model.errors import CannotDeidentify, ConfigError, DicomlakeError, StorageUnavailable
from app.model.names import spelled
from app.model.values import Content, Pieces
from app.plumbing.pieces import joined

TABLE, STATE = "deidentified.csv", ".deidentified"
COLUMNS = ("source", "output", "status", "code")
CLEAN, REFUSED, UNCHANGED = "clean", "refused", "unchanged"
LEFT, UNREADABLE = "left", "unreadable"
"""Statuses of a checked file that is not clean: something is left in it, or it cannot be read."""


@dataclass(frozen=True, slots=True)
class Cleaning:
    """How files become clean.

    clean: yields the pieces of the clean copy of a file. name: the replacement of one part of a path. key:
    equal only for equal profiles and secrets, and reveals neither. room: bytes by which a copy may be
    larger than its file.
    """

    clean: Callable[[Content], Generator[Pieces]]
    name: Callable[[str], str]
    key: str
    room: int


def deidentify(
    source: Path,
    target: Path,
    cleaning: Cleaning,
    emit: Emit,
    progress: Progress = lambda done, total: None,
) -> dict[str, object]:
    """Write a clean copy of a file, or of every file below a folder, and return a summary.

    `deidentified.csv` in the target records the outcome of each file. A second run goes on where the first
    one ended: a file with a newer copy is not read again.

    Raises
    ------
    ConfigError : the folders overlap, or the target was made with another profile or key
    """
    root = source if source.is_dir() else source.parent
    if target.resolve() == root.resolve() or target.resolve().is_relative_to(root.resolve()):
        raise ConfigError(f"{target} lies in the folder to be read: give another one")
    target.mkdir(parents=True, exist_ok=True)
    _claim(target, cleaning.key)
    done = _read_table(target)
    files = [source] if source.is_file() else list(files_below(source))
    counts: Counter[str] = Counter()
    with (target / TABLE).open("a", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, COLUMNS)
        if stream.tell() == 0:
            table.writeheader()
        begin = partial(_begun, files, root, target, cleaning, done)
        for number, line in enumerate(at_once(begin), 1):
            emit(line)
            counts[str(line["status"])] += 1
            if line["status"] != UNCHANGED:
                row = {name: str(line.get(name, "")) for name in COLUMNS}
                done[row["source"]] = row
                table.writerow(row)
                stream.flush()
            progress(number, len(files))
    _write(target / TABLE, [_table(done)])
    return {"files": counts.total(), **counts}


def check(
    folder: Path,
    examine: Callable[[Path], tuple[tuple[str, str], ...]],
    emit: Emit,
    progress: Progress = lambda done, total: None,
) -> dict[str, object]:
    """Examine every file of a folder that should be clean, emit one line for each, return a summary.

    examine: returns tag and code of what is left in a file.
    """
    root = folder if folder.is_dir() else folder.parent
    files = (
        [folder]
        if folder.is_file()
        else [file for file in files_below(folder) if file.name not in (TABLE, STATE)]
    )
    counts: Counter[str] = Counter()
    codes: Counter[str] = Counter()

    def begun(pool: ThreadPoolExecutor) -> Iterator[Future[Line]]:
        for file in files:
            yield pool.submit(_checked, file, root, examine)

    for number, line in enumerate(at_once(begun), 1):
        emit(line)
        counts[str(line["status"])] += 1
        left = line.get("left")
        codes.update({code for _, code in left} if isinstance(left, list) else ())
        progress(number, len(files))
    summary: dict[str, object] = {"files": counts.total(), **counts}
    if codes:
        summary["codes"] = dict(codes)
    if (root / TABLE).exists():
        summary["note"] = f"{TABLE} has the names of the sources: keep it apart from the copies"
    return summary


def _checked(file: Path, root: Path, examine: Callable[[Path], tuple[tuple[str, str], ...]]) -> Line:
    line: Line = {"file": _relative(file, root)}
    try:
        left = examine(file)
    except DicomlakeError as error:
        return line | {"status": UNREADABLE, "code": error.code, "reason": error.text}
    except OSError as error:
        return line | {"status": UNREADABLE, "code": StorageUnavailable.code, "reason": error.strerror or ""}
    return line | ({"status": LEFT, "left": [list(pair) for pair in left]} if left else {"status": CLEAN})


def _begun(
    files: list[Path],
    root: Path,
    target: Path,
    cleaning: Cleaning,
    done: dict[str, dict[str, str]],
    pool: ThreadPoolExecutor,
) -> Iterator[Future[Line]]:
    for file in files:
        yield pool.submit(_one, file, root, target, cleaning, done.get(_relative(file, root)))


def _one(file: Path, root: Path, target: Path, cleaning: Cleaning, before: dict[str, str] | None) -> Line:
    """Write the clean copy of one file whole; if it is refused, write nothing."""
    *folders, name = file.relative_to(root).parts
    kept = cleaning.name(name)
    output = Path(*map(cleaning.name, folders), kept if kept.lower().endswith(".dcm") else f"{kept}.dcm")
    line: Line = {"source": _relative(file, root)}
    copy = target / output
    try:
        if before is not None and before["status"] == CLEAN and _is_newer(copy, file):
            return line | {"output": output.as_posix(), "status": UNCHANGED}
        content = content_at_hand(file)
        if is_archive(content):  # the lake cleans its members; here each file has one copy
            raise CannotDeidentify("it is an archive: unpack it, and give the folder of its files")
        with closing(cleaning.clean(content)) as pieces:
            _write(copy, joined(pieces, content, cleaning.room))
    except DicomlakeError as error:
        with suppress(FileNotFoundError):  # of an earlier version of the file
            copy.unlink()
        refused = line | {"output": "", "status": REFUSED, "code": error.code, "reason": error.text}
        # Advice on the other codes speaks of dead letters.
        return refused | ({"do": what_to_do(error.code)} if isinstance(error, CannotDeidentify) else {})
    except OSError as error:
        why = error.strerror or type(error).__name__
        return line | {"output": "", "status": REFUSED, "code": StorageUnavailable.code, "reason": why}
    return line | {"output": output.as_posix(), "status": CLEAN}


def _is_newer(copy: Path, file: Path) -> bool:
    return copy.is_file() and copy.stat().st_mtime_ns >= file.stat().st_mtime_ns


def _relative(file: Path, root: Path) -> str:
    return spelled(file.relative_to(root).as_posix())


def _claim(target: Path, key: str) -> None:
    """Record the profile and key of the target; refuse a target that was made with others."""
    state = target / STATE
    if state.exists() and state.read_text() != key:
        raise ConfigError(f"{target} was made with another profile or key: give another folder")
    state.write_text(key)


def _read_table(target: Path) -> dict[str, dict[str, str]]:
    """Return the rows of an earlier run by source; the last row of a source counts."""
    table = target / TABLE
    if not table.exists():
        return {}
    with table.open(newline="", encoding="utf-8") as stream:
        rows = csv.DictReader(stream)
        return {
            row["source"]: {name: row[name] or "" for name in COLUMNS} for row in rows if row.get("status")
        }


def _table(rows: dict[str, dict[str, str]]) -> bytes:
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, COLUMNS)
    table.writeheader()
    table.writerows(rows[source] for source in sorted(rows))
    return text.getvalue().encode()


def _write(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a file that appears only when it is complete; a folder for it only if there is something."""
    part = path.with_name(f"{path.name}.part")
    try:
        waiting = iter(chunks)
        first = next(waiting, b"")
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as stream:
            stream.write(first)
            stream.writelines(waiting)
        part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink()
