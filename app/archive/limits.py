"""Limits on the unpacked size of an archive."""

from __future__ import annotations

from app.model.errors import BadArchive
from app.model.options import ArchiveLimits

RATIO_FROM = 32 << 20
"""Bytes; `archive.max_ratio` is not checked below: an empty mask has a legitimate ratio of 1000."""


def check_count(count: int, limits: ArchiveLimits) -> None:
    """Raise BadArchive (`too_many_members`) above the limit."""
    if count > limits.max_members:
        raise BadArchive(
            f"the archive has more than archive.max_members ({limits.max_members})", code="too_many_members"
        )


def check_size(unpacked: int, packed: int, limits: ArchiveLimits) -> None:
    """Raise BadArchive (`archive_too_large`, `compression_ratio`) if the unpacked size is above a limit."""
    if unpacked > limits.max_total_bytes:
        raise BadArchive(
            f"the archive unpacks to more than archive.max_total_bytes ({limits.max_total_bytes})",
            code="archive_too_large",
        )
    if unpacked > max(RATIO_FROM, limits.max_ratio * packed):
        raise BadArchive(
            f"the archive inflates by more than archive.max_ratio ({limits.max_ratio})",
            code="compression_ratio",
        )
