"""`GET /docs`: the OpenAPI document as a plain page, without scripts, styles or external resources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse

from app.api.router import Router

router = Router()


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> HTMLResponse:
    """Show the routes and their answers; /openapi.json is the same for machines."""
    return HTMLResponse("\n".join(_page(request.app.openapi())))


def _page(document: Mapping[str, Any]) -> Iterator[str]:
    title = escape(f"{document['info']['title']} {document['info']['version']}")
    yield '<!doctype html><html lang="en"><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">'
    yield f"<title>{title}</title><h1>{title}</h1>"
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"<h2>{escape(method.upper())} {escape(path)}</h2>"
            yield f"<p>{escape(operation['summary'])}. {escape(operation.get('description', ''))}</p>"
            query = [one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"]
            if query:
                yield f"<p>Query: {', '.join(f'<code>{escape(name)}</code>' for name in query)}</p>"
            yield "<ul>"
            for status, answer in operation["responses"].items():
                yield f"<li>{escape(status)}: {escape(answer['description'])}</li>"
            yield "</ul>"
    yield '<p><a href="/openapi.json">OpenAPI document</a></p></html>'
