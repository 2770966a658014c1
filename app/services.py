"""Open and close all backends: settings in, services out. Nothing else wires the parts together."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING

from app.announce import Announcers, Options, check_announcers, open_announcers
from app.announce.letters import LetterSink
from app.bus import Bus, Connect, DeliveryPolicy, Publisher, check_bus, open_bus
from app.config import SECTIONS, Settings, loader_variables
from app.forward import Options as ForwardOptions
from app.forward import Receiver as PictureReceiver
from app.forward import check_distinct, check_receiver, open_receivers
from app.model.cleaning import OFF, Cleaning, check_pixels
from app.model.errors import ConfigError, TransientError
from app.model.options import options_of
from app.model.values import Instance
from app.plumbing.admission import Budget, Space
from app.sources.landing import Landing
from app.storage import Storage, WatchOptions, check_storage, open_storage
from app.telemetry.metrics import Metrics
from app.upgrade import move_queue
from app.warehouse import Warehouse, check_warehouse, open_warehouse
from app.warehouse.batch import BatchedWarehouse
from app.workers.pool import PRELOAD, Workers

if TYPE_CHECKING:
    from app.sources.dimse.receiver import Receiver
    from app.sources.orthanc.poller import OrthancPoller
    from app.telemetry.spans import Spans

PATIENCE_S = 30.0
"""Seconds an event waits for memory (`workers.inflight_bytes`) before it gets 429."""


CACHE = "cache/"
"""What the names of answers that are kept for browsers begin with, in the storage of artifacts."""
STATE = "state/"
"""What the names of our own records begin with, in the storage of artifacts."""
COPIES = "dicom/"
"""What the names of de-identified copies begin with, in the storage of artifacts."""


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, kw_only=True)
class Services:
    """Everything that a running dicomlake holds open.

    own_prefixes: for each source bucket, the prefixes of our own artifacts in it. index: the file that stores
    generations of files. letter_announcers: targets of dead letters. receivers: those of pictures, by the
    names that rows show. archive: where retention copies received files. accept_removals: treat files missing
    at the start as removed, even if it looks like an unmounted disk. orthanc, dimse: further ways in, if they
    are set. cleaning: how this lake de-identifies; None where it does not. spans: where deliveries are
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
        # Where the bucket is Google's, the service has no CPU between requests: `pull orthanc` polls there.
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
    if found := list(faults(settings)):
        raise ConfigError("; ".join(found))
    index = _index(settings)
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
        announce, options = settings.announce, _announce_options(settings)
        announcers = open_announcers("announce.urls", announce.urls, options)
        opened.callback(announcers.close)
        letters = open_announcers("announce.dead_letter_urls", announce.dead_letter_urls, options)
        opened.callback(letters.close)
        receivers = open_receivers(settings.forward.urls, _forward_options(settings))
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
        space=Space(_folders(settings), settings.delivery.min_free_bytes),
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
    """Open what jobs publish to: `backfill.topic` if it is set, else the lane of the bus of events."""
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
    """Open only worker processes, for what reads files and keeps nothing; they import `preload`, too."""
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
    if found := [*broken(_dimse_checks(settings))]:
        raise ConfigError("; ".join(found))
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
    if found := [*broken(_orthanc_checks(settings))]:
        raise ConfigError("; ".join(found))
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
    from app.sources.orthanc.poller import OrthancPoller  # only who polls pays for the library

    return OrthancPoller(settings.orthanc, _landing(settings, source), artifacts, _now)


def _landing(settings: Settings, source: Storage) -> Landing:
    """Return the landing storage for ways in; its disk and that of temporary files are looked at."""
    folders = [Path(gettempdir())]
    if settings.source.url.startswith("file:"):
        folders.append(Path(_place(settings.source.url).removeprefix("file:")))
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


