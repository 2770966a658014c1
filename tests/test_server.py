"""The service over real sockets: what senders may do to it that no client library would."""

import json
import logging
import socket
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace

import httpx
import pytest

from app import server
from app.connection import Connection
from tests.e2e.service import until

EVENT_HEAD = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


class Hasty(Connection):
    """Waits a tenth of a second where the real one waits many."""

    head_s, body_s, max_connections = 0.3, 0.6, 8


@contextmanager
def serving(services, connection=Connection):
    with server.listen("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
        http = server.make_server(services, connection)
        thread = threading.Thread(target=http.run, kwargs={"sockets": [sock]})
        thread.start()
        try:
            yield http, port
        finally:
            http.should_exit = True
            thread.join(15)


@pytest.fixture
def port(services):
    with serving(services) as (_, port):
        yield port


@pytest.fixture
def hasty(services):
    with serving(services, Hasty) as running:
        yield running


def send(port, *pieces):
    """Send pieces on a new connection and return all that comes back until the service closes it."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
        answer = b""
        with suppress(BrokenPipeError, ConnectionResetError):  # it may close before it has read all
            for piece in pieces:
                line.sendall(piece)
        with suppress(ConnectionResetError):
            while piece := line.recv(65536):
                answer += piece
        return answer


def status(answer):
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize(
    "pieces",
    [
        [EVENT_HEAD + b"content-length: 100\r\n\r\n", b"half"],
        [EVENT_HEAD + b"transfer-encoding: chunked\r\n\r\n", b"5\r\nhal"],
        [EVENT_HEAD],
        [b"P"],
    ],
    ids=["body", "chunked", "headers", "byte"],
)
def test_a_request_that_stops_half_way_is_answered_and_its_connection_closed(hasty, pieces):
    begin = time.monotonic()
    answer = send(hasty[1], *pieces)
    assert time.monotonic() - begin < 5
    assert status(answer) == 408
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "request_timeout"


@pytest.mark.parametrize("pieces", [[], [b"\r\n"]], ids=["silent", "an empty line"])
def test_a_connection_without_a_request_is_closed(hasty, pieces):
    begin = time.monotonic()
    send(hasty[1], *pieces)
    assert time.monotonic() - begin < 5
    assert until(lambda: not hasty[0].server_state.connections, 1)


@pytest.mark.parametrize("rest", [b"\r\n", b"GET /heal", EVENT_HEAD + b"content-length: 9\r\n\r\n1"])
def test_an_answered_connection_that_then_stops_half_way_is_closed(hasty, rest):
    whole = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
    begin = time.monotonic()
    with socket.create_connection(("127.0.0.1", hasty[1]), timeout=10) as line:
        line.sendall(whole)
        assert status(line.recv(65536)) == 200
        line.sendall(rest)
        while line.recv(65536):
            pass
    assert time.monotonic() - begin < 5
    assert until(lambda: not hasty[0].server_state.connections, 1)


class Slow:
    """A bus that takes longer to answer than a request may take to come."""

    def check(self):
        time.sleep(1)

    def close(self):
        pass


def test_a_slow_answer_and_a_pause_between_requests_are_no_slow_request(services):
    with (
        serving(replace(services, bus=Slow()), Hasty) as (http, port),
        httpx.Client(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        assert client.get("/ready").status_code == 200
        (connection,) = http.server_state.connections
        time.sleep(1)
        assert client.get("/health").status_code == 200
        assert http.server_state.connections == {connection}


def test_more_connections_than_the_limit_are_refused_and_later_ones_taken_again(hasty):
    http, port = hasty
    with ExitStack() as held:
        for _ in range(Hasty.max_connections):
            held.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert until(lambda: len(http.server_state.connections) == Hasty.max_connections, 0.2)
        assert status(send(port)) == 503
    assert until(lambda: not http.server_state.connections, 5)
    assert httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        [(f"x-{number}", "a") for number in range(500)],
        [("x-long", "a" * 40_000)],
        [("x-long", "a" * 65_537)],
    ],
    ids=["500 headers", "40 KB", "64 KB"],
)
def test_more_headers_than_any_event_has_are_refused(port, headers):
    lines = b"".join(f"{name}: {value}\r\n".encode() for name, value in headers)
    answer = send(port, EVENT_HEAD + lines + b"connection: close\r\ncontent-length: 2\r\n\r\n{}")
    assert status(answer) == 431
    assert b'"headers_too_large"' in answer


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 65_536,
        EVENT_HEAD + b"x: ",
        EVENT_HEAD,
        EVENT_HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n",
    ],
    ids=["path", "one header", "many headers", "trailers"],
)
def test_headers_without_end_are_cut_off(port, head):
    line = b"a" * 1000 if head.endswith((b"a", b": ")) else b"x-y: " + b"a" * 993 + b"\r\n"
    sent = 0
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as sock,
        suppress(BrokenPipeError, ConnectionResetError),
    ):
        sock.sendall(head)
        while sent < 20_000_000:
            sock.sendall(line)
            sent += len(line)
    assert sent < 10_000_000


def test_what_is_no_http_is_told_so_in_json(port):
    answer = send(port, b"\x16\x03\x01nonsense\r\n\r\n")
    assert status(answer) == 400
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {
        "code": "bad_request", "message": "this is no HTTP request", "message_id": None, "permanent": False
    }  # fmt: skip


def test_a_sender_that_goes_away_is_no_error(port, caplog):
    with caplog.at_level(logging.WARNING, logger="dicomlake"):
        with socket.create_connection(("127.0.0.1", port)) as line:
            line.sendall(EVENT_HEAD + b"content-length: 100\r\n\r\nhalf")
            time.sleep(0.2)
        assert until(lambda: any(getattr(record, "code", "") == "body_cut" for record in caplog.records), 5)
        time.sleep(0.1)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/nowhere", "/openapi.json", "/docs"])
def test_every_answer_has_the_headers_that_keep_a_browser_safe(port, path):
    headers = httpx.get(f"http://127.0.0.1:{port}{path}").headers
    assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
    assert headers["cache-control"] == "no-store"
    assert headers["content-security-policy"].startswith("default-src 'none'; frame-ancestors 'none'")
    assert ("script-src" in headers["content-security-policy"]) == (path == "/docs")
    assert "access-control-allow-origin" not in headers


def test_a_refusal_below_the_application_has_them_too(port):
    answer = send(port, b"nonsense\r\n\r\n").decode().lower()
    for header in ("x-content-type-options: nosniff", "cache-control: no-store", "connection: close"):
        assert f"\r\n{header}\r\n" in answer
