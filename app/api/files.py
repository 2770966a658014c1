"""Labels and files of the landing storage over REST, and uploads into it.

Every answer has `success`; a fault is one sentence in `error`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from app.api.auth import Forbidden
from app.api.push import BodyCut, BodyTooLarge, UnsupportedBody
from app.browse.uploads import WORDS, Fate, land
from app.model.errors import BadEvent
from app.services import Services

router = APIRouter()

MAX_FILES = 10_000
"""Files of one request."""


class UploadsOff(Forbidden):
    """Uploads are switched off."""

    code = "uploads_off"


def check_uploads(request: Request) -> None:
    """Refuse an upload where they are switched off, before its body is read."""
    services: Services = request.app.state.services
    if not services.settings.browse.uploads:
        raise UploadsOff("uploads are switched off; see browse.uploads")


async def limited(request: Request) -> AsyncGenerator[bytes, None]:
    """Yield the body of an upload; raises BodyTooLarge past `browse.max_upload_bytes`."""
    most: int = request.app.state.services.settings.browse.max_upload_bytes
    too_large = BodyTooLarge(f"the body is over {most} bytes; see browse.max_upload_bytes")
    announced = request.headers.get("content-length", "0")
    if not announced.isdecimal() or int(announced) > most:
        raise too_large
    seen = 0
    try:
        async for chunk in request.stream():
            seen += len(chunk)
            if seen > most:
                raise too_large
            yield chunk
    except ClientDisconnect:
        raise BodyCut("the body ended too early") from None


async def read_form(request: Request) -> AsyncGenerator[FormData, None]:
    """Yield the form of a request; its files are on disk as soon as they are larger than 1 MiB."""
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "multipart/form-data":
        raise UnsupportedBody("content-type: send multipart/form-data with `files`")
    try:
        form = await MultiPartParser(request.headers, limited(request), max_files=MAX_FILES).parse()
    except (MultiPartException, KeyError) as error:
        raise BadEvent(f"the form cannot be read ({type(error).__name__})") from None
    try:
        yield form
    finally:
        await form.close()


@router.post("/upload", summary="Upload DICOM files", dependencies=[Depends(check_uploads)])
async def upload(request: Request, form: Annotated[FormData, Depends(read_form)]) -> Response:
    """Put each file into the landing storage, as `<study>/<file name>`, or without a label by its UIDs."""
    services: Services = request.app.state.services
    label = form.get("study") or ""
    files = [one for one in form.getlist("files") if isinstance(one, UploadFile) and one.filename]
    if not isinstance(label, str) or not files:
        return JSONResponse({"error": "send the files as `files`, a label as `study`", "success": False}, 400)
    fates = await run_in_threadpool(_land_all, files, label, services)
    return answer(request, fates)


def _land_all(files: list[UploadFile], label: str, services: Services) -> list[Fate]:
    return [land(one.filename or "", one.file, label, services) for one in files]


def answer(request: Request, fates: list[Fate]) -> Response:
    """Return what became of the files of one upload, as JSON or, for a browser's form, as a page."""
    if request.app.state.pages is not None and "text/html" in request.headers.get("accept", ""):
        page: Response = request.app.state.pages.uploaded(request, fates)
        return page
    failed = [{"name": fate.name, "reason": fate.reason} for fate in fates if fate.reason]
    body: dict[str, Any] = {"success": not failed, "failedFiles": len(failed), "files": failed}
    if "detail" in request.query_params:  # of our own page, which follows each file through the pipeline
        body["stored"] = [
            {"object": fate.ref.name, "generation": str(fate.ref.generation), "written": fate.written}
            for fate in fates
            if fate.ref
        ]
        for one in failed:
            one["words"] = WORDS[str(one["reason"])]
    return JSONResponse(body, 400 if failed else 200)


@router.get("/files", summary="Labels of the landing storage")
def labels(request: Request) -> dict[str, object]:
    """Name the folders of the landing storage, an upload's at once."""
    services: Services = request.app.state.services
    found = services.source.folders(services.settings.source.write_prefix)
    return {"studies": found, "studiesCount": len(found), "success": True}


@router.get("/files/{study}", summary="Files of one label", responses={404: {"description": "No such label"}})
def files_of(request: Request, study: str) -> JSONResponse:
    """Name the objects of a label; what is inside archives is not listed."""
    services: Services = request.app.state.services
    prefix = f"{services.settings.source.write_prefix}{study}/"
    begins = len(services.source.prefix + prefix)
    found = [ref.name[begins:] for ref in services.source.list(prefix)]
    if not found:
        return JSONResponse({"error": "study not found", "success": False}, 404)
    return JSONResponse({"files": found, "filesCount": len(found), "study": study, "success": True})
