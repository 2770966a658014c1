"""The HTTP server around the API: a thread a connection, faults between the API and the wire."""

import socket
import struct
import threading
import time
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.fake_gcs.api import Api
from tests.fake_gcs.billing import operation_class
from tests.fake_gcs.errors import ApiError
from tests.fake_gcs.faults import Fault, Faults, spoiled
from tests.fake_gcs.messages import Request, Response, refusal
from tests.fake_gcs.notifications import Callback, Subscription
from tests.fake_gcs.objects import Bucket, Preconditions, Version

_OBJECTS = "storage.objects."
ROLES = {
    "objectViewer": {_OBJECTS + "get", _OBJECTS + "list"},
    "objectCreator": {_OBJECTS + "create"},
    "objectUser": {_OBJECTS + verb for verb in ("create", "delete", "get", "list", "restore", "update")},
}
"""What the predefined roles allow; none of them lets read the bucket's own metadata."""
PIECES = 8


class FakeGcs:
    """Buckets behind a port of 127.0.0.1; `requests` are those that came, in order.

    `billed` counts the operations of class A and B among those that no fault met.
    """

    def __init__(self) -> None:
        self.buckets: dict[str, Bucket] = {}
        self.faults = Faults()
        self.requests: list[Request] = []
        self.billed: Counter[str] = Counter()
        self.api = Api(self.buckets, self.make_bucket)
        self._subscriptions: list[Subscription] = []
        self._server = _Server(self)
        self.url = self.api.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> "FakeGcs":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Be gone: no port, no connection; repeating it is harmless."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server.cut()

    @property
    def grants(self) -> set[str] | None:
        """The permissions of whoever asks; None allows everything."""
        return self.api.grants

    @grants.setter
    def grants(self, permissions: set[str] | None) -> None:
        self.api.grants = permissions

    def make_bucket(self, name: str, versioning: bool = False, soft_delete: bool = False) -> Bucket:
        """Make an empty bucket."""
        self.buckets[name] = Bucket(name, self._notify, versioning, soft_delete)
        return self.buckets[name]

    def put(self, bucket: str, name: str, data: bytes, **settings: Any) -> Version:
        """Store an object without going through HTTP, notifications included."""
        return self.buckets[bucket].put(name, data, settings)

    def delete(self, bucket: str, name: str, generation: int | None = None) -> None:
        """Remove an object or one version of it, notifications included."""
        self.buckets[bucket].delete(name, generation, Preconditions())

    def subscribe(self, callback: Callback, **options: Any) -> None:
        """Call `callback(attributes, data)` for each change, before its request is answered."""
        number = len(self._subscriptions) + 1
        self._subscriptions.append(Subscription(callback, number, **options))

    def fail(self, kind: str | int, times: int = 1, **options: Any) -> None:
        """Make the next requests fail: a kind of `faults.KINDS`, or an HTTP status."""
        self.faults.add(Fault(kind, times, **options))

    def _notify(self, kind: str, resource: dict[str, Any], further: dict[str, str]) -> None:
        for subscription in self._subscriptions:
            subscription.send(kind, resource, further)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, fake: FakeGcs) -> None:
        self.fake = fake
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def cut(self) -> None:
        """Break the connections that are still open."""
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def handle(self) -> None:
        with suppress(ConnectionError, TimeoutError):  # a client that cut its connection is no fault of ours
            super().handle()

    def _serve(self) -> None:
        fake = self.server.fake
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {key.lower(): value for key, value in self.headers.items()}
        request = Request(self.command, self.path, headers, body)
        fake.requests.append(request)
        fault = fake.faults.take(self.command, self.path)
        if fault is None:
            response = fake.api.answer(request)
            fake.billed[operation_class(request, response.status)] += 1
            self._send(response)
        elif isinstance(fault.kind, int):
            self._send(refusal(ApiError(fault.kind, fault.text), request))
        else:
            self._fail(fault, request)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = _serve  # noqa: N815 - names of http.server

    def _fail(self, fault: Fault, request: Request) -> None:
        if fault.kind == "hang":
            time.sleep(fault.seconds)
        if fault.kind == "cut":
            session = self.server.fake.api.sessions.find(request.query["upload_id"])
            session.cut(request.headers["content-range"], request.body)
        if fault.kind in ("hang", "reset", "cut"):
            self._break()
        response = spoiled(fault.kind, self.server.fake.api.answer(request))
        if fault.kind == "lost":
            self._break()
        sent = len(response.body) // 2 if fault.kind == "short" else None
        self._send(response, fault.seconds, sent)
        if fault.kind == "short":
            self.close_connection = True

    def _send(self, response: Response, pause_s: float = 0.0, sent: int | None = None) -> None:
        """Write an answer, with pauses between PIECES of its body, and only the first `sent` bytes of it."""
        self.send_response(response.status)
        headers = dict(response.headers)
        if not response.length:
            headers["Transfer-Encoding"] = "chunked"
        elif response.status not in (204, 304):
            headers["Content-Length"] = str(len(response.body))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        body = response.body[:sent]
        step = max(1, -(-len(body) // PIECES) if pause_s else len(body))
        for start in range(0, len(body), step):
            piece = body[start : start + step]
            self.wfile.write(piece if response.length else b"%x\r\n%b\r\n" % (len(piece), piece))
            if pause_s:
                self.wfile.flush()
                time.sleep(pause_s)
        if not response.length:
            self.wfile.write(b"0\r\n\r\n")

    def _break(self) -> None:
        # With no time to linger the close is a reset, as when a machine in between forgets the connection.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        raise ConnectionResetError

    def log_message(self, *_: object) -> None:
        """Print nothing; `requests` has it all."""
