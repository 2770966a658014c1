"""Health, readiness and metrics, answered promptly even while all worker threads are busy with pushes.

Nothing here uses the thread pool of the routes; checks that do I/O run as a Probe.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Generic, TypeVar

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from app import __version__
from app.api.router import Router
from app.model.errors import DeadlineExceeded, DicomlakeError
from app.services import Services

T = TypeVar("T")

router = Router()

PARTS = ("source", "artifacts", "warehouse", "bus")
TARGETS = {"announce": "announcers", "announce_dead_letters": "letter_announcers"}
"""Further parts, if any targets are set."""
VERSION = {"name": "dicomlake", "version": __version__}
READY_TIMEOUT_S = 5.0
DEPTH_TIMEOUT_S = 1.0


class Probe(Generic[T]):
    """Runs a check that may block, without blocking the event loop.

    Each check has one thread of its own; concurrent callers share its result. So a backend that hangs blocks
    one thread, however many requests arrive. It is a daemon thread, so it does not delay the exit either.
    """

    def __init__(self, question: Callable[[], T], timeout_s: float) -> None:
        self._question, self._timeout_s = question, timeout_s
        self._future: Future[T] | None = None

    @property
    def idle(self) -> bool:
        """Whether no check is running."""
        return self._future is None or self._future.done()

    async def answer(self) -> T:
        """Return the result of the check or raise its error; raise TimeoutError if it takes too long."""
        if self._future is None or self._future.done():
            future: Future[T] = Future()
            future.set_running_or_notify_cancel()  # a caller that gives up must not cancel the shared check
            threading.Thread(target=self._ask, args=(future,), name="probe", daemon=True).start()
            self._future = future
        return await asyncio.wait_for(asyncio.wrap_future(self._future), self._timeout_s)

    def _ask(self, future: Future[T]) -> None:
        try:
            future.set_result(self._question())
        except BaseException as error:  # noqa: BLE001 - it is raised again where the answer is awaited
            future.set_exception(error)


class Probes:
    """The checks behind the routes below."""

    def __init__(self, services: Services) -> None:
        parts = {part: part for part in PARTS}
        parts |= {part: seam for part, seam in TARGETS.items() if getattr(services, seam)}
        self.parts = {
            part: Probe(partial(_check, services, seam), READY_TIMEOUT_S) for part, seam in parts.items()
        }
        self.depth = Probe(lambda: services.bus.depth() or 0, DEPTH_TIMEOUT_S)


def _check(services: Services, seam: str) -> None:
    getattr(services, seam).check()


@router.get("/health", summary="The process answers")
async def health() -> dict[str, str]:
    """Answer without touching anything."""
    return {"status": "ok"}


@router.get("/ready", summary="All that it needs answers", responses={503: {"description": "which does not"}})
async def ready(request: Request) -> JSONResponse:
    """Ask source, artifacts, warehouse, bus and targets; 503 names those that do not answer."""
    parts = request.app.state.probes.parts
    states = await asyncio.gather(*map(_state, parts.values()))
    answers = dict(zip(parts, states, strict=True))
    healthy = all(answer == "ok" for answer in answers.values())
    return JSONResponse({"status": "ok" if healthy else "unavailable", **answers}, 200 if healthy else 503)


async def _state(probe: Probe[None]) -> str:
    try:
        await probe.answer()
    except DicomlakeError as error:
        return error.code
    except TimeoutError:
        return DeadlineExceeded.code
    return "ok"


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Counters and histograms in Prometheus' text format."""
    services: Services = request.app.state.services
    with suppress(DicomlakeError, TimeoutError):  # metrics answer, whatever is down
        services.metrics.queue(await request.app.state.probes.depth.answer())
    text, content_type = services.metrics.render()
    return Response(text, media_type=content_type)


@router.get("/version", summary="Version")
async def version() -> dict[str, str]:
    """Name and version."""
    return VERSION


router.add_api_route("/", version, methods=["GET"], include_in_schema=False)
