"""Pure: values in, SQL text and its parameters out, in the words of each warehouse."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from app.warehouse.dialects import DIALECTS

Query = tuple[str, dict[str, object]]
"""A statement and its parameters."""
EVENT = ("bucketId", "objectId", "objectGeneration", "eventType")
"""Attributes that together name an event."""


def letters_by_event(dialect: str, columns: Sequence[str], message_ids: Sequence[str] | None) -> Query:
    """Ask for all letters about the same events as some letters.

    Events come in the order of their oldest letter, the letters of one event together and the newest last.
    The column `event` is the same for letters of one event; a letter that names no event is one of its own.

    Parameters
    ----------
    dialect : name of one of DIALECTS
    columns : columns of the table `dead_letter` to return beside `event`
    message_ids : at least one; None for all open dead letters

    Raises
    ------
    KeyError : there is no such dialect
    """
    words = DIALECTS[dialect]
    text = words.types.get("STRING", "STRING")
    attributes = ", ".join(f"{words.attribute.format(name)} AS {name}" for name in EVENT)
    known = " AND ".join(f"{name} <> ''" for name in EVENT)
    # Lengths first, so that the joined names of two events are never equal.
    lengths = " || ' ' || ".join(f"CAST(LENGTH({name}) AS {text})" for name in EVENT)
    every: Query = ("SELECT message_id FROM dead_letters", {})
    chosen, parameters = every if message_ids is None else _listed(message_ids)
    sql = f"""WITH named AS (SELECT *, {attributes} FROM dead_letter),
keyed AS (
  SELECT *, CASE WHEN {known} THEN {lengths} || ' ' || {" || ".join(EVENT)}
    ELSE 'lone ' || message_id END AS event
  FROM named)
SELECT event, {", ".join(columns)} FROM (
  SELECT *, MIN(publish_time) OVER (PARTITION BY event) AS since FROM keyed
  WHERE event IN (SELECT event FROM keyed WHERE message_id IN ({chosen}))) AS letters
ORDER BY since, event, publish_time, message_id"""
    return sql, parameters


def open_letters() -> Query:
    """Ask for the open dead letters, the oldest first."""
    return "SELECT * FROM dead_letters ORDER BY publish_time, message_id", {}


def open_letter_versions() -> Query:
    """Ask which object versions have open dead letters, with code and id of each."""
    return "SELECT bucket, object, generation, code, message_id FROM dead_letters", {}


def letter(message_id: str) -> tuple[Query, Query]:
    """Ask for one open dead letter, and for the attributes of its message."""
    named: dict[str, object] = {"id": message_id}
    return (
        ("SELECT * FROM dead_letters WHERE message_id = @id", named),
        ("SELECT attributes FROM dead_letter WHERE message_id = @id", named),
    )


def known_letters(message_ids: Sequence[str]) -> Query:
    """Ask which of some ids (at least one) belong to letters."""
    chosen, parameters = _listed(message_ids)
    return f"SELECT message_id FROM dead_letter WHERE message_id IN ({chosen})", parameters


def attempts(object_uri: object, generation: object, event_type: object) -> Query:
    """Ask for the failed attempts of one event, the oldest first."""
    return (
        "SELECT delivery_attempt, code, message, permanent, failed_at FROM failures"
        " WHERE object_uri = @object_uri AND generation = @generation AND event_type = @event_type"
        " ORDER BY failed_at",
        {"object_uri": object_uri, "generation": generation, "event_type": event_type},
    )


def count(table: str) -> Query:
    """Ask how many rows a table or view has: one row with `n`."""
    return f"SELECT COUNT(*) AS n FROM {table}", {}


def _listed(values: Sequence[str]) -> Query:
    """Return what stands in the brackets of `IN (...)`, and its parameters."""
    parameters: dict[str, object] = {f"value{number}": value for number, value in enumerate(values)}
    return ", ".join(f"@{name}" for name in parameters), parameters


_DESCRIBED = """SELECT object_uri, generation,
  MAX(metageneration) AS metageneration, MAX(revision) AS revision,
  CASE WHEN COUNT(describe_key) = COUNT(*) AND MIN(describe_key) = MAX(describe_key)
    THEN MIN(describe_key) END AS describe_key
