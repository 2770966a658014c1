"""Deliver messages like Pub/Sub: POST the wrapped message; certain status codes acknowledge it.

Pusher does HTTP, Pump schedules; neither knows the queue.
"""

from __future__ import annotations

import base64
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from http.client import HTTPConnection, HTTPException
from socket import SHUT_RDWR

from app.bus import Connect
from app.model.errors import BusUnavailable, InternalError, internal
from app.model.times import rfc3339
from app.model.values import Message

log = logging.getLogger("dicomlake.bus")

# The list of Pub/Sub. http.client returns 102 as the response, while other clients wait for the final one.
ACK_STATUS = frozenset({102, 200, 201, 202, 204})
# Servers close idle connections (uvicorn after 5 s). Not reusing older ones avoids a race with that.
IDLE_S = 2.0
ANSWER_BYTES = 65536
TICK_S = 0.2  # maximum delay for messages of other processes, and for retries


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a push, and the seconds that the service asks to wait for the next."""

    verdict: Verdict
    retry_after_s: float = 0.0


class Verdict(Enum):
    """The result of a push. UNREACHED: no connection, so nothing was delivered."""

    ACK = "ack"
    NACK = "nack"
    UNREACHED = "unreached"


def push_body(message: Message) -> bytes:
    """Return the body of a push of `message`; the keys have both spellings, as from Pub/Sub."""
    published = rfc3339(message.publish_time, "milliseconds") if message.publish_time else ""
    wrapped = {
        "attributes": dict(message.attributes),
        "data": base64.b64encode(message.data).decode("ascii"),
        "messageId": message.message_id,
        "message_id": message.message_id,
        "publishTime": published,
        "publish_time": published,
    }
    body = {"message": wrapped, "subscription": message.subscription, "deliveryAttempt": message.attempt}
    return json.dumps(body).encode("ascii")


class Pusher:
    """Posts over persistent connections from `connect`. Safe to call from several threads.

    `deadline_s` limits each wait for a response. Redirects are not followed: every push goes to this service.
    """

    def __init__(self, connect: Connect, deadline_s: float) -> None:
        self._connect, self._deadline_s = connect, deadline_s
        self._lock = threading.Lock()
        self._idle: list[tuple[float, HTTPConnection]] = []
        self._busy: set[HTTPConnection] = set()
        self.closed = False

    def push(self, body: bytes) -> Answer:
        """Post one body; everything except a clear acknowledgement is a refusal."""
        try:
            connection = self._take()
        except OSError:
            return Answer(Verdict.UNREACHED)
        try:
            status, retry_after = self._post(connection, body)
        except (OSError, HTTPException):
            connection.close()
            return Answer(Verdict.NACK)
        finally:
            self._give_back(connection)
        if status in ACK_STATUS:
            return Answer(Verdict.ACK)
        return Answer(Verdict.NACK, float(retry_after) if retry_after.isdecimal() else 0.0)

    def close(self) -> None:
        """Abort pushes in flight, which become a NACK; later ones are UNREACHED."""
        with self._lock:
            self.closed = True
            for connection in self._busy:
                with suppress(OSError, AttributeError):  # its thread may have closed it meanwhile
                    connection.sock.shutdown(SHUT_RDWR)
            for _, connection in self._idle:
                connection.close()
            self._idle.clear()

    def _take(self) -> HTTPConnection:
        """Return a connection that was used within IDLE_S, or a new one. Raises OSError."""
        with self._lock:
            while self._idle:
                since, connection = self._idle.pop()
                if time.monotonic() - since < IDLE_S:
                    self._busy.add(connection)
                    return connection
                connection.close()
        connection = HTTPConnection("localhost")
        connection.auto_open = 0
        connection.sock = self._connect()
        connection.sock.settimeout(self._deadline_s)
        with self._lock:
            if self.closed:
                connection.close()
                raise ConnectionAbortedError
            self._busy.add(connection)
        return connection

    def _post(self, connection: HTTPConnection, body: bytes) -> tuple[int, str]:
        connection.request("POST", "/", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        response.read(ANSWER_BYTES)
        if response.status < 200 or not response.isclosed():
            connection.close()  # the rest of this response must not be taken for that of the next push
        return response.status, response.headers.get("Retry-After", "")

    def _give_back(self, connection: HTTPConnection) -> None:
        with self._lock:
            self._busy.discard(connection)
            if connection.sock is None or self.closed:
                connection.close()
            else:
                self._idle.append((time.monotonic(), connection))


class Pump:
    """A thread that leases due messages, at most `slots` at a time, and a pool of threads to handle them.

    It looks for due messages when woken, when a slot becomes free, and every TICK_S.
    """

    def __init__(
        self,
        name: str,
        slots: int,
        lease: Callable[[int], Iterable[Message]],
        handle: Callable[[Message], None],
    ) -> None:
        self._slots, self._lease, self._handle = slots, lease, handle
        self._woken, self._stopping = threading.Event(), False
        self._fault: tuple[str, type] | None = None  # why leasing fails, logged only when it changes
        self._leased: deque[Message] = deque()  # leased, but not yet taken by a thread
        self._running: set[Future[None]] = set()
        self._pool = ThreadPoolExecutor(slots, thread_name_prefix=name)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Look for due messages now."""
        self._woken.set()

    def full(self) -> bool:
        """Return whether every slot is taken."""
        return len(self._running) + len(self._leased) >= self._slots

    def alive(self) -> bool:
        """Return whether the thread is running and its last fault, if any, was not a bug."""
        at_fault = self._fault is not None and self._fault[0] == InternalError.code
        return self._thread.is_alive() and not at_fault

    def stop(self) -> None:
        """Lease nothing more; returns at once."""
        self._stopping = True
        self._woken.set()

    def join(self, deadline: float) -> None:
        """Wait for messages being handled, until `deadline` of the monotonic clock."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        wait_for(list(self._running), max(0.0, deadline - time.monotonic()))
        if not self._thread.is_alive():
            self._pool.shutdown(wait=False)

    def _run(self) -> None:
        while not self._stopping:
            self._woken.clear()
            try:
                with internal():
                    self._fill()
                self._fault = None
            except (BusUnavailable, InternalError) as exc:  # even "can't start new thread" may pass
                before, self._fault = self._fault, (exc.code, type(exc.__cause__))
                if before != self._fault:
                    bug = exc.__cause__ if isinstance(exc, InternalError) else None
                    log.warning("queue not read, will be tried again", extra={"code": exc.code}, exc_info=bug)
            self._woken.wait(TICK_S)

    def _fill(self) -> None:
        free = self._slots - len(self._running) - len(self._leased)
        if free > 0:
            self._leased.extend(self._lease(free))
        for _ in range(len(self._leased)):
            # If no thread can start, submit raises but keeps the task, which runs later. So tasks are not
            # tied to messages: each handles the next leased one, if any.
            future = self._pool.submit(self._handle_next)
            self._running.add(future)
            future.add_done_callback(self._done)

    def _handle_next(self) -> None:
        try:
            message = self._leased.popleft()
        except IndexError:  # taken by a task that an earlier failed submit had kept
            return
        self._handle(message)

    def _done(self, future: Future[None]) -> None:
        self._running.discard(future)
        self._woken.set()
        if error := future.exception():
            log.error("bug in the embedded bus, the lease ends by itself", exc_info=error)
