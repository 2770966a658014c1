"""Settings: defaults < file < JSON text < environment < command line, merged leaf by leaf, then validated.

Every default is in `config.defaults.json`; the models below say what a value may be, and make the JSON Schema
`config.schema.json` that ships with the package (app/generate.py writes it).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from app.errors import ConfigError
from app.types import DescribeOptions, EventType, MetadataOptions, PreviewOptions

PREFIX = "DICOMLAKE__"
Seconds = Annotated[float, Field(gt=0)]
Prefix = Annotated[
    str, Field(pattern=r"^([A-Za-z0-9_-][A-Za-z0-9_.-]*/)*$", description="ends in /, or empty")
]


class Section(BaseModel):
    """A closed set of settings: an unknown key is an error, and nothing changes after start-up."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Source(Section):
    """Where DICOM objects land."""

    url: str = Field(description="landing storage: file:./folder or gs://bucket/prefix")
    buckets: tuple[str, ...] = Field(
        description="further buckets whose events are served, beside that of the url"
    )
    max_object_bytes: int = Field(ge=0, description="larger objects are refused; 0 = no limit")
    events: tuple[EventType, ...] = Field(description="event types that are served; others are acked unseen")
    expect: str = Field(description="pattern of names that should be DICOM: other files there are ignored")

    @field_validator("expect")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as exc:
            raise ValueError(f"is not a regular expression: {exc.msg}") from None
        return value


class Artifacts(Section):
    """Where previews and DICOM JSON documents go."""

    url: str = Field(description="storage of artifacts: file:./folder or gs://bucket/prefix")
    images: Prefix = Field(description="prefix of PNG previews; ends in /, or empty")
    metadata: Prefix = Field(description="prefix of DICOM JSON documents; ends in /, or empty")


class Warehouse(Section):
    """Where rows go."""

    url: str = Field(description="sqlite:./file or bigquery:project.dataset")
    batch_rows: int = Field(ge=1, description="most rows in one commit")
    batch_bytes: int = Field(ge=1, description="most bytes in one commit")


class Bus(Section):
    """How notifications travel."""

    url: str = Field(description="local:./file or pubsub:projects/P/topics/T")
    dead_letter_topic: str = Field(description="projects/P/topics/T for dead letters; not used by local:")


class Metadata(Section):
    """What the row's `metadata` column and the JSON document hold."""

    keywords: tuple[str, ...] = Field(description="keywords or tags kept in the row; empty = all")
    private: bool = Field(description="keep private elements")
    bulk_threshold_bytes: int = Field(ge=0, description="longer binary values are left in the object, by URI")
    strict: bool = Field(description="an element that is not valid fails the object instead of a warning")


class Preview(Section):
    """How the PNG is made."""

    enabled: bool = Field(description="make a preview")
    max_side: int = Field(ge=0, description="longest side in pixels; 0 = native size")
    frame: str = Field(pattern=r"^(representative|first|[1-9][0-9]*)$", description="which frame, from 1")
    window: str = Field(
        pattern=r"^(auto|-?[0-9.]+(e-?[0-9]+)?,[0-9.]+(e-?[0-9]+)?)$",
        description="auto, or centre,width in the units of the image",
    )
    overlays: bool = Field(description="burn in overlay planes")
    icc: bool = Field(description="convert colours to sRGB by the embedded profile")


class Delivery(Section):
    """When a message is given up; the last four are of the embedded queue."""

    permanent_attempts: int = Field(
        ge=0, description="dead-letter a permanent failure at this delivery; 0 = never"
    )
    deadline_s: Seconds = Field(description="longest time for one event, below the ack deadline")
    max_attempts: int = Field(ge=1, description="deliveries before the queue gives up")
    backoff_min_s: Seconds = Field(description="first pause before a redelivery")
    backoff_max_s: Seconds = Field(description="longest pause before a redelivery")
    ack_deadline_s: Seconds = Field(description="longest wait for an answer to a push")


class Workers(Section):
    """Processes in which untrusted bytes are parsed and decoded."""

    count: int = Field(ge=0, description="processes; 0 = one a core")
    memory_bytes: int = Field(ge=1, description="address space one task may use")
    timeout_s: Seconds = Field(description="longest time for one task")
    max_pixels: int = Field(ge=1, description="most samples (rows x columns x samples) of one frame")


class Api(Section):
    """The HTTP service."""

    host: str = Field(description="address to listen on")
    port: int = Field(ge=0, le=65535, description="port to listen on; 0 = any free one")
    serve: Literal["all", "ingest", "browse"] = Field(description="which routes")
    auth: Literal["none"] = Field(description="who may push")
    max_body_bytes: int = Field(ge=1, description="larger bodies are refused with 413")


