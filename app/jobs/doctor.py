"""`doctor`: one line per check; each fault comes with the command that mends it.

Most checks are pure: the backends return facts, and this module says what must be true of them.
"""

from __future__ import annotations

import io
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from app.checks import faults
from app.model.errors import DicomlakeError
from app.model.values import REMOVALS, EventType
from app.services import Services, open_backfill_topic
from app.warehouse import Warehouse, merged_until, missed_by_merges
from app.warehouse.queries import outcome_of

if TYPE_CHECKING:
    from app.config import Settings

GCP_AGENT = "gcp-sa-pubsub.iam.gserviceaccount.com"
PUBLISHER, SUBSCRIBER = "roles/pubsub.publisher", "roles/pubsub.subscriber"
ACK_S = 600
PROBE_S, POLL_S = 120.0, 0.5
OLD_S = 3600.0
"""Age of the oldest waiting message from which the queue counts as stuck."""
MERGE_LATE = timedelta(hours=3)
"""Age from which a row must be in `study_current`: an hour of lag, an hour between merges, one to spare."""
READS = {f"roles/storage.{one}" for one in ("objectViewer", "objectUser", "objectAdmin", "admin")}
WRITES = {f"roles/storage.{one}" for one in ("objectUser", "objectAdmin", "admin")}
APPENDS = {"roles/bigquery.dataEditor", "roles/bigquery.dataOwner", "roles/bigquery.admin", "WRITER", "OWNER"}
RUNS_JOBS = {"roles/bigquery.jobUser", "roles/bigquery.user", "roles/bigquery.admin"}
PUBLISHES = {PUBLISHER, "roles/pubsub.editor", "roles/pubsub.admin"}
INVOKES = {"roles/run.invoker", "roles/run.servicesInvoker", "roles/run.admin"}
EVERYTHING = {"roles/owner", "roles/editor"}
APPENDED = ("instances", "failures", "announced")
"""Tables that the service itself writes; Pub/Sub writes `dead_letter`."""
SEEN_BY = {
    "Cloud Run": "roles/run.viewer",
    "Cloud Monitoring": "roles/monitoring.viewer",
    "policy of the project": "roles/iam.securityReviewer",
}
Grants = Iterable[tuple[str, str]]
"""Pairs of role and member."""


@dataclass(frozen=True, slots=True)
class Check:
    """One fact. fault: empty if it is as it must be. mend: what to do about the fault."""

    name: str
    fault: str = ""
    mend: str = ""

    @property
    def line(self) -> dict[str, object]:
        """The check as one JSON line."""
        found: dict[str, object] = {"check": self.name, "ok": not self.fault}
        return found | ({"fault": self.fault, "do": self.mend} if self.fault else {})


@dataclass(frozen=True, slots=True)
class Waiting:
    """How long the probe waits. clock, sleep: seconds, for tests."""

    limit_s: float = PROBE_S
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def settings_check(settings: Settings) -> Check:
    """Return whether the settings could be served."""
    return Check("settings", "; ".join(faults(settings)), "dicomlake config check")


def tables_check(outdated: list[str], dialect: str) -> Check:
    """Return whether tables and views are those of the code."""
    fault = f"not as this version has them: {', '.join(outdated)}" if outdated else ""
    apply = "terraform -chdir=tf apply; a table keeps its partitions: copy it before it is replaced"
    mend = apply if dialect == "bigquery" else "restart `dicomlake serve`: it updates them"
    return Check("tables and views", fault, mend)


