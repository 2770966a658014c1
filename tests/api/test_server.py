"""The service over real sockets: what senders may do to it that no client library would."""

import json
import logging
import re
import socket
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace

import httpx
import pytest

from app.api import server
from app.api.connection_limits import Connection
from tests import data
from tests.processes import PATIENCE_S
from tests.system.e2e.service import until

EVENT_HEAD = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


class Hasty(Connection):
    """Waits a tenth of a second where the real one waits many."""

    head_s, body_s = 0.3, 0.6


class Crowded(Connection):
    """Has room for few connections, and all the patience of the real one."""

    max_connections = 8


class Full(Crowded):
    """Stays full for as long as others hold their connections."""

    head_s = 10 * PATIENCE_S


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
            thread.join(PATIENCE_S)


@pytest.fixture
def port(services):
    with serving(services) as (_, port):
        yield port


@pytest.fixture
def hasty(services):
    with serving(services, Hasty) as running:
        yield running


@pytest.fixture
def crowded(services):
    with serving(services, Crowded) as running:
        yield running


def send(port, *pieces):
    """Send pieces on a new connection and return all that comes back until the service closes it."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as line:
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
    answer = send(hasty[1], *pieces)
    assert status(answer) == 408
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "request_timeout"


@pytest.mark.parametrize("pieces", [[], [b"\r\n"]], ids=["silent", "an empty line"])
def test_a_connection_without_a_request_is_closed(hasty, pieces):
    send(hasty[1], *pieces)
    assert until(lambda: not hasty[0].server_state.connections)


@pytest.mark.parametrize("rest", [b"\r\n", b"GET /heal", EVENT_HEAD + b"content-length: 9\r\n\r\n1"])
def test_an_answered_connection_that_then_stops_half_way_is_closed(hasty, rest):
    whole = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
    with socket.create_connection(("127.0.0.1", hasty[1]), timeout=PATIENCE_S) as line:
        line.sendall(whole)
        assert status(line.recv(65536)) == 200
        line.sendall(rest)
        while line.recv(65536):
            pass
    assert until(lambda: not hasty[0].server_state.connections)


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


def test_more_connections_than_the_limit_are_refused_and_later_ones_taken_again(crowded):
    http, port = crowded
    with ExitStack() as held:
        for _ in range(Crowded.max_connections):
            held.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert until(lambda: len(http.server_state.connections) == Crowded.max_connections)
        assert status(send(port)) == 503
    assert until(lambda: not http.server_state.connections)
    assert httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
    counted = 'dicomlake_events_total{code="too_many_connections",status="failed",type="unknown"} 1.0'
    assert counted in httpx.get(f"http://127.0.0.1:{port}/metrics").text


def test_the_embedded_queue_pushes_where_no_more_connections_are_taken(services):
    with ExitStack() as held:
        sock = held.enter_context(server.listen("127.0.0.1", 0))
        http, port = server.make_server(services, Full), sock.getsockname()[1]
        thread = threading.Thread(target=server.run, args=(http, services, sock))
        thread.start()
        held.callback(thread.join, PATIENCE_S)
        held.callback(setattr, http, "should_exit", True)
        for _ in range(Crowded.max_connections):
            held.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert until(lambda: len(http.server_state.connections) == Crowded.max_connections)
        for number in range(3):
            (services.source.root / f"{number}.dcm").write_bytes(data.ct())
            assert until(lambda n=number: len(services.warehouse.query("SELECT 1 FROM instances")) > n, 15)
        assert status(send(port)) == 503
        found = services.warehouse.query("SELECT DISTINCT delivery_attempt FROM instances")
    assert found == [{"delivery_attempt": 1}]


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
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as sock,
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
        assert until(lambda: any(getattr(record, "code", "") == "body_cut" for record in caplog.records))
        time.sleep(0.1)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
SAFE = {
    "content-security-policy": NOTHING,
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
FOREIGN = b"origin: https://elsewhere.example\r\nconnection: close\r\n"
ASKING = FOREIGN + b"access-control-request-method: POST\r\naccess-control-request-headers: x-any\r\n"


def head_of(answer):
    """Return the names and values of an answer's headers, as a browser would take them."""
    lines = answer.partition(b"\r\n\r\n")[0].decode("ascii").split("\r\n")[1:]
    pairs = [line.partition(": ") for line in lines]
    names = [name.lower() for name, _, _ in pairs]
    assert len(names) == len(set(names)), names
    return dict(zip(names, (value for _, _, value in pairs), strict=True))


def get(path, method=b"GET", more=FOREIGN):
    return method + b" " + path + b" HTTP/1.1\r\nhost: x\r\n" + more + b"\r\n"


