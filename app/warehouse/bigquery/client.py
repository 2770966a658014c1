"""Query BigQuery, and delete dead letters, with google-cloud-bigquery."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from google.api_core.exceptions import BadRequest, GoogleAPICallError, GoogleAPIError, NotFound
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import GoogleAuthError
from google.cloud.bigquery import (
    DEFAULT_RETRY,
    ArrayQueryParameter,
    Client,
    QueryJobConfig,
    ScalarQueryParameter,
)
from google.cloud.bigquery.exceptions import BigQueryError
from requests.exceptions import RequestException

from app.model.errors import BadQuery, WarehouseUnavailable
from app.warehouse.bigquery.url import Place
from app.warehouse.study_current import STUDY_CURRENT
from app.warehouse.tables import TABLES, Table, check_statement
from app.warehouse.views import VIEWS, views

_anonymous: Callable[[], Any] = AnonymousCredentials
TIMEOUT_S = 60.0
RETRY = DEFAULT_RETRY.with_timeout(30.0)
_CHECK_TIMEOUT_S = 10.0

_VENDOR_ERRORS = (GoogleAPIError, GoogleAuthError, RequestException, BigQueryError, OSError)
# Transient faults that BigQuery reports with status 400 or 404.
_TRANSIENT = {
    *("backendError", "internalError", "jobBackendError", "jobInternalError", "jobRateLimitExceeded"),
    *("rateLimitExceeded", "quotaExceeded", "resourceInUse", "tableUnavailable"),
}

_REASON = re.compile(r"[a-z][A-Za-z]{1,40}")


@contextmanager
def bigquery_errors() -> Iterator[None]:
    """Translate all errors of the SDK to WarehouseUnavailable, without their text, which may quote values."""
    try:
        yield
    except _VENDOR_ERRORS as exc:
        raise WarehouseUnavailable(f"BigQuery ({_name(exc)})") from None


def _first(exc: Exception) -> Mapping[str, str]:
    errors = exc.errors if isinstance(exc, GoogleAPICallError) else []
    return errors[0] if errors and isinstance(errors[0], Mapping) else {}


def _name(exc: Exception) -> str:
    """Return BigQuery's word for a fault, else the class: any other text could quote a value."""
    reason = _first(exc).get("reason")
    return reason if isinstance(reason, str) and _REASON.fullmatch(reason) else type(exc).__name__


def _is_passing(exc: Exception) -> bool:
    """Return whether a 400 or 404 is a transient fault, by its reason."""
    return _name(exc) in _TRANSIENT


@contextmanager
def _statement_errors() -> Iterator[None]:
    """Translate errors of a statement: BadQuery if the statement is at fault. The text is dropped."""
    with bigquery_errors():
        try:
            yield
        except (BadRequest, NotFound) as exc:
            if _is_passing(exc):
                raise
            raise BadQuery(f"BigQuery stopped at a row ({_name(exc)})") from None
        except TimeoutError:
            raise BadQuery("the statement took too long") from None


def open_client(place: Place) -> Any:
    """Create a client for the REST API; raises WarehouseUnavailable without credentials."""
    emulated = urlsplit(place.endpoint).scheme == "http"
    with bigquery_errors():
        return Client(
            project=place.project,
            credentials=_anonymous() if emulated else None,
            client_options={"api_endpoint": place.endpoint} if place.endpoint else None,
        )


def deletion(table: str, column: str) -> str:
    """Return the statement that deletes the rows whose column is in the array `values`."""
    return f"DELETE FROM `{table}` WHERE `{column}` IN UNNEST(@values)"


def _words(sql: str) -> list[str]:
    """Return a statement without its layout and the quotes of names."""
    return sql.replace("`", "").split()


