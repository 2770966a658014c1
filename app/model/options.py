"""Options and limits of describing an object. Each is declared only here."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, replace

BIG_BYTES = 64 * 2**20
"""Objects above this size are read in ranges instead of into memory."""


@dataclass(frozen=True, slots=True)
class MetadataOptions:
    """What the row's `metadata` contains, and what is left as bulk data.

    keys: `keyword` or `tag` (eight hex digits), the keys of public elements in the row. include: keywords or
    tags to keep in the row; empty keeps all. bulk_threshold: bytes; longer binary values become a
    BulkDataURI. strict: an invalid value fails the object instead of producing a warning.
    """

    keys: str = "keyword"
    include: tuple[str, ...] = ()
    private: bool = True
    bulk_threshold: int = 1024
    strict: bool = False


@dataclass(frozen=True, slots=True)
class DatasetLimits:
    """Limits of one data set. Above one of the first five the object fails, above another only its preview.

    depth: nested sequences. elements: total elements and items. fragments: total fragments of encapsulated
    pixel data. inflated_bytes: size of a deflated data set after inflating. inflated_ratio: maximum
    compression ratio, checked above 32 MiB. pixels: rows x columns x samples of one frame. frames: declared
    number of frames. tiles: in one JPEG 2000 frame. scans: in one progressive JPEG frame.
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
"""Increase this when the same bytes and options produce a different document, column or preview."""
DEFAULT_LIMITS = DatasetLimits()
"""Limits used when the caller passes none."""


@dataclass(frozen=True, slots=True)
class PreviewOptions:
    """How a preview is made.

    max_side: longest side in pixels, 0 keeps the native size. frame: `representative`, `first` or a 1-based
    number. window: `auto` or `centre,width` in modality units. overlays: burn in 60xx overlay planes.
    icc: convert to sRGB by the embedded profile. draw_pdf: draw encapsulated PDFs here; otherwise return
    them in `Instance.pdf`.
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
    """Limits on unpacking an archive.

    max_member_bytes, max_total_bytes: size of one member and of all members after unpacking; one member is
    held in memory at a time. max_ratio: maximum compression ratio of the archive, checked above 32 MiB.
    """

    max_members: int = 10_000
    max_member_bytes: int = 512 << 20
    max_total_bytes: int = 8 << 30
    max_ratio: int = 100
