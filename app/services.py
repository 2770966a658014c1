"""The only place where things are wired and closed: settings in, open services out."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from app.admission import Budget, Space
from app.bus import Bus, DeliveryPolicy, open_bus
from app.config import Settings, loader_variables
from app.errors import ConfigError
from app.metrics import Metrics
from app.pages import MAX_WAIT_S
from app.storage import Storage, open_storage
from app.types import Instance, Row
from app.warehouse import Warehouse, open_warehouse
from app.warehouse.batch import BatchedWarehouse
from app.workers import Workers


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Services:
    """All that a running dicomlake holds open.

    own_prefixes: by bucket that is read, what names of our own artifacts there begin with. index: the file in
    which generations of files are kept. page_wait_s: how long one event waits for the pages of others.
    """

    settings: Settings
    source: Storage
    artifacts: Storage
    warehouse: Warehouse
    bus: Bus
    workers: Workers
    metrics: Metrics
    budget: Budget
    space: Space
    own_prefixes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    index: Path | None = None
    page_wait_s: float = MAX_WAIT_S
    now: Callable[[], datetime] = _now

    def start(self, endpoint: str) -> None:
        """Begin to watch the source and to push to `endpoint`, where the backends do that themselves."""
        if self.settings.api.serve == "browse":
            return
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
    check_apart(settings)
    index = _index(settings)
    with ExitStack() as opened:
        source = open_storage("source", settings.source.url, index, settings.source.buckets)
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
        workers = Workers(
            limits.count,
            limits.memory_bytes,
            limits.timeout_s,
            retire_if=_decoder_failed,
            environment=loader_variables(),
        )
        opened.pop_all()
    own = own_prefixes(settings, source.bucket)
    budget = Budget(limits.inflight_bytes)
    space = Space(_folders(settings), settings.delivery.min_free_bytes)
    parts = source, artifacts, warehouse, bus, workers, Metrics(), budget, space
    return Services(settings, *parts, own, index)


def check_apart(settings: Settings) -> None:
    """Raise ConfigError when source and artifacts overlap so that our output would trigger us."""
    further = (f"gs://{bucket}/" for bucket in settings.source.buckets)
    for place in (_place(settings.source.url), *further):
        if place.startswith(_outputs(settings)):
            raise ConfigError(
                f"source {place} and artifacts.url {settings.artifacts.url} overlap:"
                " previews would be read as new objects; give them separate places or prefixes"
            )


def own_prefixes(settings: Settings, bucket: str) -> dict[str, tuple[str, ...]]:
    """Return, by bucket that is read, what names of our own artifacts there begin with.

    `bucket` is what events call that of `source.url`.
    """
    source = _place(settings.source.url)
    is_folder = settings.source.url.startswith("file:")
    roots = {name: f"gs://{name}/" for name in settings.source.buckets}
    roots[bucket] = source if is_folder else f"gs://{bucket}/"
    return {
        name: tuple(output.removeprefix(root) for output in _outputs(settings) if output.startswith(root))
        for name, root in roots.items()
    }


def _outputs(settings: Settings) -> tuple[str, ...]:
    artifacts = settings.artifacts
    return tuple(_place(artifacts.url) + prefix for prefix in (artifacts.images, artifacts.metadata))


def _place(url: str) -> str:
    """Return a URL of a storage in one spelling that ends in a slash."""
    scheme, _, rest = url.partition(":")
    if scheme == "file":
        return f"file:{Path(rest.removeprefix('//') or '.').resolve()}".rstrip("/") + "/"
    return f"{scheme}://{posixpath.normpath(rest.strip('/'))}/"


def _folders(settings: Settings) -> Iterator[Path]:
    """Yield the folders of this machine that are written to."""
    for url in (settings.artifacts.url, settings.warehouse.url):
        scheme, _, path = url.partition(":")
        if scheme == "file":
            yield Path(_place(url).removeprefix("file:"))
        elif scheme == "sqlite":
            yield Path(path).absolute().parent


def _index(settings: Settings) -> Path | None:
    """Return where generations of files are kept: in the queue's file if there is one, else by the folder."""
    scheme, _, path = settings.bus.url.partition(":")
    if scheme == "local":
        return Path(path)
    if not settings.source.url.startswith("file:"):
        return None
    return Path(_place(settings.source.url).removeprefix("file:").rstrip("/") + ".index.db")


def _decoder_failed(result: object) -> bool:
    """Tell whether a decoder refused a frame in the task that made this result."""
    described = result if isinstance(result, tuple) else (result,)
    return any(isinstance(one, Instance) and one.decoder_failed for one in described)


def _open_bus(settings: Settings, warehouse: Warehouse) -> Bus:
    delivery = settings.delivery
    policy = DeliveryPolicy(
        max_attempts=delivery.max_attempts,
        backoff_min_s=delivery.backoff_min_s,
        backoff_max_s=delivery.backoff_max_s,
        ack_deadline_s=delivery.ack_deadline_s,
        min_free_bytes=delivery.min_free_bytes,
    )

    def sink(row: Row) -> None:
        warehouse.append("dead_letter", [row])

    return open_bus(settings.bus.url, policy, sink, settings.bus.dead_letter_topic)
