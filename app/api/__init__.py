"""The HTTP service: `create_app(services)`, and the HTTP status of each error."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import ceil

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from app import __version__, events
from app.api import announcing, auth, docs_page, files, health, ingestion, login, pages, push, search
from app.api.browser_guard import BrowserGuard, is_rest
from app.api.dicomweb import capabilities, qido, stow, wado
from app.api.dicomweb.accept import NotAcceptable
from app.api.dicomweb.answers import Browser
from app.api.security_headers import with_headers
from app.api.traced import traced
from app.api.users import Users
from app.model.errors import (
    BadEvent,
    DicomlakeError,
    ForwardUnavailable,
    ObjectGone,
    OutOfSpace,
    Overloaded,
    PermanentError,
    TransientError,
)
from app.services import Services
from app.telemetry.metrics import FAILED

log = logging.getLogger("dicomlake")

STATUS: tuple[tuple[type[DicomlakeError], int], ...] = (
    (auth.Unauthorized, 401),
    (auth.Forbidden, 403),
    (NotAcceptable, 406),
    (push.BodyTooLarge, 413),
    (push.HeadersTooLarge, 431),
    (push.UnsupportedBody, 415),
    (push.BodyCut, 400),
    (BadEvent, 400),
    (Overloaded, 429),
    (OutOfSpace, 507),
    (TransientError, 503),
    (PermanentError, 422),
    (ObjectGone, 404),
    (DicomlakeError, 500),
)
"""HTTP status by error class, first match wins. Each of them is a nack."""

TITLES = {404: "Not found", 405: "Not possible", 429: "Not now", 503: "Not now"}
"""What heads the page of an error."""

GUARDED: dict[int | str, dict[str, str]] = {
    400: {"description": "A parameter or the body cannot be understood"},
    401: {"description": "No valid token, where api.users asks for one"},
    403: {"description": "A role that may not do this, a page of another site, or a foreign Host"},
    422: {"description": "The object cannot be read"},
    429: {"description": "No room now"},
    500: {"description": "A bug of the service"},
    503: {"description": "Storage or warehouse does not answer"},
}
"""What every route that shows or changes data may answer with."""


class Api(FastAPI):
    """FastAPI with our security headers on every answer, including 500, and the trace on every line."""

    def build_middleware_stack(self) -> ASGIApp:
        """Wrap the whole stack, so that no answer escapes."""
        inner = super().build_middleware_stack()
        if self.state.pages is not None:
            api = self.state.services.settings.api
            inner = BrowserGuard(inner, api, self.state.users)
            if api.cors_origins:  # outermost, so that a browser may read a refusal too
                inner = CORSMiddleware(
                    inner,
                    allow_origins=api.cors_origins,
                    allow_credentials=True,
                    allow_methods=["GET", "HEAD", "POST"],
                    allow_headers=["Authorization", "Accept", "Content-Type", "Range", "If-None-Match"],
                    expose_headers=["Warning", "ETag", "Content-Range", "Content-Location"],
                )
        return traced(with_headers(inner), self.state.services.settings.project())


def create_app(services: Services) -> FastAPI:
    """Build the HTTP application over open services; its shutdown closes them."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        if browser is not None:
            browser.originals.close()
        services.close()

    app = Api(title="dicomlake", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.services = services
    app.state.gate = auth.open_gate(services.settings.api)
    app.state.probes = health.Probes(services)
    if services.settings.api.serve != "ingest":
        app.include_router(pages.root)  # before the probes, which answer there too
    app.include_router(health.router)
    app.include_router(docs_page.router)
    if services.settings.api.serve != "browse":
        app.include_router(push.router)
        app.include_router(announcing.router)
    app.state.pages = None
    browser = Browser.over(services) if services.settings.api.serve != "ingest" else None
    if browser is not None:
        app.state.browser = browser
        app.state.pages = pages.Pages(services)
        app.state.users = Users(services.settings.api, lambda: services.now().timestamp())
        app.include_router(login.router)
        for room in (files, capabilities, qido, wado, stow, search, ingestion):
            app.include_router(room.router, responses=GUARDED)
        app.include_router(pages.router)
        app.mount("/static", pages.static_files())
    app.add_exception_handler(DicomlakeError, _nack)
    app.add_exception_handler(RequestValidationError, _bad_parameter)
    app.add_exception_handler(HTTPException, _no_route)
    return app


async def _bad_parameter(_: Request, error: Exception) -> JSONResponse:
    """Name the first parameter that has a wrong type or is out of range; the message quotes no value."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    text = f"{first['loc'][-1]}: {first['msg'][:1].lower()}{first['msg'][1:]}"
    return JSONResponse({"error": text, "success": False}, 400)


async def _no_route(request: Request, error: Exception) -> Response:
    """Answer for an address or a method that there is not."""
    assert isinstance(error, HTTPException)
    answer: dict[str, object]
    if error.status_code == 405:
        answer = {"code": "method_not_allowed", "message": f"this address does not take {request.method}"}
    else:
        answer = {"code": "not_found", "message": "there is no such address"}
    return _refusal(request, error.status_code, answer, dict(error.headers or {}))


async def _nack(request: Request, error: Exception) -> Response:
    assert isinstance(error, DicomlakeError)
    status = next(status for kind, status in STATUS if isinstance(error, kind))
    if not getattr(request.state, "handled", False):  # else the pipeline has logged it
        log.warning("refused", extra={"code": error.code, "http_status": status})
        request.app.state.services.metrics.event(None, FAILED, error.code, 0.0)
    body = getattr(request.state, "body", b"")
    answer: dict[str, object] = {
        "code": error.code,
        "message": error.text,
        "message_id": getattr(request.state, "message_id", None) or events.given_id(request.headers, body),
        "permanent": isinstance(error, PermanentError),
    }
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if isinstance(error, ForwardUnavailable) and error.retry_after_s:
        headers["Retry-After"] = str(ceil(error.retry_after_s))  # for the embedded queue
    return _refusal(request, status, answer, headers)


def _refusal(request: Request, status: int, answer: dict[str, object], headers: dict[str, str]) -> Response:
    """Return an error as the routes around it answer: of REST, of a page for a browser, or of all others."""
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    if is_rest(path):
        return JSONResponse({"error": answer["message"], "success": False}, status, headers)
    # Pages are not in the schema; an address without a route is one unless it is below DICOMweb's.
    is_page = not getattr(request.scope.get("route"), "include_in_schema", False)
    made = request.app.state.pages
    if made is not None and is_page and not path.startswith("/dicomweb") and pages.wants_page(request):
        text = str(answer["message"])
        title = TITLES.get(status, "This cannot be shown")
        page: Response = made.problem(request, status, title, f"{text[:1].upper()}{text[1:]}.", headers)
        return page
    return JSONResponse(answer, status, headers)
