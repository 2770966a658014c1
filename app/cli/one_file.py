"""Describe or draw one file in place, in a worker process: the work of `dump` and `render`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import TypeVar

from app.config import Settings, loader_variables
from app.model.options import PreviewOptions
from app.model.values import Content
from app.workers.pool import Workers

T = TypeVar("T")


def in_worker(settings: Settings, function: Callable[..., T], *args: object) -> T:
    """Run `function(*args)` on untrusted bytes in a process with the limits of the settings."""
    limits = settings.workers
    workers = Workers(1, limits.memory_bytes, limits.timeout_s, environment=loader_variables())
    try:
        return workers.run(function, *args)
    finally:
        workers.close()


def picture_of(settings: Settings, content: Content, moving: bool) -> bytes:
    """Return the preview of a file as PNG, or all its frames as GIF; a PDF is drawn within PAGE_LIMITS."""
    limits = settings.workers
    with closing(
        Workers(1, limits.memory_bytes, limits.timeout_s, environment=loader_variables())
    ) as workers:
        return drawn_in(workers, settings, content, moving)


def drawn_in(workers: Workers, settings: Settings, content: Content, moving: bool = False) -> bytes:
    """As `picture_of`, in workers that are open."""
    from app.pipeline.pdf_pages import PAGE_LIMITS  # late: a worker imports this module to draw

    options = settings.describe_options()
    drawn = workers.run(draw, content, options.leaving_pdf().preview, moving)
    if drawn is None:
        drawn = workers.run_confined(PAGE_LIMITS, draw, content, options.preview, moving)
    assert drawn is not None
    return drawn


def draw(content: Content, options: PreviewOptions, moving: bool = False) -> bytes | None:
    """Return the preview of a file as PNG, or all its frames as GIF; None where options leave a PDF.

    Raises
    ------
    NotDicom, BadDataset, LimitExceeded, Unrenderable : as the functions that read and draw it
    """
    from app.dicom.read.dataset import read_dataset
    from app.dicom.render.cine import cine
    from app.dicom.render.preview import preview, undrawn_pdf

    dataset = read_dataset(content, options.limits)
    if undrawn_pdf(dataset, options) is not None:
        return None
    return b"".join(cine(dataset, options)) if moving else preview(dataset, options)
