"""Failing on purpose: here one method of one seam; in the modules beside, every seam of a running service."""

from dataclasses import replace
from typing import Any

from app.model.errors import DicomlakeError
from app.services import Services

STEPS = {
    "read": ("source", "fetch"),
    "write": ("artifacts", "write"),
    "append": ("warehouse", "append"),
    "announce": ("announcers", "announce"),
    "dead_letter": ("bus", "dead_letter"),
}


class Broken:
    """Another object, but for one method that fails."""

    def __init__(self, inner: Any, method: str, error: DicomlakeError) -> None:
        self._inner, self._method, self._error = inner, method, error

    def __getattr__(self, name: str) -> Any:
        if name == self._method:
            return self._fail
        return getattr(self._inner, name)

    def _fail(self, *_: object, **__: object) -> None:
        raise self._error


def broken(services: Services, step: str, error: DicomlakeError) -> Services:
    """Return services in which one step of the pipeline fails."""
    seam, method = STEPS[step]
    return replace(services, **{seam: Broken(getattr(services, seam), method, error)})
