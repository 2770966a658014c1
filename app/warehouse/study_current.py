"""Pure: `study_current`, a table of BigQuery with one row for each study that is there now, for lists.

    rows made since the watermark ─▶ studies they touch ─▶ MERGE of these, once an hour
    a list = the table without the studies touched since the watermark + those as they are now

In a large lake the aggregates of all studies cost some dollars a list, and this table costs cents. A study
is touched by a row of its own, and by a row of an object that it had: a removal has no study, so the table
keeps a fingerprint of the address of each object. Statements get the touched studies as values, because
BigQuery skips blocks of a clustered table for constants only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.warehouse.dialects import DIALECTS
from app.warehouse.matching import Parameters
from app.warehouse.queries import Query
from app.warehouse.tables import TABLES, Column, Table
from app.warehouse.views import VIEWS, current_where, group_view

DIALECT = "bigquery"
NAME = "study_current"
MAX_MERGED = 10_000
"""Touched studies that a MERGE names: a variable of a script holds 1 MB. For more it reads all rows."""
MAX_LISTED = 5_000
"""Touched studies that a list adds, each a parameter, of which a statement has at most 10,000."""
MAX_EXAMINED = 100
"""Touched studies among which `doctor` looks for one that a merge left out."""
LAG_MINUTES = 60
"""A row is visible so long after it was made, at the latest: far above any deadline, for clocks differ."""


def _joined(texts: Iterable[str]) -> str:
    return ",\n      ".join(texts)


_INSTANCE = {column.name: column for column in TABLES["instances"].columns}
SEARCHED = (
    *("patient_id", "issuer_of_patient_id", "patient_name_folded", "patient_birth_date", "patient_sex"),
    *("accession_number", "study_id", "study_description", "study_date", "study_time"),
    *("referring_physician_name", "institution_name", "modality", "sop_class_uid", "collection"),
)
"""Columns by which a list may be searched."""

STUDY_CURRENT = Table(
    NAME,
    "In BigQuery only, where removals are announced: the rows of `studies`, one to two hours old. A "
    "scheduled query merges the studies that were touched since the watermark, the greatest `merged_until`. "
    "A list is this table, with the studies touched since then as they are now.",
    (
        *VIEWS["studies"].columns,
        Column(
            "searched",
            "RECORD",
            "REPEATED",
            "Values that instances of the study have together, for searches; each combination once",
            tuple(
                Column(name, _INSTANCE[name].type, "NULLABLE", _INSTANCE[name].description)
                for name in SEARCHED
            ),
        ),
        Column("object_keys", "INT64", "REPEATED", "FARM_FINGERPRINT of the address of each object"),
        Column("merged_until", "TIMESTAMP", "NULLABLE", "All rows of the study made before are in this one"),
    ),
    cluster_by=("study_instance_uid",),
)
_STUDY = tuple(column.name for column in VIEWS["studies"].columns)
_MADE = {
    "searched": "ARRAY_AGG(CASE WHEN combination = 1 THEN STRUCT(\n      "
    + _joined(f"{name} AS {name}" for name in SEARCHED)
    + ") END IGNORE NULLS)",
    "object_keys": "ARRAY_AGG(DISTINCT FARM_FINGERPRINT(object_uri))",
}

_TOUCHED = """SELECT study_instance_uid FROM {instances}
WHERE ingested_at >= {since} AND study_instance_uid IS NOT NULL
UNION DISTINCT
SELECT s.study_instance_uid FROM {study_current} AS s CROSS JOIN UNNEST(s.object_keys) AS k
WHERE k IN (
  SELECT FARM_FINGERPRINT(object_uri) FROM {instances} WHERE ingested_at >= {since})"""

_SCRIPT = """DECLARE since TIMESTAMP DEFAULT (
  SELECT COALESCE(MAX(merged_until), TIMESTAMP '1970-01-01 00:00:00+00') FROM {study_current});
