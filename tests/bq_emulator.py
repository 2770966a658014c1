"""bqemulator, a stand-in for BigQuery on DuckDB, run from an environment of its own.

It is more lenient than BigQuery; `tests/bq_front.py` stands before it and refuses what BigQuery would.
What it stands on is pinned in tests/bqemulator.lock to versions that are known to work together.
"""

import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import requests

from app.warehouse.study_current import STUDY_CURRENT, merge_script
from app.warehouse.tables import TABLES, Table
from app.warehouse.views import VIEWS
from tests.parts import ROOT, need

SCHEMAS = ROOT / "tf/schemas"
IN_BIGQUERY = {**TABLES, STUDY_CURRENT.name: STUDY_CURRENT}
HOME = Path(os.environ.get("DICOMLAKE_BQEMULATOR", Path.home() / ".cache/dicomlake/bqemulator-1.4.0"))

# It would fetch an extension for geography from the network, its Write API forgets the fields of records,
# `SELECT *` loses records where it infers types, and it takes what JSON_QUERY finds for text.
START = """
import sys
from bqemulator.api.routes.tabledata import _build_arrow_schema, _fields_raw_from_schema
from bqemulator.grpc_api import write_servicer
from bqemulator.sql import catalog_schema
from bqemulator.sql.rules.json_helpers import JSONExtractToStringRule
from bqemulator.storage.engine import DuckDBEngine

DuckDBEngine._load_spatial = lambda self: None
write_servicer._table_arrow_schema = lambda table: _build_arrow_schema(
    _fields_raw_from_schema(table.schema_.fields)
)
duckdb_type = catalog_schema._safe_bq_to_duckdb
catalog_schema._safe_bq_to_duckdb = lambda name: duckdb_type(name) or "UNKNOWN"
JSONExtractToStringRule.applies_to = lambda self, node: False
from bqemulator.cli import main
main(sys.argv[1:])
"""


