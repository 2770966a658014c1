"""Headers that every answer has, for a browser that is pointed at the service."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
NOTHING = "default-src 'none'; frame-ancestors 'none'"
DOCS = (
    "default-src 'none'; frame-ancestors 'none'; connect-src 'self'; img-src data: https://fastapi.tiangolo.com;"
    " script-src 'unsafe-inline' https://cdn.jsdelivr.net; style-src https://cdn.jsdelivr.net"
)
"""FastAPI's page loads its scripts from there, and starts them by one of its own."""


def with_headers(app: ASGIApp) -> ASGIApp:
    """Return the application with HEADERS and a content security policy on all it answers."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        policy = DOCS if scope.get("path") == "/docs" else NOTHING
        added = {**HEADERS, "content-security-policy": policy}

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                pairs = [(name.encode(), value.encode()) for name, value in added.items()]
                message = {**message, "headers": [*message.get("headers", ()), *pairs]}
            await send(message)

        await app(scope, receive, send_with_headers)

    return answer
