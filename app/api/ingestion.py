"""Requests to fetch a study from Orthanc, sent by Orthanc's own scripts or by somebody who misses one."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from app.api.push import BodyCut, BodyTooLarge
from app.events.strict_json import read_json
from app.model.errors import BadEvent
from app.services import Services

router = APIRouter()

MAX_BODY_BYTES = 65_536
ANSWERS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The body names no study"},
    404: {"description": "Orthanc does not know this study, or no Orthanc is set"},
    503: {"description": "Orthanc does not answer; nothing was requested"},
}


async def small_body(request: Request) -> bytes:
    """Return the body, of whatever type: Orthanc's scripts send JSON as a form unless told otherwise."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise BodyTooLarge(f"the body is over {MAX_BODY_BYTES} bytes")
    except ClientDisconnect:
        raise BodyCut("the body ended too early") from None
    return bytes(body)


@router.post(
    "/api/v1/ingestion/studies", status_code=202, summary="Fetch a study from Orthanc", responses=ANSWERS
)
def fetch_study(request: Request, body: Annotated[bytes, Depends(small_body)]) -> JSONResponse:
    """Fetch every instance of a study: `{"ID": "<Orthanc ID>", "Path": "Study"}`; the answer is early."""
    services: Services = request.app.state.services
    study = study_of(body)
    if services.orthanc is None:
        return JSONResponse({"error": "no Orthanc is set; see orthanc.url", "success": False}, 404)
    if not services.orthanc.request(study):
        return JSONResponse({"error": "study not found", "success": False}, 404)
    return JSONResponse({"ID": study, "success": True}, 202)


def study_of(body: bytes) -> str:
    """Return the Orthanc ID of the study that a body names, by `Path` "Study" or "/studies/<ID>"."""
    named = read_json(body, "body")
    study = named.get("ID") if isinstance(named, dict) else None
    if not isinstance(study, str) or named.get("Path") not in ("Study", f"/studies/{study}"):
        raise BadEvent('body: send {"ID": "<Orthanc ID of a study>", "Path": "Study"}')
    return study
