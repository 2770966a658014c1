"""Shared by the routes of DICOMweb: their sources, their base URL, and the answers for errors."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from app.api import public_url
from app.api.auth import Forbidden, Unauthorized
from app.api.dicomweb.accept import NotAcceptable
from app.api.dicomweb.parameters import BadParameter
from app.browse.cache import Cache
from app.browse.instances import Instances, NotFound
from app.browse.objects import Originals
from app.model.errors import (
    BadSearch,
    DicomlakeError,
    ObjectGone,
    Overloaded,
    PermanentError,
    TransientError,
    Unrenderable,
)
from app.services import Services

PREFIX = "/dicomweb"
ABSENT = ("no_pixel_data", "no_such_frame", "bad_viewport")
"""Codes of Unrenderable which mean that the requested thing does not exist."""
STATUS: tuple[tuple[type[DicomlakeError], int], ...] = (
    (Unauthorized, 401),
    (Forbidden, 403),
    (NotFound, 404),
    (ObjectGone, 404),
    (BadParameter, 400),
    (BadSearch, 400),
    (NotAcceptable, 406),
    (Unrenderable, 406),
    (Overloaded, 429),
    (TransientError, 503),
    (PermanentError, 422),
)
"""The first class that fits gives the status (PS3.18 8.5); any other error is one of ours."""


@dataclass(frozen=True, slots=True)
class Browser:
    """The readers behind the routes."""

    services: Services
    instances: Instances
    originals: Originals

    @classmethod
    def over(cls, services: Services) -> Browser:
        """Return one over open services."""
        return cls(services, Instances(services.warehouse), Originals(services, Cache(services.artifacts)))


class BrowseRoute(APIRoute):
    """Answers errors of a route as DICOMweb does; they are not counted as failures of events."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler with errors turned into answers."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await _again_if_gone(handle, request)
            except DicomlakeError as error:
                status = status_of(error)
                if status is None:
                    raise
                headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
                return JSONResponse({"code": error.code, "message": error.text}, status, headers)

        return answer


async def _again_if_gone(
    handle: Callable[[Request], Coroutine[Any, Any, Response]], request: Request
) -> Response:
    """Answer; an object that went since its row was found may have come again as another version."""
    try:
        return await handle(request)
    except ObjectGone:
        browser: Browser = request.app.state.browser
        place = request.path_params.get("study", ""), request.path_params.get("series", "")
        if not browser.instances.forget(*place):
            raise
        return await handle(request)


def status_of(error: DicomlakeError) -> int | None:
    """Return the HTTP status of an error, None for an unexpected one."""
    if isinstance(error, Unrenderable) and error.code in ABSENT:
        return 404
    return next((status for kind, status in STATUS if isinstance(error, kind)), None)


def base_url(request: Request) -> str:
    """Return the URL of DICOMweb as the client sees it."""
    return f"{public_url.base_url(request)}{PREFIX}"