def faults(settings: Settings, serving: bool = False) -> Iterator[str]:
    """Yield one sentence for each reason why services could not open or start. Creates nothing."""
    source, bus, artifacts = settings.source, settings.bus, settings.artifacts
    watched = serving and settings.api.serve != "browse"
    no_bus = list(broken([("bus.url", partial(check_bus, bus.url, bus.dead_letter_topic))]))
    index = _index_beside(source.url) if no_bus else _index(settings)
    no_storage = list(
        broken(
            [
                ("source.url", partial(check_storage, "source", source.url, index, source.buckets, watched)),
                ("artifacts.url", partial(check_storage, "artifacts", artifacts.url)),
            ]
        )
    )
    yield from no_storage or broken([("artifacts.url", partial(check_apart, settings))])
    yield from broken([("warehouse.url", partial(check_warehouse, settings.warehouse.url))])
    yield from no_bus
    for setting, topic in (
        ("backfill.topic", settings.backfill.topic),
        ("forward.topic", settings.forward.topic),
    ):
        if topic:
            rule = partial(check_bus, f"pubsub:{topic}", bus.dead_letter_topic)
            yield from (text.replace("bus.url", setting) for text in broken([(setting, rule)]))
    options = _announce_options(settings)
    yield from broken(
        (setting, partial(check_announcers, setting, [url], options))
        for setting, urls in (
            ("announce.urls", settings.announce.urls),
            ("announce.dead_letter_urls", settings.announce.dead_letter_urls),
        )
        for url in urls
    )
    yield from broken(_forward_checks(settings))
    yield from broken(_retention_checks(settings))
    if settings.traces.otlp_url:
        yield from broken([("traces.otlp_url", _spans_class)])
    if settings.orthanc.url and not no_storage:
        yield from broken(_orthanc_checks(settings))
    if settings.dimse.port and not no_storage:
        yield from broken(_dimse_checks(settings))


def _forward_checks(settings: Settings) -> Iterator[tuple[str, Callable[[], object]]]:
    urls, options = settings.forward.urls, _forward_options(settings)
    yield "forward.urls", partial(check_distinct, urls)
    for url in urls:
        yield "forward.urls", partial(check_receiver, url, options)
        yield "forward.urls", partial(check_outside, "forward.urls", url, settings)


def _retention_checks(settings: Settings) -> Iterator[tuple[str, Callable[[], object]]]:
    retention = settings.retention
    if retention.archive_url:
        yield "retention.archive_url", partial(_check_archive, settings)
    yield "retention", partial(_check_retention, settings)


def _check_archive(settings: Settings) -> None:
    url = settings.retention.archive_url
    if not url.startswith(("file:", "gs:")):
        raise ConfigError(f"retention.archive_url {url!r} has no known scheme; begin it with file: or gs:")
    check_storage("retention", url)
    check_outside("retention.archive_url", url, settings)


def _check_retention(settings: Settings) -> None:
    retention = settings.retention
    if retention.archive_after_days and not retention.archive_url:
        raise ConfigError("retention.archive_url: is empty; name the place that files are archived to")
    if not (retention.archive_after_days or retention.delete_after_days):
        return
    if not (settings.source.url.startswith("file:") and settings.bus.url.startswith("local:")):
        raise ConfigError(
            "retention.delete_after_days and retention.archive_after_days are for a folder (source.url file:)"
            " with the embedded queue (bus.url local:); give a bucket lifecycle rules"
        )


def check_outside(setting: str, url: str, settings: Settings) -> None:
    """Raise ConfigError if a place that we write to lies in the source: it would be read as new objects."""
    if url.startswith(("file:", "gs:")) and _place(url).startswith(_place(settings.source.url)):
        raise ConfigError(f"{setting}: {url} lies in the source {settings.source.url}; choose another place")


def _forward_options(settings: Settings) -> ForwardOptions:
    forward = settings.forward
    bearer = {"Authorization": f"Bearer {forward.bearer_secret}"} if forward.bearer_secret else {}
    return ForwardOptions(forward.timeout_s, {**forward.headers, **bearer}, forward.format == "multipart")


def _dimse_checks(settings: Settings) -> list[tuple[str, Callable[[], object]]]:
    def check() -> None:
        from app.sources.dimse.receiver import check_dimse

        check_dimse(settings.dimse)

    return [("dimse", check), ("source.url", partial(check_storage, "source", settings.source.url))]


def _orthanc_checks(settings: Settings) -> list[tuple[str, Callable[[], object]]]:
    from app.sources.orthanc.client import tls_context

    return [
        ("orthanc.ca_file", partial(tls_context, settings.orthanc.ca_file)),
        # Without an index it is a storage that is written to.
        ("source.url", partial(check_storage, "source", settings.source.url)),
    ]


