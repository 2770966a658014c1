"""`scan`: the columns of `instances` for files anywhere, without a lake.

    files ─▶ workers, one per core ─▶ journal, JSON lines ─▶ at the end, the output in its format

The journal lies beside the output until that is complete. An interrupted scan goes on with it: objects whose
rows it has are not read again, unless their files have changed.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import date, time
from functools import partial
from hashlib import sha256
from importlib.util import find_spec
from itertools import groupby, islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import orjson

from app import __version__, archive
from app.dicom import describe
from app.jobs.file_content import content_at_hand, files_below, uri_of
from app.jobs.ingest import Progress, at_once
from app.model.errors import (
    ConfigError,
    LimitExceeded,
    PermanentError,
    StorageUnavailable,
    WorkerCrashed,
)
from app.model.options import ArchiveLimits, DescribeOptions
from app.model.values import Content, Instance
from app.warehouse.tables import TABLES, Column

if TYPE_CHECKING:
    from app.workers.pool import Workers

Values = dict[str, object]
"""One row of the output, in Python's types."""
OF_SERVICE = frozenset(
    (
        *("row_id", "metageneration", "event_type", "event_time", "ingested_at", "message_id", "revision"),
        *("correlation_id", "delivery_attempt", "crc32c", "storage_class", "collection", "describe_key"),
        *("metadata_uri", "preview_uri", "preview_error", "dicom_uri", "took_ms", "app_version"),
    )
)
"""Columns of `instances` that only an event or a lake fills."""
COLUMNS = (
    *(column for column in TABLES["instances"].columns if column.name not in OF_SERVICE),
    Column("error", "STRING", "NULLABLE", "Code of why the file could not be described; null if it could"),
)
WHOLE_BYTES = 2 << 20
"""Larger files are read in ranges: without a preview, only the elements before the pixels are needed."""
BATCH_ROWS = 4096
"""Rows of one row group in Parquet, held in memory at a time."""
FORMATS = (".parquet", ".csv", ".jsonl")


@dataclass(frozen=True, slots=True)
class Reading:
    """How files are read: in which processes, with which options and limits."""

    workers: Workers
    options: DescribeOptions
    limits: ArchiveLimits


def check_output(output: Path) -> None:
    """Raise ConfigError unless the rows of a scan can be written to a file of this name."""
    if output.suffix not in FORMATS:
        raise ConfigError(f"{output}: the name must end in {', '.join(FORMATS)}")
    if not output.resolve().parent.is_dir():
        raise ConfigError(f"there is no folder {output.resolve().parent}")
    if output.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise ConfigError("an output in Parquet needs dicomlake[parquet]; pyarrow is not installed")


def scan(
    paths: Iterable[Path], reading: Reading, progress: Progress = lambda done, total: None
) -> Generator[Values]:
    """Yield a row for each data set in files and folders; a file without one gets a row with `error`.

    Members of archives have rows of their own. Rows of one file stand together; files come in the order of
    their paths, each once.
    """
    files = list(_files(paths))
    for done, rows in enumerate(at_once(partial(_begun, files, reading)), 1):
        yield from rows
        progress(done, len(files))


def scan_to(
    output: Path,
    paths: Iterable[Path],
    reading: Reading,
    progress: Progress = lambda done, total: None,
) -> dict[str, object]:
    """Write the rows of a scan to a file, which appears when it is complete; return a summary.

    Raises
    ------
    ConfigError : as `check_output`
    """
    check_output(output)
    paths = [path.resolve() for path in paths]
    journal = _journal(output, paths, reading)
    known = _kept(journal)
    ours = {output.resolve(), journal.resolve()}
    files = [file for file in _files(paths) if file not in ours]
    left = [file for file in files if uri_of(file) not in known]
    with journal.open("ab") as stream:
        progress(len(files) - len(left), len(files))
        for done, rows in enumerate(at_once(partial(_begun, left, reading)), 1 + len(files) - len(left)):
            stream.writelines(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)
            progress(done, len(files))
    codes = _finish(journal, output)
    rows_written = codes.total()
    del codes[""]
    summary: dict[str, object] = {"files": len(files), "rows": rows_written, "errors": codes.total()}
    summary |= {"resumed": len(files) - len(left)} if len(left) < len(files) else {}
    return summary | ({"codes": dict(codes)} if codes else {}) | {"output": str(output)}


def rows_of(file: Path, reading: Reading) -> list[Values]:
    """Return the rows of one file: one, or one for each member of an archive.

    Raises
    ------
    TransientError : no worker process starts
    """
    try:
        content = content_at_hand(file, WHOLE_BYTES)
    except OSError:
        return [_row(uri_of(file), None, None, StorageUnavailable.code)]
    try:
        if archive.is_archive(content):
            return list(_members(content, reading))
        return [described(content, reading)]
    except PermanentError as error:
        return [_failed(content, error)]
    except (StorageUnavailable, OSError):  # of a file that is read in ranges
        return [_failed(content, StorageUnavailable())]


