"""How many rows a look-up of one study reads, by the view with and without removals, on DuckDB.

    ~/.cache/dicomlake/bqemulator-1.4.0/bin/python -m benchmarks.pruning [--rows 1000000]

DuckDB comes with the BigQuery emulator (`make emulators`). The statements are those that BigQuery gets; the
table is laid out as there, in the order of its first cluster column. This shows which plan a view permits,
not what BigQuery bills.

Prints one line of JSON for each query: how many rows the scan of each table hands on, how many of `instances`
it looks at for that (DuckDB skips blocks by their least and greatest values), and how many the answer has.
"""

import argparse
import json
from collections.abc import Iterator

import duckdb

from app.warehouse.tables import TABLES
from app.warehouse.views import table_functions, views

STUDY_INSTANCES = 200
ONE_REMOVED_IN = 100
TYPES = {"STRING": "VARCHAR", "INT64": "BIGINT", "FLOAT64": "DOUBLE", "JSON": "VARCHAR", "RECORD": "VARCHAR"}
STUDY = "'1.2.000001'"
LOOKED_UP = ("instances_current", "series", "studies")


def fill(database: duckdb.DuckDBPyConnection, rows: int) -> None:
    """Make `instances` with this many objects, 200 a study, and a removal of each hundredth."""
    columns = ", ".join(f'"{c.name}" {TYPES.get(c.type, c.type)}' for c in TABLES["instances"].columns)
    database.execute(f"CREATE TABLE instances ({columns})")
    database.execute(f"""INSERT INTO instances BY NAME SELECT
        md5(i::TEXT) AS row_id, 'gs://b/' || i AS object_uri, 1 AS generation,
        'OBJECT_FINALIZE' AS event_type,
        '1.2.' || lpad((i // {STUDY_INSTANCES})::TEXT, 6, '0') AS study_instance_uid,
        '1.3' AS series_instance_uid
        FROM range({rows}) AS made(i) ORDER BY study_instance_uid""")
    database.execute(f"""INSERT INTO instances BY NAME SELECT
        md5('-' || i) AS row_id, 'gs://b/' || i AS object_uri, 1 AS generation, 'OBJECT_DELETE' AS event_type
        FROM range(0, {rows}, {ONE_REMOVED_IN}) AS made(i)""")


def statements() -> Iterator[tuple[str, bool, str]]:
    """Yield the name of each query, whether removals are announced for it, and its text."""
    for removals in (False, True):
        form = "with removals" if removals else "without removals"
        of_study = f"WHERE study_instance_uid = {STUDY}"
        for view in LOOKED_UP:
            yield f"{view}, {form}", removals, f"SELECT * FROM {view} {of_study}"
    body = table_functions("bigquery")["current_of_study"]
    yield "current_of_study", True, body.replace("= uid", f"= {STUDY}")


def rows_read(database: duckdb.DuckDBPyConnection, sql: str) -> dict[str, int]:
    """Return how many rows each table hands on, how many of `instances` are looked at, and the answer has."""
    (plan,) = database.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}").fetchall()
    read = {"instances": 0, "removed": 0, "looked_at": 0}
    todo = json.loads(plan[1])["operator"]
    while todo:
        operator = todo.pop()
        todo += operator.get("children", [])
        if operator["type"] == "TABLE_SCAN":
            table = operator["extra_info"]["Table"].rpartition(".")[2]
            read[table] += operator["intermediate_rows"]
            read["looked_at"] += operator["rows_scanned"] if table == "instances" else 0
    return {**read, "answer": len(database.execute(sql).fetchall())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    database = duckdb.connect()
    fill(database, rows)
    # BigQuery keeps this one; here it is a table that was filled once.
    database.execute("CREATE TABLE removed AS " + to_duckdb(views("bigquery")["removed"]))
    for name, removals, sql in statements():
        for view in LOOKED_UP:
            select = to_duckdb(views("bigquery", removals=removals)[view])
            database.execute(f"CREATE OR REPLACE VIEW {view} AS {select}")
        print(json.dumps({"query": name, "rows": rows, **rows_read(database, to_duckdb(sql))}))


def to_duckdb(sql: str) -> str:
    """Return a statement of BigQuery in DuckDB's words."""
    return sql.replace("`", '"')


if __name__ == "__main__":
    main()
