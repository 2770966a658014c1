"""Settings: defaults < file < JSON text < environment < command line, merged leaf by leaf, then validated.

Every default is in `defaults.json`; the models below say what a value may be, and make the JSON Schema
`schema.json` that ships with the package (tools/generate.py writes it).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, get_origin

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from app.config.sources import defaults, layers, merge, validated
from app.model.errors import ConfigError
from app.model.options import (
    ArchiveLimits,
    DatasetLimits,
    DescribeOptions,
    MetadataOptions,
    PreviewOptions,
    window_values,
)
from app.model.values import EventType

# A week at most: of what is much longer, sockets and selectors refuse to wait at all.
Seconds = Annotated[float, Field(gt=0, le=7 * 86_400)]
Prefix = Annotated[
    str, Field(pattern=r"^([A-Za-z0-9_-][A-Za-z0-9_.-]*/)*$", description="ends in /, or empty")
]

WINDOW = "auto, or centre,width in the units of the image, such as 40,400; the width is above 0"
LOADER = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH", "PYTHONHOME")


class Section(BaseModel):
    """A closed set of settings: an unknown key is an error, and nothing changes after start-up."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Source(Section):
    """Where DICOM objects land."""

    url: str = Field(description="landing storage: file:./folder or gs://bucket/prefix")
    buckets: tuple[str, ...] = Field(
        description="further buckets whose events are served, beside that of the url"
    )
    settle_s: Seconds = Field(description="a file in a folder is complete when unchanged for so many seconds")
    max_object_bytes: int = Field(ge=0, description="larger objects are refused; 0 = no limit")
    events: tuple[EventType, ...] = Field(description="event types that are served; others are acked unseen")
    expect: str = Field(
        description="pattern of names that should be DICOM: other files there are ignored,"
        " and so is plain text under a name without an extension"
    )

    write_prefix: Prefix = Field(description="prefix that uploads are put below; ends in /, or empty")

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

    url: str = Field(description="sqlite:./file or bigquery:project.dataset")
    batch_rows: int = Field(ge=1, description="most rows in one commit")
    batch_bytes: int = Field(ge=1, description="most bytes in one commit")


class Bus(Section):
    """How notifications travel."""

    url: str = Field(description="local:./file or pubsub:projects/P/topics/T")
    subscription: str = Field(description="projects/P/subscriptions/S whose pushes are taken; empty = any")
    dead_letter_topic: str = Field(description="projects/P/topics/T for dead letters; not used by local:")


class Metadata(Section):
    """What the row's `metadata` column and the JSON document hold."""

    keys: Literal["keyword", "tag"] = Field(
        description="keys in the row: keyword or tag (8 hex digits); private ones stay gggg,creator,ee"
    )
    include: tuple[str, ...] = Field(description="keywords or tags kept in the row; empty = all")
    private: bool = Field(description="keep private elements")
    bulk_threshold_bytes: int = Field(ge=0, description="longer binary values are left in the object, by URI")
    strict: bool = Field(description="an element that is not valid fails the object instead of a warning")


class Preview(Section):
    """How the PNG is made."""

    enabled: bool = Field(description="make a preview")
    max_side: int = Field(ge=0, description="longest side in pixels; 0 = native size")
    frame: str = Field(
        pattern=r"^(representative|first|[1-9][0-9]*)$",
        description="representative, first, or the number of a frame, from 1",
    )
    window: str = Field(
        pattern=r"^(auto|-?[0-9.]+(e-?[0-9]+)?,[0-9.]+(e-?[0-9]+)?)$",
        description=WINDOW,
    )
    overlays: bool = Field(description="burn in overlay planes")
    icc: bool = Field(description="convert colours to sRGB by the embedded profile")

    @field_validator("window")
    @classmethod
    def _has_width(cls, value: str) -> str:
        if value != "auto" and window_values(value) is None:
            raise ValueError(f"is not of this form: {WINDOW}")
        return value


class Delivery(Section):
    """When a message is given up; the last four are of the embedded queue."""

    permanent_attempts: int = Field(
        ge=0, description="dead-letter a permanent failure at this delivery; 0 = never"
    )
    deadline_s: Seconds = Field(
        description="longest time for one event, below the ack deadline; in `ingest` without waiting"
    )
    min_free_bytes: int = Field(
        ge=0, description="deliveries wait while a disk that is written to has less free; 0 = never"
    )
    max_attempts: int = Field(ge=1, description="deliveries before the queue gives up")
    backoff_min_s: Seconds = Field(description="first pause before a redelivery")
    backoff_max_s: Seconds = Field(description="longest pause before a redelivery")
    ack_deadline_s: Seconds = Field(description="longest wait for an answer to a push")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.deadline_s >= self.ack_deadline_s:
            raise ValueError("deadline_s is not below ack_deadline_s")
        if self.backoff_min_s > self.backoff_max_s:
            raise ValueError("backoff_min_s is above backoff_max_s")
        return self


class Workers(Section):
    """Processes in which untrusted bytes are parsed and decoded."""

    count: int = Field(ge=0, le=1024, description="processes; 0 = one a core")
    memory_bytes: int = Field(ge=64 << 20, lt=1 << 62, description="address space one task may use")
    timeout_s: Seconds = Field(description="longest time for one task")
    max_pixels: int = Field(ge=1, description="most samples (rows x columns x samples) of one frame")
    inflight_bytes: int = Field(
        ge=0,
        description="bytes of objects held at once; past it events wait 30 s, then get 429; 0 = no limit",
    )


