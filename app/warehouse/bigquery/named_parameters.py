"""Convert a statement with parameters written `:name` to BigQuery's `@name`. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.model.errors import BadQuery
from app.warehouse.tables import type_of

# Either text in which `:name` is not a parameter (strings, quoted names, comments), or a parameter. A quote
# after a backslash does not end a string, not even a raw one.
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
    """One query parameter; `type` is a type of BigQuery."""

    name: str
    type: str
    value: Any


def named_parameters(sql: str, values: Mapping[str, object]) -> tuple[str, list[Parameter]]:
    """Return a statement with `@name` for `:name`, and the parameters it uses.

    A null becomes the literal NULL, because a parameter would need a type.

    Raises
    ------
    BadQuery : the statement is not text, a parameter is not given, or a value has no type of BigQuery
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
