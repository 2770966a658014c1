"""Pure: a statement whose parameters are written `:name`, as BigQuery wants it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.model.errors import BadQuery
from app.warehouse.tables import type_of

# What a parameter cannot stand in (strings, quoted names, comments), or a parameter. In a raw string, too, a
# quote behind a backslash does not end it.
_TOKEN = re.compile(
    r"""
      \'\'\'(?:\\.|[^\\])*?\'\'\' | \"\"\"(?:\\.|[^\\])*?\"\"\"
    | '(?:\\.|[^\\'])*'           | "(?:\\.|[^\\"])*"           | `(?:\\.|[^\\`])*`
    | --[^\n]*                    | \#[^\n]*                    | /\*.*?\*/
    | :(?P<name>[A-Za-z_]\w*)
    """,
    re.VERBOSE | re.DOTALL | re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One query parameter; `type` in BigQuery's words."""

    name: str
    type: str
    value: Any


def named_parameters(sql: str, values: Mapping[str, object]) -> tuple[str, list[Parameter]]:
    """Return a statement with `@name` for `:name`, and the parameters it uses.

    A null becomes the literal NULL, which compares with every type; a parameter would have to have one.

    Raises
    ------
    BadQuery : the statement is no text, names a parameter that is not given, or a value is of no type
    """
    if type_of(sql) != "STRING":
        raise BadQuery("the statement is not text")
    used: dict[str, Parameter] = {}

    def put(match: re.Match[str]) -> str:
        name = match["name"]
        if name is None:
            return match[0]
        if name not in values:
            raise BadQuery(f"parameter {name} is not given")
        value = values[name]
        if value is None:
            return "NULL"
        used[name] = Parameter(name, _type(name, value), value)
        return f"@{name}"

    return _TOKEN.sub(put, sql), list(used.values())


def _type(name: str, value: object) -> str:
    word = type_of(value)
    if word is None:
        raise BadQuery(f"parameter {name} has a value that no column could hold")
    return word
