"""A router whose GET routes answer HEAD, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter


class Router(APIRouter):
    """FastAPI's router; RFC 9110 9.1 demands HEAD wherever there is GET. The server leaves the body out."""

    def add_api_route(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        """Add a route, and for GET a second one for HEAD, which is in no document."""
        super().add_api_route(path, endpoint, **options)
        if options.get("methods") == ["GET"]:
            options |= {"methods": ["HEAD"], "include_in_schema": False}
            super().add_api_route(path, endpoint, **options)
