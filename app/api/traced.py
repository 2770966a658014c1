"""The trace of a request on every line that is logged while it is answered."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.telemetry.log import bind
from app.telemetry.trace import trace_fields


def traced(app: ASGIApp, project: str) -> ASGIApp:
    """Return the application with the trace of each request bound to its log lines."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = (headers.getlist(name) for name in ("traceparent", "x-cloud-trace-context"))
        parent, context = (values[0] if len(values) == 1 else "" for values in given)
        with bind(**trace_fields(parent, context, project)):
            await app(scope, receive, send)

    return answer
