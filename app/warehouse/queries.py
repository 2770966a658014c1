"""Pure: values in, SQL text and its parameters out, the same for every warehouse."""

from __future__ import annotations

from collections.abc import Sequence

_DESCRIBED = """SELECT object_uri, generation,
  MAX(metageneration) AS metageneration, MAX(revision) AS revision,
  CASE WHEN COUNT(describe_key) = COUNT(*) AND MIN(describe_key) = MAX(describe_key)
    THEN MIN(describe_key) END AS describe_key
FROM instances_current WHERE object_uri IN ({uris}) GROUP BY object_uri, generation"""

_OF_VERSION = """SELECT member, revision, metadata_uri, preview_uri FROM {table}
WHERE object_uri = :object_uri AND generation = :generation"""


def described(uris: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Ask which version of each object has current rows, and by which settings.

    Parameters
    ----------
    uris : at least one, some hundreds in one statement

    Returns
    -------
    Statement and parameters; it answers with a row for each object that has any: its generation, the highest
    metageneration and revision of its rows, and the `describe_key` that all of them have, else null
    """
    parameters = {f"uri{number}": uri for number, uri in enumerate(uris)}
    return _DESCRIBED.format(uris=", ".join(f":{name}" for name in parameters)), parameters


def rows_of_version(object_uri: str, generation: int, current: bool = False) -> tuple[str, dict[str, object]]:
    """Ask which artifacts the rows of one object version name: of all of them, or of those that are current.

    Returns
    -------
    Statement and parameters; it answers with member, revision, metadata_uri and preview_uri of each row
    """
    table = "instances_current" if current else "instances"
    return _OF_VERSION.format(table=table), {"object_uri": object_uri, "generation": generation}
