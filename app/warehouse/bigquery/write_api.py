"""Write rows with the Storage Write API: the default stream of each table, at-least-once delivery.

One call per table stays open and carries one request at a time, because group commit already merges rows into
few large requests. The SDK's own stream class is not used: it polls for responses about once a second.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import urlsplit

import grpc  # type: ignore[import-untyped]
from google.api_core.exceptions import from_grpc_error
from google.auth.exceptions import GoogleAuthError
from google.cloud.bigquery_storage_v1.services.big_query_write.transports import BigQueryWriteGrpcTransport
from google.cloud.bigquery_storage_v1.types import (
    AppendRowsRequest,
    AppendRowsResponse,
    RowError,
    StorageError,
)

from app.model.errors import WarehouseUnavailable
from app.model.values import Row
from app.warehouse.bigquery.appending import Answer
from app.warehouse.bigquery.proto_rows import descriptor, serializer
from app.warehouse.bigquery.url import Place
from app.warehouse.tables import TABLES

_PAUSES_S = (0.2, 1.0)
# Keep-alive pings: without them, a connection that a middlebox dropped while it was idle (such as while an
# instance is frozen between two requests) looks alive for a quarter of an hour.
CHANNEL = [
    *(("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)),
    *(("grpc.keepalive_time_ms", 30_000), ("grpc.keepalive_timeout_ms", 10_000)),
    ("grpc.http2.ping_timeout_ms", 10_000),
]
_sdk_error: Callable[[Any], Any] = from_grpc_error
_REQUEST: Any = AppendRowsRequest.pb()
_STATUS = {status.value[0]: status for status in grpc.StatusCode}
# Worth an immediate retry; for all other statuses the event is delivered again, much later.
_RETRIED = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
}


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a request failed. storage: BigQuery's code for a fault of the stream or table, never of a row."""

    status: grpc.StatusCode
    storage: str = ""
    rows: dict[int, str] = field(default_factory=dict)

    def answer(self, rows: int) -> Answer:
        """Return which rows are refused; raises WarehouseUnavailable if the rows are not the cause."""
        if self.rows:
            return Answer(self.rows, [place for place in range(rows) if place not in self.rows])
        if self.status is grpc.StatusCode.INVALID_ARGUMENT and not self.storage:
            return Answer(again=range(rows))
        raise WarehouseUnavailable(f"BigQuery ({self.storage or self.status.name})")


def _word(kind: type[IntEnum], code: int) -> str:
    return next((member.name for member in kind if member == code), f"code {code}")


def _storage_code(details: Iterable[Any]) -> str:
    for detail in details:
        error = StorageError.pb()()
        if hasattr(detail, "Unpack") and detail.Unpack(error):
            return _word(StorageError.StorageErrorCode, error.code)
    return ""


def fault_of(answer: AppendRowsResponse | grpc.RpcError | None) -> Fault | None:
    """Return the fault in a response, or in the end of the call instead of one; None if there is none.

    Texts are dropped, because they may quote values of a row.
    """
    if answer is None:
        return Fault(grpc.StatusCode.CANCELLED)
    if isinstance(answer, grpc.RpcError):
        return Fault(answer.code(), _storage_code(_sdk_error(answer).details))
    if not answer.error.code and not answer.row_errors:
        return None
    status = _STATUS.get(answer.error.code, grpc.StatusCode.UNKNOWN)
    rows = {row.index: _word(RowError.RowErrorCode, row.code) for row in answer.row_errors}
    return Fault(status, _storage_code(answer.error.details), rows)


