"""Pure: a search for studies, series or instances becomes one statement in the words of each warehouse.

    hit: the keys of what matches, in order, a page and somewhat more ─▶ page: those of the page ─▶ its rows

Only what the page shows is aggregated. A row store does not even look at all that matches: it walks along an
index in the order of the search, from study to study, until it has enough. The column `metadata` is read only
for attributes that have no column of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from app.model.values import Attribute
from app.warehouse.dialects import DIALECTS, Dialect
from app.warehouse.matching import (
    COLUMN_OF,
    Match,
    Parameters,
    conditions,
    day_range,
    has_creator,
    json_paths,
)
from app.warehouse.row_values import to_python
from app.warehouse.study_current import SEARCHED, Recent, listed
from app.warehouse.tables import TABLES, Column
from app.warehouse.views import VIEWS, group_columns

Level = Literal["study", "series", "instance"]

MAX_COUNTED = 500
"""Results after the page that are counted; counting all of a large lake would cost more than the page."""

_VIEW = {"study": "studies", "series": "series"}
_KEYS = {
    "study": ("study_instance_uid",),
    "series": ("study_instance_uid", "series_instance_uid"),
    "instance": ("study_instance_uid", "series_instance_uid", "sop_instance_uid"),
}
COLUMNS: dict[str, dict[str, Column]] = {
    "study": {column.name: column for column in VIEWS["studies"].columns},
    "series": {column.name: column for column in VIEWS["series"].columns},
    "instance": {c.name: c for c in TABLES["instances"].columns if c.name != "metadata"},
}
"""What the rows of each level have."""
_ORDER = (
    "i.study_date DESC, i.study_instance_uid, i.series_number, i.series_instance_uid, i.instance_number,"
    " i.sop_instance_uid"
)
_GROUP_ORDER = {
    "study": "date_key DESC, study_key",
    "series": "date_key DESC, study_key, number_key, series_key",
    "instance": _ORDER.replace("i.", ""),
}
_SELECTIVE = frozenset(("0020000D", "0020000E", "00080018", "00100020", "00080050"))
"""Attributes of which one value is in few rows, which an index of a row store finds."""
_OF_STUDY = {"00080061": "00080060", "00080062": "00080016"}
"""Attribute of a study as a whole -> the attribute of its instances."""
_MATCHED = frozenset(SEARCHED) - {"patient_name_folded"} | {"patient_name"}
"""Columns whose attributes a search of `study_current` may match; a name is matched by its folded form."""
_COMBINATIONS = "(SELECT l.study_instance_uid, c.* FROM listed AS l CROSS JOIN UNNEST(l.searched) AS c)"
"""What instances of a study have together, a row each: in a list the keys have to match one of these."""


@dataclass(frozen=True, slots=True)
class Search:
    """What to look for, and what to return.

    study, series, instance: UIDs, one of which must match; empty = any.
    matches: keys that one and the same instance must match. creators: group and creator of private elements
    that it must have.
    columns: columns to return, empty = all; the keys are always returned.
    more: further attributes to return; for a study or series, the values of one of its instances.
    limit: None = no limit.
    """

    level: Level = "study"
    study: tuple[str, ...] = ()
    series: tuple[str, ...] = ()
    instance: tuple[str, ...] = ()
    collection: str = ""
    matches: tuple[Match, ...] = ()
    creators: tuple[tuple[str, str], ...] = ()
    columns: frozenset[str] = frozenset()
    more: tuple[Attribute, ...] = ()
    limit: int | None = None
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """One page of what was found, by study date (the newest first) and UIDs, instances by their numbers.

    A row has the columns of the view `studies` or `series`, or of the table `instances` without `metadata`;
    in `more`, by tag, the attributes that the search asked for beside them, as `metadata` has them.
    remaining: how many results come after the page, counted up to MAX_COUNTED.
    """

    rows: list[dict[str, Any]]
    remaining: int = 0


def is_list(search: Search) -> bool:
    """Return whether the table `study_current` has all that a search matches and returns."""
    if search.level != "study" or search.study or search.series or search.instance:
        return False
    if search.more or search.creators:
        return False
    columns = [
        COLUMN_OF.get(_OF_STUDY.get(one.tag, one.tag)) for one in search.matches if not one.is_universal
    ]
    return all(column is not None and column.name in _MATCHED for column in columns)


def statement(
    search: Search, dialect: str, since_merge: Recent | None = None
) -> tuple[str, dict[str, object]]:
    """Return the statement of a search, and its parameters.

    Parameters
    ----------
    search : what is looked for
    dialect : name of one of DIALECTS
    since_merge : what was touched since then, for a list that is read from `study_current`

    Raises
    ------
    BadSearch : a value cannot be one of its attribute, or an attribute cannot be searched by
    KeyError : there is no such dialect
    """
    words, bound = DIALECTS[dialect], Parameters()
    terms = [f"{{i}}.{key} IS NOT NULL" for key in _KEYS[search.level]]
    for column, uids in zip(_KEYS["instance"], (search.study, search.series, search.instance), strict=True):
        if uids:
            terms.append(f"{{i}}.{column} IN ({bound.bind_all(uids)})")
    if search.collection:
        terms.append(f"{{i}}.collection = {bound.bind(search.collection)}")
    matches = [match for match in search.matches if not match.is_universal]
    terms += _of_rows(search.level, matches, words, bound)
    terms += [has_creator(group, creator, words, bound) for group, creator in search.creators]
    where, is_instance = " AND ".join(terms), search.level == "instance"
    tables, rows, made_of = [], _rows_of_groups, "instances_current"
    walked = False
    if since_merge is not None:
        tables = [f"listed AS (\n  {listed(since_merge, list(_columns(search)), bound)})"]
        rows, made_of = _rows_of_list, _COMBINATIONS
    elif words.study_table and is_list(search) and not matches and not search.collection:
        rows, made_of = _rows_of_list, words.study_table
    elif words.walks and search.limit is not None and not is_instance and not _is_selective(search, matches):
        walked = True
        tables = _walk(where, matches, bound.bind(search.offset + search.limit + MAX_COUNTED), bound)
    if is_instance:
        rows, hit = _rows_of_instances, _hit_instances(where, words)
    else:
        hit = _hit_groups(search, where, words, walked, made_of)
    if search.limit is not None:
        hit += f"\n  LIMIT {bound.bind(search.limit + MAX_COUNTED)} OFFSET {bound.bind(search.offset)}"
    tables += [f"hit AS (\n  {hit})", _page(search, _sorted(_GROUP_ORDER[search.level], words), bound)]
    with_ = "WITH RECURSIVE " if walked else "WITH "
    return with_ + ",\n".join(tables) + "\n" + rows(search, dialect, bound), bound.values


def found(search: Search, rows: Iterable[Mapping[str, Any]]) -> Found:
    """Return the answer to a search from the rows that its statement gave, in Python's types."""
    columns, shown, counted = _columns(search), [], 0
    names = [*columns, *(f"more{number}" for number in range(len(search.more)))]
    for row in rows:
        counted = row["counted"]
        if "cells" in row:
            row = dict(zip(names, orjson.loads(row["cells"]), strict=True))
        one = {name: to_python(column, row[name]) for name, column in columns.items()}
        if search.more:
            texts = {attribute: row[f"more{n}"] for n, attribute in enumerate(search.more)}
            one["more"] = {
                attribute.row_keys[-1]: orjson.loads(text) for attribute, text in texts.items() if text
            }
        shown.append(one)
    return Found(shown, max(0, counted - len(shown)))


