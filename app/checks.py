"""Check settings before anything opens: could every backend be opened, and do the places stay apart?

Each fault is one sentence that begins with its setting. A check creates nothing and asks no network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

from app.announce import Options, check_announcers
from app.bus import check_bus
from app.config import SECTIONS, Settings
from app.forward import Options as ForwardOptions
from app.forward import check_distinct, check_receiver
from app.model.errors import ConfigError, TransientError
from app.places import address, index_beside, index_file, outputs
from app.storage import check_storage
from app.warehouse import check_warehouse

Rule = tuple[str, Callable[[], object]]
"""Setting, and a check that raises ConfigError if the setting cannot be used."""


def faults(settings: Settings, serving: bool = False) -> Iterator[str]:
    """Yield one sentence for each reason why services could not open or start."""
    source, bus, artifacts = settings.source, settings.bus, settings.artifacts
    watched = serving and settings.api.serve != "browse"
    no_bus = list(broken([("bus.url", partial(check_bus, bus.url, bus.dead_letter_topic))]))
    index = index_beside(source.url) if no_bus else index_file(settings)
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
    yield from broken(_announce_rules(settings))
    yield from broken(_forward_rules(settings))
    yield from broken(_retention_rules(settings))
    if settings.traces.otlp_url:
        yield from broken([("traces.otlp_url", _check_spans)])
    if settings.orthanc.url and not no_storage:
        yield from orthanc_faults(settings)
    if settings.dimse.port and not no_storage:
        yield from dimse_faults(settings)


def broken(rules: Iterable[Rule]) -> Iterator[str]:
    """Yield the error of each failed check, prefixed with its setting unless the text names one already."""
    for setting, check in rules:
        try:
            check()
        except ConfigError as error:
            names = any(error.text.startswith(f"{section}.") for section in SECTIONS)
            yield error.text if names else f"{setting}: {error.text}"
        except TransientError:  # such as a locked file: the settings are right
            continue


def refuse(found: Iterable[str]) -> None:
    """Raise ConfigError with all faults, if there are any."""
    if sentences := list(found):
        raise ConfigError("; ".join(sentences))


def check_apart(settings: Settings) -> None:
    """Raise ConfigError if source and artifacts overlap, so that our own output would cause events."""
    further = (f"gs://{bucket}/" for bucket in settings.source.buckets)
    for place in (address(settings.source.url), *further):
        if place.startswith(outputs(settings)):
            raise ConfigError(
                f"artifacts.url {settings.artifacts.url} and the source {place} overlap:"
                " previews would be read as new objects; give them separate places or prefixes"
            )


def check_outside(setting: str, url: str, settings: Settings) -> None:
    """Raise ConfigError if a place that we write to lies in the source: it would be read as new objects."""
    if url.startswith(("file:", "gs:")) and address(url).startswith(address(settings.source.url)):
        raise ConfigError(f"{setting}: {url} lies in the source {settings.source.url}; choose another place")


def announce_options(settings: Settings) -> Options:
    """Return how targets of announcements are opened."""
    announce, bus = settings.announce, settings.bus
    taken = bus.url, f"pubsub:{bus.dead_letter_topic}"
    return Options(announce.kafka, announce.headers, taken)


def _announce_rules(settings: Settings) -> Iterator[Rule]:
    announce, options = settings.announce, announce_options(settings)
    for setting, urls in (
        ("announce.urls", announce.urls),
        ("announce.dead_letter_urls", announce.dead_letter_urls),
    ):
        for url in urls:
            yield setting, partial(check_announcers, setting, [url], options)


def forward_options(settings: Settings) -> ForwardOptions:
    """Return how receivers of pictures are opened."""
    forward = settings.forward
    bearer = {"Authorization": f"Bearer {forward.bearer_secret}"} if forward.bearer_secret else {}
    return ForwardOptions(forward.timeout_s, {**forward.headers, **bearer}, forward.format == "multipart")


def _forward_rules(settings: Settings) -> Iterator[Rule]:
    urls, options = settings.forward.urls, forward_options(settings)
    yield "forward.urls", partial(check_distinct, urls)
    for url in urls:
        yield "forward.urls", partial(check_receiver, url, options)
        yield "forward.urls", partial(check_outside, "forward.urls", url, settings)


def _retention_rules(settings: Settings) -> Iterator[Rule]:
    if settings.retention.archive_url:
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


def _check_spans() -> None:
    try:
        import app.telemetry.spans  # noqa: F401  loads the library only if spans are sent
    except ModuleNotFoundError as exc:
        text = f"traces.otlp_url: needs dicomlake[otel]; {exc.name} is not installed"
        raise ConfigError(text) from exc


def dimse_faults(settings: Settings) -> Iterator[str]:
    """Yield one sentence for each reason why the C-STORE receiver could not open."""

    def check() -> None:
        from app.sources.dimse.receiver import check_dimse

        check_dimse(settings.dimse)

    # Without an index it is a storage that is written to.
    landing = partial(check_storage, "source", settings.source.url)
    return broken([("dimse", check), ("source.url", landing)])


def orthanc_faults(settings: Settings) -> Iterator[str]:
    """Yield one sentence for each reason why Orthanc could not be polled."""
    from app.sources.orthanc.client import tls_context

    landing = partial(check_storage, "source", settings.source.url)
    return broken(
        [("orthanc.ca_file", partial(tls_context, settings.orthanc.ca_file)), ("source.url", landing)]
    )