def described(content: Content, reading: Reading) -> Values:
    """Return the row of one data set; raises as `describe` and `Workers.run`."""
    return _with(content, reading.workers.run(describe, content, reading.options))


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the regular files at and below some paths, each once; links in folders are not followed."""
    seen: set[Path] = set()
    for path in map(Path.resolve, paths):
        for file in [path] if path.is_file() else files_below(path):
            if file not in seen:
                seen.add(file)
                yield file


def _begun(
    files: Iterable[Path], reading: Reading, pool: ThreadPoolExecutor
) -> Iterator[Future[list[Values]]]:
    for file in files:
        yield pool.submit(rows_of, file, reading)


def _members(content: Content, reading: Reading) -> Iterator[Values]:
    """Yield the rows of an archive; a member that kills its worker gets an error, and the rest is read."""
    listing = reading.workers.run(archive.list_members, content, reading.limits)
    if listing.fault:
        yield _row(content.uri, content, None, listing.fault)
    for batch in archive.batches(listing):
        entries = batch
        while entries:
            done = 0
            part = archive.part(content, listing.kind, entries)
            task = archive.describe_members, describe, part, reading.options, reading.limits
            try:
                with closing(reading.workers.stream(*task)) as results:
                    for one in results:
                        done += 1
                        if isinstance(one, Instance):
                            yield _with(content, one)
                        else:
                            yield _row(content.uri, content, one.label, one.code)
                if not done:
                    raise WorkerCrashed("the worker described no member")
            except (WorkerCrashed, LimitExceeded) as error:
                if done < len(entries):
                    yield _row(content.uri, content, entries[done].label, error.code)
                done += 1
            entries = entries[done:]


def _with(content: Content, instance: Instance) -> Values:
    warnings = [{"tag": warning.tag, "code": warning.code} for warning in instance.warnings]
    found = {**instance.columns, "warnings": warnings, "metadata": instance.metadata}
    return _row(content.uri, content, instance.member, None) | found


def _failed(content: Content, error: PermanentError | StorageUnavailable) -> Values:
    return _row(content.uri, content, None, error.code)


def _row(uri: str, content: Content | None, member: str | None, code: str | None) -> Values:
    row: Values = {column.name: [] if column.mode == "REPEATED" else None for column in COLUMNS}
    if content is not None:
        row |= {"generation": content.ref.generation, "size_bytes": content.size}
    return row | {"object_uri": uri, "member": member, "error": code}


def _journal(output: Path, paths: Iterable[Path], reading: Reading) -> Path:
    """Return the path of the journal of this scan; remove those of others into the same output."""
    facts = [__version__, reading.options.key, repr(reading.limits), *map(str, paths)]
    key = sha256("\0".join(facts).encode(errors="surrogateescape")).hexdigest()[:12]
    begins, ends = f".{output.name}.", ".part"
    journal = output.resolve().with_name(f"{begins}{key}{ends}")
    for other in journal.parent.iterdir():
        if other.name.startswith(begins) and other.name.endswith(ends) and other != journal:
            other.unlink()
    return journal


def _kept(journal: Path) -> set[object]:
    """Return the addresses of the objects whose rows are complete; leave only those in the journal.

    The rows of the last object may be incomplete, and the rows of a file that has changed are of no use.
    """
    known: set[object] = set()
    if not journal.exists():
        return known
    rest = journal.with_name(f"{journal.name}.new.part")
    with journal.open("rb") as lines, rest.open("wb") as kept:
        before: list[bytes] = []
        for uri, group in groupby(_whole_lines(lines), lambda pair: pair[1]["object_uri"]):
            kept.writelines(before)
            rows = list(group)
            before = [line for line, _ in rows] if _is_unchanged(rows[0][1]) else []
            if before:
                known.add(uri)
                last = uri
        if before:
            known.discard(last)
    rest.replace(journal)
    return known


def _whole_lines(lines: IO[bytes]) -> Iterator[tuple[bytes, dict[str, Any]]]:
    for line in lines:
        try:
            yield line, orjson.loads(line)
        except orjson.JSONDecodeError:  # the process was killed while it wrote this line
            return


def _is_unchanged(row: dict[str, Any]) -> bool:
    with suppress(OSError):
        found = os.stat(row["object_uri"].removeprefix("file://"))
        return (found.st_mtime_ns, found.st_size) == (row["generation"], row["size_bytes"])
    return False


def _finish(journal: Path, output: Path) -> Counter[str]:
    """Turn the journal into the output; return the number of rows by code of `error`, "" for good rows."""
    codes: Counter[str] = Counter()

    def counted() -> Iterator[dict[str, Any]]:
        with journal.open("rb") as lines:
            for line in lines:
                row = orjson.loads(line)
                codes[row["error"] or ""] += 1
                yield row

    if output.suffix == ".jsonl":
        for _ in counted():
            pass
        journal.replace(output)
        return codes
    part = journal.with_name(f"{journal.name}.new.part")
    write: Callable[[Path, Iterator[dict[str, Any]]], None]
    write = _write_csv if output.suffix == ".csv" else _write_parquet
    try:
        write(part, counted())
        part.replace(output)
    finally:
        with suppress(OSError):
            part.unlink()
    journal.unlink()
    return codes


def _write_csv(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow([column.name for column in COLUMNS])
        for row in rows:
            values = (row[column.name] for column in COLUMNS)
            table.writerow([orjson.dumps(one).decode() if isinstance(one, list) else one for one in values])


def _write_parquet(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    import pyarrow as pa  # 170 MB, so installed only to write Parquet
    import pyarrow.parquet as pq

    types = {
        **{"STRING": pa.string(), "JSON": pa.string(), "INT64": pa.int64(), "FLOAT64": pa.float64()},
        **{"DATE": pa.date32(), "TIME": pa.time64("us")},
    }

    def field(column: Column) -> Any:
        kind = pa.struct(map(field, column.fields)) if column.fields else types[column.type]
        return pa.field(column.name, pa.list_(kind) if column.mode == "REPEATED" else kind)

    schema = pa.schema(map(field, COLUMNS))
    dates = [column.name for column in COLUMNS if column.type == "DATE"]
    times = [column.name for column in COLUMNS if column.type == "TIME"]
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while batch := list(islice(rows, BATCH_ROWS)):
            for row in batch:
                row |= {name: date.fromisoformat(row[name]) for name in dates if row[name]}
                row |= {name: time.fromisoformat(row[name]) for name in times if row[name]}
            writer.write_table(pa.Table.from_pylist(batch, schema))
