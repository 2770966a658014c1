"""Open and close all backends: settings in, services out. Nothing else wires the parts together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING

from app.announce import Announcers, open_announcers
from app.announce.letters import LetterSink
from app.bus import Bus, Connect, DeliveryPolicy, Publisher, open_bus
from app.checks import (
    announce_options,
    check_apart,
    dimse_faults,
    faults,
    forward_options,
    orthanc_faults,
    refuse,
)
from app.config import Settings, loader_variables
from app.forward import Receiver as PictureReceiver
from app.forward import open_receivers
from app.model.cleaning import OFF, Cleaning, check_pixels
from app.model.errors import ConfigError
from app.model.options import options_of
from app.model.values import Instance
from app.places import folder, index_file, own_prefixes, written_folders
from app.plumbing.admission import Budget, Space
from app.sources.landing import Landing
from app.storage import Storage, WatchOptions, open_storage
from app.telemetry.metrics import Metrics
from app.upgrade import move_queue
from app.warehouse import Warehouse, open_warehouse
from app.warehouse.batch import BatchedWarehouse
from app.workers.pool import PRELOAD, Workers

if TYPE_CHECKING:
    from app.sources.dimse.receiver import Receiver
    from app.sources.orthanc.poller import OrthancPoller
    from app.telemetry.spans import Spans

PATIENCE_S = 30.0
"""Seconds an event waits for memory (`workers.inflight_bytes`) before it gets 429."""


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, kw_only=True)
class Services:
    """Everything that a running dicomlake holds open.

    own_prefixes: for each source bucket, the prefixes of our own artifacts in it. index: the file that stores
    generations of files. letter_announcers: targets of dead letters. receivers: receivers of pictures, by the
    names that rows show. archive: where retention copies received files. accept_removals: treat files missing
    at the start as removed, even if it looks like an unmounted disk. orthanc, dimse: further ways in, if they
    are set. cleaning: how this lake de-identifies; None if it does not. spans: where deliveries are
    reported, if anywhere. forward_bus: where deliveries of pictures are published, if not on `bus`.
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
    announcers: Announcers = field(default_factory=Announcers)
    letter_announcers: Announcers = field(default_factory=Announcers)
    receivers: Mapping[str, PictureReceiver] = field(default_factory=dict)
    forward_bus: Bus | None = None
    archive: Storage | None = None
    now: Callable[[], datetime] = _now
    accept_removals: bool = False
    orthanc: OrthancPoller | None = None
    dimse: Receiver | None = None
    cleaning: Cleaning | None = None
    spans: Spans | None = None

    def start(self, connect: Connect) -> None:
        """Start the watcher, the embedded queue and the ways in, if any; the queue pushes over `connect`."""
        if self.settings.api.serve == "browse":
            return
        self.workers.warm()
        self.bus.start(connect)
        shown = self.cleaning.name if self.cleaning else str
        options = WatchOptions(self.settings.source.settle_s, self.accept_removals, shown)
        self.source.watch(self.bus.publish_all, options)
        # With a bucket as source, the service has no CPU between requests: there `pull orthanc` polls.
        if self.orthanc and self.settings.source.url.startswith("file:"):
            self.orthanc.start()
        if self.dimse:
            self.dimse.start()

    def shown_uri(self, name: str, bucket: str = "") -> str:
        """Return the address that rows and answers show for an object of the source."""
        return self.source.uri(self.cleaning.name(name) if self.cleaning else name, bucket)

    def close(self) -> None:
        """Close in the direction of the data: from the ways in to the artifacts."""
        ways_in = [way for way in (self.orthanc, self.dimse) if way is not None]
        targets = self.letter_announcers, self.announcers
        parts = self.artifacts, self.warehouse, *targets, self.workers, self.bus, self.source, *ways_in
        with ExitStack() as stack:
            for receiver in self.receivers.values():
                stack.callback(receiver.close)
            if self.archive is not None:
                stack.callback(self.archive.close)
            if self.spans is not None:
                stack.callback(self.spans.close)
            if self.forward_bus is not None:
                stack.callback(self.forward_bus.close)
            for part in parts:
                stack.callback(part.close)


