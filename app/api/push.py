"""`POST /`: one event in, 204 = ack, anything else = nack."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from app import events, pipeline
from app.errors import BadEvent, internal
from app.log import bind
from app.services import Services

router = APIRouter()

# What a page in a browser may send to any address without asking first, so no event comes as this.
SIMPLE_TYPES = ("text/plain", "multipart/form-data", "application/x-www-form-urlencoded")


class BodyTooLarge(BadEvent):
    """The body is over `api.max_body_bytes`; reading stopped there."""

    code = "body_too_large"


class UnsupportedBody(BadEvent):
    """The body is compressed, or of a type that no event has."""

    code = "unsupported_body"


async def read_body(request: Request) -> bytes:
    """Return the body, counted while it is read: the announced length may lie."""
    limit: int = request.app.state.services.settings.api.max_body_bytes
    if request.headers.get("content-encoding", "identity") != "identity":
        raise UnsupportedBody("content-encoding: send the body uncompressed")
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() in SIMPLE_TYPES:
        raise UnsupportedBody("content-type: send application/json or application/cloudevents+json")
    announced = request.headers.get("content-length", "0")
    body = bytearray()
    if announced.isdecimal() and int(announced) <= limit:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                break
        else:
            return bytes(body)
    raise BodyTooLarge(f"the body is over {limit} bytes; see api.max_body_bytes")


@router.post("/", status_code=204, response_class=Response, summary="Take one event")
def push(request: Request, body: Annotated[bytes, Depends(read_body)]) -> None:
    """Take a Pub/Sub push, wrapped or not, or a CloudEvent; answer when all of it is stored."""
    services: Services = request.app.state.services
    with internal():
        message = events.message_from_request(request.headers, body)
    request.state.message_id = message.message_id
    with bind(message_id=message.message_id, correlation_id=message.correlation_id):
        pipeline.handle(message, services)
