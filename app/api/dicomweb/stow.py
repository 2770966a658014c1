"""STOW-RS, PS3.18 10.5: instances go into the landing storage and are processed like all objects there.

Each part of a request is checked and stored as soon as it is complete, so a request may be of any length. An
instance counts as stored when it is durable in the landing storage; its row follows within seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from io import SEEK_END
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO, cast

from fastapi import APIRouter, Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from python_multipart import MultipartParser
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import parse_options_header

from app.api.dicomweb.accept import Offer, choose
from app.api.dicomweb.answers import PREFIX, base_url
from app.api.files import check_uploads, limited, temporary_files
from app.api.push import UnsupportedBody
from app.browse.uploads import Identity, identify, stored_name
from app.model.errors import BadEvent, PermanentError, TransientError
from app.services import Services

router = APIRouter(prefix=PREFIX)

DICOM = "application/dicom"
ANSWERS = (Offer("application/dicom+json"), Offer("application/json"))
SPOOL_BYTES = 1 << 20
MAX_BOUNDARY, MAX_HEADER_BYTES = 200, 16_384
OTHER_STUDY, NOT_UNDERSTOOD, OUT_OF_RESOURCES = 0xA900, 0xC000, 0xA700
"""Failure reasons, PS3.18 Table I.2-2."""


@dataclass(frozen=True, slots=True)
class Failed:
    """An instance that was not stored; UIDs as far as they are known."""

    reason: int
    sop_class: str = ""
    instance: str = ""


@dataclass(frozen=True, slots=True)
class Stored:
    """An instance that is durable in the landing storage."""

    identity: Identity


def store(stream: BinaryIO, study: str | None, services: Services) -> Stored | Failed:
    """Check one instance and put it into the landing storage.

    study: the only study that is accepted; None accepts any. Raises TransientError if nothing could be stored
    for a temporary reason.
    """
    most = services.settings.source.max_object_bytes
    if most and stream.seek(0, SEEK_END) > most:
        return Failed(OUT_OF_RESOURCES)
    try:
        found = identify(stream, services)
    except PermanentError:
        return Failed(NOT_UNDERSTOOD)
    named = Failed(NOT_UNDERSTOOD, found.sop_class, found.instance)
    if found.broken or not found.whole or not found.sop_class:
        return named
    if study is not None and found.study != study:
        return Failed(OTHER_STUDY, found.sop_class, found.instance)
    services.source.land(stored_name(found, services), stream, replace=True)
    return Stored(found)


@dataclass
class Parts:
    """The parts of a multipart body as they become complete."""

    boundary: bytes
    done: deque[tuple[str, BinaryIO]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._name, self._value, self._type, self._header = bytearray(), bytearray(), "", 0
        self._body: SpooledTemporaryFile[bytes] | None = None
        self._before: bytes | None = b"\r\n"  # the first boundary may stand at the very beginning
        self.ended = False
        calls: dict[str, Callable[..., None]] = {
            "on_part_begin": self._begin,
            "on_header_field": self._field,
            "on_header_value": self._content,
            "on_header_end": self._header_end,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }
        self._parser = MultipartParser(self.boundary, calls)  # type: ignore[arg-type]

    def feed(self, chunk: bytes) -> None:
        """Take a piece of the body; raises BadEvent where it is no multipart body."""
        if self._before is not None:  # RFC 2046 5.1.1: text before the first boundary is ignored
            delimiter, before = b"\r\n--" + self.boundary, self._before + chunk
            start = before.find(delimiter)
            if start < 0:
                self._before = before[1 - len(delimiter) :]
                return
            chunk, self._before = before[start + 2 :], None
        try:
            self._parser.write(chunk)
        except MultipartParseError as error:
            raise BadEvent(f"the body is not multipart ({type(error).__name__})") from None

    def close(self) -> None:
        """Close the parts that were not taken."""
        for stream in (self._body, *(stream for _, stream in self.done)):
            if stream is not None:
                stream.close()

    def _begin(self) -> None:
        self._type, self._header = "", 0
        self._body = SpooledTemporaryFile(SPOOL_BYTES)  # noqa: SIM115 - whoever takes the part closes it

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._name += data[start:end]

    def _content(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._value += data[start:end]

    def _count(self, size: int) -> None:
        self._header += size
        if self._header > MAX_HEADER_BYTES:
            raise BadEvent("the headers of a part are too long")

    def _header_end(self) -> None:
        if self._name.lower() == b"content-type":
            self._type = self._value.decode("latin-1")
        self._name, self._value = bytearray(), bytearray()

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._body is not None:
            self._body.write(data[start:end])

    def _end(self) -> None:
        if self._body is not None:
            self.done.append((self._type, cast(BinaryIO, self._body)))
        self._body = None

    def _finish(self) -> None:
        self.ended = True


async def instances(request: Request) -> AsyncIterator[BinaryIO | None]:
    """Yield the instances of a request as they arrive, None for a part of another type.

    Raises UnsupportedBody (415) for a body that is no DICOM, BadEvent (400) for one that cannot be read.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind == DICOM.encode():
        with SpooledTemporaryFile(SPOOL_BYTES) as whole:
            async for chunk in limited(request):
                with temporary_files():
                    whole.write(chunk)
            if not whole.tell():
                raise BadEvent("the body is empty; send one instance, or several as multipart/related")
            yield cast(BinaryIO, whole)
        return
    if kind != b"multipart/related":
        raise UnsupportedBody('content-type: send multipart/related; type="application/dicom"')
    given = options.get(b"type", DICOM.encode()).decode("latin-1").lower()
    if given != DICOM:
        raise UnsupportedBody('content-type: only type="application/dicom" is taken')
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= MAX_BOUNDARY:
        raise BadEvent("content-type: multipart/related needs a boundary")
    parts = Parts(boundary)
    try:
        async for chunk in limited(request):
            with temporary_files():
                parts.feed(chunk)
            while parts.done:
                kind_of_part, stream = parts.done.popleft()
                with stream:
                    media = kind_of_part.partition(";")[0].strip().lower()
                    yield stream if media in ("", DICOM) else None
    finally:
        parts.close()
    if not parts.ended:
        raise BadEvent("the body has no closing boundary")


