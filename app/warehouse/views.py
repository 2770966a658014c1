"""DDL and views as text, one source for every dialect."""

from __future__ import annotations

from collections.abc import Container, Mapping

from app.warehouse.dialects import DIALECTS, Dialect
from app.warehouse.tables import TABLES, Column, Table

_INSTANCE = {column.name: column for column in TABLES["instances"].columns}


def _like(*names: str) -> tuple[Column, ...]:
    return tuple(
        Column(name, _INSTANCE[name].type, "NULLABLE", _INSTANCE[name].description) for name in names
    )


def _counts(*names: str) -> tuple[Column, ...]:
    return tuple(
        Column(f"number_of_{name}", "INT64", "NULLABLE", f"How many {name} are stored") for name in names
    )


_PATIENT = (
    *("patient_id", "issuer_of_patient_id", "patient_name", "patient_name_groups"),
    *("patient_birth_date", "patient_sex"),
)
_STUDY = ("accession_number", "study_id", "study_description", "study_date", "study_time")
_STORED = (
    Column("size_bytes", "INT64", "NULLABLE", "Size of the objects, an archive counted once"),
    Column("first_ingested_at", "TIMESTAMP", "NULLABLE", "When the first of these rows was made"),
    Column("last_ingested_at", "TIMESTAMP", "NULLABLE", "When the last of these rows was made"),
    Column("preview_uri", "STRING", "NULLABLE", "One of the previews, the first by name"),
)

VIEWS: dict[str, Table] = {
    view.name: view
    for view in (
        Table(
            "instances_current",
            "What is there now: for each object the rows of its highest generation, one per member, of the "
            "highest metageneration and then revision, unless that or a later generation was deleted or "
            "archived; copies fold into one, whatever the order in which rows arrived. In BigQuery an object "
            "that was overwritten by one of another study is in both until the removal of the overwritten "
            "version has arrived.",
            TABLES["instances"].columns,
        ),
        Table(
            "series",
            "One row per series that is there now. Where its instances disagree the greatest value is shown.",
            (
                *_like("study_instance_uid", "series_instance_uid", *_PATIENT, *_STUDY, "modality"),
                *_like("series_number", "series_description", "series_date", "body_part_examined"),
                *_like("protocol_name", "manufacturer", "manufacturer_model_name", "station_name"),
                *_counts("instances", "objects"),
                *_STORED,
            ),
        ),
        Table(
            "studies",
            "One row per study that is there now. Where its instances disagree the greatest value is shown.",
            (
                *_like("study_instance_uid", *_PATIENT, *_STUDY, "referring_physician_name"),
                *_like("institution_name"),
                Column("modalities", "STRING", "NULLABLE", "Distinct modalities, sorted, joined by commas"),
                *_counts("series", "instances", "objects"),
                *_STORED,
            ),
        ),
        Table(
            "dead_letters",
            "One row per event that was given up, unless it was stored since or its version of the object "
            "removed or overwritten: its newest dead letter, decoded, with the reason it carries or else "
            "that of its last failure. One of a revision is open until that or a later one is stored; one "
            "that cannot be decoded has nulls. One whose code is announce_unavailable is open although its "
            "row is stored, until it is sent again.",
            (
                Column("message_id", "STRING", "NULLABLE", "Id of the newest dead letter"),
                Column("publish_time", "TIMESTAMP", "NULLABLE", "When the newest dead letter was published"),
                Column("bucket", "STRING", "NULLABLE", "Attribute bucketId"),
                Column("object", "STRING", "NULLABLE", "Attribute objectId"),
                Column("object_uri", "STRING", "NULLABLE", "Attribute objectUri, else gs://bucket/object"),
                Column("generation", "INT64", "NULLABLE", "Attribute objectGeneration"),
                Column("event_type", "STRING", "NULLABLE", "Attribute eventType"),
                Column("delivery_count", "INT64", "NULLABLE", "How often it was delivered before"),
                Column("code", "STRING", "NULLABLE", "Stable code of the fault"),
                Column("reason", "STRING", "NULLABLE", "One sentence, without values of the data set"),
                Column("letters", "INT64", "NULLABLE", "How many dead letters this event has"),
                Column("subscription_name", "STRING", "NULLABLE", "Subscription that wrote the row"),
            ),
        ),
    )
}

