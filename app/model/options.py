"""Options that rooms take as values. Each is declared only here, with its default.

Settings holds these classes, so a setting has the description, default and bounds given here;
tools/generate.py writes the defaults into `defaults.json`.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, TypeVar

Options = TypeVar("Options")

BIG_BYTES = 64 * 2**20
"""Objects above this size are read in ranges instead of into memory."""
SECONDS: dict[str, Any] = {"gt": 0, "le": 7 * 86_400}
"""Bounds of a time limit: at most a week, because sockets and selectors reject much longer timeouts."""
WINDOW = "auto, or centre,width in the units of the image, such as 40,400; the width is above 0"


def setting(default: object, description: str, *, show: bool = True, **bounds: object) -> Any:
    """Return the field of an option that people set; pydantic takes `bounds` as its `Field` does."""
    return field(default=default, repr=show, metadata={"description": description, **bounds})


def options_of(kind: type[Options], section: object, **more: object) -> Options:
    """Return options with `more` and the values that a section of the settings has for the other fields."""
    names = {one.name for one in fields(kind)} - more.keys()  # type: ignore[arg-type]
    return kind(**{name: getattr(section, name) for name in names if hasattr(section, name)}, **more)


@dataclass(frozen=True, slots=True)
class MetadataOptions:
    """Contents of the column `metadata` and of the JSON document."""

    keys: Literal["keyword", "tag"] = setting(
        "keyword", "keys in the row: keyword or tag (8 hex digits); private elements are gggg,creator,ee"
    )
    include: tuple[str, ...] = setting((), "keywords or tags to keep in the row; empty = all")
    private: bool = setting(True, "keep private elements")
    bulk_threshold_bytes: int = setting(1024, "longer binary values become a URI into the object", ge=0)
    strict: bool = setting(False, "an invalid element fails the object instead of producing a warning")


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """Limits of one data set. Above one of the first five the object fails, above another only its preview.

    Ordinary files are below every minimum. Sequences nested deeper than 80 cannot be written as JSON.
    """

    depth: int = setting(64, "maximum depth of nested sequences", ge=16, le=80)
    elements: int = setting(1_000_000, "maximum elements and items", ge=10_000)
    fragments: int = setting(1_000_000, "maximum fragments of compressed pixel data", ge=10_000)
    inflated_bytes: int = setting(256 << 20, "maximum bytes of an inflated data set", ge=16 << 20)
    inflated_ratio: int = setting(100, "its maximum compression ratio, checked above 32 MiB", ge=10)
    frames: int = setting(1_000_000, "maximum frames of an object with a preview", ge=10_000)
    tiles: int = setting(4096, "maximum tiles of a JPEG 2000 frame that is drawn", ge=256)
    scans: int = setting(256, "maximum scans of a progressive JPEG frame that is drawn", ge=32)


@dataclass(frozen=True, slots=True)
class DatasetLimits(LimitSettings):
    """All limits of one data set.

    pixels: rows x columns x samples of one frame; the setting `workers.max_pixels`.
    """

    pixels: int = 256_000_000


DOCUMENT_VERSION = 2
"""Increase this when the same bytes and options produce a different document, column or preview."""
DEFAULT_LIMITS = DatasetLimits()
"""Limits used when the caller passes none."""


@dataclass(frozen=True, slots=True)
class PreviewSettings:
    """How previews are made."""

    enabled: bool = setting(True, "make a preview")
    max_side: int = setting(1024, "longest side in pixels; 0 = native size", ge=0)
    frame: str = setting(
        "representative",
        "representative, first, or a frame number from 1",
        pattern=r"^(representative|first|[1-9][0-9]*)$",
    )
    window: str = setting("auto", WINDOW, pattern=r"^(auto|-?[0-9.]+(e-?[0-9]+)?,[0-9.]+(e-?[0-9]+)?)$")
    overlays: bool = setting(False, "burn in overlay planes")
    icc: bool = setting(False, "convert colours to sRGB by the embedded profile")


@dataclass(frozen=True, slots=True)
class PreviewOptions(PreviewSettings):
    """How one preview is made.

    draw_pdf: draw encapsulated PDFs here; otherwise return them in `Instance.pdf`.
    """

    draw_pdf: bool = True
    limits: DatasetLimits = DEFAULT_LIMITS


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """How one picture is drawn for a client, besides PreviewOptions.

    frame: 0-based; None is the representative frame, or the whole slide if it is tiled. viewport: maximum
    columns and rows; None keeps the native size. region: first column, first row, columns, rows of the part
    to show; negative columns or rows flip it; a 0 goes to the end. media_type: `image/jpeg`, `image/png`, or
    `image/gif`, which shows all frames unless `frame` is set. quality: of JPEG, 1 to 100.
    """

    media_type: str = "image/jpeg"
    frame: int | None = None
    viewport: tuple[int, int] | None = None
    region: tuple[int, int, int, int] | None = None
    quality: int = 90


def window_values(text: str) -> tuple[float, float] | None:
    """Parse `centre,width`; return None unless both are finite and the width is above 0."""
    center, _, width = text.partition(",")
    try:
        found = float(center), float(width)
    except ValueError:
        return None
    return found if all(map(math.isfinite, found)) and found[1] > 0 else None


ANY_MEMBER = "*"
"""Stands for the member in the address of the clean copies of an archive."""


@dataclass(frozen=True, slots=True)
class CleanOptions:
    """How an object is de-identified before it is described.

    profile: a name, or the JSON text of a profile. secret: what replacements are derived from. check: equal
    for equal secrets and profiles, gives neither away. pixels: also remove burned-in text. keep_names: show
    members of archives under their names instead of keyed hashes.
    """

    profile: str
    secret: bytes = field(repr=False)
    check: str
    pixels: bool = False
    keep_names: bool = False


@dataclass(frozen=True, slots=True)
class DescribeOptions:
    """Everything that the result of `dicom.describe` depends on besides the bytes.

    clean: describe a de-identified copy instead of the object.
    """

    metadata: MetadataOptions = MetadataOptions()
    preview: PreviewOptions = PreviewOptions()
    clean: CleanOptions | None = None

    @property
    def limits(self) -> DatasetLimits:
        """Limits for reading the data set; the preview uses the same."""
        return self.preview.limits

    @property
    def key(self) -> str:
        """A hash of these options and of DOCUMENT_VERSION: equal keys mean equal results."""
        facts = {"metadata": asdict(self.metadata), "preview": asdict(self.preview)}
        # Keyed by its older name: a new one would have every object of every lake described again.
        facts["metadata"]["bulk_threshold"] = facts["metadata"].pop("bulk_threshold_bytes")
        if self.clean is not None:
            facts["clean"] = {"check": self.clean.check, "pixels": self.clean.pixels}
        text = json.dumps({"document": DOCUMENT_VERSION, **facts}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def without_preview(self) -> DescribeOptions:
        """Return the same without a preview."""
        return replace(self, preview=replace(self.preview, enabled=False))

    def leaving_pdf(self) -> DescribeOptions:
        """Return the same options, with PDFs left for another process to draw."""
        return replace(self, preview=replace(self.preview, draw_pdf=False))


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """Limits on unpacking. An archive over a limit is refused as a whole, a member over its limit alone."""

    max_members: int = setting(10_000, "maximum files in one archive", ge=1)
    max_member_bytes: int = setting(
        512 << 20, "maximum size of a file in an archive; a worker holds it in memory", ge=1
    )
    max_total_bytes: int = setting(8 << 30, "maximum bytes of one archive after unpacking", ge=1)
    max_ratio: int = setting(100, "maximum compression ratio, checked above 32 MiB", ge=1)


@dataclass(frozen=True, slots=True)
class DeliveryOptions:
    """How the embedded queue delivers messages."""

    max_attempts: int = setting(20, "deliveries until the queue gives up", ge=1)
    backoff_min_s: float = setting(1, "first pause before a redelivery", **SECONDS)
    backoff_max_s: float = setting(600, "longest pause before a redelivery", **SECONDS)
    ack_deadline_s: float = setting(600, "time limit for an answer to a push", **SECONDS)
    min_free_bytes: int = setting(
        64 << 20,
        "deliveries pause while a disk that is written to has less free space; 0 = never",
        ge=0,
    )


@dataclass(frozen=True, slots=True)
class OrthancOptions:
    """An Orthanc server whose instances are copied into the landing storage."""

    url: str = setting(
        "", "address of its REST API, without user; empty = none", pattern=r"^(https?://[^\s?#@]+)?$"
    )
    user: str = setting("", "user of its REST API; empty = without")
    password: str = setting("", "password of that user", show=False)
    ca_file: str = setting("", "PEM file of the authorities that sign its certificate; empty = system's")
    poll_s: float = setting(5, "seconds between two looks at its changes", **SECONDS)


@dataclass(frozen=True, slots=True)
class DimseOptions:
    """A C-STORE SCP that puts what it receives into the landing storage."""

    host: str = setting("127.0.0.1", "address to listen on")
    port: int = setting(0, "port to listen on; 0 = do not receive", ge=0, le=65535)
    ae_title: str = setting(
        "DICOMLAKE",
        "our AE title, by which senders must call us: 1 to 16 ASCII characters, no backslash",
        pattern=r"^[!-\[\]-~]([ -\[\]-~]{0,14}[!-\[\]-~])?$",
    )
    peers: tuple[str, ...] = setting(
        (),
        "who may send: `AE@ADDRESS`, with * for any AE title or address, and networks such as"
        " 10.0.0.0/24; empty = anyone, on loopback or with client certificates only",
    )
    max_associations: int = setting(10, "maximum associations at a time", ge=1, le=200)
    timeout_s: float = setting(
        60, "an association ends after this silence, or with a PDU this slow", **SECONDS
    )
    certificate_file: str = setting("", "PEM file of our certificate; empty = no TLS")
    key_file: str = setting("", "PEM file of its key; empty = in the same file")
    client_ca_file: str = setting(
        "", "PEM file of the authorities whose clients may connect; empty = none is asked for"
    )