def open_services(settings: Settings) -> Services:
    """Open every backend in the settings and create missing tables.

    Raises ConfigError with one sentence if a backend cannot be used.
    """
    refuse(faults(settings))
    index = index_file(settings)
    if settings.bus.url.startswith("local:") and index:
        move_queue(index)
    with ExitStack() as opened:
        source = open_storage("source", settings.source.url, index, settings.source.buckets)
        opened.callback(source.close)
        artifacts = open_storage("artifacts", settings.artifacts.url)
        opened.callback(artifacts.close)
        backend = open_warehouse(settings.warehouse.url)
        warehouse = BatchedWarehouse(backend, settings.warehouse.batch_rows, settings.warehouse.batch_bytes)
        opened.callback(warehouse.close)
        warehouse.create()
        announce, options = settings.announce, announce_options(settings)
        announcers = open_announcers("announce.urls", announce.urls, options)
        opened.callback(announcers.close)
        letters = open_announcers("announce.dead_letter_urls", announce.dead_letter_urls, options)
        opened.callback(letters.close)
        receivers = open_receivers(settings.forward.urls, forward_options(settings))
        for receiver in receivers.values():
            opened.callback(receiver.close)
        archive_url = settings.retention.archive_url
        archive = open_storage("retention", archive_url) if archive_url else None
        if archive is not None:
            opened.callback(archive.close)
        workers = _workers(settings)
        bus = _open_bus(settings, warehouse, letters, workers.count)
        opened.callback(bus.close)
        forward_bus = _open_topic(settings, settings.forward.topic) if settings.forward.topic else None
        opened.pop_all()
    return Services(
        settings=settings,
        source=source,
        artifacts=artifacts,
        warehouse=warehouse,
        bus=bus,
        workers=workers,
        metrics=Metrics(),
        budget=Budget(settings.workers.inflight_bytes, PATIENCE_S),
        space=Space(written_folders(settings), settings.delivery.min_free_bytes),
        own_prefixes=own_prefixes(settings, source.bucket),
        index=index,
        announcers=announcers,
        letter_announcers=letters,
        receivers=receivers,
        forward_bus=forward_bus,
        archive=archive,
        orthanc=_open_orthanc(settings, source, artifacts) if settings.orthanc.url else None,
        dimse=_open_dimse(settings, source) if settings.dimse.port else None,
        cleaning=_cleaning(settings, source.prefix),
        spans=_open_spans(settings),
    )


@contextmanager
def open_lane(services: Services) -> Iterator[Publisher]:
    """Open the lane that jobs publish to: `backfill.topic` if it is set, else that of the bus of events."""
    if not services.settings.backfill.topic:
        yield services.bus.backlog()
        return
    with open_backfill_topic(services.settings) as bus:
        yield bus


@contextmanager
def open_backfill_topic(settings: Settings) -> Iterator[Bus]:
    """Open the topic `backfill.topic`."""
    bus = _open_topic(settings, settings.backfill.topic)
    try:
        yield bus
    finally:
        bus.close()


def _open_topic(settings: Settings, topic: str) -> Bus:
    """Open a topic of Pub/Sub beside that of events; both have the same dead-letter topic."""
    return open_bus(f"pubsub:{topic}", DeliveryPolicy(), lambda _: None, settings.bus.dead_letter_topic)


@contextmanager
def open_workers(settings: Settings, *preload: str) -> Iterator[Workers]:
    """Open only worker processes, for commands that read files without a lake; they also import `preload`."""
    workers = _workers(settings, *preload)
    try:
        yield workers
    finally:
        workers.close()


def _workers(settings: Settings, *preload: str) -> Workers:
    limits = settings.workers
    return Workers(
        limits.count,
        limits.memory_bytes,
        limits.timeout_s,
        preload=(*PRELOAD, *preload),
        retire_if=_decoder_failed,
        environment=loader_variables(),
    )


@contextmanager
def open_dimse(settings: Settings) -> Iterator[Receiver]:
    """Open only what receiving needs: the landing storage; raises ConfigError if it cannot be used."""
    if not settings.dimse.port:
        raise ConfigError("dimse.port: is 0; give the port to listen on, such as 11112")
    refuse(dimse_faults(settings))
    with ExitStack() as opened:
        source = open_storage("source", settings.source.url)
        opened.callback(source.close)
        receiver = _open_dimse(settings, source)
        opened.callback(receiver.close)
        yield receiver