MATERIALIZED_VIEWS: dict[str, Table] = {
    "removed": Table(
        "removed",
        "In BigQuery only, where removals are announced: a materialized view of the highest generation of "
        "each object that was removed. `instances_current` joins it.",
        (
            Column("object_uri", "STRING", "NULLABLE", "As in `instances`"),
            Column("generation", "INT64", "NULLABLE", "Highest generation that was deleted or archived"),
        ),
    )
}

INDEXES: dict[str, tuple[tuple[str, ...], ...]] = {
    "instances": (
        # Covers all that decides what is current, and what `ingest` asks of it: no row is read for that.
        (
            *("object_uri", "generation", "member", "event_type", "metageneration", "revision", "row_id"),
            "describe_key",
        ),
        ("study_instance_uid", "series_instance_uid", "sop_instance_uid"),
        ("sop_instance_uid",),
        ("series_instance_uid",),
        ("patient_id",),
        ("accession_number",),
        ("ingested_at",),
        # In the order of a search, and with what people search by: `app/warehouse/search.py` walks along it.
        (
            *("study_date DESC", "study_instance_uid", "series_number", "series_instance_uid"),
            *("instance_number", "sop_instance_uid", "patient_name_folded", "patient_id", "modality"),
            *("institution_name", "collection"),
        ),
    ),
    "failures": (("object_uri", "generation", "event_type"),),
    "dead_letter": (("message_id",),),
    "announced": (("arrived_at", "id"),),
    "jobs": (("id", "recorded_at"),),
    "deliveries": (("row_id", "target", "status"),),
}


def column_ddl(column: Column, dialect: str) -> str:
    """Return the definition of one column, as in CREATE TABLE and ALTER TABLE ... ADD COLUMN."""
    words = DIALECTS[dialect]
    default = "" if words.nested or column.mode != "REPEATED" else " NOT NULL DEFAULT '[]'"
    required = " NOT NULL" if column.mode == "REQUIRED" else ""
    is_text = column.type == "STRING" and column.mode != "REPEATED"
    collation = f" {words.collation}" if words.collation and is_text else ""
    return f"{words.quote}{column.name}{words.quote} {_type(column, words)}{collation}{default}{required}"


def _type(column: Column, words: Dialect) -> str:
    own = words.types.get(column.type, column.type)
    if not words.nested:
        return words.types["JSON"] if column.mode == "REPEATED" else own
    if column.fields:
        own += "<" + ", ".join(f"{field.name} {_type(field, words)}" for field in column.fields) + ">"
    return f"ARRAY<{own}>" if column.mode == "REPEATED" else own


def ddl(table: str, dialect: str, prefix: str = "") -> tuple[str, ...]:
    """Return the statements that make a table and its indexes where they are not there yet.

    Parameters
    ----------
    table : name of one of TABLES
    dialect : name of one of DIALECTS
    prefix : what stands before every name, as `project.dataset.`

    Raises
    ------
    KeyError : there is no such table or dialect
    """
    words, spec = DIALECTS[dialect], TABLES[table]
    # A row store reads every other column without walking the pages that a long document overflows into.
    order = sorted(spec.columns, key=lambda column: column.type == "JSON") if words.locator else spec.columns
    columns = ",\n  ".join(column_ddl(column, dialect) for column in order)
    create = f"CREATE TABLE IF NOT EXISTS {words.quote}{prefix}{table}{words.quote} (\n  {columns}\n)"
    if not words.locator:
        return (create + _layout(spec),)
    indexes = [
        f"CREATE INDEX IF NOT EXISTS {table}_by_{columns[0].split()[0]} ON {table} ({', '.join(columns)})"
        for columns in INDEXES[table]
    ]
    # If ids are unique, a repeated append changes nothing; otherwise the views fold the copies.
    unique = [f"CREATE UNIQUE INDEX IF NOT EXISTS {table}_row_id ON {table} (row_id)"] * spec.kept
    return create, *unique, *indexes


def _layout(table: Table) -> str:
    column = table.partition_by
    by = f"DATE({column})" if table.partition_unit == "DAY" else f"TIMESTAMP_TRUNC({column}, MONTH)"
    partition = f"\nPARTITION BY {by}" if column else ""
    cluster = f"\nCLUSTER BY {', '.join(table.cluster_by)}" if table.cluster_by else ""
    return partition + cluster


_PRESENT = "event_type IN ('OBJECT_FINALIZE', 'OBJECT_METADATA_UPDATE')"
_REMOVED = "event_type IN ('OBJECT_DELETE', 'OBJECT_ARCHIVE')"

