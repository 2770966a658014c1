"""Receive instances by C-STORE: durable in the landing storage before the status 0x0000.

Only the command set is parsed here. The data set is stored as it arrived; the pipeline reads it.
"""

from __future__ import annotations

import errno
import logging
import re
import ssl
import threading
from io import BufferedReader
from typing import Any, BinaryIO, cast

from app.model.errors import ConfigError, InternalError, TransientError, internal
from app.model.options import DimseOptions
from app.sources.dimse.part10 import Joined, file_meta
from app.sources.dimse.peers import Peers
from app.sources.landing import Landing

try:
    from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, NonPatientObjectPresentationContexts, _config, evt
    from pynetdicom.dimse_primitives import C_STORE
    from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at its import

    from app.sources.dimse.bounds import (
        PDU_BYTES,
        BoundedServer,
        Bounds,
        Inbox,
        Received,
    )
except ModuleNotFoundError as exc:
    if (exc.name or "").startswith("app."):
        raise
    raise ConfigError(f"dimse.port: needs dicomlake[dimse]; {exc.name} is not installed") from exc

log = logging.getLogger("dicomlake.dimse")

FOLDER = "dimse/"
UID = re.compile(r"(?=.*[0-9])[0-9.]{1,64}")
NOT_PLAIN = re.compile(r"[^A-Za-z0-9_-]")
SUCCESS, OUT_OF_RESOURCES, CANNOT_UNDERSTAND, PROCESSING_FAILURE = 0x0000, 0xA700, 0xC000, 0x0110
"""PS3.4 table B.2-1, PS3.7 C.5.15."""
REJECTED, BY_USER, UNKNOWN_CALLING_AE = 1, 1, 3
"""PS3.8 table 9-21."""
BUFFER_BYTES = 1 << 20
LOOPBACK = ("127.", "::1", "localhost")


class Receiver:
    """Listens for associations from `start` until `close`."""

    def __init__(self, options: DimseOptions, landing: Landing, max_object_bytes: int) -> None:
        self._options, self._landing = options, landing
        self._peers, self._tls = Peers.parsed(options.peers), tls_context(options)
        space = landing.space.check
        self._bounds = Bounds(options.max_associations, options.timeout_s, max_object_bytes, space)
        self._server: BoundedServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port that it listens on."""
        assert self._server is not None
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Start to listen, in threads; raises ConfigError if the address is not available."""
        _config.UNRESTRICTED_STORAGE_SERVICE = True  # every SOP class, private ones too
        _config.LOG_HANDLER_LEVEL = "none"
        options = self._options
        entity = AE(options.ae_title)
        entity.require_called_aet = True
        entity.maximum_associations = options.max_associations
        entity.maximum_pdu_size = PDU_BYTES
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = options.timeout_s
        entity.add_supported_context(Verification)
        for context in NonPatientObjectPresentationContexts:  # to pynetdicom they are no storage classes
            entity.add_supported_context(cast(str, context.abstract_syntax), ALL_TRANSFER_SYNTAXES)
        handlers: list[Any] = [(evt.EVT_REQUESTED, self._admit), (evt.EVT_C_STORE, self._store)]
        try:
            address = options.host, options.port
            self._server = BoundedServer(entity, address, self._tls, handlers, self._peers, self._bounds)
        except (OSError, OverflowError) as error:
            in_use = getattr(error, "errno", None) == errno.EADDRINUSE
            why = "is in use" if in_use else f"cannot be listened on ({type(error).__name__})"
            raise ConfigError(
                f"dimse.port: port {options.port} on {options.host} {why}; see dimse.host and dimse.port"
            ) from None
        self._thread = threading.Thread(target=self._server.serve_forever, name="dimse", daemon=True)
        self._thread.start()
        log.info("receiving", extra={"host": options.host, "port": self.port})

    def close(self) -> None:
        """Stop listening and abort the associations; senders repeat instances that got no status."""
        if self._server is not None:
            self._server.shutdown()
            for association in self._server.active_associations:
                association.abort()
            self._server = None

    def _admit(self, event: evt.Event) -> None:
        """Reject a requested association whose AE title is not listed with its address."""
        requestor = event.assoc.requestor
        title, host = cast(Any, requestor.primitive).calling_ae_title, str(requestor.address)
        if not self._peers.admits(title, host):
            log.warning("association rejected", extra={"host": host, "code": "peer_not_listed"})
            event.assoc.acse.send_reject(REJECTED, BY_USER, UNKNOWN_CALLING_AE)
            event.assoc.kill()  # waits until the peer has read it

    def _store(self, event: evt.Event) -> int:
        """Store one instance and return its status."""
        inbox = cast(Inbox, event.assoc.dimse)
        request = cast(C_STORE, event.request)
        with cast(Received, request.DataSet) as received:
            try:
                with internal():
                    status = self._land(event, request, received)
            except (TransientError, InternalError) as error:
                passing = isinstance(error, TransientError)
                log.warning("instance refused", extra={"code": error.code}, exc_info=error)
                status = OUT_OF_RESOURCES if passing else PROCESSING_FAILURE
        inbox.ended(status == SUCCESS)
        return status

    def _land(self, event: evt.Event, request: C_STORE, received: Received) -> int:
        title = str(event.assoc.requestor.ae_title)
        sop_class, instance = str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID)
        if received.refused:
            log.warning("instance refused", extra={"code": received.refused})
            return OUT_OF_RESOURCES
        if not (UID.fullmatch(sop_class) and UID.fullmatch(instance)):
            log.warning("instance refused", extra={"code": "bad_uid"})
            return CANNOT_UNDERSTAND
        head = file_meta(sop_class, instance, str(event.context.transfer_syntax), title)
        stream = BufferedReader(Joined(head, cast(BinaryIO, received.file)), BUFFER_BYTES)
        self._landing.land(object_name(title, instance), cast(BinaryIO, stream))
        return SUCCESS


def object_name(ae_title: str, sop_instance: str) -> str:
    """Return the name of an instance of a sender; another sender cannot replace it."""
    return f"{FOLDER}{NOT_PLAIN.sub('_', ae_title.strip())}/{sop_instance}.dcm"


def tls_context(options: DimseOptions) -> ssl.SSLContext | None:
    """Return the TLS context of connections, None without TLS; raises ConfigError unless files are PEM."""
    if not options.certificate_file:
        if options.key_file or options.client_ca_file:
            raise ConfigError("dimse.certificate_file: is empty, but TLS needs a certificate")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(options.certificate_file, options.key_file or None)
        if options.client_ca_file:
            context.load_verify_locations(options.client_ca_file)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ValueError) as error:  # of which SSLError is one
        raise ConfigError(
            "dimse.certificate_file: certificate, key or authorities cannot be read as PEM"
            f" ({type(error).__name__}); see dimse.key_file and dimse.client_ca_file"
        ) from None
    return context


def check_dimse(options: DimseOptions) -> None:
    """Raise ConfigError if receiving could not start, or if anyone could send."""
    Peers.parsed(options.peers)
    tls_context(options)
    if not options.peers and not options.client_ca_file and not options.host.startswith(LOOPBACK):
        raise ConfigError(
            f"dimse.peers: is empty, so anyone who can reach dimse.host {options.host!r} could send; list"
            ' the peers, such as ["CT1@10.0.0.5", "*@10.0.1.0/24"], or "*@*" for all'
        )
