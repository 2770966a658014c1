"""`GET /search`: find current instances by common attributes, answered as plain JSON."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Mapping
from datetime import date
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute

from app.api.dicomweb.answers import status_of
from app.api.dicomweb.parameters import BadParameter
from app.api.router import Router
from app.dicom.metadata.dictionary import attribute
from app.model.errors import DicomlakeError
from app.services import Services
from app.warehouse import find
from app.warehouse.matching import Match
from app.warehouse.search import Search

LIMIT, MAX_LIMIT = 100, 1000
PARAMETERS = {
    "patient_name": "any part of the name, whatever its case and accents; with * or ? all of it",
    "patient_id": "the whole ID; * and ? stand for any characters and for one",
    "institution": "any part of the name, whatever its case; with * or ? all of it",
    "modality": "as CT, or several as CT,MR",
    "from": "first study date, as 20240131 or 2024-01-31",
    "to": "last study date",
    "collection": "first folder of the object's name, or the label of an upload",
    "limit": f"how many instances, {LIMIT} by default and {MAX_LIMIT} at most",
    "offset": "how many instances to pass over",
}
SHOWN = (
    *("collection", "object_uri", "member", "generation", "size_bytes", "ingested_at"),
    *("study_instance_uid", "series_instance_uid", "sop_instance_uid", "sop_class_uid"),
    *("transfer_syntax_uid", "patient_id", "patient_name", "patient_birth_date", "patient_sex"),
    *("study_date", "study_time", "accession_number", "study_description", "series_description"),
    *("series_number", "instance_number", "modality", "body_part_examined", "institution_name"),
    *("rows", "columns", "number_of_frames", "metadata_uri", "preview_uri", "preview_error"),
)
"""Columns of `instances` in an answer."""
ANSWERS: dict[int | str, dict[str, str]] = {400: {"description": "A parameter is unknown or has a bad value"}}
_DAY = re.compile(r"(\d{4})(-?)(\d\d)\2(\d\d)", re.ASCII)
_COUNT = re.compile(r"[0-9]{1,9}")


class RestRoute(APIRoute):
    """Turns the errors of a route into answers with `error` and `success`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler with errors turned into answers."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except DicomlakeError as error:
                status = status_of(error)
                if status is None:
                    raise
                headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
                return _json({"error": error.text, "success": False}, status, headers)

        return answer


router = Router(route_class=RestRoute)


@router.get(
    "/search",
    summary="Search instances",
    response_class=Response,
    responses=ANSWERS,
    openapi_extra={
        "parameters": [
            {"name": name, "in": "query", "description": text, "schema": {"type": "string"}}
            for name, text in PARAMETERS.items()
        ]
    },
)
def search(request: Request) -> Response:
    """Return the instances that match all parameters, those of the newest studies first."""
    services: Services = request.app.state.services
    found = find(services.warehouse, search_of(request.query_params)).rows
    instances = [{name: row[name] for name in SHOWN} for row in found]
    return _json({"instances": instances, "count": len(instances), "success": True})


def search_of(parameters: Mapping[str, str]) -> Search:
    """Return the search for the parameters of the query.

    Raises
    ------
    BadParameter : one is unknown, or is no number or date
    """
    if unknown := sorted(set(parameters) - set(PARAMETERS)):
        name = unknown[0] if re.fullmatch(r"\w{1,64}", unknown[0], re.ASCII) else "the query"
        raise BadParameter(f"{name}: is no parameter; there are {', '.join(PARAMETERS)}")
    given = {name: value.strip() for name, value in parameters.items()}
    keys = {
        "PatientName": _part(given.get("patient_name", "")),
        "PatientID": given.get("patient_id", ""),
        "InstitutionName": _part(given.get("institution", "")),
        "Modality": given.get("modality", "").upper(),
        "StudyDate": _days(given.get("from", ""), given.get("to", "")),
    }
    return Search(
        "instance",
        matches=tuple(
            Match((one,), value, ignore_case=name == "InstitutionName")
            for name, value in keys.items()
            if (one := attribute(name))
        ),
        collection=given.get("collection", ""),
        columns=frozenset(SHOWN),
        limit=min(_count("limit", given.get("limit", ""), LIMIT), MAX_LIMIT),
        offset=_count("offset", given.get("offset", ""), 0),
    )


def _part(text: str) -> str:
    """Return a pattern for names that contain this text; wildcards of its own are left as they are."""
    return text if not text or {"*", "?"} & set(text) else f"*{text}*"


def _days(first: str, last: str) -> str:
    days = [_day(name, text) for name, text in (("from", first), ("to", last))]
    return "-".join(days) if any(days) else ""


def _day(name: str, text: str) -> str:
    if not text:
        return ""
    found = _DAY.fullmatch(text)
    try:
        year, _, month, day = found.groups() if found else ("", "", "", "")
        return date(int(year), int(month), int(day)).isoformat().replace("-", "")
    except ValueError:
        raise BadParameter(f"{name}: is no date as 20240131 or 2024-01-31") from None


def _count(name: str, text: str, default: int) -> int:
    if not text:
        return default
    if not _COUNT.fullmatch(text):
        raise BadParameter(f"{name}: is no whole number from 0 to 999,999,999")
    return int(text)


def _json(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    data = orjson.dumps(body, option=orjson.OPT_UTC_Z)
    return Response(data, status, headers, "application/json")