STORED: dict[int | str, dict[str, Any]] = {
    200: {"description": "All instances are stored"},
    202: {"description": "Some are stored; each other one is named with its reason"},
    400: {"description": "The body cannot be read, or holds no instance"},
    406: {"description": "Neither application/dicom+json nor application/json is accepted"},
    409: {"description": "None is stored; each is named with its reason"},
    413: {"description": "The body is over browse.max_upload_bytes"},
    415: {"description": "The body is no DICOM"},
    507: {"description": "A disk is almost full"},
}
_post = partial(router.post, dependencies=[Depends(check_uploads)], response_class=Response, responses=STORED)


@_post("/studies", summary="Store instances")
async def stow(request: Request) -> Response:
    """Store the instances of a multipart or single-part body; PS3.18 10.5."""
    return await _stow(request, None)


@_post("/studies/{study}", summary="Store instances of one study")
async def stow_in_study(request: Request, study: str) -> Response:
    """Store the instances of a multipart or single-part body; PS3.18 10.5."""
    return await _stow(request, study)


async def _stow(request: Request, study: str | None) -> Response:
    media = choose(ANSWERS, request.headers.getlist("accept")).media_type
    services: Services = request.app.state.services
    stored: list[Identity] = []
    failed: list[Failed] = []
    busy: TransientError | None = None
    async for stream in instances(request):
        if stream is None:
            failed.append(Failed(NOT_UNDERSTOOD))
            continue
        try:
            one = await run_in_threadpool(store, stream, study, services)
        except TransientError as error:
            busy, one = error, Failed(OUT_OF_RESOURCES)
        if isinstance(one, Failed):
            failed.append(one)
        else:
            stored.append(one.identity)
    if not stored and not failed:
        raise BadEvent("the body holds no instance")
    if busy is not None and not stored:
        raise busy  # 503: the whole request may be sent again
    status = 409 if not stored else 202 if failed else 200
    base = base_url(request) if services.cleaning is None else None
    return Response(_json(document(base, stored, failed)), status, media_type=media)


def document(base: str | None, stored: list[Identity], failed: list[Failed]) -> dict[str, Any]:
    """Return the Store Instances Response, PS3.18 I.2: what was stored where, and what was not and why.

    base: URL of DICOMweb; None where the lake de-identifies, so that nothing is found under the UIDs sent.
    """
    studies = {one.study for one in stored}
    answer: dict[str, Any] = {}
    if base and len(studies) == 1:
        answer["00081190"] = {"vr": "UR", "Value": [f"{base}/studies/{studies.pop()}"]}
    if failed:
        answer["00081198"] = {
            "vr": "SQ",
            "Value": [
                _referenced(one.sop_class, one.instance) | {"00081197": {"vr": "US", "Value": [one.reason]}}
                for one in failed
            ],
        }
    if stored:
        answer["00081199"] = {
            "vr": "SQ",
            "Value": [
                _referenced(one.sop_class, one.instance) | {"00081190": _url_of(base, one)} for one in stored
            ],
        }
    return answer


def _url_of(base: str | None, one: Identity) -> dict[str, Any]:
    url = f"{base}/studies/{one.study}/series/{one.series}/instances/{one.instance}"
    return {"vr": "UR", "Value": [url]} if base else {"vr": "UR"}


def _referenced(sop_class: str, instance: str) -> dict[str, Any]:
    return {
        "00081150": {"vr": "UI", "Value": [sop_class]} if sop_class else {"vr": "UI"},
        "00081155": {"vr": "UI", "Value": [instance]} if instance else {"vr": "UI"},
    }


def _json(value: object) -> bytes:
    import orjson

    return orjson.dumps(value)
