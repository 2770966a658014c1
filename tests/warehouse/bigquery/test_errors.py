"""What BigQuery's packages raise, and what becomes of it; no network."""

from inspect import isclass

import google.api_core.exceptions
import google.auth.exceptions
import google.cloud.bigquery.exceptions
import grpc
import pytest
import requests.exceptions
from google.cloud.bigquery_storage_v1.types import AppendRowsResponse, RowError

from app.model.errors import WarehouseUnavailable
from app.warehouse.bigquery.appending import Answer
from app.warehouse.bigquery.client import bigquery_errors
from app.warehouse.bigquery.url import Place
from app.warehouse.bigquery.write_api import Fault, StorageWriter, fault_of


@pytest.mark.parametrize("status", [status for status in grpc.StatusCode if status is not grpc.StatusCode.OK])
def test_every_status_is_transient_but_that_of_a_bad_row(status):
    if status is grpc.StatusCode.INVALID_ARGUMENT:
        assert Fault(status).answer(2) == Answer(again=range(2))
    else:
        with pytest.raises(WarehouseUnavailable):
            Fault(status).answer(2)


def test_rows_that_are_named_as_bad_are_refused_though_the_answer_is_no_error():
    answer = AppendRowsResponse(row_errors=[RowError(index=1, code=RowError.RowErrorCode.FIELDS_ERROR)])
    fault = fault_of(answer)
    assert fault is not None
    assert fault.answer(3) == Answer({1: "FIELDS_ERROR"}, [0, 2])


def test_credentials_that_cannot_be_read_are_transient(monkeypatch, tmp_path):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path))
    with pytest.raises(WarehouseUnavailable, match="IsADirectoryError"):
        StorageWriter(Place("p-roject", "d", write_endpoint="https://127.0.0.1:1"))


ROOMS = [
    google.api_core.exceptions,
    google.auth.exceptions,
    google.cloud.bigquery.exceptions,
    requests.exceptions,
]
ERRORS = [
    kind
    for room in ROOMS
    for kind in vars(room).values()
    if isclass(kind) and issubclass(kind, Exception) and kind.__module__ == room.__name__
    # Warnings are not raised, and the last is about clients without threads.
    if not issubclass(kind, Warning | NotImplementedError)
]


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_no_exception_of_the_sdk_leaks(kind):
    assert len(ERRORS) > 60
    with pytest.raises(WarehouseUnavailable) as caught, bigquery_errors():
        raise kind(
            *({"JSONDecodeError": ("Doe", "^", 0), "RetryError": ("Doe", None)}.get(kind.__name__, ["Doe"]))
        )
    assert "Doe" not in caught.value.text