class _Call:
    """One open call: a request, then its response. A thread reads responses, so that waits can time out."""

    def __init__(self, transport: Any, stream: str) -> None:
        self._requests: SimpleQueue[AppendRowsRequest | None] = SimpleQueue()
        self._answers: SimpleQueue[AppendRowsResponse | grpc.RpcError | None] = SimpleQueue()
        routing = ("x-goog-request-params", f"write_stream={stream}")
        self._call = transport.append_rows(iter(self._requests.get, None), metadata=(routing,))
        threading.Thread(target=self._read, name="bigquery-answers", daemon=True).start()

    def _read(self) -> None:
        try:
            for response in self._call:
                self._answers.put(response)
            self._answers.put(None)
        except grpc.RpcError as exc:
            self._answers.put(exc)
        finally:
            self._requests.put(None)

    def is_open(self) -> bool:
        return bool(self._call.is_active())

    def exchange(self, request: AppendRowsRequest, timeout_s: float) -> Fault | None:
        self._requests.put(request)
        try:
            return fault_of(self._answers.get(timeout=timeout_s))
        except Empty:
            return Fault(grpc.StatusCode.DEADLINE_EXCEEDED)

    def close(self) -> None:
        self._call.cancel()


class _Table:
    """Writes to one table, for one caller at a time; its call is opened on demand and kept open."""

    def __init__(self, transport: Any, stream: str, table: str, timeout_s: float) -> None:
        self._transport = transport
        self._stream = stream
        self._descriptor = descriptor(table)
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._call: _Call | None = None
        self._closed = False
        self.serialize = serializer(table)

    def send(self, bodies: Sequence[bytes]) -> Fault | None:
        with self._lock:
            for pause_s in _PAUSES_S:
                fault = self._try(bodies)
                if fault is None or fault.status not in _RETRIED:
                    return fault
                time.sleep(pause_s * random.uniform(0.5, 1))
            return self._try(bodies)

    def _try(self, bodies: Sequence[bytes]) -> Fault | None:
        if self._closed:
            raise WarehouseUnavailable("the warehouse is closed")
        # Built as the raw protobuf message, because the SDK's wrapper would copy the rows three times.
        request = _REQUEST(write_stream=self._stream, trace_id="dicomlake")
        request.proto_rows.rows.serialized_rows.extend(bodies)
        if self._call is None or not self._call.is_open():
            # BigQuery ends a call after ten idle minutes. Only the first request of a call has the schema.
            self._call = _Call(self._transport, self._stream)
            request.proto_rows.writer_schema.proto_descriptor.CopyFrom(self._descriptor)
        fault = self._call.exchange(AppendRowsRequest.wrap(request), self._timeout_s)
        if fault is not None:
            self._call.close()  # a late response must not be taken for that of the next request
        return fault

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._call is not None:
                self._call.close()


def _open_channel(host: str, **given: Any) -> Any:
    return BigQueryWriteGrpcTransport.create_channel(host, **{**given, "options": CHANNEL})


def _open_transport(endpoint: str) -> Any:
    url = urlsplit(endpoint)
    if url.scheme == "http":
        return BigQueryWriteGrpcTransport(channel=grpc.insecure_channel(url.netloc, options=CHANNEL))
    try:
        host = url.netloc or BigQueryWriteGrpcTransport.DEFAULT_HOST
        return BigQueryWriteGrpcTransport(host=host, channel=_open_channel)
    except (GoogleAuthError, OSError) as exc:  # OSError: an unreadable file of credentials
        raise WarehouseUnavailable(f"BigQuery ({type(exc).__name__})") from None


class StorageWriter:
    """Writer for the Storage Write API; bodies are serialized protocol buffers."""

    def __init__(self, place: Place, timeout_s: float = 60.0) -> None:
        self._transport: Any = _open_transport(place.write_endpoint)
        self._tables = {name: _Table(self._transport, place.stream(name), name, timeout_s) for name in TABLES}

    def pack(self, table: str, row: Row) -> bytes:
        """Encode a row as a protocol buffer."""
        return self._tables[table].serialize(row)

    def send(self, table: str, bodies: Sequence[bytes]) -> Answer:
        """Send one request; if any row is bad, none is stored."""
        fault = self._tables[table].send(bodies)
        return Answer() if fault is None else fault.answer(len(bodies))

    def close(self) -> None:
        """Close the calls and the channel."""
        for table in self._tables.values():
            table.close()
        self._transport.close()