def examine(services: Services) -> Iterator[Check]:
    """Yield the checks of open services: first whether each part answers, then what is set up around it."""
    yield answers(
        "source", services.source.check, "check source.url, the folder's rights or the bucket's grants"
    )
    yield answers("artifacts", services.artifacts.check, "check artifacts.url and the rights to write there")
    yield answers(
        "warehouse", services.warehouse.check, "check warehouse.url and the rights to read and write"
    )
    yield answers("bus", services.bus.check, "check bus.url, bus.dead_letter_topic and the grants on it")
    yield answers("disk space", services.space.check, "free space, or lower delivery.min_free_bytes")
    settings = services.settings
    buckets, fault = _told("source", services.source.setup)
    yield from [fault] if fault else storage_checks(buckets, settings, services.source.prefix)
    outputs, fault = _told("artifacts", services.artifacts.setup)
    yield from [fault] if fault else outputs_checks(outputs, settings)
    bus, fault = _told("bus", services.bus.setup)
    yield from [fault] if fault else bus_checks(bus, settings)
    if services.forward_bus is not None:
        forward, fault = _told("topic of deliveries", services.forward_bus.setup)
        yield from [fault] if fault else forward_checks(forward, settings)
    if settings.backfill.topic:
        with open_backfill_topic(settings) as lane:
            facts, fault = _told("topic of backfill", lane.setup)
        yield from [fault] if fault else pushed_checks(facts, settings)
    tables, fault = _told("warehouse", services.warehouse.setup)
    yield from [fault] if fault else ()
    merges, fault = _told(
        "merges",
        lambda: list(merge_checks(services.warehouse, tables or {}, services.now())),
        "add yourself to `dataset.readers` of Terraform, and apply",
    )
    yield from [fault] if fault else merges
    if not bus or "publishers" not in bus:
        return
    yield from (agent_check(one, bus) for one in buckets or ())
    for account in sorted({service["account"] for service in bus.get("services", {}).values()}):
        yield from grant_checks(account, Held(buckets or (), outputs or (), bus, tables or {}), settings)


def answers(name: str, check: Callable[[], None], mend: str) -> Check:
    """Return whether a part answers."""
    try:
        check()
    except DicomlakeError as error:
        return Check(name, f"{error.code}: {error.text}", mend)
    return Check(name)


VIEWER = (
    "run the doctor as somebody who may see buckets, topics, tables and grants"
    " (roles/viewer and roles/iam.securityReviewer)"
)


def _told(part: str, setup: Callable[[], Any], mend: str = VIEWER) -> tuple[Any, Check | None]:
    try:
        return setup(), None
    except DicomlakeError as error:
        return None, Check(f"setup of the {part}", f"cannot be seen: {error.text}", mend)


def storage_checks(buckets: Iterable[Mapping[str, Any]], settings: Settings, prefix: str) -> Iterator[Check]:
    """Check the notifications of the store; `buckets` as from `Storage.setup`, that of source.url first."""
    for number, facts in enumerate(buckets):
        for check in _bucket_checks(facts, settings, "" if number else prefix):
            yield replace(check, name=f"{facts['bucket']}: {check.name}") if number else check


def _bucket_checks(facts: Mapping[str, Any], settings: Settings, prefix: str) -> Iterator[Check]:
    topic, bucket = settings.bus.url.partition(":")[2], facts["bucket"]
    url = f"gs://{bucket}/{prefix}"
    create = (
        f"gcloud storage buckets notifications create gs://{bucket} --topic={topic} --payload-format=json"
    )
    listed = f"gcloud storage buckets notifications list gs://{bucket}"
    ours = [
        one
        for one in facts["notifications"]
        if one["topic"] == topic and (prefix.startswith(one["prefix"]) or one["prefix"].startswith(prefix))
    ]
    if not ours:
        yield Check("notification", f"the bucket {bucket} sends none to {topic} for {url}", create)
        return
    prefixes = sorted(one["prefix"] for one in ours)
    twice = any(later.startswith(first) for first, later in pairwise(prefixes))
    yield Check(
        "notification",
        "two of the bucket tell of the same objects, so that each is processed twice" if twice else "",
        f"{listed}; gcloud storage buckets notifications delete ID",
    )
    wanted = {EventType.FINALIZE.value, EventType.DELETE.value} & set(settings.source.events)
    if facts["versioning"]:
        wanted |= {EventType.ARCHIVE.value} & set(settings.source.events)
    missing = sorted({kind for one in ours for kind in wanted - set(one["events"] or wanted)})
    yield Check("events", f"not sent: {', '.join(missing)}" if missing else "", create)
    odd = any(one["payload"] not in ("JSON_API_V1", None) for one in ours)
    yield Check(
        "payload",
        "a notification has no JSON payload: sizes and checksums are missing" if odd else "",
        create,
    )
    blind = facts["versioning"] and EventType.ARCHIVE.value not in settings.source.events
    yield Check(
        "versions",
        "the bucket keeps versions, but OBJECT_ARCHIVE is not among source.events: removals are missed"
        if blind
        else "",
        f"add {', '.join(REMOVALS)} to source.events",
    )


