"""Encapsulated PDFs: a page is a program, so it is drawn apart, within limits of its own.

    describe in a worker ─▶ Instance with `pdf` ─▶ draw in another, with limits ─▶ Instance with `preview`

A few hundred bytes can ask for hours of work and for any amount of memory, and PDFium cannot be interrupted.
So the kernel ends its process at a limit, and the row, complete by then, is stored without a picture. One PDF
is drawn at a time: where there are several workers, the others stay free for images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from time import perf_counter

from app.dicom import draw_page
from app.errors import LimitExceeded, Unrenderable, WorkerCrashed
from app.types import Instance, PreviewOptions
from app.workers import Limits, Workers

PAGE_LIMITS = Limits(memory_bytes=256 << 20, cpu_s=5, abort_is_memory=True)
MAX_WAIT_S = 10.0
"""How long an event waits for the PDFs of others. Then it is refused for now: an image may have its place."""


def with_page(
    instance: Instance,
    options: PreviewOptions,
    workers: Workers,
    wait_s: float,
    begun: Callable[[], None] = lambda: None,
) -> Instance:
    """Return an instance with the page of its PDF drawn, or with why it was not; others as they are.

    Raises Overloaded when its turn does not come within `wait_s`, and TransientError as `Workers.run`.
    """
    if instance.pdf is None:
        return instance
    began = perf_counter()

    def drawing() -> None:
        nonlocal began
        began = perf_counter()
        begun()

    png, error = None, None
    try:
        png = workers.run_confined(
            PAGE_LIMITS, draw_page, instance.pdf, options, wait_s=wait_s, begun=drawing
        )
    except (Unrenderable, LimitExceeded, WorkerCrashed) as exc:
        error = exc.code
    took_ms = {**instance.took_ms, "render": round((perf_counter() - began) * 1000)}
    return replace(instance, pdf=None, preview=png, preview_error=error, took_ms=took_ms)