FROM instances_current WHERE object_uri IN ({uris}) GROUP BY object_uri, generation ORDER BY generation"""

_OF_VERSION = """SELECT member, revision, metadata_uri, preview_uri FROM {table}
WHERE object_uri = @object_uri AND generation = @generation"""

_BELOW = """SELECT object_uri, generation, {columns} FROM {view}
WHERE object_uri >= @low AND object_uri < @high AND generation IS NOT NULL GROUP BY object_uri, generation"""


def described(uris: Sequence[str]) -> Query:
    """Ask which version of each object has current rows, and by which settings.

    Parameters
    ----------
    uris : at least one, some hundreds in one statement

    Returns
    -------
    Statement and parameters; it answers with a row for each object that has any: its generation, the highest
    metageneration and revision of its rows, and the `describe_key` that all of them have, else null. While an
    object is in two studies, since a removal has not arrived yet, its later version comes last.
    """
    listed, parameters = _listed(uris)
    return _DESCRIBED.format(uris=listed), parameters


def rows_of_version(object_uri: str, generation: int, current: bool = False) -> Query:
    """Ask which artifacts the rows of one object version name: of all of them, or of those that are current.

    Returns
    -------
    Statement and parameters; it answers with member, revision, metadata_uri and preview_uri of each row
    """
    table = "instances_current" if current else "instances"
    return _OF_VERSION.format(table=table), {"object_uri": object_uri, "generation": generation}


def any_row(table: str) -> Query:
    """Ask for one row of a table, to see whether it has any."""
    return f"SELECT 1 AS n FROM {table} LIMIT 1", {}


_VERSIONS = """SELECT object_uri, generation, MAX(ingested_at) AS ingested_at FROM instances_current
WHERE object_uri > @after AND object_uri < @high GROUP BY object_uri, generation
ORDER BY object_uri, generation"""


def versions_below(uri: str, after: str = "") -> Query:
    """Ask which object versions have current rows, in the order of the bytes of their addresses.

    Parameters
    ----------
    uri : what the addresses begin with
    after : leave out addresses up to this one

    Returns
    -------
    Statement and parameters; it answers with object_uri, generation and when its last row was made
    """
    high = f"{uri[:-1]}{chr(ord(uri[-1]) + 1)}"
    return _VERSIONS, {"after": max(uri, after), "high": high}


def artifact_uris(column: str) -> Query:
    """Ask for the addresses in `metadata_uri`, `preview_uri` or `dicom_uri` of current rows, in order."""
    sql = f"SELECT DISTINCT {column} AS uri FROM instances_current WHERE {column} IS NOT NULL ORDER BY 1"
    return sql, {}


_TO_REPROCESS = """SELECT object_uri, generation, MAX(metageneration) AS metageneration,
  MAX(revision) AS revision
