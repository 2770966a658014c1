"""The HTTP service: `create_app(services)`, and which error answers with which status."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from app import __version__
from app.api import health, push
from app.errors import (
    BadEvent,
    DicomlakeError,
    InternalError,
    ObjectGone,
    Overloaded,
    PermanentError,
    TransientError,
)
from app.services import Services

STATUS: tuple[tuple[type[DicomlakeError], int], ...] = (
    (push.BodyTooLarge, 413),
    (push.UnsupportedBody, 415),
    (BadEvent, 400),
    (Overloaded, 429),
    (TransientError, 503),
    (PermanentError, 422),
    (ObjectGone, 404),
    (InternalError, 500),
    (DicomlakeError, 500),
)
"""The first class that fits gives the status; every one of them is a nack."""


def create_app(services: Services) -> FastAPI:
    """Build the service over open services; it closes them when it stops."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        services.close()

    app = FastAPI(title="dicomlake", version=__version__, redoc_url=None, lifespan=lifespan)
    app.state.services = services
    app.include_router(health.router)
    if services.settings.api.serve != "browse":
        app.include_router(push.router)
    app.add_exception_handler(DicomlakeError, _nack)
    return app


async def _nack(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, DicomlakeError)
    status = next(status for kind, status in STATUS if isinstance(error, kind))
    body = {
        "code": error.code,
        "message": error.text,
        "message_id": getattr(request.state, "message_id", None),
        "permanent": isinstance(error, PermanentError),
    }
    return JSONResponse(body, status)
