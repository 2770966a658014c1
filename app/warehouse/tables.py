"""The only definition of tables and columns; DDL, Terraform schemas, docs and row checks are derived from it.

Types are those of BigQuery. Add columns only at the end of a table; never rename or remove one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time

from app.model.errors import BadQuery
from app.model.values import Row


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `mode` is NULLABLE, REQUIRED or REPEATED; a RECORD has `fields`."""

    name: str
    type: str
    mode: str
    description: str
    fields: tuple[Column, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """A table or view and its columns.

    partition_by: the TIMESTAMP column of a partitioned table. partition_unit: DAY or MONTH. kept: rows are
    history and are never removed.
    """

    name: str
    description: str
    columns: tuple[Column, ...]
    partition_by: str | None = None
    partition_unit: str = "DAY"
    cluster_by: tuple[str, ...] = ()
    kept: bool = False


def _columns(type: str, described: Mapping[str, str], mode: str = "NULLABLE") -> tuple[Column, ...]:
    return tuple(Column(name, type, mode, text) for name, text in described.items())


_EVENT = (
    *_columns(
        "STRING",
        {
            "row_id": "SHA-256 over bucket, object, generation, metageneration, member, event type and "
            "revision (if set): the same event always makes the same id",
            "object_uri": "gs://bucket/name or file:///abs/path",
        },
        "REQUIRED",
    ),
    Column("member", "STRING", "NULLABLE", "Path inside an archive; null for a plain object"),
    Column("generation", "INT64", "REQUIRED", "Version of the object; for files the modification time in ns"),
    Column("metageneration", "INT64", "NULLABLE", "Version of the object's metadata within its generation"),
    Column(
        "event_type",
        "STRING",
        "REQUIRED",
        "OBJECT_FINALIZE, OBJECT_DELETE, OBJECT_ARCHIVE or OBJECT_METADATA_UPDATE",
    ),
    Column("event_time", "TIMESTAMP", "REQUIRED", "When the object changed"),
    Column("ingested_at", "TIMESTAMP", "REQUIRED", "When this row was made"),
    Column("message_id", "STRING", "NULLABLE", "Id of the message that brought the event"),
    Column("correlation_id", "STRING", "NULLABLE", "Id that ties the row to log lines"),
    Column("delivery_attempt", "INT64", "NULLABLE", "How often the message had been delivered, from 1"),
    Column("size_bytes", "INT64", "NULLABLE", "Size of the object, for a member that of its archive"),
    Column("crc32c", "STRING", "NULLABLE", "CRC32C of the object in base64"),
    Column("storage_class", "STRING", "NULLABLE", "Storage class of the object"),
)

_DATASET = (
    *_columns(
        "STRING",
        {
            "study_instance_uid": "Study Instance UID (0020,000D)",
            "series_instance_uid": "Series Instance UID (0020,000E)",
            "sop_instance_uid": "SOP Instance UID (0008,0018)",
            "sop_class_uid": "SOP Class UID (0008,0016)",
            "transfer_syntax_uid": "Transfer Syntax UID (0002,0010)",
            "patient_id": "Patient ID (0010,0020)",
            "issuer_of_patient_id": "Issuer of Patient ID (0010,0021)",
            "patient_name": "Patient's Name (0010,0010)",
            "patient_sex": "Patient's Sex (0010,0040)",
            "accession_number": "Accession Number (0008,0050)",
            "study_id": "Study ID (0020,0010)",
            "study_description": "Study Description (0008,1030)",
            "series_description": "Series Description (0008,103E)",
            "modality": "Modality (0008,0060)",
            "body_part_examined": "Body Part Examined (0018,0015)",
            "manufacturer": "Manufacturer (0008,0070)",
            "manufacturer_model_name": "Manufacturer's Model Name (0008,1090)",
            "station_name": "Station Name (0008,1010)",
            "institution_name": "Institution Name (0008,0080)",
            "referring_physician_name": "Referring Physician's Name (0008,0090)",
            "protocol_name": "Protocol Name (0018,1030)",
            "photometric_interpretation": "Photometric Interpretation (0028,0004)",
        },
    ),
    *_columns(
        "DATE",
        {
            "patient_birth_date": "Patient's Birth Date (0010,0030); null when not a valid date",
            "study_date": "Study Date (0008,0020); null when not a valid date",
            "series_date": "Series Date (0008,0021); null when not a valid date",
        },
    ),
    Column("study_time", "TIME", "NULLABLE", "Study Time (0008,0030); null when not a valid time"),
    *_columns(
        "INT64",
        {
            "series_number": "Series Number (0020,0011)",
            "instance_number": "Instance Number (0020,0013)",
            "rows": "Rows (0028,0010)",
            "columns": "Columns (0028,0011)",
            "number_of_frames": "Number of Frames (0028,0008)",
            "samples_per_pixel": "Samples per Pixel (0028,0002)",
            "bits_allocated": "Bits Allocated (0028,0100)",
            "bits_stored": "Bits Stored (0028,0101)",
        },
    ),
    Column("pixel_spacing", "FLOAT64", "REPEATED", "Pixel Spacing (0028,0030): rows, columns, in mm"),
    Column("slice_thickness", "FLOAT64", "NULLABLE", "Slice Thickness (0018,0050) in mm"),
    Column("image_type", "STRING", "REPEATED", "Image Type (0008,0008)"),
)

_RESULT = (
    Column("metadata_uri", "STRING", "NULLABLE", "Where the standard DICOM JSON (PS3.18 Annex F) lies"),
    Column("preview_uri", "STRING", "NULLABLE", "Where the PNG preview lies; null with a reason"),
    Column("preview_error", "STRING", "NULLABLE", "Code why there is no preview, such as no_pixel_data"),
    Column(
        "warnings",
        "RECORD",
        "REPEATED",
        "Elements whose value is not valid: kept verbatim in metadata",
        _columns("STRING", {"tag": "Tag as eight hex digits", "code": "What is wrong"}),
    ),
    Column(
        "took_ms",
        "RECORD",
        "NULLABLE",
        "Milliseconds a step took",
        _columns(
            "INT64",
            {
                "read": "Reading the object",
                "parse": "Reading the data set",
                "render": "Making the preview",
                "write": "Writing the artifacts",
            },
        ),
    ),
    Column("app_version", "STRING", "NULLABLE", "Version of the software that made the row"),
    Column("metadata", "JSON", "NULLABLE", "The data set with keyword keys, bulk data left out"),
)

# New columns go to the end, because BigQuery can add a column only there.
_ADDED = (
    Column(
        "collection",
        "STRING",
        "NULLABLE",
        "First path segment of the object's name below source.url, of an upload below source.write_prefix;"
        " null without one",
    ),
    Column(
        "revision",
        "INT64",
        "NULLABLE",
        "Null for what an event made; UNIX seconds at the start of the run that described this version again",
    ),
    Column(
        "describe_key",
        "STRING",
        "NULLABLE",
        "Hash of the settings that documents, columns and previews depend on, and of their version; "
        "null for removals",
    ),
    Column("dicom_uri", "STRING", "NULLABLE", "The bytes that DICOMweb serves; null = the object itself"),
    Column(
        "patient_name_folded",
        "STRING",
        "NULLABLE",
        "Patient's Name for searches: without case and accents, as alphabetic=ideographic=phonetic",
    ),
    Column(
        "patient_name_groups",
        "STRING",
        "NULLABLE",
        "Patient's Name as alphabetic=ideographic=phonetic; null where `patient_name` is all of it",
    ),
)

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        Table(
            "instances",
            "Append-only history, one row per event and instance; `instances_current` is what is there now.",
            (*_EVENT, *_DATASET, *_RESULT, *_ADDED),
            partition_by="ingested_at",
            # Daily partitions would be too small for BigQuery to cluster well.
            partition_unit="MONTH",
            cluster_by=("study_instance_uid", "series_instance_uid", "sop_instance_uid", "modality"),
            kept=True,
        ),
        Table(
            "failures",
            "One row per failed attempt.",
            (
                Column("message_id", "STRING", "NULLABLE", "Id of the message"),
                Column("delivery_attempt", "INT64", "NULLABLE", "Which delivery failed, from 1"),
                Column("object_uri", "STRING", "NULLABLE", "Object of the event, if it named one"),
                Column("generation", "INT64", "NULLABLE", "Version of the object"),
                Column("event_type", "STRING", "NULLABLE", "As in `instances`"),
                Column("code", "STRING", "REQUIRED", "Stable code of the fault"),
                Column("message", "STRING", "NULLABLE", "One sentence, without values of the data set"),
                Column("permanent", "BOOL", "NULLABLE", "Whether the same bytes fail again"),
                Column("failed_at", "TIMESTAMP", "REQUIRED", "When the attempt failed"),
                Column("app_version", "STRING", "NULLABLE", "Version of the software that failed"),
            ),
            partition_by="failed_at",
        ),
        Table(
            "dead_letter",
            "Messages that were given up, with exactly the columns that a BigQuery subscription writes.",
            (
                Column("subscription_name", "STRING", "NULLABLE", "Subscription that wrote the row"),
                Column("message_id", "STRING", "NULLABLE", "Id of the dead letter, not of the first message"),
                Column("publish_time", "TIMESTAMP", "NULLABLE", "When the dead letter was published"),
                Column("data", "BYTES", "NULLABLE", "Body of the message"),
                Column("attributes", "STRING", "NULLABLE", "Attributes of the message as a JSON object"),
            ),
        ),
        Table(
            "announced",
            "One row per announcement that a study has settled; the latest arrival is the watermark.",
            (
                Column("id", "STRING", "REQUIRED", "Id of the announcement: study and last row"),
                Column("at", "TIMESTAMP", "REQUIRED", "When it was announced"),
                Column("arrived_at", "TIMESTAMP", "REQUIRED", "When the last row of the study was made"),
            ),
            partition_by="arrived_at",
            partition_unit="MONTH",
        ),
        Table(
            "jobs",
            "Append-only progress of `backfill` and `reprocess`: the last row of a job is where it stands.",
            (
                Column("id", "STRING", "REQUIRED", "Id of the job, as `status` and `--resume` take it"),
                Column("recorded_at", "TIMESTAMP", "REQUIRED", "When this row was made"),
                Column("command", "STRING", "REQUIRED", "backfill or reprocess"),
                Column("arguments", "JSON", "NULLABLE", "What it was started with"),
                Column("counts", "JSON", "NULLABLE", "How many objects it has compared, published, left out"),
                Column("cursor", "STRING", "NULLABLE", "Address of the last object whose event is durable"),
                Column("started_at", "TIMESTAMP", "REQUIRED", "When the job was started first"),
                Column("ended_at", "TIMESTAMP", "NULLABLE", "When it was complete; null until then"),
                Column("who", "STRING", "NULLABLE", "Account and machine that run it"),
            ),
            partition_by="recorded_at",
            partition_unit="MONTH",
        ),
        Table(
            "deliveries",
            "History of forwarded pictures, one row per change; a delivery ends as delivered or dropped.",
            (
                Column("row_id", "STRING", "REQUIRED", "Row of `instances` whose preview is forwarded"),
                Column("target", "STRING", "REQUIRED", "Receiver: its URL without user and query"),
                Column(
                    "status",
                    "STRING",
                    "REQUIRED",
                    "queued, delivered, refused (a dead letter), or dropped: receiver or picture are gone",
                ),
                Column("at", "TIMESTAMP", "REQUIRED", "When that was so"),
            ),
            cluster_by=("row_id",),
        ),
    )
}