DECLARE touched ARRAY<STRING>;
SET touched = ARRAY(SELECT study_instance_uid FROM (
{touched}) LIMIT {too_many});
IF ARRAY_LENGTH(touched) = {too_many} THEN
{merge_all};
ELSEIF ARRAY_LENGTH(touched) > 0 THEN
SET since = (
  SELECT LEAST(since, COALESCE(MIN(first_ingested_at), since)) FROM {study_current}
  WHERE study_instance_uid IN UNNEST(touched));
{merge_touched};
END IF;"""

_MERGE = """MERGE {study_current} AS t
USING (
{studies}) AS s
ON t.study_instance_uid = s.study_instance_uid
WHEN MATCHED THEN UPDATE SET {assigned}
WHEN NOT MATCHED BY TARGET THEN INSERT ({names}) VALUES ({values})
WHEN NOT MATCHED BY SOURCE{touched} THEN DELETE"""


def merge_script(prefix: str = "", most: int = MAX_MERGED) -> str:
    """Return the script that brings the table up to date; `@run_time` is the time for which it was scheduled.

    It merges all studies that were touched since the watermark, and sets that to an hour before this time.
    Rows only ever hide other rows, so a row of a study that is current now and was there when the study was
    merged last was current then: no row older than the study's `first_ingested_at` has to be read.

    Parameters
    ----------
    prefix : what stands before every table and view, as `project.dataset.`
    most : touched studies that are merged one by one
    """
    names = _names(prefix)
    of_touched = current_where(
        "study_instance_uid IN UNNEST(touched) AND ingested_at >= since", DIALECT, prefix
    )
    return _SCRIPT.format(
        touched=_TOUCHED.format(since="since", **names),
        too_many=most + 1,
        merge_all=_merge(names["instances_current"], "", names),
        merge_touched=_merge(f"({of_touched})", " AND t.study_instance_uid IN UNNEST(touched)", names),
        **names,
    )


def _merge(current: str, touched: str, names: dict[str, str]) -> str:
    values = {name: f"s.{name}" for name in (*_STUDY, *_MADE)}
    values["merged_until"] = f"TIMESTAMP_SUB(@run_time, INTERVAL {LAG_MINUTES} MINUTE)"
    return _MERGE.format(
        studies=_studies(current, tuple(_MADE)),
        assigned=_joined(
            f"{name} = {value}" for name, value in values.items() if name != "study_instance_uid"
        ),
        names=_joined(values),
        values=_joined(values.values()),
        touched=touched,
        **names,
    )


def _studies(current: str, more: Sequence[str]) -> str:
    """Return the SELECT of the rows of `studies` over some current rows, with more columns of the table."""
    keys = _joined(("study_instance_uid", *SEARCHED))
    numbered = f"(\n    SELECT *, ROW_NUMBER() OVER (PARTITION BY {keys}) AS combination\n    FROM {current})"
    return group_view("studies", DIALECT, numbered, {name: _MADE[name] for name in more})


def _names(prefix: str) -> dict[str, str]:
    quote = DIALECTS[DIALECT].quote
    return {name: f"{quote}{prefix}{name}{quote}" for name in ("instances", "instances_current", NAME)}


@dataclass(frozen=True, slots=True)
class Recent:
    """Studies touched since the watermark; none of their current rows was made before `since`."""

    studies: tuple[str, ...]
    since: datetime


def last_merge() -> Query:
    """Ask for the watermark: one row with `until`, null while nothing was merged."""
    return f"SELECT MAX(merged_until) AS until FROM {NAME}", {}


def touched_since(until: datetime) -> Query:
    """Ask which studies were touched since the watermark, and since when each has current rows in the table.

    Returns
    -------
    Statement and parameters; it answers with study_instance_uid and first_ingested_at, null for a new study;
    with MAX_LISTED + 1 rows where there are too many
    """
    touched = _TOUCHED.format(since="@until", **_names(""))
    sql = f"""SELECT t.study_instance_uid, s.first_ingested_at FROM (
{touched}) AS t LEFT JOIN {NAME} AS s ON s.study_instance_uid = t.study_instance_uid
LIMIT {MAX_LISTED + 1}"""
    return sql, {"until": until}


def recent(until: datetime, rows: Sequence[Mapping[str, Any]]) -> Recent | None:
    """Return what was touched from the answer to `touched_since`; None if these are too many for a list."""
    if len(rows) > MAX_LISTED:
        return None
    firsts = [row["first_ingested_at"] for row in rows if row["first_ingested_at"] is not None]
    return Recent(tuple(row["study_instance_uid"] for row in rows), min([until, *firsts]))


def touched_before(until: datetime, before: datetime) -> Query:
    """Ask which studies have rows made between the watermark and some time: at most MAX_EXAMINED of them."""
    sql = f"""SELECT DISTINCT study_instance_uid FROM instances
WHERE ingested_at >= @until AND ingested_at < @before AND study_instance_uid IS NOT NULL
LIMIT {MAX_EXAMINED}"""
    return sql, {"until": until, "before": before}


def first_unmerged(studies: Sequence[str], until: datetime) -> Query:
    """Ask when the first current row of these studies since the watermark was made: `first`, null if none."""
    bound = Parameters()
    current = current_where(f"study_instance_uid IN ({bound.bind_all(studies)})", DIALECT)
    sql = f"""SELECT MIN(ingested_at) AS first FROM (
{current}) AS c WHERE ingested_at >= {bound.bind(until)}"""
    return sql, bound.values


def listed(since_merge: Recent, columns: Sequence[str], bound: Parameters) -> str:
    """Return the SELECT of all studies that are there now, with these columns of `studies` and `searched`."""
    names = ", ".join((*columns, "searched"))
    if not since_merge.studies:
        return f"SELECT {names} FROM {NAME}"
    uids = bound.bind_all(since_merge.studies)
    rows = current_where(
        f"study_instance_uid IN ({uids}) AND ingested_at >= {bound.bind(since_merge.since)}", DIALECT
    )
    return f"""SELECT {names} FROM {NAME} WHERE study_instance_uid NOT IN ({uids})
  UNION ALL
  SELECT {names} FROM (
{_studies(f"({rows})", ["searched"])})"""
