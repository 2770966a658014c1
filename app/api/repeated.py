"""Work that the service repeats while it runs: announcing settled studies, and retention."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from app.jobs.retention import DAY_S, retain
from app.model.errors import DicomlakeError, internal
from app.services import Services

log = logging.getLogger("dicomlake")

JOIN_S = 60.0
HOUR_S = 3600.0


@contextmanager
def repeated(name: str, pause_s: float, work: Callable[[], object], failing: str) -> Iterator[None]:
    """Do work in a thread meanwhile, each time after a pause; a failure is logged as `failing`."""
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(pause_s):
            try:
                with internal():
                    work()
            except DicomlakeError as error:
                bug = error.__cause__ if error.code == "internal_error" else None
                log.warning(failing, extra={"code": error.code}, exc_info=bug)

    thread = threading.Thread(target=look, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(JOIN_S)


@contextmanager
def retaining(services: Services) -> Iterator[None]:
    """Archive and delete what is due from a thread meanwhile, every hour, if the settings ask for it."""
    settings = services.settings
    retention = settings.retention
    days = retention.archive_after_days, retention.delete_after_days, retention.outputs_after_days
    if not any(days) or settings.api.serve == "browse":
        yield
        return
    pause_s = min(HOUR_S, DAY_S * min(filter(None, days)))

    def look() -> None:
        for status, count in retain(services).items():
            if count:
                log.info("retention", extra={"status": status, "count": count})

    with repeated("retention", pause_s, look, "retention failed, will be tried again"):
        yield
