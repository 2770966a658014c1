"""Studies, series and instances as the page lists them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.model.errors import PermanentError
from app.services import Services
from app.warehouse import queries

Found = list[dict[str, Any]]
FIELDS = ("patient_name", "patient_id", "accession", "institution", "modality", "collection", "from", "to")


class BadSearch(PermanentError):
    """A field of the search cannot be read."""

    code = "bad_search"


@dataclass(frozen=True, slots=True)
class Asked:
    """What the search form was sent with; a field that is empty asks for nothing."""

    fields: Mapping[str, str]

    @classmethod
    def of(cls, parameters: Mapping[str, str]) -> Asked:
        """Return the fields of a query string, without spaces around them."""
        return cls({name: parameters.get(name, "").strip()[:200] for name in FIELDS})

    @property
    def given(self) -> bool:
        """Whether anything is asked for."""
        return any(self.fields.values())


def studies(services: Services, asked: Asked, limit: int, offset: int) -> Found:
    """Return the studies that fit, the newest first."""
    sql = "SELECT * FROM studies ORDER BY study_date DESC, study_instance_uid LIMIT :limit OFFSET :offset"
    return services.warehouse.query(sql, {"limit": limit, "offset": offset})


def choices(services: Services) -> dict[str, list[str]]:
    """Return the modalities and collections that there are, for the lists of the form."""
    return {"modalities": [], "collections": []}


def study(services: Services, study: str) -> dict[str, Any] | None:
    """Return a study, None where there is none."""
    found = services.warehouse.query(
        "SELECT * FROM studies WHERE study_instance_uid = :study", {"study": study}
    )
    return found[0] if found else None


def series_of(services: Services, study: str) -> Found:
    """Return the series of a study by number."""
    sql = "SELECT * FROM series WHERE study_instance_uid = :study ORDER BY series_number, series_instance_uid"
    return services.warehouse.query(sql, {"study": study})


def instances_of(services: Services, study: str, series: str, limit: int, offset: int) -> Found:
    """Return instances of a series by number."""
    sql = (
        "SELECT study_instance_uid, series_instance_uid, sop_instance_uid, instance_number, number_of_frames,"
        " preview_uri, preview_error FROM instances_current WHERE study_instance_uid = :study"
        " AND series_instance_uid = :series ORDER BY instance_number, sop_instance_uid LIMIT :limit"
        " OFFSET :offset"
    )
    return services.warehouse.query(sql, {"study": study, "series": series, "limit": limit, "offset": offset})


def instance(services: Services, study: str, series: str, instance: str) -> dict[str, Any] | None:
    """Return an instance, None where there is none."""
    sql = (
        "SELECT * FROM instances_current WHERE study_instance_uid = :study AND series_instance_uid = :series"
        " AND sop_instance_uid = :instance LIMIT 1"
    )
    found = services.warehouse.query(sql, {"study": study, "series": series, "instance": instance})
    if not found:
        return None
    row = found[0]
    if isinstance(row["warnings"], str):
        row["warnings"] = json.loads(row["warnings"])
    return row


def neighbours(services: Services, study: str, series: str, instance: str) -> tuple[str | None, str | None]:
    """Return the instances before and after one in its series."""
    sql = (
        "SELECT sop_instance_uid AS uid FROM instances_current WHERE study_instance_uid = :study"
        " AND series_instance_uid = :series ORDER BY instance_number, sop_instance_uid"
    )
    uids = [str(row["uid"]) for row in services.warehouse.query(sql, {"study": study, "series": series})]
    at = uids.index(instance) if instance in uids else 0
    return (uids[at - 1] if at else None), (uids[at + 1] if at + 1 < len(uids) else None)


def document(services: Services, row: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the DICOM JSON document of an instance, None where it is gone meanwhile."""
    if not row["metadata_uri"]:
        return None
    found: dict[str, Any] = json.loads(services.artifacts.read(str(row["metadata_uri"])))
    return found


def letters(services: Services, limit: int, offset: int) -> Found:
    """Return open dead letters, the newest first."""
    return services.warehouse.query(*queries.letters_page(limit, offset))


def outcome(
    services: Services, name: str, generation: int
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Return the row of a version in the landing storage and its dead letter, None for what there is not."""
    uri = services.source.uri(name, services.source.bucket)
    rows, dead = (services.warehouse.query(*asked) for asked in queries.outcome_of(uri, generation))
    return (rows[0] if rows else None), (dead[0] if dead else None)


def overview(services: Services) -> dict[str, Found]:
    """Return what the lake holds as a whole, by the names of `queries.overview`."""
    asked = queries.overview(services.warehouse.dialect)
    return {name: services.warehouse.query(sql) for name, sql in asked.items()}
