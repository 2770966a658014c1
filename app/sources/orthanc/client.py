"""The REST API of Orthanc, as far as the poller needs it. Safe to call from several threads."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import ssl
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, IncompleteRead
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO, TypeVar, cast
from urllib.parse import urlsplit

from app.model.errors import ConfigError, StorageUnavailable, TransientError
from app.model.options import OrthancOptions

T = TypeVar("T")
ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}")
"""Orthanc's own identifier of a resource: a SHA-1 of its DICOM identifiers."""
CONNECTIONS = 4
CHUNK_BYTES = 256 << 10
MAX_JSON = 256 << 20
TIMEOUT_S = 30.0
KNOWS_S = 1.0
"""Time limit for `knows`: a script of Orthanc that waits for us blocks Orthanc."""
SPOOL_BYTES = 4 << 20
LIST_IDS = 1000
REFUSED = (401, 403)


class OrthancUnavailable(TransientError):
    """Orthanc does not answer, refuses the user, or its answer is malformed."""

    code = "orthanc_unavailable"


class OrthancDamaged(TransientError):
    """Orthanc cannot return one instance: its file is missing or differs from what Orthanc stored."""

    code = "orthanc_damaged"


class Stopped(Exception):
    """The poller is being closed."""


@dataclass(frozen=True, slots=True)
class Changes:
    """One page of Orthanc's changes. `last` is the number to go on from, `done` whether there are no more."""

    new_instances: tuple[str, ...]
    last: int
    done: bool


class OrthancClient:
    """Asks one Orthanc server; `stopped` ends a download early.

    Uses http.client, which takes 0.2 ms of CPU to receive a CT slice; httpx takes 1.4.
    """

    def __init__(self, options: OrthancOptions, stopped: Callable[[], bool] = lambda: False) -> None:
        parts = urlsplit(options.url)
        self.url, self._stopped = options.url.rstrip("/"), stopped
        self._host, self._port, self._path = parts.hostname or "", parts.port, parts.path.rstrip("/")
        self._tls = tls_context(options.ca_file) if parts.scheme == "https" else None
        # Orthanc compresses what a client allows, and then sends 44 instances a second instead of 600.
        self._headers = {"Accept-Encoding": "identity"}
        if options.user:
            user = base64.b64encode(f"{options.user}:{options.password}".encode()).decode()
            self._headers["Authorization"] = f"Basic {user}"
        self._idle: deque[HTTPConnection] = deque()

    def close(self) -> None:
        """Close the connections that are idle."""
        while self._idle:
            self._idle.pop().close()

    def changes(self, since: int, limit: int) -> Changes:
        """Return the changes after number `since`, at most `limit`; only new instances are named."""
        answer = self._json(f"/changes?since={since}&limit={limit}")
        with _sense():
            new = [one["ID"] for one in answer["Changes"] if one["ChangeType"] == "NewInstance"]
            return Changes(
                tuple(map(_checked, dict.fromkeys(new))), int(answer["Last"]), bool(answer["Done"])
            )

    def last_change(self) -> int:
        """Return the number of the newest change."""
        return self.changes((1 << 62) - 1, 1).last

    def instances(self) -> Iterator[str]:
        """Yield the IDs of all instances, page by page."""
        since = 0
        while page := self._ids(f"/instances?since={since}&limit={LIST_IDS}"):
            yield from page
            since += len(page)

    def instances_of(self, study: str) -> Iterator[str] | None:
        """Yield the IDs of the instances of a study; None where Orthanc does not know it."""
        answer = self._json(f"/studies/{_checked(study)}")
        if answer is None:
            return None
        with _sense():
            series = [_checked(one) for one in answer["Series"]]
        return (instance for one in series for instance in self._of_series(one))

    def knows(self, study: str) -> bool:
        """Return whether Orthanc knows a study; true also if it does not answer within KNOWS_S."""
        try:
            status, _ = self._get(f"/studies/{_checked(study)}", KNOWS_S)
        except OrthancUnavailable as error:
            if isinstance(error.__cause__, TimeoutError):
                return True
            raise
        return status != 404

    def fetch(self, instance: str) -> BinaryIO | None:
        """Return the file of an instance after comparing its MD5; None if Orthanc no longer has it.

        Raises
        ------
        OrthancDamaged : Orthanc fails for this instance, or its MD5 is another
        OrthancUnavailable : Orthanc does not answer
        """
        path = f"/instances/{_checked(instance)}"
        spool = SpooledTemporaryFile(SPOOL_BYTES)  # noqa: SIM115 - whoever takes the file closes it
        try:
            digest = self._download(f"{path}/file", cast(BinaryIO, spool))
            if digest is not None:
                status, expected = self._get(f"{path}/attachments/dicom/md5")
                # 404 if it has just been removed, or if Orthanc is configured to store no MD5.
                if status != 404 and expected.strip().lower() != digest.encode():
                    raise OrthancDamaged("the bytes have another MD5 than Orthanc has stored")
                spool.seek(0)
                return cast(BinaryIO, spool)
        except BaseException:
            spool.close()
            raise
        spool.close()
        return None

    def _download(self, path: str, spool: BinaryIO) -> str | None:
        digest = hashlib.md5(usedforsecurity=False)
        buffer = memoryview(bytearray(CHUNK_BYTES))

        def read(response: HTTPResponse) -> str | None:
            if response.status == 404:
                return None
            _check(response.status, of_one=True)
            while size := response.readinto(buffer):
                if self._stopped():
                    raise Stopped
                digest.update(buffer[:size])
                try:
                    spool.write(buffer[:size])
                except OSError as error:
                    text = f"a temporary file cannot be written ({type(error).__name__})"
                    raise StorageUnavailable(text) from error
            if response.length:
                raise IncompleteRead(b"", response.length)
            return digest.hexdigest()

        return self._ask(path, read)

    def _of_series(self, series: str) -> list[str]:
        answer = self._json(f"/series/{series}")
        with _sense():
            return [_checked(one) for one in answer["Instances"]] if answer else []

    def _ids(self, path: str) -> list[str]:
        answer = self._json(path)
        with _sense():
            return [_checked(one) for one in answer]

    def _json(self, path: str) -> Any:
        """Return the JSON of an answer, None for 404."""
        status, body = self._get(path)
        with _sense():
            return None if status == 404 else json.loads(body)

    def _get(self, path: str, timeout_s: float = TIMEOUT_S) -> tuple[int, bytes]:
        """Return the status, 200 or 404, and the body."""
        status, body = self._ask(path, lambda response: (response.status, response.read(MAX_JSON)), timeout_s)
        if status != 404:
            _check(status)
        return status, body

    def _ask(self, path: str, read: Callable[[HTTPResponse], T], timeout_s: float = TIMEOUT_S) -> T:
        """Return what `read` makes of the response; a connection that was closed meanwhile is replaced."""
        with _reached():
            connection, response = self._send(path, timeout_s)
            try:
                result = read(response)
            except BaseException:
                connection.close()
                raise
            if response.isclosed() and timeout_s == TIMEOUT_S:  # read to its end
                self._idle.append(connection)
            else:
                connection.close()
            return result

    def _send(self, path: str, timeout_s: float) -> tuple[HTTPConnection, HTTPResponse]:
        while True:
            try:
                connection, reused = self._idle.pop(), True
            except IndexError:
                connection, reused = self._new(timeout_s), False
            try:
                if connection.sock is not None:
                    connection.sock.settimeout(timeout_s)
                connection.request("GET", self._path + path, headers=self._headers)
                return connection, connection.getresponse()
            except (OSError, HTTPException):
                connection.close()
                if not reused:
                    raise

    def _new(self, timeout_s: float) -> HTTPConnection:
        if self._tls is not None:
            return HTTPSConnection(self._host, self._port, timeout=timeout_s, context=self._tls)
        return HTTPConnection(self._host, self._port, timeout=timeout_s)