FROM instances_current WHERE object_uri > @after AND ({condition}) GROUP BY object_uri, generation
ORDER BY object_uri, generation"""


def made_by() -> Query:
    """Ask which versions of the software made current rows."""
    return "SELECT DISTINCT app_version FROM instances_current WHERE app_version IS NOT NULL", {}


def to_reprocess(versions: Sequence[str] | None, condition: str = "", after: str = "") -> Query:
    """Ask which object versions have current rows by some versions of the software, or by a condition in SQL.

    Returns
    -------
    Statement and parameters; it answers with object_uri, generation and the highest metageneration and
    revision of these rows, in the order of the addresses
    """
    if versions is not None:
        listed, parameters = _listed(versions)
        condition = f"app_version IN ({listed})"
    else:
        parameters = {}
    return _TO_REPROCESS.format(condition=condition), {**parameters, "after": after}


def last_of_job(job_id: str) -> Query:
    """Ask for the last row of a job."""
    return "SELECT * FROM jobs WHERE id = @id ORDER BY recorded_at DESC LIMIT 1", {"id": job_id}


def last_jobs(limit: int) -> Query:
    """Ask for the last row of each job, the latest first."""
    sql = (
        "SELECT * FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY id ORDER BY recorded_at DESC) AS place"
        " FROM jobs) AS ranked WHERE place = 1 ORDER BY started_at DESC, id LIMIT @limit"
    )
    return sql, {"limit": limit}


def object_uris() -> Query:
    """Ask for the addresses of all objects that are there now."""
    return "SELECT DISTINCT object_uri FROM instances_current", {}


def collections() -> Query:
    """Ask for the names of all collections that have current rows."""
    return (
        "SELECT DISTINCT collection FROM instances_current WHERE collection IS NOT NULL ORDER BY collection",
        {},
    )


def copies_of(uri: str) -> Query:
    """Ask for the current de-identified copy of an object that is no archive."""
    return (
        "SELECT object_uri, generation, dicom_uri FROM instances_current"
        " WHERE object_uri = @uri AND member IS NULL AND dicom_uri IS NOT NULL",
        {"uri": uri},
    )


_LAST_FAILURE = "SELECT code, message FROM failures WHERE {known} ORDER BY failed_at DESC LIMIT 1"


def last_failure(
    message_id: str, object_uri: str = "", generation: int | None = None, event_type: str = ""
) -> Query:
    """Ask for code and message of the last failed attempt of an event; of a message if it names no event."""
    if not (object_uri and generation is not None and event_type):
        return _LAST_FAILURE.format(known="message_id = @id"), {"id": message_id}
    known = "object_uri = @object_uri AND generation = @generation AND event_type = @event_type"
    event = {"object_uri": object_uri, "generation": generation, "event_type": event_type}
    return _LAST_FAILURE.format(known=known), event


def stored_letter(message_id: str) -> Query:
    """Ask whether the table `dead_letter` has a letter; it answers with a row if so."""
    return "SELECT message_id FROM dead_letter WHERE message_id = @id LIMIT 1", {"id": message_id}


_SETTLED = """SELECT {columns}, arrived_at FROM (
  SELECT *, ROW_NUMBER() OVER (
    PARTITION BY study_instance_uid ORDER BY arrived_at DESC, row_id DESC, ingested_at) AS place
  FROM (
    SELECT {columns}, ingested_at, MIN(ingested_at) OVER (PARTITION BY row_id) AS arrived_at
    FROM instances
    WHERE ingested_at >= @since AND event_type = 'OBJECT_FINALIZE' AND revision IS NULL
    AND study_instance_uid IS NOT NULL AND LENGTH(study_instance_uid) <= 64) AS arrived) AS ranked
WHERE place = 1 AND arrived_at <= @until
AND study_instance_uid || '/' || row_id NOT IN (SELECT id FROM announced WHERE arrived_at >= @since)
ORDER BY arrived_at, study_instance_uid"""


def settled(columns: Sequence[str], since: datetime, until: datetime) -> Query:
    """Ask for the studies whose last instance arrived between two times and that were not yet announced.

    Only rows made since then are read, so in BigQuery one partition, or two around the turn of a month.

    Parameters
    ----------
    columns : of `instances`, with study_instance_uid and row_id among them
    since, until : when the last instance of a study arrived at the earliest, and at the latest

    Returns
    -------
    Statement and parameters; it answers with the columns of the last row of each study, copies folded, and
    `arrived_at`, when that row was made; the earliest first
    """
    return _SETTLED.format(columns=", ".join(columns)), {"since": since, "until": until}


def last_settled() -> Query:
    """Ask for the watermark: the latest `arrived_at` of the studies that were announced, null if none was."""
    return "SELECT MAX(arrived_at) AS arrived_at FROM announced", {}


def current_below(uri: str) -> Query:
    """Ask which versions of the objects in a folder are current.

    Parameters
    ----------
    uri : of the folder, ends in a slash

    Returns
    -------
    Statement and parameters; it answers with object_uri, generation and size_bytes of each object
    """
    return _BELOW.format(columns="MAX(size_bytes) AS size_bytes", view="instances_current"), _range(uri)


_RETAINED = """SELECT i.object_uri, i.generation, MAX(i.ingested_at) AS stored_at,
  COUNT(d.row_id) AS unfinished
FROM instances_current AS i LEFT JOIN (
  SELECT row_id, target FROM deliveries
  WHERE row_id IN (SELECT row_id FROM instances WHERE object_uri IN ({uris}))
  GROUP BY row_id, target
  HAVING MAX(CASE WHEN status IN ('delivered', 'dropped') THEN 1 ELSE 0 END) = 0) AS d