@dataclass(frozen=True)
class Emulator:
    """Where an emulator listens: `rest` a URL, `grpc` host and port."""

    rest: str
    grpc: str

    def create_dataset(
        self, project: str, dataset: str, without: tuple[str, ...] = (), schemas: Path = SCHEMAS
    ) -> None:
        """Make a dataset from the documents that Terraform uses, some columns left out."""
        at = f"{self.rest}/bigquery/v2/projects/{project}/datasets"
        reference = {"projectId": project, "datasetId": dataset}
        _post(at, {"datasetReference": reference})
        for name, table in IN_BIGQUERY.items():
            if (schemas / f"{name}.json").exists():  # else of a version before this table
                fields = [field for field in _fields(schemas, name) if field["name"] not in without]
                self._create_table(f"{at}/{dataset}/tables", reference, table, fields)
        self._create_views(project, dataset, schemas)
        if not without:  # a function that names a column which is not there is refused
            self._create_functions(project, dataset, schemas)

    def _create_table(
        self, at: str, reference: dict[str, str], table: Table, fields: list[dict[str, Any]]
    ) -> None:
        body: dict[str, Any] = {
            "tableReference": {**reference, "tableId": table.name},
            "schema": {"fields": fields},
        }
        if table.partition_by:
            body["timePartitioning"] = {"type": table.partition_unit, "field": table.partition_by}
        if table.cluster_by:
            body["clustering"] = {"fields": list(table.cluster_by)}
        _post(at, body)

    def upgrade_dataset(self, project: str, dataset: str) -> None:
        """Change a dataset that older documents made as Terraform does: columns added, views replaced."""
        at = f"{self.rest}/bigquery/v2/projects/{project}/datasets/{dataset}/tables"
        for name in reversed(VIEWS):
            assert requests.delete(f"{at}/{name}", timeout=30).ok
        for name, table in IN_BIGQUERY.items():
            found = requests.get(f"{at}/{name}", timeout=30)
            fields = _fields(SCHEMAS, name)
            if found.status_code == 404:
                self._create_table(at, {"projectId": project, "datasetId": dataset}, table, fields)
                continue
            there = {field["name"] for field in found.json()["schema"]["fields"]}
            # It takes the schema as such, and forgets to add the columns.
            for added in (f for f in fields if f["name"] not in there):
                column = f"`{added['name']}` {added['type']}"
                self.run(project, f"ALTER TABLE `{project}.{dataset}.{name}` ADD COLUMN {column}")
            answer = requests.patch(f"{at}/{name}", json={"schema": {"fields": fields}}, timeout=30)
            assert answer.ok, answer.text
        self._create_views(project, dataset, SCHEMAS)
        self._create_functions(project, dataset, SCHEMAS)

    def _create_views(self, project: str, dataset: str, schemas: Path) -> None:
        """Make the views; a materialized one is a plain view here.

        The emulator refreshes a materialized view only for a query that names it, where BigQuery always
        answers from the rows of now.
        """
        at = f"{self.rest}/bigquery/v2/projects/{project}/datasets/{dataset}/tables"
        reference = {"projectId": project, "datasetId": dataset}
        made = {folder: _selects(schemas, folder, project, dataset) for folder in ("materialized", "views")}
        for name, select in [*made["materialized"].items(), *((name, made["views"][name]) for name in VIEWS)]:
            view = {"query": select, "useLegacySql": False}
            _post(at, {"tableReference": {**reference, "tableId": name}, "view": view})

    def _create_functions(self, project: str, dataset: str, schemas: Path) -> None:
        """Make the table functions. One of the emulator cannot read a view: it gets the text of that."""
        at = f"{self.rest}/bigquery/v2/projects/{project}/datasets/{dataset}/routines"
        materialized = _selects(schemas, "materialized", project, dataset)
        for function, body in _selects(schemas, "functions", project, dataset).items():
            for name, select in materialized.items():
                body = body.replace(f"`{project}.{dataset}.{name}`", f"({select})")
            routine = {
                "routineReference": {"projectId": project, "datasetId": dataset, "routineId": function},
                "routineType": "TABLE_VALUED_FUNCTION",
                "language": "SQL",
                "definitionBody": body,
                "arguments": [{"name": "uid", "dataType": {"typeKind": "STRING"}}],
            }
            _post(at, routine)

    def empty(self, project: str, dataset: str) -> None:
        """Remove every row."""
        for name in IN_BIGQUERY:
            self.run(project, f"TRUNCATE TABLE `{project}.{dataset}.{name}`")

    def create_instances(self, project: str, dataset: str, table: str, unit: str) -> None:
        """Make a table with the columns of `instances`, partitioned by DAY or MONTH."""
        at = f"{self.rest}/bigquery/v2/projects/{project}/datasets/{dataset}/tables"
        reference = {"projectId": project, "datasetId": dataset}
        spec = replace(TABLES["instances"], name=table, partition_unit=unit)
        self._create_table(at, reference, spec, _fields(SCHEMAS, "instances"))

    def drop_table(self, project: str, dataset: str, table: str) -> None:
        """Remove a table."""
        at = f"{self.rest}/bigquery/v2/projects/{project}/datasets/{dataset}/tables/{table}"
        assert requests.delete(at, timeout=30).ok

    def merge_studies(self, project: str, dataset: str, run_time: datetime, most: int | None = None) -> None:
        """Run the script that Terraform schedules, as if it was scheduled for this time."""
        text = _selects(SCHEMAS, "scripts", project, dataset)["merge_study_current"]
        if most is not None:
            text = merge_script(f"{project}.{dataset}.", most)
        self.run(project, text.replace("@run_time", f"TIMESTAMP '{run_time.isoformat()}'"))

    def run(self, project: str, sql: str) -> None:
        """Run a statement or a script."""
        at = f"{self.rest}/bigquery/v2/projects/{project}/queries"
        answer = _post(at, {"query": sql, "useLegacySql": False})
        assert not answer.get("errors"), answer


def _selects(schemas: Path, folder: str, project: str, dataset: str) -> dict[str, str]:
    texts = {path.stem: path.read_text() for path in sorted((schemas / folder).glob("*.sql"))}
    return {name: text.replace("${dataset}", f"{project}.{dataset}") for name, text in texts.items()}


def _fields(schemas: Path, table: str) -> list[dict]:
    return json.loads((schemas / f"{table}.json").read_text())


def _post(url: str, body: object) -> dict:
    answer = requests.post(url, json=body, timeout=30)
    assert answer.ok, answer.text
    return answer.json()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def running_emulator(wait_s: float = 60) -> Iterator[Emulator]:
    """Run an emulator with nothing in it; skips the test when it is not on this machine."""
    need("the BigQuery emulator", (HOME / "bin/bqemulator").exists(), "make emulators")
    rest, grpc = _free_port(), _free_port()
    ports = ["--rest-port", str(rest), "--grpc-port", str(grpc)]
    command = [f"{HOME}/bin/python", "-c", START, "start", *ports, "--ephemeral", "--log-level", "WARNING"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            end = time.monotonic() + wait_s
            while not _answers(rest) or not _answers(grpc):
                if process.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    raise RuntimeError(f"the BigQuery emulator did not start: {log.read()[-2000:].decode()}")
                time.sleep(0.05)
            yield Emulator(f"http://127.0.0.1:{rest}", f"127.0.0.1:{grpc}")
        finally:
            process.kill()
            process.wait()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