def outputs_checks(buckets: Iterable[Mapping[str, Any]], settings: Settings) -> Iterator[Check]:
    """Check that what the service writes sends it no notifications; `buckets` as from `Storage.setup`."""
    topic = settings.bus.url.partition(":")[2]
    for facts in buckets:
        bucket = facts["bucket"]
        place = settings.artifacts.url.removeprefix(f"gs://{bucket}").strip("/")
        root = f"{place}/" if place else ""
        written = [root + one for one in (settings.artifacts.images, settings.artifacts.metadata)]
        echoes = any(
            one["topic"] == topic and (name.startswith(one["prefix"]) or one["prefix"].startswith(name))
            for one in facts["notifications"]
            for name in written
        )
        fault = f"{bucket} notifies {topic} of our own outputs: each is delivered, to be ignored"
        mend = (
            f"gcloud storage buckets notifications list gs://{bucket}, and delete or narrow the one without"
        )
        yield Check("outputs", fault if echoes else "", f"{mend} a prefix of the source")


@dataclass(frozen=True, slots=True)
class Held:
    """Who holds which grants, from the setups of the source, the artifacts, the bus and the warehouse."""

    source: Iterable[Mapping[str, Any]]
    artifacts: Iterable[Mapping[str, Any]]
    bus: Mapping[str, Any]
    tables: Mapping[str, Grants | None]


def grant_checks(account: str, held: Held, settings: Settings) -> Iterator[Check]:
    """Check what the account of the service may do, by grants that name it; groups are not looked into."""
    member, everywhere = f"serviceAccount:{account}", held.bus["policy"]

    def check(name: str, own: Grants | None, roles: set[str], mend: str) -> Check:
        if own is None:
            return Check(name, "the policy cannot be seen", "run the doctor with roles/iam.securityReviewer")
        good = _has(member, roles, (*own, *everywhere))
        return Check(name, "" if good else f"no grant names {account}", f"{mend} --member={member}")

    bind = "add-iam-policy-binding"
    for one in held.source:
        read = f"gcloud storage buckets {bind} gs://{one['bucket']} --role=roles/storage.objectViewer"
        yield check(f"grant: read gs://{one['bucket']}", one["policy"], READS, read)
    for one in held.artifacts:
        write = f"gcloud storage buckets {bind} gs://{one['bucket']} --role=roles/storage.objectUser"
        yield check(f"grant: write gs://{one['bucket']}", one["policy"], WRITES, write)
    if topic := held.bus["dead_letter_topic"]:
        publishers = [(PUBLISHER, one) for one in held.bus["dead_letter_publishers"]]
        publish = f"gcloud pubsub topics {bind} {topic} --role={PUBLISHER}"
        yield check("grant: publish dead letters", publishers, PUBLISHES, publish)
    dataset = settings.warehouse.url.partition(":")[2].partition("?")[0].replace(".", ":", 1)
    for table in APPENDED if held.tables else ():
        append = f"bq {bind} --role=roles/bigquery.dataEditor --table {dataset}.{table}"
        yield check(f"grant: append to {table}", held.tables[table], APPENDS, append)
    if held.tables and "policy of the project" not in held.bus["unseen"]:
        job = f"gcloud projects {bind} {settings.project()} --role=roles/bigquery.jobUser"
        yield check("grant: run queries", (), RUNS_JOBS, job)


