"""Announce studies for which no instance has arrived for a while: computed from the tables, not from memory.

    rows since the watermark ─▶ the last row of each study, if old enough ─▶ announce ─▶ table `announced`

A study is announced at least once, always under the same id: that of the study and its last row. A later
instance makes another last row, and so another announcement.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import cast

from app.announce import announcements
from app.model.values import Row
from app.services import Services
from app.warehouse.queries import last_settled, settled

FIRST = timedelta(days=1)
"""How far back the first run looks: a lake that begins to announce does not announce its whole past."""
LATE = timedelta(hours=1)
"""A row may appear this long after the time it carries, which is that of the beginning of its delivery."""
AT_ONCE = 500


def announce_settled(services: Services) -> int:
    """Announce the studies that have settled, the earliest first, and return their number.

    Raises AnnounceUnavailable or WarehouseUnavailable; what was announced until then may be announced again.
    """
    settle_s = services.settings.announce.settle_s
    if not (settle_s and services.announcers):
        return 0
    now = services.now()
    (last,) = services.warehouse.query(*last_settled())
    since = _arrived(last) - LATE if last["arrived_at"] else now - FIRST
    asked = settled(announcements.STUDY_COLUMNS, since, now - timedelta(seconds=settle_s))
    studies = services.warehouse.query(*asked)
    for some in _chunks(studies):
        services.announcers.announce([announcements.settled(row, _arrived(row)) for row in some])
        services.warehouse.append(
            "announced",
            [
                {
                    "id": announcements.settled_id(row),
                    "at": now,
                    "arrived_at": _arrived(row),
                }
                for row in some
            ],
        )
    return len(studies)


def _chunks(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    yield from (rows[start : start + AT_ONCE] for start in range(0, len(rows), AT_ONCE))


def _arrived(row: Row) -> datetime:
    return cast(datetime, row["arrived_at"])
