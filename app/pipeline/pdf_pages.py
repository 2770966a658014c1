"""Draw the page of an encapsulated PDF in a separate worker with tight limits: the page is a program.

    describe in a worker ─▶ Instance with `pdf` ─▶ draw in another worker ─▶ Instance with `preview`

A few hundred bytes can demand hours of work or any amount of memory, and PDFium cannot be interrupted. So the
kernel kills the process at its limit, and the row, which is already complete, is stored without a preview.
PDFs are drawn one at a time, so that other workers stay free for images.
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
"""Seconds an event waits for other PDFs before it gets 429, which frees its place for an image."""


def with_page(
    instance: Instance,
    options: PreviewOptions,
    attempt: Attempt,
    workers: Workers,
    patience_s: float = math.inf,
) -> Instance:
    """Draw the page of an instance's PDF, or set `preview_error`; an instance without a PDF stays as it is.

    Raises Overloaded if other PDFs take too long, and TransientError as `Workers.run`.
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