def _has(member: str, roles: set[str], grants: Grants) -> bool:
    """Return whether a member has one of these roles, or a custom one, whose permissions are unknown."""
    return any(
        who in (member, "allUsers", "allAuthenticatedUsers")
        and (role in roles | EVERYTHING or role.startswith(("projects/", "organizations/")))
        for role, who in grants
    )


def merge_checks(warehouse: Warehouse, tables: Mapping[str, Grants | None], now: datetime) -> Iterator[Check]:
    """Check that `study_current`, if there is one, is merged; `tables` as from `Warehouse.setup`."""
    if "study_current" not in tables:
        return
    until = merged_until(warehouse)
    mergers = _writers(tables["study_current"]) - _writers(tables["instances"])
    if until is None and not mergers:  # no service browses, so that no query is scheduled
        return
    made = missed_by_merges(warehouse, until, now - MERGE_LATE)
    fault = (
        f"a row of {made:%Y-%m-%d %H:%M} UTC is not in study_current: its scheduled query fails or does not"
        " run, so each list reads more"
        if made
        else ""
    )
    runs = "see the runs of the scheduled query study_current in the console of BigQuery"
    yield Check("merges", fault, f"{runs}; terraform -chdir=tf apply")


def _writers(grants: Grants | None) -> set[str]:
    return {member for role, member in grants or () if role in APPENDS}


def agent_check(storage: Mapping[str, Any], bus: Mapping[str, Any]) -> Check:
    """Check that the account of Cloud Storage may publish to the topic."""
    agent = f"serviceAccount:{storage['agent']}"
    fault = "" if agent in bus["publishers"] else f"{storage['agent']} may not publish to {bus['topic']}"
    grant = f"gcloud pubsub topics add-iam-policy-binding {bus['topic']} --member={agent} --role={PUBLISHER}"
    return Check("storage agent", fault, grant)


def bus_checks(facts: Mapping[str, Any], settings: Settings) -> Iterator[Check]:
    """Check how messages are delivered and given up; `facts` as from `Bus.setup`."""
    if "waiting" in facts:
        stuck = facts["waiting"] and facts["oldest_age_s"] > OLD_S
        fault = (
            f"{facts['waiting']} messages wait, the oldest for {facts['oldest_age_s']:.0f} s" if stuck else ""
        )
        yield Check("queue", fault, "run `dicomlake serve`; if it runs, see its log")
        return
    for what, why in facts.get("unseen", {}).items():
        yield Check(what, f"cannot be seen: {why}", f"run the doctor with {SEEN_BY[what]}")
    yield from pushed_checks(facts, settings)
    topic = facts["dead_letter_topic"]
    if not topic:
        yield Check("dead letters", "bus.dead_letter_topic is not set", "terraform -chdir=tf apply")
        return
    tables = [one for one in facts["dead_letter_subscriptions"] if one["table"]]
    asleep = [one["name"] for one in tables if not (one["active"] and one["table_active"])]
    fault = "" if tables else f"{topic} has no subscription that writes to the table dead_letter"
    if asleep:
        fault = f"{asleep[0]} does not write: its table, or the right to append to it, is missing"
    yield Check("dead-letter table", fault, "terraform -chdir=tf apply")
    agent = any(member.endswith(GCP_AGENT) for member in facts["dead_letter_publishers"])
    yield Check(
        "dead letters of Pub/Sub",
        "" if agent else f"the agent of Pub/Sub may not publish to {topic}: what it gives up is lost",
        f"gcloud pubsub topics add-iam-policy-binding {topic}"
        f" --member=serviceAccount:service-PROJECT_NUMBER@{GCP_AGENT} --role={PUBLISHER}",
    )


def pushed_checks(facts: Mapping[str, Any], settings: Settings) -> Iterator[Check]:
    """Check that a topic is pushed to the service; `facts` as from its `Bus.setup`."""
    pushes = [one for one in facts["subscriptions"] if one["endpoint"]]
    if not pushes:
        fault = f"{facts['topic']} has no push subscription: what is published there is lost"
        yield Check("subscription", fault, "terraform -chdir=tf apply")
    for one in pushes:
        yield from push_checks(one, facts, settings)
        yield from service_checks(one, facts)


