"""Spans of OpenTelemetry: one for each delivery, and one below it for each of its steps.

The parent is the span in the request's `traceparent` or `X-Cloud-Trace-Context` (trace.py). Spans have the
fields of log lines. FastAPI could make spans of all requests by itself, but those would contain the query,
which names patients; so the provider is our own and is not registered globally.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from time import monotonic, time_ns

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags

from app import __version__
from app.telemetry.log import bound
from app.telemetry.trace import SAMPLED, SPAN, TRACE

EXPORT_S = 5.0
"""Seconds that a collector may take for one request, with its repetitions."""
FLUSH_S = 2.0
"""Seconds that an answer waits for the collector where the service has no CPU after it."""
MOST_STEPS = 100
"""Maximum steps of one delivery that get a span: an archive has several for each member."""


Step = tuple[str, float, float]
"""Name of a step, and when it began and ended, in seconds of the monotonic clock."""


class Spans:
    """Sends spans to a collector, OTLP over HTTP. Safe to call from several threads.

    ratio: share of the deliveries without a parent that are sent; one with a parent is sent if that is.
    flush: wait for the collector at the end of each delivery that is sent. Headers come from the standard
    variable OTEL_EXPORTER_OTLP_HEADERS. If the collector does not answer, only its spans are lost.
    """

    def __init__(self, url: str, ratio: float, flush: bool) -> None:
        self._flusher = ThreadPoolExecutor(1, thread_name_prefix="spans") if flush else None
        resource = Resource.create({"service.name": "dicomlake", "service.version": __version__})
        self._provider = TracerProvider(ParentBasedTraceIdRatio(ratio), resource, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=url, timeout=EXPORT_S)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("dicomlake", __version__)

    def delivery(self, steps: Sequence[Step], failed: str, facts: Mapping[str, object]) -> None:
        """Send the spans of one delivery that has just ended.

        failed: code of its error, empty if there is none; it is the last step that failed. facts: what the
        log line of the delivery says.
        """
        now, now_ns = monotonic(), time_ns()

        def since_1970(at: float) -> int:
            return now_ns - round((now - at) * 1e9)

        plain = {key: fact for key, fact in facts.items() if isinstance(fact, str | int | float)}
        said = {f"dicomlake.{key}": fact for key, fact in plain.items()}
        begin_ns = since_1970(steps[0][1]) if steps else now_ns
        whole = self._tracer.start_span("delivery", _parent(), SpanKind.CONSUMER, said, start_time=begin_ns)
        below = trace.set_span_in_context(whole)
        for number, (name, begin, end) in enumerate(steps[:MOST_STEPS], 1):
            step = self._tracer.start_span(name, below, start_time=since_1970(begin))
            if failed and number == len(steps):
                step.set_status(StatusCode.ERROR, failed)
            step.end(since_1970(end))
        if failed:
            whole.set_status(StatusCode.ERROR, failed)
        whole.end(now_ns)
        if self._flusher is not None and whole.get_span_context().trace_flags.sampled:
            # The SDK ignores the time limit of a flush, and flushes one after the other.
            flushed = self._flusher.submit(self._provider.force_flush)
            wait([flushed], FLUSH_S)
            flushed.cancel()

    def close(self) -> None:
        """Send the pending spans, and accept no more."""
        if self._flusher is not None:
            self._flusher.shutdown(wait=False, cancel_futures=True)
        self._provider.shutdown()


def _parent() -> Context | None:
    """Return the context of the request that is answered, None if it named no span."""
    fields = bound()
    if SPAN not in fields:
        return None
    trace_id, span_id = str(fields[TRACE]).rpartition("/")[2], str(fields[SPAN])
    flags = TraceFlags(TraceFlags.SAMPLED if fields[SAMPLED] else TraceFlags.DEFAULT)
    context = SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=flags)
    return trace.set_span_in_context(NonRecordingSpan(context))
