"""Headers that every answer has, for a browser that is pointed at the service.

A route that needs another value sets it itself; two policies for content would both hold, and of two words
about caches nobody knows which counts. None of them lets a page of another origin read an answer: there is no
CORS, on purpose.
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
    """Return the application with HEADERS on all it answers, each where the answer has none of that name."""
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
