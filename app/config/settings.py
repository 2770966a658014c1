"""Settings: defaults < file < JSON text < environment < command line, merged leaf by leaf, then validated.

Every default is in `defaults.json`. The models below define valid values; options that other rooms take, too,
are declared in app/model/options.py. tools/generate.py derives from both the JSON Schema `schema.json`, which
ships with the package, and copies the defaults of those options into `defaults.json`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, get_origin

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.dataclasses import dataclass as checked
from pydantic.fields import FieldInfo

from app.config.sources import defaults, layers, merge, validated
from app.model.errors import ConfigError
from app.model.options import (
    SECONDS,
    WINDOW,
    ArchiveLimits,
    DatasetLimits,
    DeliveryOptions,
    DescribeOptions,
    DimseOptions,
    LimitSettings,
    MetadataOptions,
    OrthancOptions,
    PreviewOptions,
    PreviewSettings,
    options_of,
    window_values,
)
from app.model.values import EventType

Seconds = Annotated[float, Field(**SECONDS)]
Prefix = Annotated[
    str, Field(pattern=r"^([A-Za-z0-9_-][A-Za-z0-9_.-]*/)*$", description="ends in /, or empty")
]

LOADER = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH", "PYTHONHOME")


STRICT = ConfigDict(extra="forbid", strict=True)


class Section(BaseModel):
    """A group of settings. Unknown keys are errors; values cannot change after the start."""

    model_config = ConfigDict(**STRICT, frozen=True)


class Source(Section):
    """Where DICOM objects land."""

    url: str = Field(description="landing storage: file:./folder or gs://bucket/prefix")
    buckets: tuple[str, ...] = Field(description="further buckets whose events are processed")
    settle_s: Seconds = Field(
        description="a file in a folder counts as complete after this many seconds without a change"
    )
    max_object_bytes: int = Field(ge=0, description="larger objects are refused; 0 = no limit")
    events: tuple[EventType, ...] = Field(
        description="event types that are processed; others are acknowledged and ignored"
    )
    expect: str = Field(
        description="pattern of names that promise DICOM: a file that is not DICOM fails if its name matches,"
        " else it is ignored; plain text under a name without an extension is always ignored"
    )

    write_prefix: Prefix = Field(
        description="prefix that uploads and received instances are put below; ends in /, or empty"
    )

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

    @field_validator("images", "metadata")
    @classmethod
    def _outside_cache(cls, value: str) -> str:
        if value.startswith("cache/"):
            raise ValueError("lies in cache/, of which everything goes after seven days")
        return value


class Warehouse(Section):
    """Where rows go."""

    url: str = Field(description="sqlite:./file, postgresql://user@host/database or bigquery:project.dataset")
    batch_rows: int = Field(ge=1, description="maximum rows in one commit")
    batch_bytes: int = Field(ge=1, description="maximum bytes in one commit")


class Bus(Section):
    """How notifications travel."""

    url: str = Field(description="local:./file or pubsub:projects/P/topics/T")
    subscription: str | tuple[str, ...] = Field(
        description="projects/P/subscriptions/S whose pushes are accepted; several as a list, or with commas;"
        " empty = any"
    )
    dead_letter_topic: str = Field(description="projects/P/topics/T for dead letters; local: does not use it")

    @field_validator("subscription", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        names = tuple(value) if isinstance(value, list) else value
        if not all(isinstance(name, str) for name in (names if isinstance(names, tuple) else [names])):
            raise ValueError("is neither a name nor a list of names")
        return names

    def subscriptions(self) -> tuple[str, ...]:
        """Return the names in `subscription`."""
        given = self.subscription
        names = given.split(",") if isinstance(given, str) else given
        return tuple(name.strip() for name in names if name.strip())


class Backfill(Section):
    """Where `backfill`, `reprocess` and `reconcile --fix` publish."""

    topic: str = Field(
        description="projects/P/topics/T of their own, so that live events do not queue behind them;"
        " empty = that of bus.url, where local: has a lane for them"
    )


class Announce(Section):
    """Messages to other systems. An event is acknowledged once every target holds its message."""

    urls: tuple[str, ...] = Field(
        description="targets: kafka://host:port/topic, pubsub:projects/P/topics/T, https://host/path,"
        " local:./file"
    )
    dead_letter_urls: tuple[str, ...] = Field(description="targets of dead letters, written like urls")
    kafka: dict[str, str | int | bool] = Field(
        description="options of librdkafka for all kafka: targets, such as those of SASL and TLS"
    )
    headers: dict[str, str] = Field(description="HTTP headers of every request to https: targets")
    settle_s: float = Field(
        ge=0,
        le=7 * 86_400,
        description="a study is announced as settled when none of its instances has arrived for this many"
        " seconds; 0 = never",
    )


class Forward(Section):
    """Where previews are sent. Each is delivered at least once, and refused ones are dead letters."""

    urls: tuple[str, ...] = Field(
        description="receivers: https://host/path, or file:./folder for `<name>.png.txt` in base64"
    )
    format: Literal["json", "multipart"] = Field(
        description="body of requests: JSON with the PNG in base64, or a form with the PNG as a file"
    )
    headers: dict[str, str] = Field(description="HTTP headers of every request")
    bearer_secret: str = Field(description="token that every request bears in Authorization; empty = none")
    timeout_s: Seconds = Field(description="time limit of each step of a request")
    topic: str = Field(
        description="projects/P/topics/T of deliveries, so that they hold up no event; empty = that of"
        " bus.url. local: always keeps them apart"
    )


Days = Annotated[float, Field(ge=0, le=36_500)]


class Retention(Section):
    """How long files are kept. For a folder as source only; buckets have lifecycle rules."""

    archive_url: str = Field(
        description="where received files are copied before they are deleted: file:./folder or"
        " gs://bucket/prefix; empty = nowhere"
    )
    archive_after_days: Days = Field(description="age at which a received file is archived; 0 = never")
    delete_after_days: Days = Field(
        description="age at which a received file is deleted from the landing folder, which is no removal:"
        " its row and artifacts stay; 0 = never"
    )
    outputs_after_days: Days = Field(
        description="age at which de-identified copies and encoded pictures in folders are deleted; 0 = never"
    )


@checked(frozen=True, kw_only=True, config=STRICT)
class Preview(PreviewSettings):
    """How previews are made."""

    @field_validator("window")
    @classmethod
    def _has_width(cls, value: str) -> str:
        if value != "auto" and window_values(value) is None:
            raise ValueError(f"is not of this form: {WINDOW}")
        return value


@checked(frozen=True, kw_only=True, config=STRICT)
class Delivery(DeliveryOptions):
    """When messages are retried and given up. The last four settings apply to the embedded queue."""

    permanent_attempts: int = Field(
        ge=0, description="dead-letter a permanent failure at this delivery; 0 = never"
    )
    deadline_s: Seconds = Field(
        description="time limit of one event, below the ack deadline; in `ingest` it does not include waiting"
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.deadline_s >= self.ack_deadline_s:
            raise ValueError("deadline_s is not below ack_deadline_s")
        if self.backoff_min_s > self.backoff_max_s:
            raise ValueError("backoff_min_s is above backoff_max_s")
        return self


class Workers(Section):
    """Processes in which untrusted bytes are parsed and decoded."""

    count: int = Field(ge=0, le=1024, description="worker processes; 0 = one per core")
    memory_bytes: int = Field(ge=64 << 20, lt=1 << 62, description="address space that one task may use")
    timeout_s: Seconds = Field(description="time limit of one task")
    max_pixels: int = Field(
        ge=1, description="maximum samples (rows x columns x samples per pixel) of one frame"
    )
    inflight_bytes: int = Field(
        ge=0,
        description="maximum bytes of objects in memory; further events wait 30 s, then get 429; 0 = none",
    )


class Api(Section):
    """The HTTP service."""

    host: str = Field(description="address to listen on")
    port: int = Field(ge=0, le=65535, description="port to listen on; 0 = any free port")
    serve: Literal["all", "ingest", "browse"] = Field(description="which routes are served")
    auth: Literal["none", "platform", "iam", "oidc"] = Field(
        description="who may push: anyone (none), callers accepted by Cloud Run (platform), the same with"
        " the claims of their token checked (iam), callers with a valid token (oidc)"
    )
    insecure: bool = Field(
        description="allow api.auth none and api.users none beyond 127.0.0.1: anyone who reaches the port may"
        " push, see everything and change it"
    )
    audience: str = Field(description="required audience of the token of a push")
    service_accounts: tuple[str, ...] = Field(description="e-mail addresses that may push")
    keys_url: str = Field(description="URL of the public keys that verify tokens")
    max_body_bytes: int = Field(ge=1, description="larger request bodies are refused with 413")
    users: Literal["none", "token", "oidc", "iap", "platform"] = Field(
        description="how users are identified: not at all (none), by our own tokens, by an OpenID Connect"
        " issuer, by Google's proxy (iap), by Cloud Run (platform)"
    )
    roles: dict[str, Literal["read-only", "user", "admin"]] = Field(
        description="role of an e-mail address, `group:NAME`, `domain:NAME`, `claim:NAME=VALUE` or `*`"
    )
    users_key: str = Field(description="secret that signs our own tokens, at least 32 bytes")
    users_audience: str = Field(description="required audience of the ID tokens of users")
    oidc_issuer: str = Field(description="address of the OpenID Connect issuer")
    oidc_client_id: str = Field(description="client id of the page; empty = no login on the page")
    oidc_client_secret: str = Field(description="secret of that client; empty for a public client")
    public_url: str = Field(
        pattern=r"^(https?://[^\s?#]+)?$",
        description="address of the service as clients see it; empty = from Host and X-Forwarded-*",
    )
    cors_origins: tuple[str, ...] = Field(description="other origins whose pages may send requests")


class Browse(Section):
    """The page, DICOMweb and uploads."""

    uploads: bool = Field(description="accept uploads and STOW-RS into the landing storage")
    max_upload_bytes: int = Field(ge=1, description="larger uploads are refused with 413")
    ohif_url: str = Field(description="address of an OHIF viewer that opens studies; empty = none")


class Deidentify(Section):
    """De-identification: with a profile, everything that leaves the lake comes from clean copies."""

    profile: str = Field(
        description="off, basic (dates removed), research (dates shifted), internal, or the path of a JSON"
        " file"
    )
    collections: dict[str, str] = Field(
        description="profile of the objects below a first path segment, which keeps its name in rows"
    )
    key: str = Field(
        description="secret that pseudonyms, UIDs and date shifts derive from, at least 32 bytes"
    )
    pixels: bool = Field(
        description="also find and remove text burned into pictures; needs dicomlake[pixels]"
    )
    names: Literal["hash", "keep"] = Field(
        description="what rows and artifacts show instead of names of objects: keyed hashes, or the names"
    )


class Log(Section):
    """Log lines on stderr."""

    level: Literal["debug", "info", "warning", "error"] = Field(description="lowest severity shown")
    format: Literal["json", "text"] = Field(description="json for machines, text for people")


class Traces(Section):
    """Spans of deliveries and their steps for an OpenTelemetry collector."""

    otlp_url: str = Field(
        pattern=r"^(https?://[^\s?#@]+)?$",
        description="where to send them by OTLP over HTTP, such as http://127.0.0.1:4318/v1/traces; empty ="
        " none; needs dicomlake[otel]",
    )
    ratio: float = Field(
        ge=0, le=1, description="share of the deliveries that are sent; a sampled request's always are"
    )


class Settings(Section):
    """All settings of one process."""

    source: Source
    artifacts: Artifacts
    warehouse: Warehouse
    bus: Bus
    backfill: Backfill
    announce: Announce
    forward: Forward
    retention: Retention
    metadata: MetadataOptions
    preview: Preview
    delivery: Delivery
    workers: Workers
    limits: LimitSettings
    archive: ArchiveLimits
    api: Api
    browse: Browse
    orthanc: OrthancOptions
    dimse: DimseOptions
    deidentify: Deidentify
    log: Log
    traces: Traces

    def project(self) -> str:
        """Return the Google Cloud project of the tables, else of the dead letters; empty without either."""
        table = re.match(r"bigquery:([^?]+)\.\w+", self.warehouse.url)
        topic = re.match(r"projects/([^/]+)/", self.bus.dead_letter_topic)
        found = table or topic
        return found[1] if found else ""

    def describe_options(self) -> DescribeOptions:
        """Return the options of `dicom.describe`."""
        limits = options_of(DatasetLimits, self.limits, pixels=self.workers.max_pixels)
        return DescribeOptions(
            metadata=self.metadata,
            preview=options_of(PreviewOptions, self.preview, limits=limits),
        )


def _leaves(section: Any) -> dict[str, FieldInfo]:
    """Return the settings of a section by name, whether a model or a class of options declares them."""
    declared = section if hasattr(section, "__pydantic_fields__") else checked(frozen=True)(section)
    return dict(declared.__pydantic_fields__)


SECTIONS = {name: _leaves(field.annotation) for name, field in Settings.model_fields.items()}
"""Section -> key -> what may be set there."""


Rules = Callable[[Settings], Iterable[str]]
"""Further checks of settings: yields one sentence for each fault, beginning with the setting's path."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings and, for each `section.key`, the layer it came from."""

    settings: Settings
    origins: Mapping[str, str]