def tls_context(ca_file: str) -> ssl.SSLContext:
    """Return the TLS context that verifies servers; raises ConfigError if the file has no certificates."""
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ValueError) as error:
        kind = type(error).__name__
        raise ConfigError(f"orthanc.ca_file {ca_file} cannot be read as PEM certificates ({kind})") from None


def _check(status: int, of_one: bool = False) -> None:
    """Raise unless the status is 200; `of_one`: a server error concerns one instance."""
    if status in REFUSED:
        raise OrthancUnavailable(f"Orthanc answers {status}; see orthanc.user and orthanc.password")
    if of_one and status >= 500 and status not in (502, 503, 504):
        raise OrthancDamaged(f"Orthanc answers {status} for this instance")
    if status != 200:
        raise OrthancUnavailable(f"Orthanc answers {status}; see orthanc.url")


def _checked(identifier: object) -> str:
    """Return an ID of Orthanc, which becomes part of paths and names."""
    if not isinstance(identifier, str) or not ID.fullmatch(identifier):
        raise ValueError
    return identifier


@contextmanager
def _reached() -> Iterator[None]:
    """Translate the errors of a connection."""
    try:
        yield
    except (OSError, HTTPException) as error:
        text = f"Orthanc does not answer ({type(error).__name__}); see orthanc.url"
        raise OrthancUnavailable(text) from error


@contextmanager
def _sense() -> Iterator[None]:
    """Translate the errors that an answer of a server other than Orthanc causes."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise OrthancUnavailable("the answer is not Orthanc's; see orthanc.url") from error