def _columns(search: Search) -> dict[str, Column]:
    """Return the columns that the rows of the answer have."""
    known, keys = COLUMNS[search.level], _KEYS[search.level]
    if not search.columns:
        return known
    return {name: column for name, column in known.items() if name in search.columns or name in keys}


def _of_rows(level: Level, matches: Sequence[Match], words: Dialect, bound: Parameters) -> list[str]:
    """Return the conditions of the keys, those of the study as a whole too."""
    plain, whole = [], []
    for match in matches:
        of_study = _OF_STUDY.get(match.tag)
        if of_study is None:
            plain.append(match)
            continue
        one = Match((Attribute(of_study, match.path[0].vr, match.path[0].keyword),), match.value)
        if level == "study":
            plain.append(one)
        elif terms := conditions([one], words, bound):
            whole.append(
                "EXISTS (SELECT 1 FROM instances_current AS m WHERE"
                f" m.study_instance_uid = {{i}}.study_instance_uid AND {terms[0].format(i='m')})"
            )
    return [*conditions(plain, words, bound), *whole]


def _is_selective(search: Search, matches: Sequence[Match]) -> bool:
    """Return whether an index finds the few rows that can match."""
    return bool(search.study or search.series or search.instance) or any(
        match.tag in _SELECTIVE and not {"*", "?"} & set(match.value) for match in matches
    )


