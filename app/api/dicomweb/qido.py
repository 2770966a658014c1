"""QIDO-RS: searches for studies, series and instances (PS3.18 10.6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from isal import isal_zlib

from app.api.dicomweb.accept import Offer, choose
from app.api.dicomweb.answers import PREFIX, BrowseRoute, base_url
from app.api.dicomweb.bodies import GZIP_BITS, GZIP_LEVEL, GZIP_MIN_BYTES, takes_gzip
from app.api.dicomweb.query import Query, read_query
from app.api.dicomweb.results import LEVELS, Fields, columns_of, fields_of, more_of, url_of
from app.services import Services
from app.warehouse import find
from app.warehouse.search import MAX_COUNTED, Found, Level, Search

MAX_RESULTS, MAX_RESULTS_OF_STUDY = 1000, 10_000
"""Maximum results of one answer, whatever limit is requested: in all of the lake, and below a study."""
OFFERS = (Offer("application/dicom+json"), Offer("application/json"))
ANSWERS: dict[int | str, dict[str, str]] = {
    204: {"description": "Nothing matches, or nothing comes after the offset"},
    400: {"description": "The query names what is no attribute, or a value that cannot be one"},
    406: {"description": "Neither application/dicom+json nor application/json is accepted"},
}

router = APIRouter(prefix=PREFIX, route_class=BrowseRoute)


def search(request: Request, level: Level, parents: Mapping[str, str]) -> Response:
    """Answer a search for studies, series or instances (`level`) below `parents`, UIDs by level."""
    chosen = choose(OFFERS, request.headers.getlist("accept"), request.query_params.getlist("accept"))
    query = read_query(request.query_params.multi_items())
    most = MAX_RESULTS_OF_STUDY if parents else MAX_RESULTS
    wanted = Search(
        level,
        matches=tuple(query.matches),
        creators=tuple((tag[:4], creator) for tag, creator in query.creators.items()),
        columns=columns_of(level, query.include.values(), query.all_fields),
        more=more_of(level, query.include.values()),
        limit=most if query.limit is None else min(query.limit, most),
        offset=query.offset,
        study=_uids(parents, "study"),
        series=_uids(parents, "series"),
    )
    services: Services = request.app.state.services
    found = find(services.warehouse, wanted) if wanted.limit else Found([])
    base = base_url(request)
    warnings = [*_remaining(found), *query.warnings]
    response = Response(status_code=204)
    if found.rows:
        results = _results(services, query, found, wanted, base)
        response = _answer(request, chosen.media_type, orjson.dumps(results))
    for warning in warnings:
        response.headers.append("Warning", f"299 {base}: {warning}")
    return response


def _uids(parents: Mapping[str, str], level: Level) -> tuple[str, ...]:
    return (parents[level],) if level in parents else ()


def _remaining(found: Found) -> list[str]:
    if not found.remaining:
        return []
    about = "at least " if found.remaining >= MAX_COUNTED else ""
    return [f"There are {about}{found.remaining} additional results that can be requested"]


def _results(services: Services, query: Query, found: Found, wanted: Search, base: str) -> list[Fields]:
    """Return the results, each with the attributes of the levels above that its path does not name."""
    level = wanted.level
    above: dict[Level, dict[tuple[str, ...], Fields]] = {}
    for upper in LEVELS[: LEVELS.index(level)]:
        if not getattr(wanted, upper) or any(tag in query.include for tag in _COUNTED[upper]):
            above[upper] = _above(services, query, found, upper)
    creators = {tag: {"vr": "LO", "Value": [creator]} for tag, creator in query.creators.items()}
    results = []
    for row in found.rows:
        fields: Fields = {"00080005": {"vr": "CS", "Value": ["ISO_IR 192"]}}
        for upper, by_uid in above.items():
            fields |= by_uid.get(_key(row, upper), {})
        fields |= fields_of(row, level, query.include, query.all_fields)
        fields["00081190"] = url_of(row, level, base)
        fields |= creators if level == "instance" else {}
        # OHIF requests Modality of studies, and shows no study at all if one has an empty ModalitiesInStudy.
        if level == "study" and "00080060" in query.include and "Value" not in fields["00080061"]:
            del fields["00080061"]
        results.append(dict(sorted(fields.items())))
    return results


_COUNTED: dict[Level, tuple[str, ...]] = {
    "study": ("00080061", "00201206", "00201208"),
    "series": ("00201209",),
    "instance": (),
}


def _above(services: Services, query: Query, found: Found, upper: Level) -> dict[tuple[str, ...], Fields]:
    """Return the attributes of the studies or series that results are in, by their UIDs."""
    studies = tuple(dict.fromkeys(row["study_instance_uid"] for row in found.rows))
    include = query.include.values()
    columns = columns_of(upper, include, query.all_fields)
    wanted = Search(upper, study=studies, columns=columns, more=more_of(upper, include))
    if upper == "series":
        series = tuple(dict.fromkeys(row["series_instance_uid"] for row in found.rows))
        wanted = replace(wanted, series=series)
    rows = find(services.warehouse, wanted).rows
    return {_key(row, upper): fields_of(row, upper, query.include, query.all_fields) for row in rows}


def _key(row: Mapping[str, Any], level: Level) -> tuple[str, ...]:
    return (row["study_instance_uid"], *([row["series_instance_uid"]] if level == "series" else []))


def _answer(request: Request, media_type: str, body: bytes) -> Response:
    headers = {"Vary": "Accept, Accept-Encoding", "Content-Type": media_type}
    if len(body) >= GZIP_MIN_BYTES and takes_gzip(request):
        headers["Content-Encoding"] = "gzip"
        packer = isal_zlib.compressobj(GZIP_LEVEL, isal_zlib.DEFLATED, GZIP_BITS)
        body = packer.compress(body) + packer.flush()
    return Response(body, headers=headers)


def search_studies(request: Request) -> Response:
    """Search all studies."""
    return search(request, "study", {})


def search_series(request: Request) -> Response:
    """Search all series; results carry the attributes of their studies."""
    return search(request, "series", {})


def search_instances(request: Request) -> Response:
    """Search all instances; results carry the attributes of their studies and series."""
    return search(request, "instance", {})


def search_series_of_study(request: Request, study: str) -> Response:
    """Search the series of a study."""
    return search(request, "series", {"study": study})


def search_instances_of_study(request: Request, study: str) -> Response:
    """Search the instances of a study; results carry the attributes of their series."""
    return search(request, "instance", {"study": study})


def search_instances_of_series(request: Request, study: str, series: str) -> Response:
    """Search the instances of a series."""
    return search(request, "instance", {"study": study, "series": series})


def _add(path: str, endpoint: Callable[..., Response], summary: str) -> None:
    add = partial(router.add_api_route, path, endpoint, response_class=Response)
    add(methods=["GET"], summary=summary, responses=ANSWERS)
    add(methods=["HEAD"], include_in_schema=False)


_add("/studies", search_studies, "Search studies")
_add("/series", search_series, "Search series")
_add("/instances", search_instances, "Search instances")
_add("/studies/{study}/series", search_series_of_study, "Search the series of a study")
_add("/studies/{study}/instances", search_instances_of_study, "Search the instances of a study")
_add(
    "/studies/{study}/series/{series}/instances",
    search_instances_of_series,
    "Search the instances of a series",
)