class Log(Section):
    """Lines on stderr."""

    level: Literal["debug", "info", "warning", "error"] = Field(description="least severity shown")
    format: Literal["json", "text"] = Field(description="for machines or for people")


class Settings(Section):
    """All settings of one process."""

    source: Source
    artifacts: Artifacts
    warehouse: Warehouse
    bus: Bus
    metadata: Metadata
    preview: Preview
    delivery: Delivery
    workers: Workers
    api: Api
    log: Log

    def describe_options(self) -> DescribeOptions:
        """Return what `dicom.describe` needs of these settings."""
        metadata, preview = self.metadata, self.preview
        return DescribeOptions(
            metadata=MetadataOptions(
                keywords=metadata.keywords,
                private=metadata.private,
                bulk_threshold=metadata.bulk_threshold_bytes,
                strict=metadata.strict,
            ),
            preview=PreviewOptions(**preview.model_dump(), max_pixels=self.workers.max_pixels),
        )


SECTIONS: dict[str, Any] = {name: field.annotation for name, field in Settings.model_fields.items()}


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings and, for each `section.key`, the layer it came from."""

    settings: Settings
    origins: Mapping[str, str]


def load(environ: Mapping[str, str] | None = None, arguments: Mapping[str, object] | None = None) -> Loaded:
    """Merge the layers and validate the result; `arguments` maps `section.key` to a value.

    Raises ConfigError with the path of every fault.
    """
    values: dict[str, dict[str, Any]] = {}
    origins: dict[str, str] = {}
    for name, layer in _layers(os.environ if environ is None else environ, arguments or {}):
        for path, value in _leaves(layer, name):
            section, key = path.split(".", 1)
            values.setdefault(section, {})[key] = value
            origins[path] = name
    try:
        settings = Settings.model_validate_json(json.dumps(values))
    except ValidationError as exc:
        raise ConfigError("; ".join(_fault(error, origins) for error in exc.errors())) from None
    return Loaded(settings, origins)


def defaults() -> dict[str, Any]:
    """Return the settings that ship with the package."""
    text = resources.files("app").joinpath("config.defaults.json").read_text()
    values: dict[str, Any] = json.loads(text)
    return values


def _layers(environ: Mapping[str, str], arguments: Mapping[str, object]) -> list[tuple[str, dict[str, Any]]]:
    layers = [("defaults", defaults())]
    if path := environ.get("DICOMLAKE_CONFIG_FILE"):
        try:
            text = Path(path).read_text()
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(
                f"DICOMLAKE_CONFIG_FILE {path}: cannot be read ({type(exc).__name__})"
            ) from None
        layers.append((f"file {path}", _parse(f"file {path}", text)))
    if text := environ.get("DICOMLAKE_CONFIG", ""):
        layers.append(("DICOMLAKE_CONFIG", _parse("DICOMLAKE_CONFIG", text)))
    if "PORT" in environ:  # Cloud Run tells the container where to listen
        layers.append(("PORT", {"api": {"port": _leaf("api", "port", environ["PORT"])}}))
    for name in sorted(environ):
        if name.startswith(PREFIX):
            section, _, key = name.removeprefix(PREFIX).lower().partition("__")
            layers.append((name, {section: {key: _leaf(section, key, environ[name])}}))
    for path, value in arguments.items():
        section, _, key = path.partition(".")
        leaf = _leaf(section, key, value) if isinstance(value, str) else value
        layers.append(("command line", {section: {key: leaf}}))
    return layers


def _parse(layer: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        raise ConfigError(f"{layer}: is not JSON") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{layer}: is not a JSON object of sections")
    return value


def _leaves(layer: Mapping[str, Any], name: str) -> list[tuple[str, Any]]:
    leaves = []
    for section, keys in layer.items():
        if not isinstance(keys, dict):
            raise ConfigError(f"{section} (from {name}): is not a section, an object of settings")
        leaves += [(f"{section}.{key}", value) for key, value in keys.items()]
    return leaves


def _leaf(section: str, key: str, text: str) -> object:
    """Read the text of a variable as JSON, unless the setting is a string anyway."""
    model = SECTIONS.get(section)
    field = model.model_fields.get(key) if model is not None else None
    if field is not None and (field.annotation is str or get_origin(field.annotation) is Literal):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _fault(error: Any, origins: Mapping[str, str]) -> str:
    path = ".".join(str(part) for part in error["loc"])
    origin = origins.get(".".join(str(part) for part in error["loc"][:2]), "")
    said = error["msg"].removeprefix("Value error, ")
    text = {"extra_forbidden": "is no setting", "missing": "is missing"}.get(
        error["type"], said[0].lower() + said[1:]
    )
    return f"{path}{f' (from {origin})' if origin else ''}: {text}"
