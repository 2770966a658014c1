"""Find the current rows of studies, series and instances that browsing needs."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from app.model.errors import DicomlakeError
from app.warehouse import Warehouse
from app.warehouse.queries import instances_of

FRESH_S = 15.0
"""How long the rows of a series serve requests for single instances: a viewer requests each frame by itself,
and BigQuery would take a second and charge for ten megabytes each time."""
MAX_KEPT = 20_000
"""Maximum rows in memory."""


class NotFound(DicomlakeError):
    """There is no such study, series, instance, frame or value now."""

    code = "not_found"


class Stored(NamedTuple):
    """One current instance: where its object and its artifacts are, and the sort keys of lists.

    A tuple, because a study has thousands of them.
    """

    row_id: str
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    object_uri: str
    member: str | None
    generation: int
    revision: int | None
    size_bytes: int | None
    transfer_syntax_uid: str | None
    modality: str | None
    series_number: int | None
    instance_number: int | None
    number_of_frames: int | None
    rows: int | None
    columns: int | None
    samples_per_pixel: int | None
    bits_allocated: int | None
    warnings: Any
    ingested_at: Any
    metadata_uri: str | None
    preview_uri: str | None
    preview_error: str | None
    dicom_uri: str | None

    @property
    def frames(self) -> int:
        """Its declared number of frames."""
        return max(1, self.number_of_frames or 1)

    @property
    def path(self) -> str:
        """Its path below the root of DICOMweb."""
        series = f"studies/{self.study_instance_uid}/series/{self.series_instance_uid}"
        return f"{series}/instances/{self.sop_instance_uid}"


COLUMNS = Stored._fields


@dataclass
class Instances:
    """Finds rows. Safe to call from several threads."""

    warehouse: Warehouse
    fresh_s: float = FRESH_S
    _kept: OrderedDict[tuple[str, str], tuple[float, dict[str, Stored]]] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def find(self, study: str, series: str | None = None) -> list[Stored]:
        """Return the instances of a study or series, in order of series, then instance number.

        If several objects hold one instance, the newest counts. Raises NotFound if there is none.
        """
        rows = self.warehouse.stream(*instances_of(COLUMNS, study, series))
        found: dict[tuple[str, str], Stored] = {}
        for row in rows:
            one = Stored(**row)  # type: ignore[arg-type]  # the columns are its fields
            key = one.series_instance_uid, one.sop_instance_uid
            if key not in found or _is_newer(one, found[key]):
                found[key] = one
        if not found:
            raise NotFound("there is no such study or series")
        instances = sorted(found.values(), key=_place)
        for uid in {one.series_instance_uid for one in instances}:
            self._keep((study, uid), [one for one in instances if one.series_instance_uid == uid])
        return instances

    def one(self, study: str, series: str, instance: str) -> Stored:
        """Return one instance, from the cached rows of its series if they are fresh; raises NotFound."""
        with self._lock:
            until, kept = self._kept.get((study, series), (0.0, {}))
        if time.monotonic() < until and instance in kept:
            return kept[instance]
        for one in self.find(study, series):
            if one.sop_instance_uid == instance:
                return one
        raise NotFound("there is no such instance")

    def forget(self, study: str, series: str) -> bool:
        """Drop the cached rows of a series; return whether there were any."""
        with self._lock:
            return self._kept.pop((study, series), None) is not None

    def _keep(self, key: tuple[str, str], instances: Sequence[Stored]) -> None:
        until = time.monotonic() + self.fresh_s
        with self._lock:
            self._kept.pop(key, None)
            self._kept[key] = until, {one.sop_instance_uid: one for one in instances}
            while sum(len(kept) for _, kept in self._kept.values()) > MAX_KEPT and len(self._kept) > 1:
                self._kept.popitem(last=False)


def _is_newer(one: Stored, other: Stored) -> bool:
    """Return whether a row was made later than another; at the same time, the lower id counts as newer."""
    if one.ingested_at == other.ingested_at:
        return one.row_id < other.row_id
    return bool(one.ingested_at > other.ingested_at)


def _place(one: Stored) -> tuple[Any, ...]:
    return (
        one.series_number is None,
        one.series_number,
        one.series_instance_uid,
        one.instance_number is None,
        one.instance_number,
        one.sop_instance_uid,
    )
