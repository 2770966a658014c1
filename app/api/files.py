"""Labels and files of the landing storage over REST, and uploads into it.

Every answer has `success`; a fault is one sentence in `error`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import Depends, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from app.api.auth import Forbidden
from app.api.dicomweb.answers import Browser
from app.api.dicomweb.parameters import BadParameter, window_text
from app.api.push import BodyCut, BodyTooLarge, UnsupportedBody
from app.api.router import Router
from app.browse import landed
from app.browse.uploads import WORDS, Fate, UploadSession, begin, land
from app.model.errors import BadEvent, OutOfSpace
from app.model.options import RenderOptions
from app.services import Services

router = Router()

MAX_FILES = 10_000
"""Files of one request."""


class UploadsOff(Forbidden):
    """Uploads are switched off."""

    code = "uploads_off"


def check_uploads(request: Request) -> None:
    """Refuse an upload before its body is read: they are switched off, or a disk is almost full."""
    services: Services = request.app.state.services
    if not services.settings.browse.uploads:
        raise UploadsOff("uploads are switched off; see browse.uploads")
    services.space.check()


@contextmanager
def temporary_files() -> Iterator[None]:
    """Raise OutOfSpace where a body does not fit into the folder for temporary files."""
    try:
        yield
    except OSError as error:
        raise OutOfSpace(f"a temporary file cannot be written ({type(error).__name__})") from None


async def limited(request: Request) -> AsyncGenerator[bytes, None]:
    """Yield the body of an upload.

    Raises BodyTooLarge past `browse.max_upload_bytes`, and UnsupportedBody for a compressed body.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise UnsupportedBody("content-encoding: send the body uncompressed")
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
        with temporary_files():
            form = await MultiPartParser(request.headers, limited(request), max_files=MAX_FILES).parse()
    except (MultiPartException, KeyError) as error:
        raise BadEvent(f"the form cannot be read ({type(error).__name__})") from None
    try:
        yield form
    finally:
        await form.close()


UPLOADED: dict[int | str, dict[str, Any]] = {
    400: {"description": "A file was not taken, each with its reason; or the form cannot be read"},
    413: {"description": "The body is over browse.max_upload_bytes"},
    415: {"description": "The body is no multipart/form-data"},
    507: {"description": "A disk is almost full"},
}


@router.post(
    "/upload", summary="Upload DICOM files", dependencies=[Depends(check_uploads)], responses=UPLOADED
)
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


@router.post(
    "/upload/session",
    summary="Begin the upload of a large file",
    dependencies=[Depends(check_uploads)],
    response_model=UploadSession,
    responses={
        400: {"description": "The file is refused, or this landing storage takes none so"},
        413: {"description": "The form is too large"},
        415: {"description": "The body is no form"},
        507: {"description": "A disk is almost full"},
    },
)
async def begin_upload(
    request: Request, form: Annotated[FormData, Depends(read_form)]
) -> Response | UploadSession:
    """Answer where a client itself puts a file that is too large for the service.

    Send its beginning, 1 MiB or all of it, as `files`, its `size` in bytes, and optionally a label `study`.
    Only the beginning is checked here; the whole is when it has landed: it gets a row or a dead letter.
    """
    services: Services = request.app.state.services
    label, size = form.get("study") or "", form.get("size")
    files = [one for one in form.getlist("files") if isinstance(one, UploadFile) and one.filename]
    number = int(size) if isinstance(size, str) and re.fullmatch(r"[0-9]{1,15}", size) else 0
    if not isinstance(label, str) or len(files) != 1 or not number:
        error = "send the beginning of one file as `files`, its `size` in bytes, a label as `study`"
        return JSONResponse({"error": error, "success": False}, 400)
    origin = request.headers.get("origin", "")  # our own page: the guard refuses any other
    head, name = files[0].file, files[0].filename or ""
    begun = await run_in_threadpool(begin, name, head, number, label, origin, services)
    return answer(request, [begun]) if isinstance(begun, Fate) else begun


@router.get("/files", summary="Labels of the landing storage")
def labels(request: Request) -> dict[str, object]:
    """List the folders of the landing storage; the folder of an upload appears at once."""
    services: Services = request.app.state.services
    found = landed.labels(services)
    return {"studies": found, "studiesCount": len(found), "success": True}


FOUND: dict[int | str, dict[str, Any]] = {404: {"description": "No such file"}}
NAME = "/files/{study}/{file:path}"


@router.get(
    "/files/{study}/gif",
    summary="All images of a label as one cine",
    response_class=Response,
    responses=FOUND,
)
def cine_of(request: Request, study: str) -> Response:
    """Show the pictures of a label one after the other, in the order of their names."""
    browser: Browser = request.app.state.browser
    data = landed.cine(study, browser.originals)
    return _picture(data, "image/gif") if data else _not_found("study not found")


@router.get(NAME + "/tag", summary="Attributes of a file", responses=FOUND)
def tags_of(
    request: Request, study: str, file: str, tag: Annotated[list[str] | None, Query()] = None
) -> JSONResponse:
    """Answer with attributes by keyword, tag, private creator or path into sequences."""
    browser: Browser = request.app.state.browser
    wanted = [one.strip() for one in tag or ()]
    if not wanted or not all(wanted):
        return JSONResponse({"error": "tag query parameter is empty", "success": False}, 400)
    content = landed.content(study, file, browser.originals)
    if content is None:
        return _not_found()
    found, unknown = landed.attributes(content, wanted, browser.originals)
    if unknown:
        return JSONResponse({"invalidTags": unknown, "success": False}, 400)
    return JSONResponse({"file": file, "study": study, "success": True, "tags": found})


def _shown(
    request: Request,
    study: str,
    file: str,
    frame: Annotated[int | None, Query(ge=1, description="from 1")] = None,
    window: Annotated[str | None, Query(description="centre,width")] = None,
    max_side: Annotated[int | None, Query(ge=1, le=landed.MAX_SIDE, description="in pixels")] = None,
) -> Response:
    """Return the picture of a file, of the kind that the last segment of the path names."""
    browser: Browser = request.app.state.browser
    kind = KINDS[request.url.path.rpartition("/")[2]]
    how = RenderOptions(kind, None if frame is None else frame - 1)
    try:
        shown = None if window is None else window_text(window)
    except BadParameter as error:
        return JSONResponse({"error": error.text, "success": False}, 400)
    content = landed.content(study, file, browser.originals)
    if content is None:
        return _not_found()
    return _picture(landed.picture(content, how, shown, max_side, browser.originals), kind)


KINDS = {"png": "image/png", "jpg": "image/jpeg", "gif": "image/gif"}
for _kind in KINDS:
    router.add_api_route(
        f"{NAME}/{_kind}", _shown, methods=["GET"], response_class=Response, responses=FOUND,
        summary="All frames of a file as a cine" if _kind == "gif" else "Picture of a file",
    )  # fmt: skip


def _picture(data: bytes, kind: str) -> Response:
    return Response(data, media_type=kind, headers={"Cache-Control": "private, no-cache"})


def _not_found(words: str = "file not found") -> JSONResponse:
    return JSONResponse({"error": words, "success": False}, 404)


@router.get("/files/{study}", summary="Files of one label", responses={404: {"description": "No such label"}})
def files_of(request: Request, study: str) -> JSONResponse:
    """List the objects of a label; members of archives are not listed."""
    services: Services = request.app.state.services
    found = landed.names(study, services)
    if not found:
        return _not_found("study not found")
    return JSONResponse({"files": found, "filesCount": len(found), "study": study, "success": True})