# For row stores: a row is current when no other beats it. Filters reach the indexes through it; the windows
# below would compute every object first (one study of 100,000 rows in SQLite: 1.5 ms against 320 ms).
_CURRENT_BY_INDEX = f"""SELECT {{columns}} FROM {{instances}} AS i
WHERE i.{_PRESENT}
AND NOT EXISTS (
  SELECT 1 FROM {{instances}} AS j WHERE j.object_uri = i.object_uri AND j.generation > i.generation)
AND NOT EXISTS (
  SELECT 1 FROM {{instances}} AS j WHERE j.object_uri = i.object_uri AND j.generation = i.generation
  AND j.member IS NULL AND j.{_REMOVED})
AND NOT EXISTS (
  SELECT 1 FROM {{instances}} AS j WHERE j.object_uri = i.object_uri AND j.generation = i.generation
  AND j.member {{same}} i.member
  AND (-COALESCE(j.metageneration, -1), -COALESCE(j.revision, -1), j.row_id, j.{{locator}})
  < (-COALESCE(i.metageneration, -1), -COALESCE(i.revision, -1), i.row_id, i.{{locator}}))"""

_REMOVED_BY_OBJECT = f"""SELECT object_uri, MAX(generation) AS generation FROM {{instances}}
WHERE {_REMOVED} GROUP BY object_uri"""

# For column stores, which may hold the same row twice without any difference. The windows are
# partitioned by study, so that a filter on it can be applied before them: of a table clustered by study, that
# study alone is read then. Removals have no study; they are joined.
_CURRENT_BY_STUDY = f"""SELECT {{columns}} FROM (
  SELECT *,
    MAX(generation) OVER (PARTITION BY study_instance_uid, object_uri) AS last_generation,
    ROW_NUMBER() OVER (
      PARTITION BY study_instance_uid, object_uri, generation, member
      ORDER BY metageneration DESC NULLS LAST, revision DESC NULLS LAST, row_id) AS place
  FROM {{instances}} WHERE {_PRESENT}{{of_study}}) AS i
LEFT JOIN {{removed}} AS r ON r.object_uri = i.object_uri
WHERE i.generation = i.last_generation AND i.place = 1
AND (r.generation IS NULL OR r.generation < i.generation)"""

# The same without events of removals: only a later generation then says that an object left a study, so all
# rows of an object have to be looked at, and any query reads the whole table.
_CURRENT_BY_OBJECT = f"""SELECT {{columns}} FROM (
  SELECT *,
    MAX(generation) OVER (PARTITION BY object_uri) AS last_generation,
    MAX(CASE WHEN {_REMOVED} THEN generation END) OVER (PARTITION BY object_uri) AS removed_generation,
    ROW_NUMBER() OVER (
      PARTITION BY object_uri, generation, member
      ORDER BY metageneration DESC NULLS LAST, revision DESC NULLS LAST, row_id) AS place
  FROM {{instances}}) AS i
WHERE {_PRESENT} AND generation = last_generation AND place = 1
AND (removed_generation IS NULL OR removed_generation < generation)"""