class BigQueryReader:
    """Runs statements; table names without a prefix are those of one dataset."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._client = open_client(place)
        # Cached, because the result depends only on the text and the types of the parameters.
        self._check_reads = lru_cache(maxsize=256)(self._dry_run)

    def stream(self, sql: str, parameters: Mapping[str, object]) -> Iterator[dict[str, object]]:
        """Run one read-only statement; see Warehouse. Values are Python objects, JSON is parsed."""
        types = check_statement(sql, parameters)
        self._check_reads(sql, tuple(types.items()))
        with _statement_errors():
            rows = self._client.query_and_wait(
                sql,
                job_config=self._config(types, parameters),
                api_timeout=TIMEOUT_S,
                wait_timeout=TIMEOUT_S,
                retry=RETRY,
                job_retry=None,
            )
            for row in rows:
                yield dict(row.items())

    def _dry_run(self, sql: str, types: Sequence[tuple[str, str]]) -> None:
        """Raise BadQuery unless a statement only reads. No values are sent, so the error may be quoted."""
        config = self._config(dict(types), {})
        config.dry_run = True
        with bigquery_errors():
            try:
                job = self._client.query(sql, config, retry=RETRY, job_retry=None, timeout=TIMEOUT_S)
            except (BadRequest, NotFound) as exc:
                if _is_passing(exc):
                    raise
                raise BadQuery(f"BigQuery: {_first(exc).get('message', _name(exc))}") from None
        if job.statement_type != "SELECT":
            raise BadQuery("only a statement that reads tables is allowed")

    def _config(self, types: Mapping[str, str], parameters: Mapping[str, Any]) -> QueryJobConfig:
        return QueryJobConfig(
            default_dataset=self._place.name,
            query_parameters=[
                ScalarQueryParameter(name, word, parameters.get(name)) for name, word in types.items()
            ],
        )

    def delete(self, table: str, column: str, values: Sequence[str]) -> int:
        """Delete rows by the value of a column; the caller has validated both names."""
        config = QueryJobConfig(query_parameters=[ArrayQueryParameter("values", "STRING", list(values))])
        sql = deletion(f"{self._place.name}.{table}", column)
        with bigquery_errors():
            job = self._client.query(sql, config, retry=RETRY, job_retry=None, timeout=TIMEOUT_S)
            job.result(retry=RETRY, timeout=TIMEOUT_S, job_retry=None)
            return int(job.num_dml_affected_rows or 0)

    def clear(self, table: str) -> int:
        """Remove all rows of a table, whose name is known to be good."""
        name = f"`{self._place.name}.{table}`"
        with bigquery_errors():
            rows = self._client.query(f"SELECT COUNT(*) AS n FROM {name}", timeout=TIMEOUT_S).result()
            count = int(next(iter(rows))["n"])
            self._client.query(f"TRUNCATE TABLE {name}", timeout=TIMEOUT_S).result(timeout=TIMEOUT_S)
        return count

    def outdated(self) -> list[str]:
        """Return the names of tables without all columns, and of views of another text than the code's."""
        prefix = f"{self._place.name}."
        selects = [views("bigquery", prefix, removals=one) for one in (True, False)]
        found = [name for name, table in TABLES.items() if self._lacks(name, table)]
        if self._found("removed") is not None and self._lacks(STUDY_CURRENT.name, STUDY_CURRENT):
            found.append(STUDY_CURRENT.name)
        for name in VIEWS:
            made = self._found(name)
            text = _words(getattr(made, "view_query", None) or "")
            if text not in [_words(one[name]) for one in selects]:
                found.append(name)
        return found

    def _lacks(self, name: str, table: Table) -> bool:
        made = self._found(name)
        columns = {field.name for field in made.schema} if made is not None else set()
        return not {column.name for column in table.columns} <= columns

    def _found(self, name: str) -> Any:
        """Return a table or view, None if there is none."""
        with bigquery_errors():
            try:
                return self._client.get_table(f"{self._place.name}.{name}", retry=RETRY, timeout=TIMEOUT_S)
            except NotFound:
                return None

    def check(self) -> None:
        """Raise WarehouseUnavailable unless `instances` is visible; readers and writers may see it."""
        with bigquery_errors():
            self._client.get_table(f"{self._place.name}.instances", retry=None, timeout=_CHECK_TIMEOUT_S)

    def close(self) -> None:
        """Close the client."""
        self._client.close()
