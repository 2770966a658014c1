"""Studies, series and instances as the page lists them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.browse.instances import Instances
from app.dicom.metadata.dictionary import attribute
from app.services import Services
from app.warehouse import find, queries
from app.warehouse.matching import Match
from app.warehouse.search import Search

Found = list[dict[str, Any]]
FIELDS = ("patient_name", "patient_id", "accession", "institution", "modality", "collection", "from", "to")


@dataclass(frozen=True, slots=True)
class Asked:
    """The fields of the search form; an empty field is no condition."""

    fields: Mapping[str, str]

    @classmethod
    def of(cls, parameters: Mapping[str, str]) -> Asked:
        """Return the fields of a query string, without spaces around them."""
        return cls({name: parameters.get(name, "").strip()[:200] for name in FIELDS})

    @property
    def given(self) -> bool:
        """Whether there is any condition."""
        return any(self.fields.values())


def studies(services: Services, asked: Asked, limit: int, offset: int) -> Found:
    """Return the studies with a matching instance, the newest first.

    Raises BadSearch if a field cannot be a value of its attribute.
    """
    given = asked.fields
    first, last = (given[end].replace("-", "") for end in ("from", "to"))
    keys = {
        "PatientName": _anywhere(given["patient_name"]),
        "PatientID": given["patient_id"],
        "AccessionNumber": given["accession"],
        "InstitutionName": _anywhere(given["institution"]),
        "Modality": given["modality"],
        "StudyDate": f"{first}-{last}" if first or last else "",
    }
    matches = tuple(
        Match((one,), value, ignore_case=name == "InstitutionName")
        for name, value in keys.items()
        if value and (one := attribute(name))
    )
    search = Search(matches=matches, collection=given["collection"], limit=limit, offset=offset)
    return find(services.warehouse, search).rows


def _anywhere(text: str) -> str:
    """Return a pattern that matches a text anywhere in a value, unless it has wildcards of its own."""
    return f"*{text}*" if text and not {"*", "?"} & set(text) else text


def choices(services: Services) -> dict[str, list[str]]:
    """Return the modalities and collections that there are, for the lists of the form."""
    found = {name: services.warehouse.query(sql) for name, sql in queries.choices().items()}
    return {name: [str(row["name"]) for row in rows] for name, rows in found.items()}


def study(services: Services, study: str) -> dict[str, Any] | None:
    """Return a study, None if there is none."""
    rows = find(services.warehouse, Search(study=(study,), limit=1)).rows
    return rows[0] if rows else None


def series_of(services: Services, study: str) -> Found:
    """Return the series of a study by number."""
    return find(services.warehouse, Search("series", study=(study,))).rows


def instances_of(services: Services, study: str, series: str, limit: int, offset: int) -> Found:
    """Return instances of a series by number."""
    columns = frozenset(("instance_number", "number_of_frames", "preview_uri", "preview_error"))
    search = Search("instance", (study,), (series,), columns=columns, limit=limit, offset=offset)
    return find(services.warehouse, search).rows


def instance(services: Services, study: str, series: str, instance: str) -> dict[str, Any] | None:
    """Return an instance, None if there is none."""
    rows = find(services.warehouse, Search("instance", (study,), (series,), (instance,))).rows
    return rows[0] if rows else None


def neighbours(instances: Instances, study: str, series: str, instance: str) -> tuple[str | None, str | None]:
    """Return the instances before and after one in its series."""
    uids = [one.sop_instance_uid for one in instances.find(study, series)]
    at = uids.index(instance) if instance in uids else 0
    return (uids[at - 1] if at else None), (uids[at + 1] if at + 1 < len(uids) else None)


def document(services: Services, row: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the DICOM JSON document of an instance, None if it was removed meanwhile."""
    if not row["metadata_uri"]:
        return None
    found: dict[str, Any] = json.loads(services.artifacts.read(str(row["metadata_uri"])))
    return found


def letters(services: Services, limit: int, offset: int) -> Found:
    """Return open dead letters, the newest first; names of objects as rows show them."""
    found = services.warehouse.query(*queries.letters_page(limit, offset))
    return [{**one, "object": one["object_uri"]} for one in found] if services.cleaning else found


def outcome(
    services: Services, name: str, generation: int
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Return the row of a version in the landing storage and its dead letter, each None if there is none."""
    uri = services.shown_uri(name, services.source.bucket)
    rows, dead = (services.warehouse.query(*asked) for asked in queries.outcome_of(uri, generation))
    return (rows[0] if rows else None), (dead[0] if dead else None)


def overview(services: Services) -> dict[str, Found]:
    """Return what the lake holds as a whole, by the names of `queries.overview`."""
    asked = queries.overview(services.warehouse.dialect)
    return {name: services.warehouse.query(sql) for name, sql in asked.items()}
