"""Spans as a collector gets them from the running service, by OTLP over HTTP."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from app.telemetry import spans
from tests import data
from tests.processes import PATIENCE_S
from tests.system.e2e.service import Service, until

PATIENT = b"KANARIE^SPAN"
SOUND = data.raw(data.element(0x00100010, "PN", PATIENT))
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
OK, ERROR = 0, 2
"""Status codes of OTLP: unset, and error."""


class Collector:
    """What came so far: the requests, and the spans in them."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []

    @property
    def spans(self):
        requests = map(ExportTraceServiceRequest.FromString, list(self.bodies))
        return [
            span
            for request in requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def of(self, name: str):
        return [span for span in self.spans if span.name == name]


@pytest.fixture
def collector() -> Iterator[tuple[Collector, str]]:
    found = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.headers.append({name.lower(): value for name, value in self.headers.items()})
            found.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield found, f"http://127.0.0.1:{server.server_port}/v1/traces"
    server.shutdown()
    server.server_close()


@contextmanager
def running(tmp_path, url: str, **settings: object) -> Iterator[Service]:
    service = Service(tmp_path / "lake", traces__otlp_url=url, delivery__permanent_attempts=1, **settings)
    service.env |= {
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20key",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    with service:
        yield service


def put(service: Service, name: str, content: bytes) -> None:
    (service.lake / "new").write_bytes(content)
    (service.lake / "new").rename(service.landing / name)


def ids(span) -> tuple[str, str]:
    return span.trace_id.hex(), span.parent_span_id.hex()


def said(span) -> dict[str, object]:
    return {
        one.key: one.value.int_value or one.value.string_value or one.value.double_value
        for one in span.attributes
    }


def test_a_delivery_and_its_steps_are_spans(tmp_path, collector):
    found, url = collector
    with running(tmp_path, url) as service:
        put(service, "a.dcm", SOUND)
        assert until(lambda: found.of("delivery"))
        (whole,) = found.of("delivery")
        facts = said(whole)
        assert facts["dicomlake.object"] == "a.dcm"
        assert facts["dicomlake.status"] == "stored"
        assert facts["dicomlake.event_type"] == "OBJECT_FINALIZE"
        steps = [span for span in found.spans if span.name != "delivery"]
        names = ["event", "read", "describe", "write", "append", "announce", "forward"]
        assert [span.name for span in steps] == names
        for step in steps:
            assert ids(step) == (whole.trace_id.hex(), whole.span_id.hex())
            assert whole.start_time_unix_nano <= step.start_time_unix_nano <= step.end_time_unix_nano
            assert step.end_time_unix_nano <= whole.end_time_unix_nano
        assert {span.status.code for span in found.spans} == {OK}
        assert found.headers[0]["authorization"] == "Bearer key"


def test_the_step_that_failed_says_so_and_no_span_has_a_value(tmp_path, collector):
    found, url = collector
    with running(tmp_path, url) as service:
        put(service, "cut.dcm", data.raw(data.element(0x00100010, "PN", PATIENT[:6], length=12)))
        assert until(lambda: found.of("delivery"))
        (whole,) = found.of("delivery")
        assert (whole.status.code, whole.status.message) == (ERROR, "truncated")
        failed = [span.name for span in found.spans if span.status.code == ERROR]
        assert sorted(failed) == ["delivery", "describe"]
    assert not any(b"KANARI" in body for body in found.bodies)


@pytest.mark.parametrize(("sampled", "sent"), [("01", True), ("00", False)])
def test_the_request_decides_where_it_has_a_trace(tmp_path, collector, sampled, sent):
    found, url = collector
    with running(tmp_path, url, traces__ratio=0) as service:
        header = {"traceparent": f"00-{TRACE}-{PARENT}-{sampled}"}
        event = {"message": {"messageId": "1", "attributes": {"eventType": "OBJECT_FINALIZE"}, "data": ""}}
        httpx.post(service.url, json=event, headers=header)
        put(service, "a.dcm", SOUND)
        assert until(lambda: "a.dcm" in service.current())
    assert [ids(span) for span in found.of("delivery")] == [(TRACE, PARENT)] * sent


def test_a_collector_that_is_away_stops_nothing(tmp_path):
    with running(tmp_path, "http://127.0.0.1:9/v1/traces") as service:
        put(service, "a.dcm", SOUND)
        assert until(lambda: "a.dcm" in service.current())


def test_an_answer_does_not_wait_for_a_collector_that_hangs(monkeypatch):
    """The collector takes connections and never answers; without a limit these would wait for an hour."""
    monkeypatch.setattr(spans, "EXPORT_S", 3600.0)
    monkeypatch.setattr(spans, "FLUSH_S", 0.1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        sender = spans.Spans(f"http://127.0.0.1:{silent.getsockname()[1]}/v1/traces", 1.0, flush=True)
        step = ("read", time.monotonic(), time.monotonic())
        sending = [
            threading.Thread(target=sender.delivery, args=([step], "", {}), daemon=True) for _ in range(6)
        ]
        for thread in sending:
            thread.start()
        for thread in sending:
            thread.join(PATIENCE_S)
        assert not any(thread.is_alive() for thread in sending)
    sender.close()
