"""The strict front before the emulator's Storage Write API."""

import queue
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import grpc
from google.cloud.bigquery_storage_v1.types import (
    AppendRowsRequest,
    AppendRowsResponse,
    RowError,
    StorageError,
)
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from tests.bq_rules import MAX_BYTES, row_fault

if TYPE_CHECKING:
    from tests.bq_front import Front

APPEND_ROWS = "/google.cloud.bigquery.storage.v1.BigQueryWrite/AppendRows"


class WriteHandler(grpc.GenericRpcHandler):
    """Forward AppendRows to the emulator, strictly."""

    def __init__(self, front: "Front", channel: grpc.Channel) -> None:
        self.front = front
        self.append_rows = channel.stream_stream(APPEND_ROWS)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return grpc.stream_stream_rpc_method_handler(self.handle) if details.method == APPEND_ROWS else None

    def handle(self, requests_in: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        with self.front.lock:
            self.front.calls += 1
        forwarded: queue.SimpleQueue = queue.SimpleQueue()
        answers = self.append_rows(iter(forwarded.get, None))
        message = table = None
        try:
            for data in requests_in:
                request = AppendRowsRequest.deserialize(data)
                if len(data) > MAX_BYTES:
                    context.abort(grpc.StatusCode.INVALID_ARGUMENT, "AppendRows request too large")
                if table is None:
                    table = self.table(request.write_stream, context)
                    message = self.message(request, table, context)
                yield from self.append(request, data, (message, table), forwarded, answers, context)
        finally:
            forwarded.put(None)
            answers.cancel()

    def table(self, stream: str, context: grpc.ServicerContext) -> dict:
        _, project, _, dataset, _, name, _, kind = stream.split("/")
        assert kind == "_default"
        routing = dict(context.invocation_metadata()).get("x-goog-request-params")
        assert routing == f"write_stream={stream}", "the request cannot be routed to its region"
        table = self.front.table(project, dataset, name)
        if table is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "Requested entity was not found.")
        return table

    def message(self, request: AppendRowsRequest, table: dict, context: grpc.ServicerContext) -> type:
        proto = AppendRowsRequest.pb(request).proto_rows.writer_schema.proto_descriptor
        if not proto.field:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first request has no writer schema")
        extra = {field.name for field in proto.field} - {f["name"] for f in table["schema"]["fields"]}
        if extra:
            context.abort_with_status(_ExtraFields())
        file = descriptor_pb2.FileDescriptorProto(name="rows.proto", syntax="proto2", message_type=[proto])
        pool = descriptor_pool.DescriptorPool()
        pool.Add(file)
        return message_factory.GetMessageClass(pool.FindMessageTypeByName(proto.name))

    def append(self, request, data, kind, forwarded, answers, context):
        failure = self.front.failure().upper()
        rows = list(request.proto_rows.rows.serialized_rows)
        with self.front.lock:
            self.front.asked.append(f"AppendRows {len(rows)}")
        if failure in grpc.StatusCode.__members__:
            context.abort(grpc.StatusCode[failure], self.front.text(b"".join(rows)))
        if failure.startswith("TOLD_"):
            yield told(grpc.StatusCode[failure.removeprefix("TOLD_")], self.front.text(b"".join(rows)))
            return
        faults = {
            index: fault for index, row in enumerate(rows) if (fault := proto_fault(row, *kind, self.front))
        }
        if faults and not self.front.names_rows:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, self.front.text(b"".join(rows)))
        if faults:
            yield row_errors(request.write_stream, faults)
            return
        with self.front.turn:
            forwarded.put(data)
            answer = next(answers)
        if failure == "LOST_ANSWER":
            context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")
        if failure == "SILENT":
            time.sleep(3)
            context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")
        yield answer
        if failure == "HANG_UP":
            context.abort(grpc.StatusCode.ABORTED, "Closing the stream because it is idle")


def told(code: grpc.StatusCode, text: str) -> bytes:
    """Return an answer that is an error, with the text in every place where BigQuery has one."""
    kind = StorageError.StorageErrorCode.STREAM_NOT_FOUND
    detail = any_pb2.Any()
    detail.Pack(StorageError.pb(StorageError(code=kind, entity=text, error_message=text)))
    error = status_pb2.Status(code=code.value[0], message=text, details=[detail])
    return AppendRowsResponse.serialize(AppendRowsResponse(error=error))


def proto_fault(data: bytes, message: type, table: dict, front: "Front") -> tuple[str, str] | None:
    try:
        row = message.FromString(data)
    except DecodeError:
        return "", "is no such message"
    return row_fault(to_dict(row), table, front)


def to_dict(message) -> dict:
    """Return the fields that are set, as they are."""
    values = {}
    for field, value in message.ListFields():
        if field.message_type is None:
            values[field.name] = list(value) if field.is_repeated else value
        else:
            values[field.name] = [to_dict(one) for one in value] if field.is_repeated else to_dict(value)
    return values


def row_errors(stream: str, faults: dict[int, tuple[str, str]]) -> bytes:
    code = RowError.RowErrorCode.FIELDS_ERROR
    return AppendRowsResponse.serialize(
        AppendRowsResponse(
            write_stream=stream,
            error=status_pb2.Status(
                code=grpc.StatusCode.INVALID_ARGUMENT.value[0],
                message="Errors found while processing rows. Please refer to the row_errors field.",
            ),
            row_errors=[
                RowError(index=index, code=code, message=f"{column}: {message}")
                for index, (column, message) in faults.items()
            ],
        )
    )


class _ExtraFields(grpc.Status):
    """What AppendRows ends with when the writer knows columns that the table has not."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    details = "Input schema has more fields than BigQuery schema"

    def __init__(self) -> None:
        detail = any_pb2.Any()
        kind = StorageError.StorageErrorCode.SCHEMA_MISMATCH_EXTRA_FIELDS
        detail.Pack(StorageError.pb(StorageError(code=kind)))
        status = status_pb2.Status(code=self.code.value[0], message=self.details, details=[detail])
        self.trailing_metadata = (("grpc-status-details-bin", status.SerializeToString()),)
