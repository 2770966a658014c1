"""Lines of one request name its trace, as Cloud Logging wants it."""

import io
import json
import logging
from contextlib import redirect_stderr

import pytest
from fastapi.testclient import TestClient

from app.api import create_app
from app.services import open_services
from app.telemetry.log import configure
from tests.conftest import lake_settings

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
CONTEXT = "105445aa7843bc8bf206b12000100000/1;o=1"


@pytest.fixture
def log_lines():
    buffer, root = io.StringIO(), logging.getLogger()
    handlers, level = list(root.handlers), root.level
    with redirect_stderr(buffer):
        configure("info", "json")
    yield lambda: [json.loads(line) for line in buffer.getvalue().splitlines()]
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)


def traced(line):
    return {key.rpartition("/")[2]: value for key, value in line.items() if "googleapis" in key}


def test_every_line_of_a_request_names_its_trace(tmp_path, log_lines):
    letters = {"bus__dead_letter_topic": "projects/my-project/topics/letters"}
    services = open_services(lake_settings(tmp_path, **letters))
    try:
        client = TestClient(create_app(services), raise_server_exceptions=False)
        client.post("/", content=b"no event", headers={"traceparent": PARENT})  # in a thread, by our code
        client.get("/files", headers={"X-Cloud-Trace-Context": CONTEXT})  # the audit line
        client.get("/studies", headers={"traceparent": "nonsense"})
        client.get("/overview", headers=[("traceparent", PARENT), ("traceparent", PARENT)])
    finally:
        services.close()
    assert [(line["message"], traced(line)) for line in log_lines()] == [
        (
            "refused",
            {
                "trace": "projects/my-project/traces/4bf92f3577b34da6a3ce929d0e0e4736",
                "spanId": "00f067aa0ba902b7",
                "trace_sampled": True,
            },
        ),
        (
            "access",
            {
                "trace": "projects/my-project/traces/105445aa7843bc8bf206b12000100000",
                "spanId": "0000000000000001",
                "trace_sampled": True,
            },
        ),
        ("access", {}),
        ("access", {}),
    ]
