"""Parse untrusted JSON strictly: bounded before parsing, unambiguous, and checked by a JSON Schema.

Pure. A refusal is a BadEvent with one sentence: the JSON path and what is wrong there, never the value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any, cast

from jsonschema import Draft202012Validator, ValidationError

from app.model.errors import BadEvent

MAX_DEPTH = 64
MAX_MEMBERS = 10_000

# Possessive, and an unclosed string matches to the end: one linear pass over any text.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.?)*+"?', re.DOTALL)
_AS_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKET = bytes(set(range(256)) - set(b"[]{}"))
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_PLAIN_STEP = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_FAULTS = {
    "maxLength": "is too long",
    "minLength": "is empty",
    "maxProperties": "has too many members",
    "pattern": "is not of the right form",
    "const": "is not a supported version",
    "not": "has both data and data_base64",
}


def read_json(text: bytes, path: str) -> Any:
    """Parse UTF-8 JSON that every reader understands alike.

    Parameters
    ----------
    text : bytes, of any length
    path : where the text stands, for the error

    Returns
    -------
    the value: None, bool, int, float, str, list or dict

    Raises
    ------
    BadEvent : not JSON, not UTF-8, a byte order mark, NaN or Infinity, a lone surrogate, a member named
        twice, an integer over 4300 digits, over 64 levels or about 10,000 members

    References
    ----------
    RFC 8259; RFC 7493 (I-JSON) 2.1, 2.3
    """
    _check_shape(text, path)
    try:
        value = _decoder().decode(text.decode())
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeError:
        raise BadEvent(f"{path}: is not valid Unicode") from None
    except KeyError:
        raise BadEvent(f"{path}: names a member twice") from None
    except ValueError:
        raise BadEvent(f"{path}: is not JSON") from None
    return value


def peek_json(text: bytes) -> Any:
    """Parse JSON that need not be strict, within the same bounds; None when that cannot be done.

    Parameters
    ----------
    text : bytes, of any length
    """
    try:
        _check_shape(text, "")
        return json.loads(text)
    except (BadEvent, ValueError):
        return None


def check(value: object, schema: str, root: str) -> None:
    """Validate a value against a schema; each schema is compiled once.

    Parameters
    ----------
    value : parsed JSON
    schema : name of a file in `app/events/schemas`
    root : the path of `value`, "" for a whole body

    Raises
    ------
    BadEvent : with the path of the first fault

    References
    ----------
    JSON Schema 2020-12
    """
    error = next(_validator(schema).iter_errors(value), None)
    if error is not None:
        raise BadEvent(_sentence(error, root))


def join_path(root: str, *steps: str) -> str:
    """Join a JSON path. A step that is not a plain name becomes `*`, so that it cannot forge a log line."""
    named = [step if _PLAIN_STEP.fullmatch(step) else "*" for step in steps]
    return ".".join([root, *named] if root else named) or "body"


def _check_shape(text: bytes, path: str) -> None:
    """Limit depth and width before parsing, because the parser recurses and allocates."""
    crowded = text.count(b'"') > 4 * MAX_MEMBERS
    outside_strings = b"" if crowded else _STRING.sub(b"", text)
    brackets = outside_strings.translate(_AS_SQUARE, _NO_BRACKET)
    if crowded or outside_strings.count(b",") > MAX_MEMBERS or len(brackets) > 2 * MAX_MEMBERS:
        raise BadEvent(f"{path}: has too many members or levels")
    for _ in range(MAX_DEPTH):
        if b"[]" not in brackets:
            break
        brackets = brackets.replace(b"[]", b"")  # remove the innermost level
    if brackets:
        raise BadEvent(f"{path}: is nested too deep or not closed")


@cache
def _decoder() -> json.JSONDecoder:
    return json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise KeyError
    return members


def _no_constant(_: str) -> None:
    raise ValueError


@cache
def _validator(schema: str) -> Draft202012Validator:
    text = files("app.events").joinpath("schemas", schema).read_text("utf-8")
    return Draft202012Validator(json.loads(text))


def _sentence(error: ValidationError, root: str) -> str:
    steps = [str(step) for step in error.absolute_path]
    if error.validator == "required":
        names = cast(Sequence[str], error.validator_value)
        absent = next(name for name in names if name not in cast(dict[str, Any], error.instance))
        return f"{join_path(root, *steps, absent)}: is missing"
    if error.validator == "type":
        return f"{join_path(root, *steps)}: is not of type {error.validator_value}"
    return f"{join_path(root, *steps)}: {_FAULTS[str(error.validator)]}"
