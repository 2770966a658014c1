"""Is it alive, is it ready, what does it count."""

from __future__ import annotations

from contextlib import suppress

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from app import __version__
from app.errors import DicomlakeError
from app.services import Services

router = APIRouter()


@router.get("/health", summary="The process answers")
async def health() -> dict[str, str]:
    """Answer without touching anything."""
    return {"status": "ok"}


@router.get("/ready", summary="All that it needs answers", responses={503: {"description": "which does not"}})
def ready(request: Request) -> JSONResponse:
    """Ask source, artifacts, warehouse and bus; 503 names those that do not answer."""
    services: Services = request.app.state.services
    parts = ("source", "artifacts", "warehouse", "bus")
    answers = {part: _state(services, part) for part in parts}
    healthy = all(answer == "ok" for answer in answers.values())
    return JSONResponse({"status": "ok" if healthy else "unavailable", **answers}, 200 if healthy else 503)


def _state(services: Services, part: str) -> str:
    try:
        getattr(services, part).check()
    except DicomlakeError as error:
        return error.code
    return "ok"


@router.get("/metrics", summary="Prometheus metrics")
def metrics(request: Request) -> Response:
    """Counters and histograms in Prometheus' text format."""
    services: Services = request.app.state.services
    with suppress(DicomlakeError):  # metrics answer, whatever is down
        services.metrics.queue(services.bus.depth() or 0)
    text, content_type = services.metrics.render()
    return Response(text, media_type=content_type)


@router.get("/version", summary="Version")
async def version() -> dict[str, str]:
    """Name and version."""
    return {"name": "dicomlake", "version": __version__}


router.add_api_route("/", version, methods=["GET"], include_in_schema=False)
