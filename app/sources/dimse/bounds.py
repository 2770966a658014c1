"""Limits on what a peer can make us hold. pynetdicom itself limits only the number of its associations.

connection  its address is listed; a number of them; each in a thread that also does the TLS handshake
PDU         a length, and a time from its first byte to its last
message     the size of its command set and of its data set; two that wait
"""

from __future__ import annotations

import io
import logging
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from socket import socket
from tempfile import SpooledTemporaryFile
from time import monotonic
from typing import Any, cast

from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from app.model.errors import InternalError, OutOfSpace, internal
from app.sources.dimse.peers import Peers

log = logging.getLogger("dicomlake.dimse")

PDU_BYTES = 131_072
"""Maximum PDU length that we announce: it doubles the rate of the usual 16 KiB."""
MAX_PDU = 1 << 20
"""The longest PDU that is read: a request for an association may be longer than what holds data."""
MAX_COMMAND = 64 << 10
MAX_WAITING = 2
"""Messages that may wait while one is stored: only a hostile peer sends the next before our answer."""
SPARE = 8
"""Connections beyond the associations, so that a peer gets an answer that there are too many."""
SPOOL_BYTES = 4 << 20
BAD_PDU = "Evt19"
"""pynetdicom's event of an invalid PDU: it aborts the association."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """associations: how many at a time. timeout_s: of one PDU, and of silence. object_bytes: 0 = no limit."""

    associations: int
    timeout_s: float
    object_bytes: int
    check_space: Callable[[], None]


class Received(io.BytesIO):
    """A data set as it arrives: small ones in memory, others in a file without a name.

    A BytesIO only in name, because pynetdicom requires one. Once it is too large or the disk is full,
    `refused` is set and the rest is dropped, so that the peer gets a status instead of a cut connection.
    """

    def __init__(self, bounds: Bounds) -> None:
        super().__init__()
        self.file = SpooledTemporaryFile(SPOOL_BYTES)  # noqa: SIM115 - `close` closes it
        self._bounds, self.size, self.refused = bounds, 0, ""

    def write(self, data: Any) -> int:
        """Take a fragment."""
        if not self.size:
            try:
                self._bounds.check_space()
            except OutOfSpace as error:
                self.refused = error.code
        self.size += len(data)
        if self._bounds.object_bytes and self.size > self._bounds.object_bytes:
            self.refused = "object_too_large"
        if not self.refused:
            try:
                self.file.write(data)
            except OSError:
                self.refused = OutOfSpace.code
        if self.refused:
            self.file.seek(0)
            self.file.truncate()
        return len(data)

    def getvalue(self) -> bytes:
        """Return nothing: nobody may need all of it in memory."""
        return b""

    def close(self) -> None:
        """Free the bytes."""
        self.file.close()
        super().close()


class Inbox(DIMSEServiceProvider):
    """Collects the messages of one association within the bounds, and counts its instances."""

    def __init__(self, association: Association, bounds: Bounds) -> None:
        super().__init__(association)
        self._bounds, self._command_bytes = bounds, 0
        self.stored = self.refused = 0

    def ended(self, stored: bool) -> None:
        """Count an instance that was answered."""
        if stored:
            self.stored += 1
        else:
            self.refused += 1

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take the contents of one PDU; abort the association if it exceeds a limit or makes no sense."""
        if self.message is None:
            self.message, self._command_bytes = DIMSEMessage(), 0
            self.message.data_set = Received(self._bounds)
        fragments = [data for _, data in primitive.presentation_data_value_list]
        self._command_bytes += sum(len(data) for data in fragments if data and data[0] & 1)
        if self._command_bytes > MAX_COMMAND or self.msg_queue.qsize() >= MAX_WAITING:
            self.dul.event_queue.put(BAD_PDU)
            return
        try:
            with internal():
                super().receive_primitive(primitive)
        except InternalError:
            self.dul.event_queue.put(BAD_PDU)


class BoundedServer(ThreadedAssociationServer):
    """Accepts connections of listed peers, a number of them at a time."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self,
        entity: ApplicationEntity,
        address: tuple[str, int],
        tls: ssl.SSLContext | None,
        handlers: list[evt.EventHandlerType],
        peers: Peers,
        bounds: Bounds,
    ) -> None:
        contexts = entity.supported_contexts
        super().__init__(entity, address, entity.ae_title, contexts, tls, handlers, BoundedHandler)
        entity._servers.append(self)  # as AE.start_server does; `shutdown` removes it
        self.bounds, self._peers = bounds, peers
        self.free = threading.Semaphore(bounds.associations + SPARE)

    def get_request(self) -> tuple[socket, tuple[str, int]]:
        """Accept a connection; it has a timeout from the start, and TLS begins in its own thread."""
        assert self.socket is not None
        connection, address = self.socket.accept()
        connection.settimeout(self.bounds.timeout_s)
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Return whether a connection is taken; nothing of it has been read yet."""
        host = client_address[0]
        if not self._peers.admits_address(host):
            log.warning("connection refused", extra={"host": host, "code": "peer_not_listed"})
            return False
        if not self.free.acquire(blocking=False):
            log.warning("connection refused", extra={"host": host, "code": "too_many_connections"})
            return False
        return True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log a connection that failed before it was an association, such as in its TLS handshake."""
        log.warning("connection failed", extra={"host": client_address[0]})


class BoundedHandler(RequestHandler):
    """Serves one connection in a thread of its own, from its TLS handshake to its end."""

    server: BoundedServer

    def handle(self) -> None:
        """Serve the association, and report it when it has ended."""
        try:
            if self.server.ssl_context:
                self.request: Any = self.server.ssl_context.wrap_socket(self.request, server_side=True)
            association = self._create_association()
            inbox = Inbox(association, self.server.bounds)
            association.dimse = inbox
            bounded = cast(Any, association.dul.socket)
            bounded.recv = partial(receive, bounded, self.server.bounds.timeout_s)
            association.start()
            association.join()
            if objects := inbox.stored + inbox.refused:
                counts = {"stored": inbox.stored, "objects": objects}
                log.info("association ended", extra={"host": self.client_address[0], **counts})
        except (OSError, ssl.SSLError):
            self.server.handle_error(self.request, self.client_address)
        finally:
            self.server.free.release()
            self.server.shutdown_request(self.request)


def receive(connection: AssociationSocket, timeout_s: float, size: int) -> bytearray:
    """Return `size` bytes of a connection, fewer if it ends; raise OSError over a limit.

    Replaces AssociationSocket.recv, which takes any length, waits forever, and reads 4 KiB at a time.
    """
    if size > MAX_PDU:
        raise OSError("the PDU is too long")
    assert connection.socket is not None
    data, done, deadline = bytearray(size), 0, monotonic() + timeout_s
    view = memoryview(data)
    while done < size:
        if monotonic() > deadline:
            raise TimeoutError
        read = connection.socket.recv_into(view[done:])
        if not read:
            break
        done += read
    view.release()
    del data[done:]
    return data
