"""Options and limits that decide what becomes of the same bytes; each is declared here alone."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, replace

BIG_BYTES = 64 * 2**20
"""Above this size an object is read in ranges instead of into memory."""


@dataclass(frozen=True, slots=True)
class MetadataOptions:
    """What goes into the row's `metadata` and what stays bulk data.

    keys: `keyword` or `tag` (eight hex digits), by which the row names public elements. include: keywords or
    tags to keep in the row; empty keeps all. bulk_threshold: bytes; longer binary values become a
    BulkDataURI. strict: a value that is not valid fails the object, not only warns.
    """

    keys: str = "keyword"
    include: tuple[str, ...] = ()
    private: bool = True
    bulk_threshold: int = 1024
    strict: bool = False


@dataclass(frozen=True, slots=True)
class DatasetLimits:
    """How much one data set may hold: past one of the first five it fails, past another only its picture.

    depth: sequences one in the other. elements: elements and items in all. fragments: of encapsulated pixel
    data in all. inflated_bytes: of a deflated data set; past 32 MiB also at most `inflated_ratio` times what
    it is deflated. pixels: rows x columns x samples of one frame. frames: as the data set says. tiles: of one
    JPEG 2000 frame. scans: of one progressive JPEG frame.
    """

    depth: int = 64
    elements: int = 1_000_000
    fragments: int = 1_000_000
    inflated_bytes: int = 256 << 20
    inflated_ratio: int = 100
    pixels: int = 256_000_000
    frames: int = 1_000_000
    tiles: int = 4096
    scans: int = 256


DOCUMENT_VERSION = 2
"""Rises when the same bytes with the same options give another document, other columns or another preview."""
DEFAULT_LIMITS = DatasetLimits()
"""Those of the default settings, for who reads a data set without any."""


@dataclass(frozen=True, slots=True)
class PreviewOptions:
    """How a preview is made.

    max_side: longest side in pixels, 0 keeps the native size. frame: `representative`, `first` or a 1-based
    number. window: `auto` or `centre,width` in modality units. overlays: burn in 60xx overlay planes.
    icc: convert to sRGB by the embedded profile. draw_pdf: draw encapsulated documents here; else they are
    left as `Instance.pdf`.
    """

    enabled: bool = True
    max_side: int = 1024
    frame: str = "representative"
    window: str = "auto"
    overlays: bool = False
    icc: bool = False
    draw_pdf: bool = True
    limits: DatasetLimits = DEFAULT_LIMITS


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """How one picture is drawn for a client, besides PreviewOptions.

    frame: 0-based; None is the representative one, of a tiled slide the slide. viewport: most columns and
    rows; None keeps the native size. region: first column, first row, columns, rows of the part to be shown;
    negative columns or rows flip it; a 0 goes to the end. media_type: `image/jpeg`, `image/png`, or
    `image/gif`, which shows all frames where none is named. quality: of JPEG, 1 to 100.
    """

    media_type: str = "image/jpeg"
    frame: int | None = None
    viewport: tuple[int, int] | None = None
    region: tuple[int, int, int, int] | None = None
    quality: int = 90


def window_values(text: str) -> tuple[float, float] | None:
    """Return centre and width of `centre,width`, None unless both are finite and the width is above 0."""
    center, _, width = text.partition(",")
    try:
        found = float(center), float(width)
    except ValueError:
        return None
    return found if all(map(math.isfinite, found)) and found[1] > 0 else None


@dataclass(frozen=True, slots=True)
class DescribeOptions:
    """All that `dicom.describe` may depend on besides the bytes."""

    metadata: MetadataOptions = MetadataOptions()
    preview: PreviewOptions = PreviewOptions()

    @property
    def limits(self) -> DatasetLimits:
        """The limits of reading, which are those of drawing."""
        return self.preview.limits

    @property
    def key(self) -> str:
        """A hash of these options and of DOCUMENT_VERSION; under an equal key nothing comes out otherwise."""
        text = json.dumps({"document": DOCUMENT_VERSION, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def without_preview(self) -> DescribeOptions:
        """Return the same without a preview."""
        return replace(self, preview=replace(self.preview, enabled=False))

    def leaving_pdf(self) -> DescribeOptions:
        """Return the same with the drawing of documents left to another process."""
        return replace(self, preview=replace(self.preview, draw_pdf=False))


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """How much of an archive is unpacked at most.

    max_member_bytes, max_total_bytes: of one member, of all, once unpacked; a member is held in memory.
    max_ratio: all members unpacked against the archive, where they are more than 32 MiB.
    """

    max_members: int = 10_000
    max_member_bytes: int = 512 << 20
    max_total_bytes: int = 8 << 30
    max_ratio: int = 100