def event(more, body=b"{}"):
    return EVENT_HEAD + b"connection: close\r\n" + more + b"\r\n" + body


@pytest.mark.parametrize(
    ("expected", "request_bytes"),
    [
        *((200, get(path)) for path in (b"/", b"/health", b"/ready", b"/metrics", b"/version")),
        *((200, get(path)) for path in (b"/openapi.json", b"/docs")),
        (200, get(b"/health", b"HEAD")),
        (405, get(b"/health", b"PUT")),
        (405, get(b"/", b"OPTIONS", ASKING)),
        (405, get(b"/", b"TRACE")),
        (403, get(b"/nowhere")),  # the guard of what shows data comes before the route
        (403, get(b"/docs/oauth2-redirect")),
        (200, get(b"/health", more=FOREIGN + b"upgrade: websocket\r\n")),
        (400, event(b"content-length: 2\r\n")),
        (413, event(b"content-length: 99999999999\r\n")),
        (415, event(b"content-encoding: gzip\r\ncontent-length: 2\r\n")),
        (431, event(b"content-length: 2\r\n" + b"x: y\r\n" * 300)),
        (431, event(b"x: " + b"y" * 70_000 + b"\r\n")),
        (400, b"nonsense\r\n\r\n"),
        (400, get(b"http://[")),
        (400, get(b"/caf\xc3\xa9")),
        (400, event(b"content-length: -1\r\n")),
        (400, event(b"transfer-encoding: chunked\r\n", b"zz\r\n")),
    ],
)
def test_every_answer_keeps_a_browser_safe_and_is_for_no_other_origin(port, expected, request_bytes):
    answer = send(port, request_bytes)
    assert status(answer) == expected
    headers = head_of(answer)
    assert {name: headers.get(name) for name in SAFE} == SAFE
    assert not [name for name in headers if name.startswith("access-control") or name in ("server", "date")]
    assert b"Traceback" not in answer


@pytest.mark.parametrize("pieces", [[EVENT_HEAD], [EVENT_HEAD + b"content-length: 9\r\n\r\n1"]])
def test_an_answer_to_a_late_request_has_them_too(hasty, pieces):
    answer = send(hasty[1], *pieces)
    assert status(answer) == 408
    assert head_of(answer).items() >= SAFE.items()


def test_a_refused_connection_is_told_so_with_them(crowded):
    http, port = crowded
    with ExitStack() as held:
        for _ in range(Crowded.max_connections):
            held.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert until(lambda: len(http.server_state.connections) == Crowded.max_connections)
        answer = send(port)
    assert status(answer) == 503
    assert head_of(answer).items() >= SAFE.items()


class Broken(Slow):
    """A bus of which an error comes that nobody foresaw."""

    def check(self):
        raise ValueError("a secret word")


def test_a_bug_is_told_without_its_text_or_place(services):
    with serving(replace(services, bus=Broken())) as (_, port):
        answer = send(port, get(b"/ready"))
    assert status(answer) == 500
    assert head_of(answer).items() >= SAFE.items()
    assert answer.endswith(b"\r\n\r\nInternal Server Error")


def test_the_page_of_the_routes_loads_and_runs_nothing(port):
    page = httpx.get(f"http://127.0.0.1:{port}/docs").text
    assert "<h2>POST /</h2>" in page
    assert "<p>Query: <code>frame</code>, <code>window</code>, <code>max_side</code></p>" in page
    assert "<code>study</code>" not in page  # the study of a path is no parameter of the query
    assert '<meta name="viewport" content="width=device-width">' in page  # else a phone shows tiny letters
    assert not re.findall(r"<(?:script|link|style|img|iframe)|https?:|\son\w+=|javascript:", page)


@pytest.mark.parametrize(
    "path",
    ["/", "/health", "/ready", "/version", "/metrics", "/docs", "/studies", "/overview", "/files", "/search"],
)
def test_head_is_answered_as_get_without_the_body(port, path):
    # RFC 9110 9.1: all general-purpose servers must support GET and HEAD
    base = f"http://127.0.0.1:{port}"
    asked, whole = httpx.head(f"{base}{path}"), httpx.get(f"{base}{path}")
    assert (asked.status_code, asked.content) == (200, b"")
    assert asked.headers["content-type"] == whole.headers["content-type"]


def test_head_is_in_no_document_of_the_routes(port):
    paths = httpx.get(f"http://127.0.0.1:{port}/openapi.json").json()["paths"]
    assert not [path for path, operations in paths.items() if "head" in operations]
    assert httpx.head(f"http://127.0.0.1:{port}/nothing").status_code == 404
    assert httpx.head(f"http://127.0.0.1:{port}/login/callback").status_code != 405
