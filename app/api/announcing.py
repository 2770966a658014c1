"""Routes for Pub/Sub and Cloud Scheduler, which bring what no event does: letters, and settled studies.

A service with a folder needs neither: its queue brings the letters, and a thread looks for settled studies.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from app import events
from app.announce.letters import announce_letter, record_refused
from app.api.push import ANSWERS, admitted_body
from app.api.repeated import repeated
from app.jobs.settled import announce_settled
from app.model.errors import internal
from app.services import Services

router = APIRouter()

MAX_PAUSE_S = 60.0


@router.post(
    "/dead-letters",
    status_code=204,
    response_class=Response,
    summary="Announce a dead letter, and record a delivery that was given up",
    responses={**ANSWERS, 204: {"description": "Ack: done, or there is no need"}},
)
def dead_letter(request: Request, body: Annotated[bytes, Depends(admitted_body)]) -> None:
    """Accept a push of the dead-letter topic; what the service itself gave up needs nothing more."""
    services: Services = request.app.state.services
    with internal():
        letter = events.message_from_request(request.headers, body)
        record_refused(letter, letter.publish_time or services.now(), services.warehouse)
        is_verbatim = services.cleaning is None
        announce_letter(letter, services.warehouse, services.letter_announcers, is_verbatim)


@router.post("/settled", summary="Announce the studies that have settled", responses=ANSWERS)
def settled(request: Request, _: Annotated[bytes, Depends(admitted_body)]) -> dict[str, int]:
    """Look for them now; for a scheduler, every quarter of an hour."""
    with internal():
        return {"announced": announce_settled(request.app.state.services)}


@contextmanager
def looking_for_settled(services: Services) -> Iterator[None]:
    """Announce settled studies from a thread meanwhile, if this service has a folder and targets."""
    settings = services.settings
    wanted = settings.announce.settle_s and services.announcers and settings.api.serve != "browse"
    if not (wanted and settings.bus.url.startswith("local:")):
        yield
        return
    pause_s = min(MAX_PAUSE_S, settings.announce.settle_s / 2)
    failing = "settled studies not announced, will be tried again"
    with repeated("settled", pause_s, lambda: announce_settled(services), failing):
        yield
