"""Record the profile of a lake, and change it: everything described with the earlier profile is removed.

The record is a small file beside the artifacts. A start with other settings is refused, because a lake with
rows of two profiles would show, for the same patient, a name in one and a pseudonym in the other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial

from app import pipeline
from app.jobs import ingest
from app.model.errors import ConfigError, DicomlakeError, ObjectGone, TransientError
from app.model.values import EventType, GiveUp, Message, ObjectRef
from app.places import CACHE, COPIES, STATE
from app.services import Services
from app.storage.local.storage import LocalStorage
from app.warehouse import queries

RECORD = f"{STATE}deidentify.json"
NONE, UNFINISHED = "off", "unfinished"
TABLES = ("instances", "failures", "deliveries")
"""Tables that an adoption empties. `dead_letter` keeps events verbatim: requeue needs them."""
AT_ONCE = 16


def check_profile(services: Services) -> None:
    """Raise ConfigError if a profile is invalid, or the lake was made with another profile, key or naming.

    A lake without rows takes over the settings; the browse service leaves that to the service that writes.
    """
    if services.cleaning:
        from app.dicom.deidentify.profile import read_profile  # late: it loads pydicom

        for profile in {services.cleaning.profile, *services.cleaning.collections.values()}:
            read_profile(profile)
    try:
        wanted, recorded = _identity(services), _recorded(services)
    except TransientError:
        if services.cleaning:
            raise
        return  # the service starts without its storage, as always
    if recorded == wanted:
        return
    if recorded is None and not _has_rows(services):
        if services.settings.api.serve != "browse":
            _record(services, wanted)
        return
    raise ConfigError(
        "deidentify.profile: this lake was made with another profile, key or names; run"
        " `dicomlake deidentify --adopt` to describe everything anew, or change the settings back"
    )


def adopt(
    services: Services,
    emit: ingest.Emit = lambda line: None,
    progress: ingest.Progress = lambda done, total: None,
) -> dict[str, object]:
    """Remove all that was described with an earlier profile, then describe every object of the source anew.

    Rows go first, so that none points at an artifact that is gone. Until the end the record names no profile,
    so that after a crash the start is still refused and the adoption can be repeated. Objects outside of the
    source, which `ingest` described in place, are only counted: ingest them again.

    Returns
    -------
    how many rows, failures and artifacts were removed, and the number of objects by outcome
    """
    outside = _outside(services)
    _record(services, UNFINISHED)
    removed = {table: services.warehouse.clear(table) for table in TABLES}
    artifacts = _remove_artifacts(services)
    if isinstance(services.source, LocalStorage):
        described = ingest.ingest([services.source.root], services, emit, progress=progress)
    else:
        described = _describe_all(services, emit)
    _record(services, _identity(services))
    found: dict[str, object] = {"rows_removed": removed["instances"], "failures_removed": removed["failures"]}
    found |= {"artifacts_removed": artifacts, "described": described}
    return found | ({"ingest_again": outside} if outside else {})


def _identity(services: Services) -> str:
    return services.cleaning.identity if services.cleaning else NONE


def _recorded(services: Services) -> str | None:
    with suppress(ObjectGone):
        value = json.loads(services.artifacts.read(services.artifacts.uri(RECORD)))
        return str(value["identity"])
    return None if services.cleaning else NONE


def _record(services: Services, identity: str) -> None:
    if identity == NONE and _recorded(services) == NONE:
        return
    services.artifacts.delete(RECORD)
    services.artifacts.write(RECORD, json.dumps({"identity": identity}).encode(), "application/json")


def _has_rows(services: Services) -> bool:
    return any(services.warehouse.query(*queries.any_row(table)) for table in TABLES)


def _outside(services: Services) -> int:
    """Return the number of objects that were described where they lay, outside of the source."""
    inside = services.source.uri("")
    uris = services.warehouse.stream(*queries.object_uris())
    return sum(not str(row["object_uri"]).startswith(inside) for row in uris)


def _remove_artifacts(services: Services) -> int:
    settings, store = services.settings.artifacts, services.artifacts
    removed = 0
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="artifacts") as pool:
        for prefix in (settings.images, settings.metadata, COPIES, CACHE):
            names = [ref.name.removeprefix(store.prefix) for ref in store.list(prefix)]
            list(pool.map(store.delete, names))
            removed += len(names)
    return removed


def _describe_all(services: Services, emit: ingest.Emit) -> dict[str, object]:
    """Describe every live object of a bucket."""
    counts: dict[str, object] = {}

    def begun(pool: ThreadPoolExecutor) -> Iterator[Future[ingest.Line]]:
        for ref in services.source.list():
            yield pool.submit(partial(_describe, ref, services))

    for line in ingest.at_once(begun):
        emit(line)
        status = str(line["status"])
        counts[status] = int(str(counts.get(status, 0))) + 1
    return counts


def _describe(ref: ObjectRef, services: Services) -> ingest.Line:
    attributes = {
        "bucketId": ref.bucket,
        "objectId": ref.name,
        "objectGeneration": str(ref.generation),
        "eventType": EventType.FINALIZE.value,
        "payloadFormat": "NONE",
    }
    line: ingest.Line = {"object_uri": services.shown_uri(ref.name, ref.bucket)}
    try:
        message = Message(b"", attributes, "", services.now())
        return line | ingest.facts(pipeline.handle(message, services, GiveUp.NOW))
    except DicomlakeError as error:
        return ingest.failure(line, error)