def _open_dimse(settings: Settings, source: Storage) -> Receiver:
    from app.sources.dimse.receiver import Receiver

    return Receiver(settings.dimse, _landing(settings, source), settings.source.max_object_bytes)


@contextmanager
def open_orthanc(settings: Settings) -> Iterator[OrthancPoller]:
    """Open only what polling Orthanc needs: the two storages, and neither warehouse nor bus.

    Raises ConfigError if one of them cannot be used, or no Orthanc is set.
    """
    if not settings.orthanc.url:
        raise ConfigError("orthanc.url: is empty; give the address of the REST API of Orthanc")
    refuse(orthanc_faults(settings))
    check_apart(settings)
    with ExitStack() as opened:
        source = open_storage("source", settings.source.url)
        opened.callback(source.close)
        artifacts = open_storage("artifacts", settings.artifacts.url)
        opened.callback(artifacts.close)
        poller = _open_orthanc(settings, source, artifacts)
        opened.callback(poller.close)
        yield poller


def _open_orthanc(settings: Settings, source: Storage, artifacts: Storage) -> OrthancPoller:
    from app.sources.orthanc.poller import OrthancPoller  # loads the library only to poll

    return OrthancPoller(settings.orthanc, _landing(settings, source), artifacts, _now)


def _landing(settings: Settings, source: Storage) -> Landing:
    """Return the landing storage for ways in; it checks the space on its disk and for temporary files."""
    folders = [Path(gettempdir())]
    if settings.source.url.startswith("file:"):
        folders.append(folder(settings.source.url))
    return Landing(source, settings.source.write_prefix, Space(folders, settings.delivery.min_free_bytes))


def _cleaning(settings: Settings, prefix: str) -> Cleaning | None:
    """Return how the lake de-identifies; the file of a profile is read once, at the start."""
    clean = settings.deidentify
    if clean.profile == OFF and set(clean.collections.values()) <= {OFF}:
        return None
    if OFF in (clean.profile, *clean.collections.values()):
        raise ConfigError("deidentify.profile: off is for the whole lake; give every collection a profile")
    if clean.pixels:
        check_pixels()
    profiles = {name: _profile(name) for name in {clean.profile, *clean.collections.values()}}
    return Cleaning(
        profile=profiles[clean.profile],
        secret=clean.key.encode(),
        collections={folder: profiles[name] for folder, name in clean.collections.items()},
        pixels=clean.pixels,
        keep_names=clean.names == "keep",
        prefixes=(prefix + settings.source.write_prefix, prefix),
    )


def _profile(name: str) -> str:
    """Return the name of a profile, or the text of the file that it names."""
    try:
        return Path(name).read_text() if name.endswith(".json") else name
    except (OSError, ValueError) as error:
        raise ConfigError(f"deidentify.profile: {name} cannot be read ({type(error).__name__})") from None


def _open_spans(settings: Settings) -> Spans | None:
    traces = settings.traces
    if not traces.otlp_url:
        return None
    from app.telemetry.spans import Spans  # loads the library only to send spans

    # Where Pub/Sub pushes, the service has no CPU between requests.
    flush = not settings.bus.url.startswith("local:")
    return Spans(traces.otlp_url, traces.ratio, flush)


def _decoder_failed(result: object) -> bool:
    """Return whether a decoder failed in the task that produced this result."""
    return isinstance(result, Instance) and result.decoder_failed


def _open_bus(settings: Settings, warehouse: Warehouse, letters: Announcers, workers: int) -> Bus:
    """Open the bus. The embedded one delivers one event per worker at a time, and two more.

    The two are being read or stored meanwhile. With more, its threads only compete for the interpreter: eight
    events on two cores cost a tenth more CPU.
    """
    policy = options_of(DeliveryPolicy, settings.delivery, concurrency=workers + 2)
    sink = LetterSink(warehouse, letters, settings.deidentify.profile == OFF)
    return open_bus(settings.bus.url, policy, sink, settings.bus.dead_letter_topic)