def _is_text(value: object) -> bool:
    # A lone surrogate cannot be encoded as UTF-8, so no warehouse can store it.
    return isinstance(value, str) and (value.isascii() or not any("\ud800" <= c <= "\udfff" for c in value))


def _is_int64(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _is_float64(value: object) -> bool:
    return (isinstance(value, float) and math.isfinite(value)) or _is_int64(value)


def _is_timestamp(value: object) -> bool:
    return isinstance(value, datetime) and value.utcoffset() is not None and _FIRST <= value <= _LAST


_FIRST, _LAST = (limit.replace(tzinfo=UTC) for limit in (datetime.min, datetime.max))
# A value has the first type whose check it passes, in this order.
_CHECKS: dict[str, Callable[[object], bool]] = {
    "BOOL": lambda value: isinstance(value, bool),
    "INT64": _is_int64,
    "FLOAT64": _is_float64,
    "STRING": _is_text,
    "JSON": _is_text,
    "BYTES": lambda value: isinstance(value, bytes),
    "TIMESTAMP": _is_timestamp,
    "DATE": lambda value: isinstance(value, date) and not isinstance(value, datetime),
    "TIME": lambda value: isinstance(value, time) and value.tzinfo is None,
}


def type_of(value: object) -> str | None:
    """Return the type of a scalar query parameter; None if no warehouse can store the value."""
    return next((word for word, check in _CHECKS.items() if check(value)), None)


def check_statement(sql: str, parameters: Mapping[str, object]) -> dict[str, str]:
    """Return the types of a statement's parameters, by name.

    Raises
    ------
    BadQuery : the statement is not text, or a parameter is null or has a type that no column holds
    """
    if type_of(sql) != "STRING" or "\0" in sql:
        raise BadQuery("the statement is not text")
    types = {name: type_of(value) for name, value in parameters.items()}
    for name, word in types.items():
        if word is None:
            raise BadQuery(f"parameter {name} has a value that no column could hold")
    return {name: word for name, word in types.items() if word}


def _check_one(column: Column, value: object, prefix: str) -> str | None:
    if column.type != "RECORD":
        return None if _CHECKS[column.type](value) else f"column {prefix}{column.name} is no {column.type}"
    if not isinstance(value, Mapping):
        return f"column {prefix}{column.name} is no RECORD"
    return _check_fields({field.name: field for field in column.fields}, value, f"{prefix}{column.name}.")


def _check_list(column: Column, values: object, prefix: str) -> str | None:
    if not isinstance(values, list | tuple):
        return f"column {prefix}{column.name} is no list"
    return next((why for value in values if (why := _check_one(column, value, prefix))), None)


def _check_fields(columns: Mapping[str, Column], row: Row, prefix: str) -> str | None:
    if unknown := row.keys() - columns.keys():
        return "unknown column " + ", ".join(sorted(f"{prefix}{name}" for name in unknown))
    for name, value in row.items():
        if value is not None:
            check = _check_list if columns[name].mode == "REPEATED" else _check_one
            if why := check(columns[name], value, prefix):
                return why
    required = (name for name, column in columns.items() if column.mode == "REQUIRED")
    return next((f"column {prefix}{name} is required" for name in required if row.get(name) is None), None)


_COLUMNS = {table.name: {column.name: column for column in table.columns} for table in TABLES.values()}


def check_row(table: str, row: Row) -> str | None:
    """Return why a row must be refused, or None. Every backend calls this first, so all refuse the same rows.

    Parameters
    ----------
    table : name of one of TABLES
    row : column name -> str, int, float, bool, bytes, datetime (aware), date, time (naive), list, dict.
        JSON columns hold JSON text; its syntax is not checked here.

    Returns
    -------
    One sentence that names the column but never its value; None if the row is valid

    Raises
    ------
    KeyError : there is no such table
    """
    return _check_fields(_COLUMNS[table], row, "")


def check_delete(table: str, column: str) -> None:
    """Raise BadQuery unless rows of this table may be removed by this column. History is never removed."""
    if TABLES[table].kept or column not in _COLUMNS[table]:
        raise BadQuery(f"rows of {table} cannot be removed by {column}")


def check_table(table: str) -> None:
    """Raise BadQuery unless there is a table of this name."""
    if table not in TABLES:
        raise BadQuery(f"there is no table {table}")