def _walk(where: str, matches: Sequence[Match], reach: str, bound: Parameters) -> list[str]:
    """Return tables with the studies of rows that match, from the newest on, until there are enough.

    `walk` goes from the first row of a study to that of the next along the index, however many rows there are
    between. A study whose rows disagree about its date comes at each date.
    """
    from_, until = "", ""
    dates = [match.value.strip() for match in matches if match.tag == "00080020"]
    for first, last in (day_range("StudyDate", value) for value in dates):
        from_ += f" AND n.study_date <= {bound.bind(last)}" if last else ""
        until += f" AND n.study_date >= {bound.bind(first)}" if first else ""
    undated = """,
    (SELECT n.rowid FROM instances AS n
     WHERE w.study_date IS NOT NULL AND n.study_date IS NULL AND n.study_instance_uid > ''
     ORDER BY n.study_instance_uid LIMIT 1)"""
    walk = f"""walk(place) AS (
  SELECT (SELECT n.rowid FROM instances AS n WHERE n.study_instance_uid > ''{from_}{until}
    ORDER BY n.study_date DESC, n.study_instance_uid LIMIT 1)
  UNION ALL
  SELECT COALESCE(
    (SELECT n.rowid FROM instances AS n
     WHERE n.study_date IS w.study_date AND n.study_instance_uid > w.study_instance_uid
     ORDER BY n.study_instance_uid LIMIT 1),
    (SELECT n.rowid FROM instances AS n
     WHERE n.study_date < w.study_date{until} AND n.study_instance_uid > ''
     ORDER BY n.study_date DESC, n.study_instance_uid LIMIT 1){"" if from_ or until else undated})
  FROM walk CROSS JOIN instances AS w WHERE w.rowid = walk.place)"""
    seen = f"""seen AS (
  SELECT w.study_instance_uid AS study_key, w.study_date AS date_key
  FROM walk CROSS JOIN instances AS w ON w.rowid = walk.place
  WHERE EXISTS (
    SELECT 1 FROM instances_current AS i
    WHERE i.study_date IS w.study_date AND i.study_instance_uid = w.study_instance_uid
    AND {where.format(i="i")})
  LIMIT {reach})"""
    return [walk, seen]


def _hit_groups(search: Search, where: str, words: Dialect, walked: bool, made_of: str) -> str:
    """Return the studies or series with a row that matches, and what they are ordered by."""
    if walked and search.level == "study":
        rows = "SELECT study_key, MAX(date_key) AS date_key FROM seen GROUP BY study_key"
    else:
        keys = {"study_key": "i.study_instance_uid"}
        orders = {"date_key": "MAX(i.study_date)"}
        if search.level == "series":
            keys["series_key"] = "i.series_instance_uid"
            orders["number_key"] = "MAX(i.series_number)"
        named = ", ".join(f"{column} AS {key}" for key, column in (keys | orders).items())
        among = " AND i.study_instance_uid IN (SELECT study_key FROM seen)" if walked else ""
        rows = f"""SELECT {named}
  FROM {made_of} AS i WHERE {where.format(i="i")}{among} GROUP BY {", ".join(keys.values())}"""
    return f"{rows}\n  ORDER BY {_sorted(_GROUP_ORDER[search.level], words)}"


def _sorted(order: str, words: Dialect) -> str:
    """Return an order in which null comes before all, whatever the database does by itself."""
    if words.nulls_first:
        return order
    terms = order.split(", ")
    return ", ".join(f"{one} NULLS {'LAST' if one.endswith(' DESC') else 'FIRST'}" for one in terms)


