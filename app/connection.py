"""One HTTP connection: what uvicorn leaves open to whoever connects, within bounds of time and memory."""

from __future__ import annotations

import asyncio
import json
import logging
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.api.headers import HEADERS

log = logging.getLogger("dicomlake")

REFUSALS = {
    400: ("bad_request", "this is no HTTP request"),
    408: ("request_timeout", "the request did not come in time"),
    431: ("headers_too_large", "the headers are larger than those of any event"),
    503: ("too_many_connections", "no more connections are taken now"),
}


class Connection(HttpToolsProtocol):
    """A connection on which a request must come in time and its headers within bounds.

    head_s: from the connection, or the first byte of a request, to the end of its headers. body_s: from there
    to its end. max_head_bytes: of a request line and headers, of trailers, or of what else is no body.
    """

    head_s, body_s = 10.0, 60.0
    max_head_bytes = 65_536
    max_connections = 512

    @staticmethod
    def count(code: str) -> None:
        """Count a refusal; for whoever keeps the numbers to replace."""

    _timer: asyncio.TimerHandle | None = None
    _in_head = True
    _unparsed = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn
        """Take the connection, unless there are too many."""
        super().connection_made(transport)
        self._wait(self.head_s)
        if len(self.connections) > self.max_connections:
            self._refuse(503)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._wait(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came; of headers that do not end no more is kept than `max_head_bytes` and one piece."""
        self._unparsed += len(data)
        super().data_received(data)
        if self._unparsed and self._timer is None:  # as an empty line, with which no request begins yet
            self._wait(self.head_s)
        if self._unparsed > self.max_head_bytes and not self.transport.is_closing():
            self._refuse(431)

    def on_message_begin(self) -> None:
        """Begin to wait for the end of the headers."""
        super().on_message_begin()
        self._in_head = True
        self._wait(self.head_s)

    def on_headers_complete(self) -> None:
        """Begin to wait for the end of the body."""
        self._in_head, self._unparsed = False, 0
        self._wait(self.body_s)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body; how much of it is kept is for the application to say."""
        self._unparsed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait for nothing more."""
        self._unparsed = 0
        self._wait(None)
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be parsed."""
        self._refuse(400)

    def _wait(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self._late)

    def _late(self) -> None:
        if self.flow.read_paused:  # it is we who do not read
            self._wait(self.body_s)
        elif self._in_head and not self._unparsed:  # it has not begun a request, so it needs no answer
            self.transport.close()
        else:
            self._refuse(408)

    def _refuse(self, status: int) -> None:
        """Answer, where no other answer is on its way or sent, and close."""
        cycle = self.cycle
        if cycle is None or not cycle.response_started or (self._in_head and cycle.response_complete):
            code, text = REFUSALS[status]
            log.warning("refused", extra={"code": code, "http_status": status})
            self.count(code)
            body = json.dumps({"code": code, "message": text, "message_id": None, "permanent": False})
            headers = {"content-type": "application/json", **HEADERS, "content-length": len(body)}
            lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "connection: close"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            self.transport.write("\r\n".join([*lines, "", body]).encode())
        self.transport.close()
