"""Settings: defaults < file < JSON text < environment < command line, merged leaf by leaf, then validated.

Every default is in `defaults.json`. The models below define valid values; tools/generate.py derives from them
the JSON Schema `schema.json`, which ships with the package.
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

# At most a week: sockets and selectors reject much longer timeouts.
Seconds = Annotated[float, Field(gt=0, le=7 * 86_400)]
Prefix = Annotated[
    str, Field(pattern=r"^([A-Za-z0-9_-][A-Za-z0-9_.-]*/)*$", description="ends in /, or empty")
]

WINDOW = "auto, or centre,width in the units of the image, such as 40,400; the width is above 0"
LOADER = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH", "PYTHONHOME")


class Section(BaseModel):
    """A group of settings. Unknown keys are errors; values cannot change after the start."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


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
    subscription: str = Field(
        description="projects/P/subscriptions/S whose pushes are accepted, several with commas; empty = any"
    )
    dead_letter_topic: str = Field(description="projects/P/topics/T for dead letters; local: does not use it")


class Backfill(Section):
    """Where `backfill`, `reprocess` and `reconcile --fix` publish."""

    topic: str = Field(
        description="projects/P/topics/T of their own, so that live events do not queue behind them;"
        " empty = that of bus.url"
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


class Metadata(Section):
    """Contents of the column `metadata` and of the JSON document."""

    keys: Literal["keyword", "tag"] = Field(
        description="keys in the row: keyword or tag (8 hex digits); private elements are gggg,creator,ee"
    )
    include: tuple[str, ...] = Field(description="keywords or tags to keep in the row; empty = all")
    private: bool = Field(description="keep private elements")
    bulk_threshold_bytes: int = Field(ge=0, description="longer binary values become a URI into the object")
    strict: bool = Field(description="an invalid element fails the object instead of producing a warning")


class Preview(Section):
    """How previews are made."""

    enabled: bool = Field(description="make a preview")
    max_side: int = Field(ge=0, description="longest side in pixels; 0 = native size")
    frame: str = Field(
        pattern=r"^(representative|first|[1-9][0-9]*)$",
        description="representative, first, or a frame number from 1",
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
    """When messages are retried and given up. The last four settings apply to the embedded queue."""

    permanent_attempts: int = Field(
        ge=0, description="dead-letter a permanent failure at this delivery; 0 = never"
    )
    deadline_s: Seconds = Field(
        description="time limit of one event, below the ack deadline; in `ingest` it does not include waiting"
    )
    min_free_bytes: int = Field(
        ge=0, description="deliveries pause while a disk that is written to has less free space; 0 = never"
    )
    max_attempts: int = Field(ge=1, description="deliveries until the queue gives up")
    backoff_min_s: Seconds = Field(description="first pause before a redelivery")
    backoff_max_s: Seconds = Field(description="longest pause before a redelivery")
    ack_deadline_s: Seconds = Field(description="time limit for an answer to a push")

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


class Limits(Section):
    """Limits of one data set. Above one of the first five the object fails, above another only its preview.

    Ordinary files are below every minimum. Sequences nested deeper than 80 cannot be written as JSON.
    """

    depth: int = Field(ge=16, le=80, description="maximum depth of nested sequences")
    elements: int = Field(ge=10_000, description="maximum elements and items")
    fragments: int = Field(ge=10_000, description="maximum fragments of compressed pixel data")
    inflated_bytes: int = Field(ge=16 << 20, description="maximum bytes of an inflated data set")
    inflated_ratio: int = Field(ge=10, description="its maximum compression ratio, checked above 32 MiB")
    frames: int = Field(ge=10_000, description="maximum frames of an object with a preview")
    tiles: int = Field(ge=256, description="maximum tiles of a JPEG 2000 frame that is drawn")
    scans: int = Field(ge=32, description="maximum scans of a progressive JPEG frame that is drawn")


class Archive(Section):
    """Limits on unpacking. An archive over a limit is refused as a whole, a member over its limit alone."""

    max_members: int = Field(ge=1, description="maximum files in one archive")
    max_member_bytes: int = Field(
        ge=1, description="maximum size of a file in an archive; a worker holds it in memory"
    )
    max_total_bytes: int = Field(ge=1, description="maximum bytes of one archive after unpacking")
    max_ratio: int = Field(ge=1, description="maximum compression ratio, checked above 32 MiB")


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
        description="allow api.auth none beyond 127.0.0.1: anyone who reaches the port may push"
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


class Orthanc(Section):
    """An Orthanc server whose instances are copied into the landing storage."""

    url: str = Field(
        pattern=r"^(https?://[^\s?#@]+)?$", description="address of its REST API, without user; empty = none"
    )
    user: str = Field(description="user of its REST API; empty = without")
    password: str = Field(description="password of that user")
    ca_file: str = Field(
        description="PEM file of the authorities that sign its certificate; empty = system's"
    )
    poll_s: Seconds = Field(description="seconds between two looks at its changes")


class Dimse(Section):
    """A C-STORE SCP that puts what it receives into the landing storage."""

    host: str = Field(description="address to listen on")
    port: int = Field(ge=0, le=65535, description="port to listen on; 0 = do not receive")
    ae_title: str = Field(
        pattern=r"^[!-\[\]-~]([ -\[\]-~]{0,14}[!-\[\]-~])?$",
        description="our AE title, by which senders must call us: 1 to 16 ASCII characters, no backslash",
    )
    peers: tuple[str, ...] = Field(
        description="who may send: `AE@ADDRESS`, with * for any AE title or address, and networks such as"
        " 10.0.0.0/24; empty = anyone, on loopback or with client certificates only"
    )
    max_associations: int = Field(ge=1, le=200, description="maximum associations at a time")
    timeout_s: Seconds = Field(description="an association ends after this silence, or with a PDU this slow")
    certificate_file: str = Field(description="PEM file of our certificate; empty = no TLS")
    key_file: str = Field(description="PEM file of its key; empty = in the same file")
    client_ca_file: str = Field(
        description="PEM file of the authorities whose clients may connect; empty = none is asked for"
    )


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
    metadata: Metadata
    preview: Preview
    delivery: Delivery
    workers: Workers
    limits: Limits
    archive: Archive
    api: Api
    browse: Browse
    orthanc: Orthanc
    dimse: Dimse
    deidentify: Deidentify
    log: Log

    def project(self) -> str:
        """Return the Google Cloud project of the tables, else of the dead letters; empty without either."""
        table = re.match(r"bigquery:([^?]+)\.\w+", self.warehouse.url)
        topic = re.match(r"projects/([^/]+)/", self.bus.dead_letter_topic)
        found = table or topic
        return found[1] if found else ""

    def archive_limits(self) -> ArchiveLimits:
        """Return the options of `archive`."""
        return ArchiveLimits(**self.archive.model_dump())

    def describe_options(self) -> DescribeOptions:
        """Return the options of `dicom.describe`."""
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
    """Return the environment variables that a new Python process may need to start."""
    return {name: os.environ[name] for name in LOADER if name in os.environ}


def _leaf(section: str, key: str, text: str) -> object:
    """Parse the text of a variable as JSON, unless the setting is a string."""
    model = SECTIONS.get(section)
    field = model.model_fields.get(key) if model is not None else None
    if field is not None and (field.annotation is str or get_origin(field.annotation) is Literal):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
