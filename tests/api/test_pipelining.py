"""Requests that come before the answers to others are read, over real sockets."""

import logging
import re
import socket
import time
from contextlib import ExitStack, suppress
from dataclasses import replace

import httpx
import pytest

from tests.api.test_server import Hasty, Slow, get, send, serving, status
from tests.system.e2e.service import until

ASK = get(b"/openapi.json", more=b"")
LAST = get(b"/version", more=b"connection: close\r\n")


class Narrow(Hasty):
    """Has the kernel take little of an answer that nobody reads; notes how many came and waited."""

    made = deepest = 0

    def connection_made(self, transport):
        Narrow.made += 1
        super().connection_made(transport)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

    def data_received(self, data):
        super().data_received(data)
        Narrow.deepest = max(Narrow.deepest, len(self.pipeline))


@pytest.fixture
def narrow(services):
    Narrow.made = Narrow.deepest = 0
    with serving(services, Narrow) as running:
        yield running


def unread(port):
    """Return a new connection on which next to nothing can come back unread."""
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.connect(("127.0.0.1", port))
    line.settimeout(0.5)
    return line


@pytest.mark.parametrize(
    "requests",
    [ASK * 9, ASK * 8 + LAST, ASK * 8 + b"nonsense\r\n\r\n", ASK * 5000],
    ids=["nine", "close", "nonsense", "5000"],
)
def test_a_peer_that_does_not_read_its_answers_is_cut_off(narrow, requests):
    http, port = narrow
    with ExitStack() as held:
        for _ in range(Narrow.max_connections):
            line = held.enter_context(unread(port))
            with suppress(OSError):  # it is not read from for ever
                line.sendall(requests)
        assert until(lambda: Narrow.made == Narrow.max_connections)
        assert until(lambda: not http.server_state.connections)
        assert httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
    assert Narrow.deepest <= Narrow.max_pipelined


def test_no_more_requests_wait_than_the_limit_and_the_last_that_does_is_told_so(narrow):
    answer = send(narrow[1], get(b"/version", more=b"") * 20_000)
    assert Narrow.deepest == Narrow.max_pipelined == 8
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == answer.count(b"HTTP/1.1 ") == 9  # one that none was before
    assert b"connection: close" not in answer.rpartition(b"HTTP/1.1 ")[0]
    assert b"connection: close" in answer.rpartition(b"HTTP/1.1 ")[2]


def test_after_a_request_that_is_to_be_the_last_no_more_are_answered(narrow, caplog):
    answer = send(narrow[1], LAST * 3)
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200"]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_what_is_no_http_does_not_take_the_place_of_an_answer_before_it(narrow):
    answer = send(narrow[1], ASK * 2 + b"nonsense\r\n\r\n")
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"200"]
    assert answer.endswith(b"}")


def test_a_client_that_reads_its_answers_gets_those_of_requests_sent_together_and_stays(narrow):
    http, port = narrow
    with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
        for _ in range(3):
            line.sendall(get(b"/health", more=b"") + get(b"/nowhere", more=b""))
            answer = b""
            while answer.count(b"\r\n\r\n") < 2 or not answer.endswith(b"}"):
                answer += line.recv(65536)
            assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"403"]
            time.sleep(1)  # longer than an answer may lie unread
        assert len(http.server_state.connections) == 1
        line.sendall(get(b"/health"))
        assert status(line.recv(65536)) == 200


def test_answers_that_take_longer_than_they_may_lie_unread_are_awaited(services):
    with serving(replace(services, bus=Slow()), Narrow) as (_, port):
        answer = send(port, get(b"/ready", more=b"") + get(b"/ready") + b"nonsense\r\n\r\n")
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"200"]