_DEAD_LETTERS = """WITH decoded AS (
  SELECT message_id, publish_time, subscription_name,
    {bucketId} AS bucket,
    {objectId} AS object,
    {objectUri} AS given_uri,
    {objectGeneration} AS generation_text,
    {eventType} AS event_type,
    {dicomlakeRevision} AS revision_text,
    {CloudPubSubDeadLetterSourceDeliveryCount} AS count_text,
    {dicomlakeCode} AS code,
    {dicomlakeReason} AS reason
  FROM {dead_letter}),
event AS (
  SELECT message_id, publish_time, subscription_name, bucket, object, event_type, code, reason,
    COALESCE(given_uri, 'gs://' || bucket || '/' || object) AS object_uri,
    {generation} AS generation,
    {revision} AS revision,
    {delivery_count} AS delivery_count
  FROM decoded),
keyed AS (
  SELECT *, CASE WHEN object_uri IS NULL OR generation IS NULL OR event_type IS NULL
    THEN message_id END AS lone_id
  FROM event),
letter AS (
  SELECT *,
    COUNT(*) OVER (PARTITION BY object_uri, generation, event_type, lone_id) AS letters,
    ROW_NUMBER() OVER (PARTITION BY object_uri, generation, event_type, lone_id
      ORDER BY publish_time DESC NULLS LAST, message_id DESC) AS place
  FROM keyed),
failure AS (
  SELECT object_uri, generation, event_type, code, message, ROW_NUMBER() OVER (
    PARTITION BY object_uri, generation, event_type
    ORDER BY delivery_attempt DESC NULLS LAST, failed_at DESC) AS place
  FROM {failures}),
seen AS (
  SELECT object_uri, MAX(generation) AS last_generation,
    MAX(CASE WHEN {removed_events} THEN generation END) AS removed_generation
  FROM {instances} WHERE object_uri IN (SELECT object_uri FROM event) GROUP BY object_uri)
SELECT l.message_id, l.publish_time, l.bucket, l.object, l.object_uri, l.generation, l.event_type,
  l.delivery_count, COALESCE(l.code, f.code) AS code, COALESCE(l.reason, f.message) AS reason,
  l.letters, l.subscription_name
FROM letter AS l LEFT JOIN failure AS f
  ON f.place = 1 AND f.object_uri = l.object_uri AND f.generation = l.generation
  AND f.event_type = l.event_type
LEFT JOIN seen AS s ON s.object_uri = l.object_uri
WHERE l.place = 1
AND ((COALESCE(s.last_generation <= l.generation, TRUE)
    AND COALESCE(s.removed_generation < l.generation, TRUE))
  OR (COALESCE(l.code, f.code) = 'announce_unavailable' AND l.{removed_events}))
AND NOT EXISTS (
  SELECT 1 FROM {instances} AS i WHERE i.object_uri = l.object_uri AND i.generation = l.generation
  AND i.event_type = l.event_type AND i.member IS NULL
  AND COALESCE(i.revision, 0) >= COALESCE(l.revision, 0)
  AND COALESCE(l.code, f.code, '') <> 'announce_unavailable')"""

_GROUPS = {"series": ("study_instance_uid", "series_instance_uid"), "studies": ("study_instance_uid",)}
_AGGREGATES = {
    "number_of_series": "COUNT(DISTINCT series_instance_uid)",
    "number_of_instances": "COUNT(DISTINCT sop_instance_uid)",
    "number_of_objects": "COUNT(DISTINCT object_uri)",
    "first_ingested_at": "MIN(ingested_at)",
    "last_ingested_at": "MAX(ingested_at)",
    "preview_uri": "MIN(preview_uri)",
}


def _aggregate(name: str, words: Dialect) -> tuple[str, str]:
    """Return what is collected in the group for a column, and what is made of it then."""
    if name == "modalities":
        return words.distinct_list[0].format("modality"), words.distinct_list[1].format(name)
    if name == "size_bytes":
        return words.object_bytes[0], words.object_bytes[1].format(name)
    return _AGGREGATES.get(name, f"MAX({name})"), name


# An archive counts once in each group, by the first of its rows there.
_OBJECT_BYTES = """(
    SELECT *, CASE WHEN ROW_NUMBER() OVER (PARTITION BY {keys}, object_uri ORDER BY size_bytes DESC) = 1
      THEN size_bytes END AS object_bytes
    FROM {instances_current}) AS i"""


def group_columns(
    view: str, dialect: str, wanted: Container[str] | None = None
) -> tuple[list[str], dict[str, str]]:
    """Return what is collected from the rows of a group, and by column of a view what that becomes.

    Parameters
    ----------
    view : `series` or `studies`
    dialect : name of one of DIALECTS
    wanted : names of columns; None = all
    """
    words, keys = DIALECTS[dialect], _GROUPS[view]
    names = [column.name for column in VIEWS[view].columns if column.name not in keys]
    made = {name: _aggregate(name, words) for name in names if wanted is None or name in wanted}
    collected = [*keys, *(f"{collected} AS {name}" for name, (collected, _) in made.items())]
    return collected, {key: key for key in keys} | {name: final for name, (_, final) in made.items()}


