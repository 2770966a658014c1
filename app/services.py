"""Open and close all backends: settings in, services out. Nothing else wires the parts together."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from app.announce import Announcers, Options, check_announcers, open_announcers
from app.announce.announcements import dead_lettered, object_uri
from app.bus import Bus, Connect, DeliveryPolicy, check_bus, open_bus
from app.config import SECTIONS, Settings, loader_variables
from app.model.errors import ConfigError, TransientError
from app.model.values import Instance, Message, Reason, Row
from app.plumbing.admission import Budget, Space
from app.storage import Storage, WatchOptions, check_storage, open_storage
from app.telemetry.metrics import Metrics
from app.upgrade import move_queue
from app.warehouse import Warehouse, check_warehouse, open_warehouse
from app.warehouse.batch import BatchedWarehouse
from app.warehouse.queries import last_failure, stored_letter
from app.workers.pool import Workers

PATIENCE_S = 30.0
"""Seconds an event waits for memory (`workers.inflight_bytes`) before it gets 429."""


GIVEN_UP_BY_US = "dicomlakeCode"
"""Attribute of a dead letter that the pipeline gave up, and has announced."""
CACHE = "cache/"
"""What the names of answers that are kept for browsers begin with, in the storage of artifacts."""


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Services:
    """Everything that a running dicomlake holds open.

    own_prefixes: for each source bucket, the prefixes of our own artifacts in it. index: the file that stores
    generations of files. letter_announcers: targets of dead letters. accept_removals: treat files missing at
    the start as removed, even if it looks like an unmounted disk.
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
    now: Callable[[], datetime] = _now
    accept_removals: bool = False

    def start(self, connect: Connect) -> None:
        """Start the watcher and the embedded queue, if there are any; the queue pushes over `connect`."""
        if self.settings.api.serve == "browse":
            return
        self.workers.warm()
        self.bus.start(connect)
        options = WatchOptions(self.settings.source.settle_s, self.accept_removals)
        self.source.watch(self.bus.publish, options)

    def close(self) -> None:
        """Close in the direction of the data: watcher, queue, workers, targets, warehouse, artifacts."""
        targets = self.letter_announcers, self.announcers
        with ExitStack() as stack:
            for part in (self.artifacts, self.warehouse, *targets, self.workers, self.bus, self.source):
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
        bus = _open_bus(settings, warehouse, letters)
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
    budget = Budget(limits.inflight_bytes, PATIENCE_S)
    space = Space(_folders(settings), settings.delivery.min_free_bytes)
    parts = source, artifacts, warehouse, bus, workers, Metrics(), budget, space
    return Services(settings, *parts, own, index, announcers, letters)


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
    options = _announce_options(settings)
    yield from broken(
        (setting, partial(check_announcers, setting, [url], options))
        for setting, urls in (
            ("announce.urls", settings.announce.urls),
            ("announce.dead_letter_urls", settings.announce.dead_letter_urls),
        )
        for url in urls
    )


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
    return tuple(_place(artifacts.url) + prefix for prefix in (artifacts.images, artifacts.metadata, CACHE))


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


def _decoder_failed(result: object) -> bool:
    """Return whether a decoder failed in the task that produced this result."""
    return isinstance(result, Instance) and result.decoder_failed


class LetterSink:
    """Stores dead letters of the embedded bus as rows, and announces those that the bus itself gave up.

    The bus repeats a call until it succeeds. A letter whose row is stored but not announced is remembered:
    somebody may requeue it meanwhile, which removes the row, and the next call must not bring it back.
    """

    def __init__(self, warehouse: Warehouse, announcers: Announcers) -> None:
        self._warehouse, self._announcers = warehouse, announcers
        self._unannounced: set[str] = set()

    def __call__(self, row: Row) -> None:
        """Store a letter once, then announce it."""
        data, attributes = row["data"], json.loads(str(row["attributes"]))
        assert isinstance(data, bytes)
        letter = Message(data, attributes, str(row["message_id"]))
        if not self._announcers or GIVEN_UP_BY_US in attributes:
            self._warehouse.append("dead_letter", [row])
            return
        known = letter.message_id in self._unannounced
        if not known and not self._warehouse.query(*stored_letter(letter.message_id)):
            self._warehouse.append("dead_letter", [row])
        self._unannounced.add(letter.message_id)
        announce_letter(letter, self._warehouse, self._announcers)
        self._unannounced.discard(letter.message_id)


def announce_letter(letter: Message, warehouse: Warehouse, announcers: Announcers) -> None:
    """Announce a letter that the bus itself has given up, with the reason of its last failed attempt.

    A letter that already has a reason comes from the pipeline, which has announced it.
    """
    attributes = letter.attributes
    if not announcers or GIVEN_UP_BY_US in attributes:
        return
    generation = attributes.get("objectGeneration", "")
    asked = last_failure(
        letter.message_id,
        object_uri(attributes),
        int(generation) if generation.isascii() and generation.isdecimal() and len(generation) < 19 else None,
        attributes.get("eventType", ""),
    )
    found = warehouse.query(*asked)
    code, text = (str(found[0]["code"]), str(found[0]["message"])) if found else ("", "")
    announcers.announce([dead_lettered(letter, Reason(code, text, object_uri(attributes)))])


def _announce_options(settings: Settings) -> Options:
    announce, bus = settings.announce, settings.bus
    taken = bus.url, f"pubsub:{bus.dead_letter_topic}"
    return Options(announce.kafka, announce.headers, taken)


def _open_bus(settings: Settings, warehouse: Warehouse, letters: Announcers) -> Bus:
    delivery = settings.delivery
    policy = DeliveryPolicy(
        max_attempts=delivery.max_attempts,
        backoff_min_s=delivery.backoff_min_s,
        backoff_max_s=delivery.backoff_max_s,
        ack_deadline_s=delivery.ack_deadline_s,
        min_free_bytes=delivery.min_free_bytes,
    )

    return open_bus(settings.bus.url, policy, LetterSink(warehouse, letters), settings.bus.dead_letter_topic)