ON d.row_id = i.row_id WHERE i.object_uri IN ({uris}) GROUP BY i.object_uri, i.generation"""


def retained(uris: Sequence[str]) -> Query:
    """Ask which versions of objects have current rows, since when, and how many deliveries are not finished.

    Parameters
    ----------
    uris : at least one, some hundreds in one statement

    Returns
    -------
    Statement and parameters; it answers with object_uri, generation, stored_at (when the latest row was made)
    and unfinished (deliveries that are queued or refused)
    """
    listed, parameters = _listed(uris)
    return _RETAINED.format(uris=listed), parameters


def letters_below(uri: str) -> Query:
    """Ask which versions in a folder are open dead letters; as `current_below`, with null for the size."""
    return _BELOW.format(columns="NULL AS size_bytes", view="dead_letters"), _range(uri)


def rows_below(uri: str, table: str, columns: Sequence[str]) -> Query:
    """Ask for columns of a table or view about the objects in a folder; `uri` ends in a slash."""
    names = ", ".join(columns)
    return f"SELECT {names} FROM {table} WHERE object_uri >= @low AND object_uri < @high", _range(uri)


def _range(uri: str) -> dict[str, object]:
    return {"low": uri, "high": f"{uri[:-1]}0"}  # "0" follows "/"


def instances_of(
    columns: Sequence[str], study_instance_uid: str, series_instance_uid: str | None = None
) -> Query:
    """Ask for the current instances of a study, or of one series of it.

    Returns
    -------
    Statement and parameters; it answers with these columns of each row that has all three UIDs
    """
    parameters: dict[str, object] = {"study": study_instance_uid}
    narrower = ""
    if series_instance_uid is not None:
        parameters["series"] = series_instance_uid
        narrower = " AND series_instance_uid = @series"
    return (
        f"SELECT {', '.join(columns)} FROM instances_current WHERE study_instance_uid = @study{narrower}"
        " AND series_instance_uid IS NOT NULL AND sop_instance_uid IS NOT NULL",
        parameters,
    )


def overview(dialect: str) -> dict[str, str]:
    """Ask what the lake holds as a whole: statements by name, none with parameters.

    `totals` answers with one row (studies, series, instances, objects, size_bytes), `modalities` and
    `failures` with name and count, the largest first, `days` with day (YYYY-MM-DD) and count, `loose` with
    the newest rows that belong to no study.
    """
    text = DIALECTS[dialect].types.get("STRING", "STRING")
    return {
        "totals": "SELECT COUNT(*) AS studies, SUM(number_of_series) AS series,"
        " SUM(number_of_instances) AS instances, SUM(number_of_objects) AS objects,"
        " SUM(size_bytes) AS size_bytes FROM studies",
        "modalities": "SELECT COALESCE(modality, 'none') AS name, COUNT(DISTINCT sop_instance_uid) AS number"
        " FROM instances_current"
        " GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 12",
        "days": f"SELECT SUBSTR(CAST(ingested_at AS {text}), 1, 10) AS name, COUNT(*) AS number"
        " FROM instances"
        " WHERE event_type = 'OBJECT_FINALIZE' AND revision IS NULL GROUP BY 1 ORDER BY 1 DESC LIMIT 30",
        "failures": "SELECT COALESCE(code, 'unknown') AS name, COUNT(*) AS number FROM failures"
        " GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 12",
        "loose": "SELECT object_uri, member, ingested_at FROM instances_current"
        " WHERE study_instance_uid IS NULL OR series_instance_uid IS NULL OR sop_instance_uid IS NULL"
        " ORDER BY ingested_at DESC LIMIT 50",
    }


def choices() -> dict[str, str]:
    """Ask which modalities and collections there are: one name per row, at most 100."""
    return {
        what: f"SELECT DISTINCT {column} AS name FROM instances WHERE {column} IS NOT NULL"
        " ORDER BY 1 LIMIT 100"
        for what, column in (("modalities", "modality"), ("collections", "collection"))
    }


def letters_page(limit: int, offset: int) -> Query:
    """Ask for a page of the open dead letters, the newest first."""
    sql = "SELECT * FROM dead_letters ORDER BY publish_time DESC, message_id LIMIT @limit OFFSET @offset"
    return sql, {"limit": limit, "offset": offset}


def outcome_of(object_uri: str, generation: int) -> tuple[Query, Query]:
    """Ask what became of one object version: its current rows and its open dead letter."""
    named: dict[str, object] = {"object_uri": object_uri, "generation": generation}
    where = "object_uri = @object_uri AND generation = @generation"
    return (
        (
            "SELECT study_instance_uid, series_instance_uid, sop_instance_uid FROM instances_current"
            f" WHERE {where} LIMIT 1",
            named,
        ),
        (f"SELECT code, reason FROM dead_letters WHERE {where} LIMIT 1", named),
    )