class Limits(Section):
    """How much one data set may hold: past one of the first five it fails, past another only its picture.

    Ordinary files are below every minimum. What is nested deeper than 80 could not be written as JSON.
    """

    depth: int = Field(ge=16, le=80, description="most sequences one in the other")
    elements: int = Field(ge=10_000, description="most elements and items")
    fragments: int = Field(ge=10_000, description="most fragments of compressed pixel data")
    inflated_bytes: int = Field(ge=16 << 20, description="most bytes that a deflated data set may inflate to")
    inflated_ratio: int = Field(ge=10, description="most that it may inflate by, past 32 MiB")
    frames: int = Field(ge=10_000, description="most frames of an object of which one is drawn")
    tiles: int = Field(ge=256, description="most tiles of one JPEG 2000 frame that is drawn")
    scans: int = Field(ge=32, description="most scans of one progressive JPEG frame that is drawn")


class Archive(Section):
    """How much of a zip or tar is unpacked; an archive over a limit is refused whole, a member alone."""

    max_members: int = Field(ge=1, description="most files in one archive")
    max_member_bytes: int = Field(ge=1, description="largest file in an archive, held in a worker's memory")
    max_total_bytes: int = Field(ge=1, description="most bytes that one archive may unpack to")
    max_ratio: int = Field(ge=1, description="most that an archive may inflate by, past 32 MiB")


class Api(Section):
    """The HTTP service."""

    host: str = Field(description="address to listen on")
    port: int = Field(ge=0, le=65535, description="port to listen on; 0 = any free one")
    serve: Literal["all", "ingest", "browse"] = Field(description="which routes")
    auth: Literal["none", "platform", "iam", "oidc"] = Field(
        description="who may push: anyone; whom Cloud Run let in; the same by its claims; by a valid token"
    )
    insecure: bool = Field(description="let anyone push beyond 127.0.0.1, where api.auth is none")
    audience: str = Field(description="audience that the token of a push must have")
    service_accounts: tuple[str, ...] = Field(description="accounts that may push, by e-mail address")
    keys_url: str = Field(description="where the keys are that tokens are signed with")
    max_body_bytes: int = Field(ge=1, description="larger bodies are refused with 413")
    users: Literal["none", "token", "oidc", "iap", "platform"] = Field(
        description="who browses: anyone; by our own tokens; by an OpenID Connect issuer; by Google's proxy;"
        " whom the platform let in"
    )
    roles: dict[str, Literal["read-only", "user", "admin"]] = Field(
        description="role of an e-mail address, `group:NAME`, `domain:NAME`, `claim:NAME=VALUE` or `*`"
    )
    users_key: str = Field(description="secret that our own tokens are signed with, at least 32 bytes")
    users_audience: str = Field(description="audience that ID tokens of users must have")
    oidc_issuer: str = Field(description="address of the OpenID Connect issuer")
    oidc_client_id: str = Field(description="client that the page logs in as; empty = no login on the page")
    oidc_client_secret: str = Field(description="its secret; empty for a public client")
    public_url: str = Field(
        pattern=r"^(https?://[^\s?#]+)?$",
        description="address of the service as clients see it; empty = by Host and X-Forwarded-*",
    )
    cors_origins: tuple[str, ...] = Field(description="origins of pages elsewhere that may ask")


class Browse(Section):
    """The page, DICOMweb and uploads."""

    uploads: bool = Field(description="take uploads and STOW-RS, into the landing storage")
    max_upload_bytes: int = Field(ge=1, description="larger uploads are refused with 413")
    ohif_url: str = Field(description="address of an OHIF viewer that studies are opened in; empty = none")


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
    limits: Limits
    archive: Archive
    api: Api
    browse: Browse
    log: Log

    def archive_limits(self) -> ArchiveLimits:
        """Return what the room `archive` needs of these settings."""
        return ArchiveLimits(**self.archive.model_dump())

    def describe_options(self) -> DescribeOptions:
        """Return what `dicom.describe` needs of these settings."""
        metadata = self.metadata
        limits = DatasetLimits(**self.limits.model_dump(), pixels=self.workers.max_pixels)
        return DescribeOptions(
            metadata=MetadataOptions(
                keys=metadata.keys,
                include=metadata.include,
                private=metadata.private,
                bulk_threshold=metadata.bulk_threshold_bytes,
                strict=metadata.strict,
            ),
            preview=PreviewOptions(**self.preview.model_dump(), limits=limits),
        )


SECTIONS: dict[str, Any] = {name: field.annotation for name, field in Settings.model_fields.items()}


Rules = Callable[[Settings], Iterable[str]]
"""What else must hold of settings: a sentence for each fault, which begins with the path of the setting."""


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

    `rules` see a default in place of each wrong value. Raises ConfigError with the path of every fault.
    """
    given = layers(os.environ if environ is None else environ, arguments or {}, _leaf)
    values, origins = merge([("defaults", defaults()), *given])
    settings, wrong = validated(Settings, values, defaults(), origins)
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
    """Return what a further Python process needs of the environment to start, where it needs any."""
    return {name: os.environ[name] for name in LOADER if name in os.environ}


def _leaf(section: str, key: str, text: str) -> object:
    """Read the text of a variable as JSON, unless the setting is a string anyway."""
    model = SECTIONS.get(section)
    field = model.model_fields.get(key) if model is not None else None
    if field is not None and (field.annotation is str or get_origin(field.annotation) is Literal):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