def _hit_instances(where: str, words: Dialect) -> str:
    """Return one row for each instance: of copies in several objects that which was made last."""
    if not words.walks:
        return f"""SELECT i.* FROM (
    SELECT i.*, ROW_NUMBER() OVER (
      PARTITION BY i.study_instance_uid, i.series_instance_uid, i.sop_instance_uid
      ORDER BY i.ingested_at DESC, i.row_id) AS copy
    FROM instances_current AS i WHERE {where.format(i="i")}) AS i
  WHERE i.copy = 1 ORDER BY {_sorted(_ORDER, words)}"""
    return f"""SELECT i.row_id AS row_key, {_ORDER.replace(" DESC", "")}
  FROM instances_current AS i WHERE {where.format(i="i")}
  AND NOT EXISTS (
    SELECT 1 FROM instances_current AS k
    WHERE k.sop_instance_uid = i.sop_instance_uid AND k.row_id <> i.row_id
    AND k.study_instance_uid = i.study_instance_uid AND k.series_instance_uid = i.series_instance_uid
    AND (k.ingested_at > i.ingested_at OR (k.ingested_at = i.ingested_at AND k.row_id < i.row_id))
    AND {where.format(i="k")})
  ORDER BY {_ORDER}"""


def _page(search: Search, order: str, bound: Parameters) -> str:
    limit = "" if search.limit is None else f"\n  ORDER BY place LIMIT {bound.bind(search.limit)}"
    return f"""page AS (
  SELECT hit.*, ROW_NUMBER() OVER (ORDER BY {order}) AS place, COUNT(*) OVER () AS counted
  FROM hit{limit})"""


def _rows_of_instances(search: Search, dialect: str, bound: Parameters) -> str:
    words = DIALECTS[dialect]
    columns = [f"i.{words.quote}{name}{words.quote}" for name in _columns(search)]
    for number, attribute in enumerate(search.more):
        documents = [
            words.document.format("i.metadata", bound.bind(path)) for (path,) in json_paths([attribute])
        ]
        columns.append(f"{_first_of(documents)} AS more{number}")
    rows, prefix = (
        ("page AS i", "i.")
        if not words.walks
        else (
            "page AS g CROSS JOIN instances AS i WHERE i.row_id = g.row_key",
            "g.",
        )
    )
    return f"SELECT {', '.join(columns)}, {prefix}counted\nFROM {rows}\nORDER BY {prefix}place"


def _rows_of_groups(search: Search, dialect: str, bound: Parameters) -> str:
    words, keys = DIALECTS[dialect], _KEYS[search.level]
    collected, final = group_columns(_VIEW[search.level], dialect, _columns(search))
    collect, finish = words.first_document
    for number, attribute in enumerate(search.more):
        documents = []
        for place, (path,) in enumerate(json_paths([attribute])):
            name, named = f"document{number}_{place}", bound.bind(path)
            collected.append(f"{collect.format(name, named)} AS {name}")
            documents.append(finish.format(name, named))
        final[f"more{number}"] = _first_of(documents)
    pairs = list(zip(keys, ("study_key", "series_key"), strict=False))
    of_group = " AND ".join(f"i.{column} = g.{key}" for column, key in pairs)
    inner = ",\n    ".join(collected)
    if words.walks:
        # One group after the other along the index; a join with GROUP BY would sort all their rows first.
        return f"""SELECT g.counted, (
  SELECT json_array({", ".join(final.values())}) FROM (
    SELECT {inner}
    FROM instances_current AS i WHERE {of_group}) AS grouped) AS cells
FROM page AS g ORDER BY g.place"""
    outer = ",\n  ".join(f"{made} AS {name}" for name, made in final.items())
    return f"""SELECT {outer}, counted
FROM (
  SELECT {inner}, MAX(g.counted) AS counted, MIN(g.place) AS place
  FROM page AS g CROSS JOIN instances_current AS i
  WHERE {of_group}
  GROUP BY {", ".join(keys)}) AS grouped
ORDER BY place"""


def _rows_of_list(search: Search, dialect: str, bound: Parameters) -> str:
    columns = ", ".join(f"l.{name}" for name in _columns(search))
    return f"""SELECT {columns}, g.counted
FROM page AS g JOIN {DIALECTS[dialect].study_table or "listed"} AS l ON l.study_instance_uid = g.study_key
ORDER BY g.place"""


def _first_of(documents: Sequence[str]) -> str:
    return documents[0] if len(documents) == 1 else f"COALESCE({', '.join(documents)})"
