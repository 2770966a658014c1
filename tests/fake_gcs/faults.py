"""Failing on purpose, as the store and the network between do."""

import threading
from dataclasses import dataclass, replace

from tests.fake_gcs.messages import Response

KINDS = {
    "reset": "the connection breaks before anything is done",
    "cut": "half of a chunk of a resumable upload comes through, then the connection breaks",
    "lost": "the request is carried out, then the connection breaks before the answer",
    "short": "the body stops half way and the connection closes",
    "truncated": "half of the body comes as if it were all",
    "corrupt": "one byte of the body is another",
    "wrong_hash": "the checksums in the header are of other bytes",
    "slow": "the body comes in pieces with pauses of `seconds`",
    "hang": "nothing comes for `seconds`, then the connection breaks",
}


@dataclass
class Fault:
    """What happens to the next `times` requests of this method whose target contains `target`.

    text: what an HTTP status comes with.
    """

    kind: str | int
    times: int = 1
    method: str = ""
    target: str = ""
    seconds: float = 0.0
    text: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS and not isinstance(self.kind, int):
            raise ValueError(f"no such fault: {self.kind}")


class Faults:
    """Those that are still to happen, in the order in which they were asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Fault] = []

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._waiting.append(fault)

    def clear(self) -> None:
        with self._lock:
            self._waiting.clear()

    def take(self, method: str, target: str) -> Fault | None:
        """Return the fault of this request, if any, and count it."""
        with self._lock:
            for fault in self._waiting:
                if fault.times > 0 and fault.method in ("", method) and fault.target in target:
                    fault.times -= 1
                    return fault
        return None


def spoiled(kind: str, response: Response) -> Response:
    """Return the answer with what a fault of this kind does to its bytes or headers."""
    body = response.body
    if kind == "truncated":
        return replace(response, body=body[: len(body) // 2])
    if kind == "corrupt" and body:
        middle = len(body) // 2
        return replace(response, body=body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :])
    if kind == "wrong_hash":
        return replace(response, headers={**response.headers, "X-Goog-Hash": "crc32c=AAAAAA=="})
    return response
