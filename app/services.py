"""The only place where things are wired and closed: settings in, open services out."""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from app.bus import Bus, DeliveryPolicy, open_bus
from app.config import Settings
from app.errors import ConfigError
from app.metrics import Metrics
from app.storage import Storage, open_storage
from app.types import Instance, Row
from app.warehouse import Warehouse, open_warehouse
from app.warehouse.batch import BatchedWarehouse
from app.workers import Workers


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Services:
    """All that a running dicomlake holds open; `own_prefixes`: names in the source that are our output."""

    settings: Settings
    source: Storage
    artifacts: Storage
    warehouse: Warehouse
    bus: Bus
    workers: Workers
    metrics: Metrics
    own_prefixes: tuple[str, ...] = ()
    now: Callable[[], datetime] = _now

    def start(self, endpoint: str) -> None:
        """Begin to watch the source and to push to `endpoint`, where the backends do that themselves."""
        self.workers.warm()
        self.bus.start(endpoint)
        self.source.watch(self.bus.publish)

    def close(self) -> None:
        """Close in the order of the flow: no new events, then no pushes, then workers, rows and stores."""
        with ExitStack() as stack:
            for part in (self.artifacts, self.warehouse, self.workers, self.bus, self.source):
                stack.callback(part.close)


def open_services(settings: Settings) -> Services:
    """Open every backend that the settings name and create the tables that are missing.

    Raises ConfigError with one sentence when something named there cannot be used.
    """
    own = own_prefixes(settings)
    with ExitStack() as opened:
        source = open_storage("source", settings.source.url, _index(settings))
        opened.callback(source.close)
        artifacts = open_storage("artifacts", settings.artifacts.url)
        opened.callback(artifacts.close)
        backend = open_warehouse(settings.warehouse.url)
        warehouse = BatchedWarehouse(backend, settings.warehouse.batch_rows, settings.warehouse.batch_bytes)
        opened.callback(warehouse.close)
        warehouse.create()
        bus = _open_bus(settings, warehouse)
        opened.callback(bus.close)
        limits = settings.workers
        workers = Workers(limits.count, limits.memory_bytes, limits.timeout_s, retire_if=_decoder_failed)
        opened.pop_all()
    return Services(settings, source, artifacts, warehouse, bus, workers, Metrics(), own)


def own_prefixes(settings: Settings) -> tuple[str, ...]:
    """Return the prefixes of object names in the source under which our own artifacts appear.

    Raises ConfigError when the two places overlap so that our output would trigger us.
    """
    source, artifacts = _place(settings.source.url), _place(settings.artifacts.url)
    outputs = [artifacts + settings.artifacts.images, artifacts + settings.artifacts.metadata]
    for output in outputs:
        if source.startswith(output):
            raise ConfigError(
                f"source.url {settings.source.url} and artifacts.url {settings.artifacts.url} overlap:"
                " previews would be read as new objects; give them separate places or prefixes"
            )
    root = source if settings.source.url.startswith("file:") else source[: source.find("/", 5) + 1]
    return tuple(output.removeprefix(root) for output in outputs if output.startswith(root))


def _place(url: str) -> str:
    """Return a URL of a storage in one spelling that ends in a slash."""
    scheme, _, rest = url.partition(":")
    if scheme == "file":
        return f"file:{Path(rest.removeprefix('//') or '.').resolve()}".rstrip("/") + "/"
    return f"{scheme}://{posixpath.normpath(rest.strip('/'))}/"


def _index(settings: Settings) -> Path | None:
    """Return where a watched folder keeps what it has seen: in the queue's file, where there is one."""
    scheme, _, path = settings.bus.url.partition(":")
    if not settings.source.url.startswith("file:"):
        return None
    if scheme == "local":
        return Path(path)
    return Path(_place(settings.source.url).removeprefix("file:").rstrip("/") + ".index.db")


def _decoder_failed(result: object) -> bool:
    """Tell whether a decoder refused a frame: some leak what they had allocated, so their process goes."""
    return isinstance(result, Instance) and result.preview_error in ("decode_failed", "out_of_memory")


def _open_bus(settings: Settings, warehouse: Warehouse) -> Bus:
    delivery = settings.delivery
    policy = DeliveryPolicy(
        max_attempts=delivery.max_attempts,
        backoff_min_s=delivery.backoff_min_s,
        backoff_max_s=delivery.backoff_max_s,
        ack_deadline_s=delivery.ack_deadline_s,
    )

    def sink(row: Row) -> None:
        warehouse.append("dead_letter", [row])

    return open_bus(settings.bus.url, policy, sink, settings.bus.dead_letter_topic)