def group_view(view: str, dialect: str, instances_current: str, more: Mapping[str, str] | None = None) -> str:
    """Return the SELECT of a view that has one row for each group of current rows.

    Parameters
    ----------
    view : `series` or `studies`
    dialect : name of one of DIALECTS
    instances_current : the current rows, as FROM names them
    more : name -> aggregate of columns to add
    """
    keys = _GROUPS[view]
    collected, final = group_columns(view, dialect)
    collected += [f"{aggregate} AS {name}" for name, aggregate in (more or {}).items()]
    final |= {name: name for name in more or {}}
    rows = instances_current
    if not DIALECTS[dialect].locator:
        # Not by a subquery over an array of the group: no filter would reach the table through it.
        rows = _OBJECT_BYTES.format(keys=", ".join(keys), instances_current=instances_current)
        collected = [
            "SUM(object_bytes) AS size_bytes" if one.endswith(" AS size_bytes") else one for one in collected
        ]
        final["size_bytes"] = "size_bytes"
    inner = ",\n    ".join(collected)
    outer = ",\n  ".join(name if made == name else f"{made} AS {name}" for name, made in final.items())
    known = " AND ".join(f"{key} IS NOT NULL" for key in keys)
    return (
        f"SELECT {outer}\nFROM (\n  SELECT {inner}\n  FROM {rows}\n"
        f"  WHERE {known}\n  GROUP BY {', '.join(keys)}) AS grouped"
    )


def views(dialect: str, prefix: str = "", removals: bool = True) -> dict[str, str]:
    """Return the SELECT of every view, each after those it reads.

    What is current never depends on a clock: generations order the versions of an object, metagenerations
    and then revisions the rows of a version, and a removal wins over the generation it names.

    Parameters
    ----------
    dialect : name of one of DIALECTS
    prefix : what stands before every table and view, as `project.dataset.`
    removals : whether the table receives the removal of every version that is deleted or overwritten; column
        stores need it for a view that reads one study at a time, row stores do not

    Raises
    ------
    KeyError : there is no such dialect
    """
    words, names = DIALECTS[dialect], _names(dialect, prefix)
    attributes = (
        *("bucketId", "objectId", "objectUri", "objectGeneration", "eventType"),
        *("CloudPubSubDeadLetterSourceDeliveryCount", "dicomlakeCode", "dicomlakeReason"),
        "dicomlakeRevision",
    )
    if words.locator:
        materialized, current = {}, _CURRENT_BY_INDEX
    elif removals:
        materialized = {"removed": _REMOVED_BY_OBJECT.format(**names)}
        current = _CURRENT_BY_STUDY
    else:
        materialized, current = {}, _CURRENT_BY_OBJECT
    return {
        **materialized,
        "instances_current": current.format(
            columns=_columns(words), of_study="", locator=words.locator, same=words.same, **names
        ),
        **{view: group_view(view, dialect, names["instances_current"]) for view in _GROUPS},
        "dead_letters": _DEAD_LETTERS.format(
            generation=words.integer.format("generation_text"),
            revision=words.integer.format("revision_text"),
            delivery_count=words.integer.format("count_text"),
            removed_events=_REMOVED,
            **{name: words.attribute.format(name) for name in attributes},
            **names,
        ),
    }


def table_functions(dialect: str, prefix: str = "", removals: bool = True) -> dict[str, str]:
    """Return the body of every table function; each takes one STRING, `uid`. Row stores have and need none.

    Parameters
    ----------
    dialect, prefix, removals : as for `views`

    Raises
    ------
    KeyError : there is no such dialect
    """
    if DIALECTS[dialect].locator:
        return {}
    if not removals:
        select = "SELECT * FROM {instances_current} WHERE study_instance_uid = uid"
        return {"current_of_study": select.format(**_names(dialect, prefix))}
    return {"current_of_study": current_where("study_instance_uid = uid", dialect, prefix)}


def current_where(condition: str, dialect: str, prefix: str = "") -> str:
    """Return the SELECT of the current rows of some studies, for a column store that receives removals.

    Parameters
    ----------
    condition : on rows of `instances`. It may leave out whole studies; of the studies it leaves in, rows that
        were made before any that is current now
    dialect, prefix : as for `views`
    """
    words, names = DIALECTS[dialect], _names(dialect, prefix)
    return _CURRENT_BY_STUDY.format(columns=_columns(words), of_study=f" AND {condition}", **names)


def _names(dialect: str, prefix: str) -> dict[str, str]:
    quote = DIALECTS[dialect].quote
    return {name: f"{quote}{prefix}{name}{quote}" for name in (*TABLES, *MATERIALIZED_VIEWS, *VIEWS)}


def _columns(words: Dialect) -> str:
    return ", ".join(f"i.{words.quote}{name}{words.quote}" for name in _INSTANCE)