def broken(rules: Iterable[tuple[str, Callable[[], object]]]) -> Iterator[str]:
    """Yield the error of each failed check, prefixed with its setting unless the text names one already."""
    for setting, check in rules:
        try:
            check()
        except ConfigError as error:
            names = any(error.text.startswith(f"{section}.") for section in SECTIONS)
            yield error.text if names else f"{setting}: {error.text}"
        except TransientError:  # such as a locked file: the settings are right
            continue


def check_apart(settings: Settings) -> None:
    """Raise ConfigError if source and artifacts overlap, so that our own output would cause events."""
    further = (f"gs://{bucket}/" for bucket in settings.source.buckets)
    for place in (_place(settings.source.url), *further):
        if place.startswith(_outputs(settings)):
            raise ConfigError(
                f"artifacts.url {settings.artifacts.url} and the source {place} overlap:"
                " previews would be read as new objects; give them separate places or prefixes"
            )


def own_prefixes(settings: Settings, bucket: str) -> dict[str, tuple[str, ...]]:
    """Return, for each source bucket, the prefixes of our own artifacts in it.

    `bucket` is the name that events use for the bucket of `source.url`.
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
    return tuple(
        _place(artifacts.url) + prefix
        for prefix in (artifacts.images, artifacts.metadata, COPIES, CACHE, STATE)
    )


def _place(url: str) -> str:
    """Normalize the URL of a storage; the result ends in a slash."""
    scheme, _, rest = url.partition(":")
    if scheme == "file":
        return f"file:{_resolved(rest.removeprefix('//') or '.')}".rstrip("/") + "/"
    return f"{scheme}://{posixpath.normpath(rest.strip('/'))}/"


def _resolved(path: str) -> Path:
    try:
        return Path(path).resolve()
    except (OSError, ValueError, RuntimeError):  # the storage reports what is wrong with it
        return Path(path)


def _folders(settings: Settings) -> Iterator[Path]:
    """Yield the local folders that the service writes to."""
    for url in (settings.artifacts.url, settings.warehouse.url):
        scheme, _, path = url.partition(":")
        if scheme == "file":
            yield Path(_place(url).removeprefix("file:"))
        elif scheme == "sqlite":
            yield Path(path).absolute().parent


def _index(settings: Settings) -> Path | None:
    """Return the file that stores generations of files: the embedded queue's, else one beside the source."""
    scheme, _, path = settings.bus.url.partition(":")
    return Path(path) if scheme == "local" else _index_beside(settings.source.url)


def _index_beside(source: str) -> Path | None:
    if not source.startswith("file:"):
        return None
    return Path(_place(source).removeprefix("file:").rstrip("/") + ".index.db")


def _spans_class() -> type[Spans]:
    """Return what sends spans; only who sends them pays for the library."""
    try:
        from app.telemetry.spans import Spans
    except ModuleNotFoundError as exc:
        text = f"traces.otlp_url: needs dicomlake[otel]; {exc.name} is not installed"
        raise ConfigError(text) from exc
    return Spans


def _open_spans(settings: Settings) -> Spans | None:
    traces = settings.traces
    if not traces.otlp_url:
        return None
    # Where Pub/Sub pushes, the service has no CPU between requests.
    flush = not settings.bus.url.startswith("local:")
    return _spans_class()(traces.otlp_url, traces.ratio, flush)


def _decoder_failed(result: object) -> bool:
    """Return whether a decoder failed in the task that produced this result."""
    return isinstance(result, Instance) and result.decoder_failed


def _announce_options(settings: Settings) -> Options:
    announce, bus = settings.announce, settings.bus
    taken = bus.url, f"pubsub:{bus.dead_letter_topic}"
    return Options(announce.kafka, announce.headers, taken)


def _open_bus(settings: Settings, warehouse: Warehouse, letters: Announcers, workers: int) -> Bus:
    """Open the bus. The embedded one delivers one event per worker at a time, and two more.

    The two are being read or stored meanwhile. With more, its threads only compete for the interpreter: eight
    events on two cores cost a tenth more CPU.
    """
    policy = options_of(DeliveryPolicy, settings.delivery, concurrency=workers + 2)
    sink = LetterSink(warehouse, letters, settings.deidentify.profile == OFF)
    return open_bus(settings.bus.url, policy, sink, settings.bus.dead_letter_topic)
