"""The layers of settings: a file, JSON text, the environment, the command line; merged leaf by leaf."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from app.model.errors import ConfigError
from app.model.names import plain

PREFIX = "DICOMLAKE__"
Model = TypeVar("Model", bound=BaseModel)
Layer = tuple[str, dict[str, Any]]
"""Name of the layer, and section -> key -> value."""
Read = Callable[[str, str, str], object]
"""Section, key and the text of a variable -> its value."""


def defaults() -> dict[str, Any]:
    """Return the settings that ship with the package."""
    text = resources.files("app.config").joinpath("defaults.json").read_text()
    values: dict[str, Any] = json.loads(text)
    return values


def layers(environ: Mapping[str, str], arguments: Mapping[str, object], read: Read) -> list[Layer]:
    """Return the layers of the environment and the command line, the strongest last; raises ConfigError."""
    found: list[Layer] = []
    if path := environ.get("DICOMLAKE_CONFIG_FILE"):
        try:
            text = Path(path).read_text()
        except (OSError, ValueError) as exc:
            raise ConfigError(
                f"DICOMLAKE_CONFIG_FILE {path}: cannot be read ({type(exc).__name__})"
            ) from None
        found.append(_parse(f"file {path}", text))
    if text := environ.get("DICOMLAKE_CONFIG", ""):
        found.append(_parse("DICOMLAKE_CONFIG", text))
    if "PORT" in environ:  # Cloud Run sets PORT for the container
        found.append(("PORT", {"api": {"port": read("api", "port", environ["PORT"])}}))
    for name in sorted(environ):
        if name.startswith(PREFIX):
            section, _, key = name.removeprefix(PREFIX).lower().partition("__")
            found.append((name, {section: {key: read(section, key, environ[name])}}))
    for path, value in arguments.items():
        section, _, key = path.partition(".")
        leaf = read(section, key, value) if isinstance(value, str) else value
        found.append(("command line", {section: {key: leaf}}))
    return found


def merge(found: Iterable[Layer]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return the values by section and key, and for each `section.key` the layer it came from."""
    values: dict[str, dict[str, Any]] = {}
    origins: dict[str, str] = {}
    for name, layer in found:
        for section, keys in layer.items():
            if not isinstance(keys, dict):
                raise ConfigError(f"{section} (from {name}): is not a section, an object of settings")
            if not _is_unicode(section, keys):
                raise ConfigError(f"{plain(section)} (from {plain(name)}): is not valid Unicode")
            values.setdefault(section, {}).update(keys)
            origins |= {f"{section}.{key}": name for key in keys}
    return values, origins


def _parse(name: str, text: str) -> Layer:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        place = (
            f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        )
        raise ConfigError(f"{name}: is not JSON{place}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{name}: is not a JSON object of sections")
    return name, value


def validated(
    model: type[Model],
    values: dict[str, dict[str, Any]],
    defaults: Mapping[str, dict[str, Any]],
    origins: Mapping[str, str],
    sections: Mapping[str, Mapping[str, FieldInfo]],
) -> tuple[Model, dict[str, str]]:
    """Return the settings with defaults in place of faulty values, and the fault of each, by path."""
    faults: dict[str, str] = {}
    while True:
        try:
            return model.model_validate_json(json.dumps(values)), faults
        except ValidationError as exc:
            for error in exc.errors():
                section, *key = map(str, error["loc"][:2])
                if key or not any(known.startswith(f"{section}.") for known in faults):
                    faults.setdefault(".".join([section, *key]), _fault(error, origins, sections))
                if section not in defaults:
                    values.pop(section, None)
                elif key:
                    values[section].pop(key[0], None)
                    values[section] |= {
                        name: defaults[section][name] for name in key if name in defaults[section]
                    }
                else:
                    values[section] = defaults[section]


def _fault(error: Any, origins: Mapping[str, str], sections: Mapping[str, Mapping[str, FieldInfo]]) -> str:
    """Return one of pydantic's errors as a sentence: the setting, the layer it came from, what is wrong.

    If a value does not match a pattern, quote the description of the setting, which is easier to read.
    """
    path = ".".join(str(part) for part in error["loc"])
    origin = origins.get(".".join(str(part) for part in error["loc"][:2]), "")
    said = error["msg"].removeprefix("Value error, ")
    if error["type"] == "string_pattern_mismatch":
        section, key = error["loc"][:2]
        said = f"is not of this form: {sections[section][key].description}"
    text = {
        "extra_forbidden": "is no setting",
        "unexpected_keyword_argument": "is no setting",
        "missing": "is missing",
    }.get(error["type"], said[0].lower() + said[1:])
    return f"{path}{f' (from {origin})' if origin else ''}: {text}"


def _is_unicode(section: str, keys: dict[str, Any]) -> bool:
    """Return whether a text is valid Unicode, without bytes that were not UTF-8 at its source."""
    try:
        json.dumps([section, keys], ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
