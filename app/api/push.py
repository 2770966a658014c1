"""`POST /`: one event in, 204 = ack, anything else = nack."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from app import events, pipeline
from app.api.auth import Forbidden, check_token, needs_token
from app.api.public_url import check_host
from app.model.errors import BadEvent, TransientError, internal
from app.model.values import OWN_QUEUE
from app.services import Services
from app.telemetry.log import bind

router = APIRouter()

ANSWERS: dict[int | str, dict[str, str]] = {
    204: {"description": "Ack: stored, deleted, superseded, or none of our business"},
    400: {"description": "Not an event, or not of a bucket served here"},
    401: {"description": "No valid token, where api.auth asks for one"},
    403: {"description": "A token, a subscription, a page in a browser or a Host that may not push here"},
    413: {"description": "The body is over api.max_body_bytes"},
    415: {"description": "The body is compressed, a form, or plain text"},
    422: {"description": "A permanent failure: the same bytes will fail again"},
    429: {"description": "No room now"},
    431: {"description": "More headers than an event has"},
    500: {"description": "A bug of the service"},
    503: {"description": "Storage, warehouse, bus or a target of announcements does not answer"},
    507: {"description": "A disk is almost full"},
}

MAX_HEADERS, MAX_HEADER_BYTES = 200, 32_768
# A web page may send these types to any address without a CORS preflight, so refuse them for events.
SIMPLE_TYPES = ("text/plain", "multipart/form-data", "application/x-www-form-urlencoded")


class BodyTooLarge(BadEvent):
    """The body exceeds `api.max_body_bytes`; reading stopped there."""

    code = "body_too_large"


class HeadersTooLarge(BadEvent):
    """There are more headers than any event has."""

    code = "headers_too_large"


class UnsupportedBody(BadEvent):
    """The body is compressed, or its content type is not that of an event."""

    code = "unsupported_body"


class BodyCut(TransientError):
    """The sender disconnected before the end of the body."""

    code = "body_cut"


def check_headers(request: Request) -> None:
    """Raise HeadersTooLarge for a request with more headers than any sender of events uses."""
    headers = request.headers.raw
    if (
        len(headers) > MAX_HEADERS
        or sum(len(name) + len(value) for name, value in headers) > MAX_HEADER_BYTES
    ):
        raise HeadersTooLarge(f"the headers are over {MAX_HEADERS} in number or {MAX_HEADER_BYTES} bytes")


def check_sender(request: Request) -> None:
    """Refuse requests from web pages: a browser may be able to reach the service, the page must not use that.

    Browsers send an `Origin`, senders of events do not. Without tokens, `Host` is checked too.
    """
    headers, api = request.headers, request.app.state.services.settings.api
    if "origin" in headers or not {"none", "same-origin"}.issuperset(headers.getlist("sec-fetch-site")):
        raise Forbidden("origin: a page in a browser may not push")
    if api.auth == "none":
        check_host(request)


def check_type(request: Request) -> None:
    """Raise UnsupportedBody for a content type that no event has."""
    given = request.headers.getlist("content-type")
    if any(value.partition(";")[0].strip().lower() in SIMPLE_TYPES for value in given):
        raise UnsupportedBody("content-type: send application/json or application/cloudevents+json")


async def admitted_body(request: Request) -> bytes:
    """Return the body of a request that may push; nothing of it is read before that is settled.

    One dependency for all checks: FastAPI would run each of several in a thread of its own, which costs more
    than the checks do. Only a token needs a thread, for its keys may have to be fetched.
    """
    check_headers(request)
    check_sender(request)
    if needs_token(request):
        await run_in_threadpool(check_token, request)
    return await read_body(request)


async def read_body(request: Request) -> bytes:
    """Read the body and count its bytes, because the announced length may be wrong."""
    limit: int = request.app.state.services.settings.api.max_body_bytes
    if request.headers.get("content-encoding", "identity") != "identity":
        raise UnsupportedBody("content-encoding: send the body uncompressed")
    check_type(request)
    announced = request.headers.get("content-length", "0")
    too_large = BodyTooLarge(f"the body is over {limit} bytes; see api.max_body_bytes")
    if not announced.isdecimal() or int(announced) > limit:
        raise too_large
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise too_large
    except ClientDisconnect:
        raise BodyCut("the body ended too early") from None
    return bytes(body)


@router.post(
    "/",
    status_code=204,
    response_class=Response,
    summary="Take one event",
    responses=ANSWERS,
)
def push(request: Request, body: Annotated[bytes, Depends(admitted_body)]) -> None:
    """Accept a Pub/Sub push, wrapped or not, or a CloudEvent; answer when it is completely processed."""
    services: Services = request.app.state.services
    request.state.body = body
    with internal():
        message = events.message_from_request(request.headers, body)
    request.state.message_id = message.message_id
    bus, from_own_queue = services.settings.bus, getattr(request.state, OWN_QUEUE, False)
    if bus.subscription and not from_own_queue and message.subscription not in bus.subscriptions():
        raise Forbidden("subscription: is none whose pushes are taken here; see bus.subscription")
    with bind(message_id=message.message_id, correlation_id=message.correlation_id):
        request.state.handled = True
        pipeline.handle(message, services)
