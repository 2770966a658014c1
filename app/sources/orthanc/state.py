"""What the poller must remember: objects below `state/` in the storage of artifacts.

    state/orthanc.json           the position in Orthanc's changes, the last comparison, instances that failed
    state/orthanc/<study ID>     a study that was requested and is not yet fetched

Only the poller writes the first; each request is an object of its own, so any process may make one.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass

from app.model.errors import ObjectGone
from app.sources.orthanc.client import ID
from app.storage import Storage

log = logging.getLogger("dicomlake.orthanc")

POSITION = "state/orthanc.json"
REQUESTS = "state/orthanc/"


@dataclass(frozen=True, slots=True)
class Position:
    """How far the poller has come with the Orthanc at `url`.

    since: all changes up to this number are landed. compared_at: UNIX seconds of the last comparison, 0 for
    none. failed: instances that Orthanc could not give.
    """

    url: str
    since: int = 0
    compared_at: int = 0
    failed: tuple[str, ...] = ()


class State:
    """The remembered state of one lake."""

    def __init__(self, artifacts: Storage) -> None:
        self._artifacts = artifacts

    def position(self, url: str) -> Position:
        """Return the stored position; the beginning if there is none, or if it is of another Orthanc."""
        try:
            stored = json.loads(self._artifacts.read(self._artifacts.uri(POSITION)))
            position = Position(
                str(stored["url"]),
                int(stored["since"]),
                int(stored["compared_at"]),
                tuple(one for one in stored["failed"] if ID.fullmatch(one)),
            )
        except ObjectGone:
            return Position(url)
        except (KeyError, TypeError, ValueError):
            log.warning("the stored position cannot be read: starting from the first change")
            return Position(url)
        return position if position.url == url else Position(url)

    def store(self, position: Position) -> None:
        """Store a position durably."""
        self._artifacts.write(POSITION, json.dumps(asdict(position)).encode(), "application/json")

    def request(self, study: str) -> None:
        """Store durably that a study must be fetched."""
        self._artifacts.write(REQUESTS + study, b"{}", "application/json")

    def requests(self) -> list[str]:
        """Return the studies that must be fetched."""
        names = (ref.name.rpartition("/")[2] for ref in self._artifacts.list(REQUESTS))
        return [name for name in names if ID.fullmatch(name)]

    def done(self, study: str) -> None:
        """Forget a request."""
        self._artifacts.delete(REQUESTS + study)