def forward_checks(facts: Mapping[str, Any], settings: Settings) -> Iterator[Check]:
    """Check how pictures are delivered; `facts` as from `Bus.setup` of the topic of deliveries."""
    yield from pushed_checks(facts, settings)
    for one in (one for one in facts["subscriptions"] if one["endpoint"]):
        early = one["max_attempts"] < settings.delivery.max_attempts
        yield Check(
            f"{one['name'].rpartition('/')[2]}: last attempt",
            "Pub/Sub gives up before delivery.max_attempts, so that no delivery is ever refused"
            if early
            else "",
            f"gcloud pubsub subscriptions update {one['name']}"
            f" --max-delivery-attempts={settings.delivery.max_attempts}",
        )


def push_checks(one: Mapping[str, Any], facts: Mapping[str, Any], settings: Settings) -> Iterator[Check]:
    """Check one push subscription."""
    name = one["name"]
    update = f"gcloud pubsub subscriptions update {name}"
    bind = f"gcloud pubsub subscriptions add-iam-policy-binding {name}"
    agent = any(member.endswith(GCP_AGENT) for member in one["subscribers"])
    letters = facts["dead_letter_topic"]
    audience = settings.api.audience
    rules = [
        ("state", one["active"], "it is not active: its endpoint or the topic is gone", f"{update} --help"),
        (
            "account",
            bool(one["account"]),
            "pushes carry no token, so that the service refuses them",
            f"{update} --push-auth-service-account=ACCOUNT",
        ),
        (
            "audience",
            not audience or one["audience"] == audience,
            "the audience of its tokens is not api.audience",
            f"{update} --push-auth-token-audience={audience}",
        ),
        (
            "ack deadline",
            one["ack_deadline_s"] >= min(ACK_S, settings.delivery.ack_deadline_s),
            f"{one['ack_deadline_s']} s: a large object is delivered again while it is processed",
            f"{update} --ack-deadline={ACK_S}",
        ),
        (
            "retries",
            one["retries"],
            "it retries at once: a failing object floods the service",
            f"{update} --min-retry-delay=10s --max-retry-delay=600s",
        ),
        (
            "expiration",
            not one["expires"],
            "it is deleted after idle days",
            f"{update} --expiration-period=never",
        ),
        (
            "dead-letter topic",
            one["dead_letter_topic"] == letters,
            "it gives up to another topic than bus.dead_letter_topic, or never",
            f"{update} --dead-letter-topic={letters} --max-delivery-attempts=20",
        ),
        (
            "attempts",
            one["max_attempts"] >= settings.delivery.permanent_attempts,
            "Pub/Sub gives up before the service does, so that letters have no reason",
            f"{update} --max-delivery-attempts=20",
        ),
        (
            "agent",
            agent,
            "the agent of Pub/Sub may not take messages off it: they are given up and stay",
            f"{bind} --member=serviceAccount:service-PROJECT_NUMBER@{GCP_AGENT} --role={SUBSCRIBER}",
        ),
    ]
    for what, good, fault, mend in rules:
        yield Check(f"{name.rpartition('/')[2]}: {what}", "" if good else fault, mend)
    if settings.bus.subscription and name not in settings.bus.subscriptions():
        yield Check(f"{name}: accepted", "bus.subscription does not name it", "add it to bus.subscription")


