"""Security headers on every answer, in case a browser opens it.

A route that needs another value sets it itself, because two content policies would both apply, and two cache
headers would be ambiguous. There are no CORS headers, on purpose: pages of other origins must not read an
answer.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
HEADERS = {
    "content-security-policy": NOTHING,
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def with_headers(app: ASGIApp) -> ASGIApp:
    """Return the application with HEADERS added to every answer that does not set them itself."""
    defaults = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = list(message.get("headers", ()))
                names = {name.lower() for name, _ in given}
                added = [(name, value) for name, value in defaults if name not in names]
                message = {**message, "headers": [*given, *added]}
            await send(message)

        await app(scope, receive, send_with_headers)

    return answer
