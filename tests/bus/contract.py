"""What every bus promises, run against each backend, and a real endpoint that is pushed to."""

import base64
import json
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType

import pytest

from app.bus import Bus
from app.model.errors import DicomlakeError
from app.model.values import Message, Reason, Row
from tests.processes import PATIENCE_S

Push = dict


class Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # clients may be killed; nothing else may happen
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class Endpoint:
    """An HTTP server that records pushes and answers a script of status codes, 204 when it is at its end."""

    def __init__(self) -> None:
        self.pushes: list[Push] = []
        self.most_at_once = self._at_once = self.connections = 0
        self.open = threading.Event()
        self.open.set()
        self._script: deque[int] = deque()
        self._changed = threading.Condition()
        self._server = Server(("127.0.0.1", 0), self._handler())
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()

    def connect(self) -> socket.socket:
        return socket.create_connection(self._server.server_address)

    def answer(self, *statuses: int) -> None:
        """Answer the next pushes with these."""
        self._script.extend(statuses)

    def wait(self, count: int, timeout_s: float = PATIENCE_S) -> list[Push]:
        """Return the pushes as soon as there are `count`."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.pushes) >= count, timeout_s), len(self.pushes)
            return list(self.pushes)

    def close(self) -> None:
        self.open.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def receive(self, push: Push) -> int:
        with self._changed:
            self.pushes.append(push)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            status = self._script.popleft() if self._script else 204
            self._changed.notify_all()
        self.open.wait(PATIENCE_S)
        with self._changed:
            self._at_once -= 1
        return status

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                endpoint.connections += 1
                super().setup()

            def do_POST(self) -> None:
                assert self.headers["Content-Type"] == "application/json"
                length = int(self.headers["Content-Length"])
                body = self.rfile.read(length)
                if len(body) < length:  # whoever pushed was killed
                    self.close_connection = True
                    return
                status = endpoint.receive(json.loads(body))
                if status < 200:  # an interim answer: whoever reads on finds a refusal
                    self.wfile.write(b"HTTP/1.1 %d Interim\r\n\r\n" % status)
                    status = 500
                answer = b"" if status == 204 else b'{"code": "any"}'
                self.send_response(status)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler


def note(data: bytes = b"{}", **attributes: str) -> Message:
    """A message as a publisher makes it."""
    return Message(data, attributes, "")


def exceptions(module: ModuleType) -> list[type[Exception]]:
    """Every exception class that a vendor's module shows."""
    shown = [value for value in vars(module).values() if isinstance(value, type)]
    return [kind for kind in shown if issubclass(kind, Exception)]


class BusContract:
    """Needs the fixtures `bus` (not started; retries within a second), `endpoint`, `dead_letters` (a function
    that returns the rows of the table `dead_letter` as soon as there are so many) and `vendor` (modules with
    exception classes, and the context manager that translates them).
    """

    counts_deliveries = True

    def test_message_is_pushed_as_published(self, bus: Bus, endpoint: Endpoint) -> None:
        data = bytes(range(256))
        attributes = {"objectId": "träume/ß 日本 🩻\n\"'.dcm", "eventType": "OBJECT_FINALIZE", "empty": ""}
        bus.start(endpoint.connect)
        message_id = bus.publish(Message(data, attributes, "ignored"))
        (push,) = endpoint.wait(1)
        message = push["message"]
        assert base64.b64decode(message["data"]) == data
        assert message["attributes"] == attributes
        assert message["messageId"] == message["message_id"] == message_id
        assert message["publishTime"] == message["publish_time"]
        assert message["publishTime"].endswith("Z")
        assert push["subscription"].startswith("projects/")

    def test_messages_published_together_are_pushed_each(self, bus: Bus, endpoint: Endpoint) -> None:
        bus.start(endpoint.connect)
        bus.publish_all([note(b"%d" % number) for number in range(3)])
        pushes = [push["message"] for push in endpoint.wait(3)]
        assert {base64.b64decode(message["data"]) for message in pushes} == {b"0", b"1", b"2"}
        assert len({message["messageId"] for message in pushes}) == 3

    def test_what_a_long_job_publishes_is_pushed(self, bus: Bus, endpoint: Endpoint) -> None:
        bus.start(endpoint.connect)
        bus.backlog().publish_all([note(objectId="a"), note(objectId="b")])
        pushes = endpoint.wait(2)
        assert sorted(push["message"]["attributes"]["objectId"] for push in pushes) == ["a", "b"]

    def test_message_published_before_the_start_is_pushed(self, bus: Bus, endpoint: Endpoint) -> None:
        ids = {bus.publish(note(b"%d" % number)) for number in range(3)}
        bus.start(endpoint.connect)
        assert {push["message"]["messageId"] for push in endpoint.wait(3)} == ids
        assert len(ids) == 3

    def test_refused_message_comes_again_until_acknowledged(self, bus: Bus, endpoint: Endpoint) -> None:
        endpoint.answer(503, 422)
        bus.start(endpoint.connect)
        message_id = bus.publish(note())
        pushes = endpoint.wait(3)
        assert [push["message"]["messageId"] for push in pushes] == [message_id] * 3
        if self.counts_deliveries:
            assert [push["deliveryAttempt"] for push in pushes] == [1, 2, 3]

    def test_acknowledged_message_does_not_come_again(self, bus: Bus, endpoint: Endpoint) -> None:
        bus.start(endpoint.connect)
        bus.publish(note())
        endpoint.wait(1)
        time.sleep(0.6)
        assert len(endpoint.pushes) == 1

    def test_dead_letter_keeps_the_message_and_its_reason(
        self, bus: Bus, dead_letters: Callable[[int], list[Row]]
    ) -> None:
        lost = Message(b"\x00\xff", {"objectId": "ß.dcm", "dicomlakeCode": "old"}, "77", attempt=5)
        bus.dead_letter(lost, Reason("not_dicom", "é" * 600, "file:///in/x.dcm"))
        (row,) = dead_letters(1)
        attributes = json.loads(str(row["attributes"]))
        assert row["data"] == b"\x00\xff"
        assert attributes["objectId"] == "ß.dcm"
        assert attributes["dicomlakeCode"] == "not_dicom"
        assert attributes["dicomlakeReason"] == "é" * 512
        assert attributes["dicomlakeMessageId"] == "77"
        assert attributes["objectUri"] == "file:///in/x.dcm"
        assert attributes["CloudPubSubDeadLetterSourceDeliveryCount"] == "5"

    def test_vendor_exceptions_become_ours(self, vendor: tuple) -> None:
        modules, translate = vendor
        kinds = [kind for module in modules for kind in exceptions(module)]
        assert kinds
        for kind in kinds:
            with pytest.raises(DicomlakeError), translate():
                raise kind("vendor")

    def test_check_passes_and_closing_twice_is_allowed(self, bus: Bus, endpoint: Endpoint) -> None:
        bus.check()
        bus.start(endpoint.connect)
        bus.check()
        bus.close()
        bus.close()