def service_checks(one: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterator[Check]:
    """Check the Cloud Run service that a subscription pushes to, and how far behind it is."""
    if "services" not in facts:  # an emulator
        return
    name, host = one["name"].rpartition("/")[2], str(urlsplit(one["endpoint"]).hostname)
    service = facts["services"].get(one["name"])
    if service is not None:
        grants = [("roles/run.invoker", member) for member in service["invokers"]]
        member = f"serviceAccount:{one['account']}"
        good = _has(member, INVOKES, (*grants, *facts["policy"]))
        grant = f"gcloud run services add-iam-policy-binding {service['name']} --region={service['region']}"
        yield Check(
            f"{name}: invoker",
            ""
            if good
            else f"{one['account']} may not invoke {service['name']}: each push is refused with 403",
            f"{grant} --member={member} --role=roles/run.invoker",
        )
    elif host.endswith(".run.app") and "Cloud Run" not in facts["unseen"]:
        yield Check(
            f"{name}: endpoint",
            f"no Cloud Run service of the project answers at {host}",
            f"gcloud run services list; gcloud pubsub subscriptions modify-push-config {one['name']}"
            " --push-endpoint=URL",
        )
    age_s = facts["ages"].get(one["name"], 0.0)
    yield Check(
        f"{name}: oldest message",
        f"it has waited for {age_s:.0f} s" if age_s > OLD_S else "",
        "see the log of the service and docs/runbook.md",
    )


def probe(services: Services, waiting: Waiting = Waiting()) -> Iterator[Check]:
    """Put one small object into the source, wait for its row, remove it and wait until the row is gone."""
    stamp = services.now()
    prefix = services.settings.source.write_prefix
    name = f"{prefix}dicomlake-doctor/{stamp:%Y%m%dT%H%M%S%f}.dcm"
    try:
        landed = services.source.land(name, io.BytesIO(sample(f"2.25.{int(stamp.timestamp() * 1e6)}")))
    except DicomlakeError as error:
        yield Check(
            "probe: write", f"{error.code}: {error.text}", "run it with the right to write to source.url"
        )
        return
    assert landed is not None
    ref = landed.ref
    rows, letters = outcome_of(services.shown_uri(ref.name, ref.bucket), ref.generation)

    def seen() -> bool:
        return bool(services.warehouse.query(*rows))

    stored = _until(lambda: seen() or bool(services.warehouse.query(*letters)), waiting)
    fault = (
        "" if seen() else "it became a dead letter" if stored else f"no row within {waiting.limit_s:.0f} s"
    )
    yield Check("probe: stored", fault, "see the log of the service, and `dicomlake dlq list`")
    try:
        services.source.delete(name)
    except DicomlakeError as error:
        yield Check("probe: removed", f"{error.code}: {error.text}", f"remove {name} by hand")
        return
    if not fault:
        gone = _until(lambda: not seen(), waiting)
        late = f"its row is still there after {waiting.limit_s:.0f} s"
        yield Check("probe: removed", "" if gone else late, "are removals among source.events?")


def _until(true: Callable[[], bool], waiting: Waiting) -> bool:
    end = waiting.clock() + waiting.limit_s
    while not true():
        if waiting.clock() >= end:
            return False
        waiting.sleep(POLL_S)
    return True


def sample(uid: str) -> bytes:
    """Return a DICOM file without pixels and without a patient (PS3.10 7.1, Explicit VR Little Endian)."""
    sop_class = "1.2.840.10008.5.1.4.1.1.66"  # Raw Data Storage
    meta = _element(2, 2, "UI", sop_class) + _element(2, 3, "UI", uid)
    meta += _element(2, 0x10, "UI", "1.2.840.10008.1.2.1") + _element(2, 0x12, "UI", "2.25.1")
    body = _element(8, 0x16, "UI", sop_class) + _element(8, 0x18, "UI", uid)
    body += _element(8, 0x60, "CS", "OT") + _element(0x20, 0xD, "UI", f"{uid}.1")
    body += _element(0x20, 0xE, "UI", f"{uid}.2")
    length = struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(meta))
    return bytes(128) + b"DICM" + length + meta + body


def _element(group: int, element: int, vr: str, text: str) -> bytes:
    value = text.encode() + (b"\0" if vr == "UI" else b" ") * (len(text) % 2)
    return struct.pack("<HH2sH", group, element, vr.encode(), len(value)) + value
