"""Run the service: bind the port, serve HTTP, start the watcher and the queue, stop on a signal."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

import uvicorn

from app.api import create_app
from app.api.announcing import looking_for_settled
from app.api.auth import check_gate
from app.api.connection_limits import Connection
from app.api.repeated import retaining
from app.api.users import check_users
from app.checks import broken
from app.checks import faults as services_faults
from app.config import Settings
from app.model.errors import ConfigError
from app.model.values import OWN_QUEUE
from app.services import Services
from app.telemetry.metrics import FAILED
from app.workers.sandbox import offered

log = logging.getLogger("dicomlake")

GRACE_S = 8
"""Seconds for requests in flight after SIGTERM; Cloud Run kills two seconds later."""


class AddressInUse(ConfigError):
    """Another program listens on this port."""


def faults(settings: Settings) -> Iterator[str]:
    """Yield one sentence for each reason why `serve` could not start with these settings. Creates nothing."""
    api = settings.api
    yield from services_faults(settings, serving=True)
    yield from broken(
        (
            ("api.host", partial(_check_address, api.host, api.port)),
            ("api.auth", partial(check_gate, api)),
            ("api.users", partial(check_users, api)),
        )
    )


def _check_address(host: str, port: int) -> None:
    with suppress(AddressInUse):
        _bound(host, port).close()


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; raise ConfigError if the address is not available."""
    sock = _bound(host, port)
    sock.listen(512)
    return sock


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except (OSError, OverflowError) as exc:
        sock.close()
        if isinstance(exc, OSError) and exc.errno == errno.EADDRINUSE:
            raise AddressInUse(
                f"port {port} on {host} is in use; stop what uses it or choose another with --port N"
                " (make demo PORT=N)"
            ) from None
        text = f"cannot listen on {host}:{port} ({type(exc).__name__}); see api.host and api.port"
        raise ConfigError(text) from None
    return sock


class Server(uvicorn.Server):
    """Stops on SIGINT and SIGTERM, and then exits with 0 rather than by the signal."""

    _loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve."""
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()

    def connect(self) -> socket.socket:
        """Return a connection for the embedded queue, recognizable because only this process can create it.

        Call it from any thread except the server's. Raises ConnectionRefusedError while the server is down.
        """
        if self._loop is None or self.should_exit:
            raise ConnectionRefusedError
        ours, theirs = socket.socketpair()
        accepting = self._accept(theirs)
        try:
            asyncio.run_coroutine_threadsafe(accepting, self._loop)
        except RuntimeError:  # the loop has just been closed
            accepting.close()
            ours.close()
            theirs.close()
            raise ConnectionRefusedError from None
        return ours

    async def _accept(self, theirs: socket.socket) -> None:
        if self.should_exit:  # too late to change the connection
            theirs.close()
            return
        theirs.setblocking(False)
        state = {**self.lifespan.state, OWN_QUEUE: True}
        protocol = partial(self.config.http_protocol_class, self.config, self.server_state, state)  # type: ignore[call-arg]  # as uvicorn
        await asyncio.get_running_loop().connect_accepted_socket(protocol, theirs)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop gracefully on either signal; a second one stops at once."""
        main = threading.current_thread() is threading.main_thread()  # only that may handle them
        wishes = (signal.SIGINT, signal.SIGTERM) if main else ()
        before = [signal.signal(number, self.handle_exit) for number in wishes]
        try:
            yield
        finally:
            for number, handler in zip(wishes, before, strict=True):
                signal.signal(number, handler)


def make_server(services: Services, connection: type[Connection] = Connection) -> Server:
    """Return the HTTP server over open services; its shutdown closes them."""

    class Counted(connection):  # type: ignore[misc, valid-type]  # uvicorn makes it, from a class alone
        @staticmethod
        def count(code: str) -> None:
            services.metrics.event(None, FAILED, code, 0.0)

    config = uvicorn.Config(
        create_app(services),
        http=Counted,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=30,
    )
    return Server(config)


def serve(services: Services, sock: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM."""
    run(make_server(services), services, sock)


def run(server: Server, services: Services, sock: socket.socket) -> None:
    """Start the services and serve HTTP on `sock`; close the services however it ends."""
    try:
        services.start(server.connect)
        log.info("serving", extra={"url": local_endpoint(sock), "sandbox": "+".join(offered()) or "none"})
        with looking_for_settled(services), retaining(services):
            server.run(sockets=[sock])
    finally:
        services.close()


def local_endpoint(sock: socket.socket) -> str:
    """Return the URL at which local clients reach the service."""
    host, port = sock.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
