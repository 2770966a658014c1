"""Query BigQuery, and delete dead letters, with google-cloud-bigquery."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from google.api_core.exceptions import BadRequest, Forbidden, GoogleAPICallError, GoogleAPIError, NotFound
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


def _lacks(made: Any, table: Table) -> bool:
    columns = {field.name for field in made.schema} if made is not None else set()
    return not {column.name for column in table.columns} <= columns


def grants(entries: Sequence[Any], policy: Any) -> list[tuple[str, str]]:
    """Return role and member of the accounts that a dataset names, and of the policy of a table."""
    of_dataset = [
        (one.role, f"serviceAccount:{one.entity_id}") for one in entries if one.entity_type == "userByEmail"
    ]
    return of_dataset + [
        (one["role"], member) for one in policy.bindings for member in sorted(one["members"])
    ]


def layout_fault(made: Any, table: Table) -> str:
    """Return how the partitions or clusters of a table differ from the code's; empty if they do not.

    A table may have partitions by day where the code has months: datasets were deployed so.
    """
    parts = made.time_partitioning
    if (parts.field if parts else None) != table.partition_by:
        return (
            f"no partitions by {table.partition_by}" if table.partition_by else f"partitions by {parts.field}"
        )
    if parts and parts.type_ not in (table.partition_unit, "DAY"):
        return f"partitions of one {parts.type_} each"
    if tuple(made.clustering_fields or ()) != table.cluster_by:
        return f"not clustered by {', '.join(table.cluster_by)}" if table.cluster_by else "clustered"
    return ""


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

    def setup(self) -> dict[str, list[tuple[str, str]] | None]:
        """Return the grants on each table and on the dataset; see Warehouse."""
        found: dict[str, list[tuple[str, str]] | None] = {}
        with bigquery_errors():
            dataset = self._client.get_dataset(self._place.name, retry=RETRY, timeout=TIMEOUT_S)
            for name in (*TABLES, STUDY_CURRENT.name):
                table = f"{self._place.name}.{name}"
                try:
                    policy = self._client.get_iam_policy(table, retry=RETRY, timeout=TIMEOUT_S)
                    found[name] = grants(dataset.access_entries, policy)
                except NotFound:
                    if name in TABLES:
                        raise
                except Forbidden:  # a viewer may see all but policies
                    found[name] = None
        return found

    def outdated(self) -> list[str]:
        """Return tables without all columns or laid out in another way, and views of another text."""
        prefix = f"{self._place.name}."
        selects = [views("bigquery", prefix, removals=one) for one in (True, False)]
        made_tables = {name: self._found(name) for name in TABLES}
        found = [name for name, made in made_tables.items() if _lacks(made, TABLES[name])]
        if self._found("removed") is not None and _lacks(self._found(STUDY_CURRENT.name), STUDY_CURRENT):
            found.append(STUDY_CURRENT.name)
        found += [
            f"{name} ({fault})"
            for name, made in made_tables.items()
            if made is not None and (fault := layout_fault(made, TABLES[name]))
        ]
        for name in VIEWS:
            made = self._found(name)
            text = _words(getattr(made, "view_query", None) or "")
            if text not in [_words(one[name]) for one in selects]:
                found.append(name)
        return found

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
