"""`GET /docs`: the OpenAPI document as a plain page, without scripts, styles or external resources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

router = APIRouter()


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> HTMLResponse:
    """Show the routes and their answers; /openapi.json is the same for machines."""
    return HTMLResponse("\n".join(_page(request.app.openapi())))


def _page(document: Mapping[str, Any]) -> Iterator[str]:
    title = escape(f"{document['info']['title']} {document['info']['version']}")
    yield f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><h1>{title}</h1>'
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"<h2>{escape(method.upper())} {escape(path)}</h2>"
            yield f"<p>{escape(operation['summary'])}. {escape(operation.get('description', ''))}</p><ul>"
            for status, answer in operation["responses"].items():
                yield f"<li>{escape(status)}: {escape(answer['description'])}</li>"
            yield "</ul>"
    yield '<p><a href="/openapi.json">OpenAPI document</a></p></html>'
