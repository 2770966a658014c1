"""What a flood of senders does to the service as a process: its log stays short and keeps the numbers."""

import socket
import time

import httpx

from tests.system.e2e.service import Service, until

FLOOD = 300


def test_refusals_are_folded_in_the_log_and_counted(tmp_path):
    with Service(tmp_path / "lake", api__max_body_bytes=1000) as service:
        begin = time.monotonic()
        for _ in range(FLOOD):
            with socket.create_connection(("127.0.0.1", service.port)) as line:
                line.sendall(b"no http\r\n\r\n")
                line.recv(1)
        with httpx.Client(base_url=service.url) as client:
            for _ in range(FLOOD):
                assert client.post("/", json={"message": 1}).status_code == 400
                assert client.post("/", content=bytes(2000)).status_code == 413
        codes = ("bad_request", "bad_event", "body_too_large")
        assert until(lambda: [number(service, code) for code in codes] == [FLOOD] * 3)
        lines = service.lines()
    assert len(lines) <= 10 + 8 * (2 + time.monotonic() - begin)
    assert number(service, "bad_request") == sum(
        line.get("count", 1) for line in lines if line["message"] == "Invalid HTTP request received."
    )


def number(service, code):
    return sum(line.get("count", 1) for line in service.lines() if line.get("code") == code)
