"""DICOM files and the lake from a notebook.

    import dicomlake

    dicomlake.describe_file("ct.dcm")["modality"]
    rows = list(dicomlake.scan("studies"))
    dicomlake.preview_image("ct.dcm")
    dicomlake.query("SELECT modality, COUNT(*) AS n FROM instances_current GROUP BY modality")

Files are parsed and decoded in worker processes with limits, never in the notebook itself. Settings come from
where the command line takes them. Errors are subclasses of `DicomlakeError` with a stable `code`.
"""

from __future__ import annotations

import io
from collections.abc import Generator
from contextlib import closing
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from app import __version__, config
from app.cli.one_file import drawn_in
from app.jobs import scan as scanning
from app.jobs.file_content import content_at_hand
from app.model.errors import DicomlakeError
from app.services import open_workers
from app.warehouse import open_warehouse

if TYPE_CHECKING:
    from PIL.Image import Image

    from app.workers.pool import Workers

__all__ = ["DicomlakeError", "__version__", "describe_file", "preview_image", "query", "scan"]

Row = dict[str, object]
"""A row in Python's types: text, int, float, date, time, lists, None; `metadata` is JSON text."""
File = str | PathLike[str]


def describe_file(path: File) -> Row:
    """Return the columns of `instances` for one DICOM file.

    Raises
    ------
    DicomlakeError : the file is not DICOM, or broken; an archive is for `scan`
    FileNotFoundError, PermissionError : it cannot be read
    """
    settings = config.load().settings
    content = content_at_hand(Path(path))
    with open_workers(settings) as workers:
        return scanning.described(content, _reading(settings, workers))


def scan(*paths: File) -> Generator[Row]:
    """Yield a row for each data set in files, folders and archives, as they are read on all cores.

    A file that is not DICOM, or broken, has a row with its code in `error`; of the others `error` is None.
    """
    if missing := [str(path) for path in paths if not Path(path).exists()]:
        raise FileNotFoundError(f"there is no {missing[0]}")
    return _scan([Path(path) for path in paths])


def _reading(settings: config.Settings, workers: Workers) -> scanning.Reading:
    return scanning.Reading(workers, settings.describe_options().without_preview(), settings.archive)


def _scan(paths: list[Path]) -> Generator[Row]:
    settings = config.load().settings
    with open_workers(settings) as workers:
        yield from scanning.scan(paths, _reading(settings, workers))


def preview_image(path: File) -> Image:
    """Return the preview of a DICOM file, as the lake would draw it.

    Raises
    ------
    DicomlakeError : nothing can be drawn: its `code` says why, such as `no_pixel_data`
    """
    from PIL import Image

    settings = config.load().settings
    with open_workers(settings) as workers:
        return Image.open(io.BytesIO(drawn_in(workers, settings, content_at_hand(Path(path)))))


def query(sql: str, **parameters: object) -> list[Row]:
    """Return the rows of read-only SQL on the lake of the settings; `@name` in it stands for a parameter.

    Raises
    ------
    DicomlakeError : there is no lake, or the statement is refused
    """
    with closing(open_warehouse(config.load().settings.warehouse.url)) as warehouse:
        return warehouse.query(sql, parameters)
