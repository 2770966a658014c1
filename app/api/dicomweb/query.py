"""Pure: turn the query string of a search in QIDO-RS (PS3.18 8.3.4) into what to match and what to return."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from app.api.dicomweb.parameters import BadParameter
from app.dicom.metadata.dictionary import attribute
from app.model.values import Attribute
from app.warehouse.matching import Match

COMPUTED = ("00080005", "00080056", "00081190", "00201206", "00201208", "00201209")
"""Attributes of answers that no instance has: nothing matches them."""
UNSUPPORTED = {
    "fuzzymatching": "The fuzzymatching parameter is not supported."
    " Only literal matching has been performed.",
    "emptyvaluematching": "The emptyvaluematching parameter is not supported. Empty values match everything.",
    "multiplevaluematching": "The multiplevaluematching parameter is not supported."
    " Only codes, numbers and UIDs have been matched with several values.",
}
UNKNOWN_FIELD = "An attribute of includefield is not known here. It has been left out."
MAX_KEYS = 100
_COUNT = re.compile(r"[0-9]{1,9}")
_CREATOR = re.compile(r"([0-9A-Fa-f]{3}[13579BDFbdf])00([1-9A-Fa-f][0-9A-Fa-f])")
_PRIVATE = re.compile(r"([0-9A-Fa-f]{3}[13579BDFbdf])([1-9A-Fa-f][0-9A-Fa-f])([0-9A-Fa-f]{2})")
_NAME = re.compile(r"[A-Za-z0-9.]{1,100}")


@dataclass(slots=True)
class Query:
    """The query of a client.

    include: attributes to return, by the tag that the client uses; a private one by the client's own block.
    creators: tag of a private creator -> its value.
    all_fields: return everything that costs nothing. warnings: requests that were not fulfilled.
    """

    matches: list[Match] = field(default_factory=list)
    include: dict[str, Attribute] = field(default_factory=dict)
    creators: dict[str, str] = field(default_factory=dict)
    all_fields: bool = False
    limit: int | None = None
    offset: int = 0
    warnings: list[str] = field(default_factory=list)


def read_query(parameters: Iterable[tuple[str, str]]) -> Query:
    """Return the query of a query string.

    Parameters
    ----------
    parameters : name and value of each, percent-decoded, in any order; a name may come several times

    Raises
    ------
    BadParameter : a name is neither a parameter nor an attribute, or a parameter has no such value
    """
    query, keys, fields = Query(), [], list[str]()
    for name, value in parameters:
        if name == "includefield":
            fields += [one for one in value.split(",") if one.strip()]
        elif name in ("limit", "offset"):
            if not _COUNT.fullmatch(value):
                raise BadParameter(f"{name}: is no whole number from 0 to 999,999,999")
            if name == "limit":
                query.limit = int(value)
            else:
                query.offset = int(value)
        elif name in UNSUPPORTED:
            if value.lower() not in ("true", "false"):
                raise BadParameter(f"{name}: is neither true nor false")
            if value.lower() == "true":
                query.warnings.append(UNSUPPORTED[name])
        elif found := _CREATOR.fullmatch(name):
            query.creators[f"{found[1]}00{found[2]}".upper()] = value.strip()
        elif name != "accept":
            keys.append((name, value))
    if len(keys) + len(fields) > MAX_KEYS:
        raise BadParameter(f"the query names more than {MAX_KEYS} attributes")
    for name, value in keys:
        path = _path(name, query.creators)
        if not path:
            shown = name if _NAME.fullmatch(name) else "a name in the query"
            raise BadParameter(f"{shown}: is neither an attribute by keyword or tag nor a parameter")
        if path[0].tag in COMPUTED:
            raise BadParameter(f"{name}: cannot be searched by")
        query.matches.append(Match(path, value))
        query.include[_called(name, path[0])] = path[0]
    for name in map(str.strip, fields):
        query.all_fields = query.all_fields or name == "all"
        if path := _path(name, query.creators):
            query.include[_called(name, path[0])] = path[0]
        elif name != "all" and UNKNOWN_FIELD not in query.warnings:
            query.warnings.append(UNKNOWN_FIELD)
    return query


def _called(name: str, first: Attribute) -> str:
    """Return the tag that the client uses for the first attribute of a path."""
    return name.partition(".")[0].upper() if first.creator else first.tag


def _path(name: str, creators: dict[str, str]) -> tuple[Attribute, ...]:
    """Return the attributes of a path into sequences, none if one of them is unknown."""
    found = []
    for step in name.split("."):
        private = _PRIVATE.fullmatch(step)
        if private:
            creator = creators.get(f"{private[1]}00{private[2]}".upper(), "")
            step = f"{private[1]},{creator},{private[3]}"
        one = attribute(step)
        if one is None:
            return ()
        found.append(one)
    return tuple(found)
