"""Encapsulated PDFs: a page is a program, so it is drawn apart, within limits of its own.

    describe in a worker ─▶ Instance with `pdf` ─▶ draw in another, with limits ─▶ Instance with `preview`

A few hundred bytes can ask for hours of work and for any amount of memory, and PDFium cannot be interrupted.
So the kernel ends its process at a limit, and the row, complete by then, is stored without a picture. One PDF
is drawn at a time: where there are several workers, the others stay free for images.
"""

from __future__ import annotations

import math
from dataclasses import replace

from app.dicom import draw_page
from app.model.errors import LimitExceeded, Unrenderable, WorkerCrashed
from app.model.options import PreviewOptions
from app.model.values import Instance
from app.pipeline.attempt import Attempt
from app.workers.pool import Workers
from app.workers.worker import Limits

PAGE_LIMITS = Limits(memory_bytes=256 << 20, cpu_s=5, abort_is_memory=True)
MAX_WAIT_S = 10.0
"""How long an event waits for the PDFs of others. Then it is refused for now: an image may have its place."""


def with_page(
    instance: Instance,
    options: PreviewOptions,
    attempt: Attempt,
    workers: Workers,
    patience_s: float = math.inf,
) -> Instance:
    """Return an instance with the page of its PDF drawn, or with why it was not; others as they are.

    Raises Overloaded when its turn does not come in time, and TransientError as `Workers.run`.
    """
    if instance.pdf is None:
        return instance
    drawn = replace(instance, pdf=None)
    task = PAGE_LIMITS, draw_page, instance.pdf, options
    try:
        png, took_ms = attempt.run_confined(workers, *task, patience_s=patience_s)
    except (Unrenderable, LimitExceeded, WorkerCrashed) as error:
        return replace(drawn, preview_error=error.code)
    return replace(drawn, preview=png, took_ms={**drawn.took_ms, "render": took_ms})
