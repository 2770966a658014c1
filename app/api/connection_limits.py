"""One HTTP connection, with the limits on time and memory that uvicorn lacks."""

from __future__ import annotations

import asyncio
import json
import logging
from http import HTTPStatus

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.api.security_headers import HEADERS
from app.model.values import OWN_QUEUE

log = logging.getLogger("dicomlake")

REFUSALS = {
    400: ("bad_request", "this is no HTTP request"),
    408: ("request_timeout", "the request did not come in time"),
    431: ("headers_too_large", "the headers are larger than those of any event"),
    503: ("too_many_connections", "no more connections are taken now"),
}


class Connection(HttpToolsProtocol):
    """A connection that limits the time of a request and of reading its answer, and the size of headers.

    head_s: from the connection, or the first byte of a request, to the end of its headers. body_s: from there
    to the end of the body; and how long the peer may take to read a part of an answer. max_head_bytes: of a
    request line and headers, of trailers, or of any other bytes outside the body. max_pipelined: requests
    that wait while one is answered.
    """

    head_s, body_s = 10.0, 60.0
    max_head_bytes = 65_536
    max_pipelined = 8
    max_connections = 512

    @staticmethod
    def count(code: str) -> None:
        """Count a refusal; does nothing unless a subclass replaces it."""

    _timer: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _answered: RequestResponseCycle | None = None
    _ending = False
    _in_head = True
    _unparsed = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn
        """Take the connection, unless there are too many."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # writing pauses as soon as the peer does not keep up
        self._wait(self.head_s)
        if OWN_QUEUE in self.app_state:  # the limit on connections must never cost an event an attempt
            return
        if sum(OWN_QUEUE not in one.app_state for one in self.connections) > self.max_connections:
            self._refuse(503)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._wait(None)
        self.resume_writing()
        if self._answered is not None:  # uvicorn tells only the last one
            self._answered.disconnected = True
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Start the time limit for the peer to read the answer, also on a connection that is closing."""
        super().pause_writing()
        self._unread = self.loop.call_later(self.body_s, self._cut)

    def resume_writing(self) -> None:
        """Stop that time limit: everything written is on its way."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()

    def data_received(self, data: bytes) -> None:
        """Parse data; unfinished headers take at most `max_head_bytes` and one piece of memory."""
        if self._ending:
            return
        self._unparsed += len(data)
        super().data_received(data)
        if self._unparsed and self._timer is None:  # as an empty line, with which no request begins yet
            self._wait(self.head_s)
        if self._unparsed > self.max_head_bytes and not self.transport.is_closing():
            self._refuse(431)

    def on_message_begin(self) -> None:
        """Start the time limit of the headers; raises BufferError if too many requests wait."""
        if len(self.pipeline) >= self.max_pipelined:
            raise BufferError  # the only way to stop the parser, which then has uvicorn send a 400
        super().on_message_begin()
        self._in_head = True
        self._wait(self.head_s)

    def on_headers_complete(self) -> None:
        """Start the time limit of the body."""
        self._in_head, self._unparsed = False, 0
        self._wait(self.body_s)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body; the application limits its size."""
        self._unparsed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Stop the time limit: the request is complete."""
        self._unparsed = 0
        self._wait(None)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on to the next request, and read no more while others wait."""
        super().on_response_complete()
        if self.pipeline and not self.transport.is_closing():
            self.flow.pause_reading()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def send_400_response(self, msg: str) -> None:
        """Refuse an unreadable request; if earlier requests wait, close after the last is answered."""
        if self.pipeline:
            self._ending, self.cycle.keep_alive, self._unparsed = True, False, 0
            self._wait(self.body_s if self.cycle.more_body else None)
        else:
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

    def _cut(self) -> None:
        log.warning("cut off", extra={"code": "answer_not_read"})
        self.transport.abort()  # to close it would wait until all is read

    def _refuse(self, status: int) -> None:
        """Answer, unless another answer was begun, and close."""
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