def load(
    environ: Mapping[str, str] | None = None,
    arguments: Mapping[str, object] | None = None,
    rules: Rules = lambda _: (),
) -> Loaded:
    """Merge the layers and validate the result; `arguments` maps `section.key` to a value.

    `rules` receive the default in place of each wrong value. Raises ConfigError with the path of every fault.
    """
    given = layers(os.environ if environ is None else environ, arguments or {}, _leaf)
    values, origins = merge([("defaults", defaults()), *given])
    settings, wrong = validated(Settings, values, defaults(), origins, SECTIONS)
    replaced = "|".join(rf"\b{re.escape(path)}\b" for path in wrong if path in {*origins, *SECTIONS}) or "$^"
    further = [*_letters_have_a_place(settings), *rules(settings)]
    faults = [*wrong.values(), *(text for text in further if not re.search(replaced, text))]
    if faults:
        raise ConfigError("; ".join(faults))
    return Loaded(settings, origins)


def _letters_have_a_place(settings: Settings) -> Iterator[str]:
    bus = settings.bus
    if bus.url.startswith("pubsub:") and settings.delivery.permanent_attempts and not bus.dead_letter_topic:
        yield (
            "bus.dead_letter_topic is empty, where delivery.permanent_attempts would send what fails"
            " for good; name a topic, or set delivery.permanent_attempts to 0"
        )


def loader_variables() -> dict[str, str]:
    """Return the environment variables that a new Python process may need to start."""
    return {name: os.environ[name] for name in LOADER if name in os.environ}


def _leaf(section: str, key: str, text: str) -> object:
    """Parse the text of a variable as JSON, unless the setting is a string."""
    field = SECTIONS.get(section, {}).get(key)
    if field is not None and (field.annotation is str or get_origin(field.annotation) is Literal):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
