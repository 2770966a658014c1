"""SQL for PostgreSQL only: the statements that make the tables and keep the table `study`.

`study` holds the rows of the view `studies` in a table of its own, for lists: the newest 50 of 10^5 take a
millisecond instead of a second. It changes in the transaction that appends rows, so it never lags.
"""

from __future__ import annotations

import hashlib

from app.warehouse.tables import TABLES, Table
from app.warehouse.views import VIEWS, column_ddl, ddl, views

DIALECT = "postgresql"

FUNCTIONS = (
    """CREATE OR REPLACE FUNCTION dicomlake_json(given text) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN RETURN given::jsonb; EXCEPTION WHEN OTHERS THEN RETURN NULL; END $$""",
    """CREATE OR REPLACE FUNCTION dicomlake_bigint(given text) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN RETURN CASE WHEN given ~ '^-?[0-9]+$' THEN given::bigint END; EXCEPTION WHEN OTHERS THEN RETURN NULL;
END $$""",
    """CREATE OR REPLACE FUNCTION dicomlake_double(given text) RETURNS double precision
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN RETURN given::double precision; EXCEPTION WHEN OTHERS THEN RETURN NULL; END $$""",
)
"""Of text that anyone may have written, null where it is no JSON or no number."""

LOCK_SCHEMA = "SELECT pg_advisory_xact_lock(hashtextextended('dicomlake schema', 0))"
LOCK_ALL = "SELECT pg_advisory_xact_lock(hashtextextended(name, 0)) FROM unnest(%s::text[]) AS name"
"""In the order given: every writer sorts, so no two wait for each other."""
TOUCHED = (
    "SELECT DISTINCT study_instance_uid FROM instances"
    " WHERE object_uri = ANY(%s) AND study_instance_uid IS NOT NULL"
)
COLUMNS_OF = (
    "SELECT column_name FROM information_schema.columns"
    " WHERE table_schema = current_schema() AND table_name = %s"
)
VIEW_MARK = (
    "SELECT obj_description(c.oid, 'pg_class') AS mark FROM pg_class AS c"
    " WHERE c.relname = %s AND c.relnamespace = current_schema()::regnamespace AND c.relkind = 'v'"
)

_STUDY = VIEWS["studies"].columns
_NAMES = ", ".join(column.name for column in _STUDY)
_SET = ", ".join(f"{c.name} = excluded.{c.name}" for c in _STUDY if c.name != "study_instance_uid")
UPSERT_STUDIES = (
    f"INSERT INTO study ({_NAMES}) SELECT {_NAMES} FROM studies WHERE study_instance_uid = ANY(%s)"
    f" ON CONFLICT (study_instance_uid) DO UPDATE SET {_SET}"
)
DROP_STUDIES = (
    "DELETE FROM study WHERE study_instance_uid = ANY(%s) AND study_instance_uid NOT IN"
    " (SELECT study_instance_uid FROM studies WHERE study_instance_uid = ANY(%s))"
)
FILL_STUDIES = (
    f"INSERT INTO study ({_NAMES}) SELECT {_NAMES} FROM studies"
    " WHERE NOT EXISTS (SELECT 1 FROM study) ON CONFLICT DO NOTHING"
)


def study_ddl() -> tuple[str, ...]:
    """Return the statements that make the table `study` and its indexes."""
    columns = ",\n  ".join(column_ddl(column, DIALECT) for column in _STUDY)
    return (
        f"CREATE TABLE IF NOT EXISTS study (\n  {columns},\n  PRIMARY KEY (study_instance_uid)\n)",
        "CREATE INDEX IF NOT EXISTS study_by_date ON study (study_date DESC NULLS LAST, study_instance_uid)",
        "CREATE INDEX IF NOT EXISTS study_by_patient ON study (patient_id)",
        "CREATE INDEX IF NOT EXISTS study_by_accession ON study (accession_number)",
    )


def table_ddl(table: str) -> tuple[str, ...]:
    """Return the statements that make a table and its indexes; long documents get the faster compression."""
    create, *indexes = ddl(table, DIALECT)
    return create.replace('"metadata" JSONB', '"metadata" JSONB COMPRESSION lz4'), *indexes


def marked_views() -> dict[str, tuple[str, str]]:
    """Return the SELECT of each view, and a mark by which a view of an older version is detected."""
    return {
        name: (select, hashlib.sha256(select.encode()).hexdigest()[:32])
        for name, select in views(DIALECT).items()
    }


def insert(table: Table) -> str:
    """Return the INSERT of one row; an existing row is left as it is."""
    names = ", ".join(f'"{column.name}"' for column in table.columns)
    marks = ", ".join(["%s"] * len(table.columns))
    once = " ON CONFLICT (row_id) DO NOTHING" if table.kept else ""
    return f"INSERT INTO {table.name} ({names}) VALUES ({marks}){once}"


INSERTS = {name: insert(table) for name, table in TABLES.items()}
