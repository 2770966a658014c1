"""Routes for Pub/Sub and Cloud Scheduler, which announce what no event brings: letters, and settled studies.

A service with a folder needs neither: its queue brings the letters, and a thread looks for settled studies.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from app import events
from app.api.push import ANSWERS, admitted_body
from app.jobs.settled import announce_settled
from app.model.errors import DicomlakeError, internal
from app.services import Services, announce_letter

log = logging.getLogger("dicomlake")

router = APIRouter()

MAX_PAUSE_S = 60.0


@router.post(
    "/dead-letters",
    status_code=204,
    response_class=Response,
    summary="Announce a dead letter",
    responses={**ANSWERS, 204: {"description": "Ack: announced, or there is no need"}},
)
def dead_letter(request: Request, body: Annotated[bytes, Depends(admitted_body)]) -> None:
    """Accept a push of the dead-letter topic; what the service itself gave up is announced already."""
    services: Services = request.app.state.services
    with internal():
        letter = events.message_from_request(request.headers, body)
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
    ended = threading.Event()
    pause_s = min(MAX_PAUSE_S, settings.announce.settle_s / 2)
    thread = threading.Thread(target=_look, args=(services, ended, pause_s), name="settled", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(MAX_PAUSE_S)


def _look(services: Services, ended: threading.Event, pause_s: float) -> None:
    while not ended.wait(pause_s):
        try:
            with internal():
                announce_settled(services)
        except DicomlakeError as error:
            bug = error.__cause__ if error.code == "internal_error" else None
            log.warning(
                "settled studies not announced, will be tried again",
                extra={"code": error.code},
                exc_info=bug,
            )
