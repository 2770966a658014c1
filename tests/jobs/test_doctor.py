"""`doctor`: what it says of built answers, of a laptop's lake, and of one object sent through."""

import io
import json
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest
from click.testing import CliRunner
from pydicom import dcmread

from app import pipeline
from app.cli.commands import cli
from app.config import load
from app.jobs import doctor
from app.model.values import EventType
from app.sources.notifications import notification
from app.warehouse import open_warehouse

TOPIC, LETTERS = "projects/p/topics/lake-events", "projects/p/topics/lake-dead-letter"
AGENT = "serviceAccount:service-1@gcp-sa-pubsub.iam.gserviceaccount.com"
STORAGE_AGENT = "service-1@gs-project-accounts.iam.gserviceaccount.com"
SUBSCRIPTION = "projects/p/subscriptions/lake-push"
EVENTS = [kind.value for kind in EventType]


@pytest.fixture
def settings():
    given = {
        "source.url": "gs://landing/ct/",
        "artifacts.url": "gs://artifacts/",
        "warehouse.url": "bigquery:p.lake",
        "bus.url": f"pubsub:{TOPIC}",
        "bus.dead_letter_topic": LETTERS,
        "bus.subscription": SUBSCRIPTION,
        "api.audience": "https://lake",
    }
    return load({}, given).settings


def notified(**changes):
    return {"topic": TOPIC, "events": EVENTS, "payload": "JSON_API_V1", "prefix": "ct/", **changes}


def stored(*notifications, versioning=False, bucket="landing", policy=()):
    return {
        "bucket": bucket,
        "notifications": list(notifications),
        "versioning": versioning,
        "agent": STORAGE_AGENT,
        "policy": list(policy),
    }


INGEST, PUSHER = "ingest@p.iam.gserviceaccount.com", "push@p.iam.gserviceaccount.com"
BY_INGEST = f"serviceAccount:{INGEST}"
SOURCE = [stored(notified(), policy=[("roles/storage.objectViewer", BY_INGEST)])]
OUTPUTS = [stored(bucket="artifacts", policy=[("roles/storage.objectUser", BY_INGEST)])]
TABLES = {name: [("roles/bigquery.dataEditor", BY_INGEST)] for name in ("instances", "failures", "announced")}


def served(**changes):
    """Return what is around the push subscription as Terraform makes it."""
    service = {"name": "lake", "region": "europe-west1", "account": INGEST, "hosts": ["lake"]}
    service |= {"invokers": [f"serviceAccount:{PUSHER}"]}
    found = {
        "services": {SUBSCRIPTION: service},
        "ages": {SUBSCRIPTION: 3.0},
        "policy": [("roles/bigquery.jobUser", BY_INGEST)],
        "unseen": {},
    }
    return found | changes


def push(**changes):
    return {
        "name": SUBSCRIPTION,
        "active": True,
        "endpoint": "https://lake/",
        "account": "push@p.iam.gserviceaccount.com",
        "audience": "https://lake",
        "ack_deadline_s": 600,
        "retries": True,
        "expires": False,
        "dead_letter_topic": LETTERS,
        "max_attempts": 20,
        "table": "",
        "table_active": False,
        "subscribers": [AGENT],
        **changes,
    }


def letters(**changes):
    return push(name="projects/p/subscriptions/lake-dead-letter", endpoint="", table="p.lake.dead_letter",
                table_active=True, **changes)  # fmt: skip


def bus(*pushes, **changes):
    return {
        "topic": TOPIC,
        "dead_letter_topic": LETTERS,
        "subscriptions": list(pushes),
        "publishers": [f"serviceAccount:{STORAGE_AGENT}"],
        "dead_letter_subscriptions": [letters()],
        "dead_letter_publishers": [AGENT, "serviceAccount:ingest@p.iam.gserviceaccount.com"],
        **changes,
    }


def failed(checks):
    """Return the names of the checks that failed; each has something to do."""
    found = [check for check in checks if check.fault]
    assert all(check.mend for check in found)
    return [check.name for check in found]


def test_what_terraform_makes_passes(settings):
    assert failed(doctor.storage_checks(SOURCE, settings, "ct/")) == []
    assert failed(doctor.outputs_checks(OUTPUTS, settings)) == []
    around = bus(push(), **served())
    assert failed(doctor.bus_checks(around, settings)) == []
    grants = list(doctor.grant_checks(INGEST, doctor.Held(SOURCE, OUTPUTS, around, TABLES), settings))
    assert failed(grants) == []
    assert len(grants) == 7
    assert doctor.agent_check(stored(), bus()).fault == ""


@pytest.mark.parametrize(
    ("notifications", "versioning", "expected"),
    [
        ([], False, ["notification"]),
        ([notified(topic="projects/p/topics/other")], False, ["notification"]),
        ([notified(prefix="mr/")], False, ["notification"]),
        ([notified(prefix="")], False, []),
        ([notified(prefix="ct/a/"), notified(prefix="ct/b/")], False, []),
        ([notified(prefix="ct/"), notified(prefix="ct/b/")], False, ["notification"]),
        ([notified(), notified()], False, ["notification"]),
        ([notified(events=["OBJECT_FINALIZE"])], False, ["events"]),
        ([notified(events=["OBJECT_FINALIZE", "OBJECT_DELETE"])], False, []),
        ([notified(events=["OBJECT_FINALIZE", "OBJECT_DELETE"])], True, ["events"]),
        ([notified(events=[])], True, []),  # all of them
        ([notified(payload="NONE")], False, ["payload"]),
    ],
)
def test_notifications(settings, notifications, versioning, expected):
    found = doctor.storage_checks([stored(*notifications, versioning=versioning)], settings, "ct/")
    assert failed(found) == expected


def test_each_further_bucket_needs_its_own_notification(settings):
    more = [*SOURCE, stored(notified(prefix=""), bucket="more"), stored(notified(prefix="x/"), bucket="mute")]
    assert failed(doctor.storage_checks(more, settings, "ct/")) == []
    more[2] = stored(bucket="mute")
    (check,) = (check for check in doctor.storage_checks(more, settings, "ct/") if check.fault)
    assert check.name == "mute: notification"
    assert check.mend.startswith("gcloud storage buckets notifications create gs://mute --topic=")


@pytest.mark.parametrize(
    ("url", "prefix", "echoes"),
    [
        ("gs://landing/out", "", True),
        ("gs://landing/out", "out/", True),
        ("gs://landing/out", "out/images/2027/", True),
        ("gs://landing/out", "ct/", False),
        ("gs://landing", "ct/", False),
    ],
)
def test_what_is_written_is_not_announced(settings, url, prefix, echoes):
    artifacts = settings.artifacts.model_copy(update={"url": url})
    written = settings.model_copy(update={"artifacts": artifacts})
    found = failed(doctor.outputs_checks([stored(notified(prefix=prefix))], written))
    assert found == (["outputs"] if echoes else [])
    other = notified(topic="projects/p/topics/other", prefix="")
    assert failed(doctor.outputs_checks([stored(other)], written)) == []


def test_a_source_within_the_outputs_is_a_fault_of_the_settings():
    given = {
        "source.url": "gs://landing/images/ct/",
        "artifacts.url": "gs://landing",
        "warehouse.url": "bigquery:my-project.lake",
        "bus.url": f"pubsub:{TOPIC}",
        "bus.dead_letter_topic": LETTERS,
    }
    check = doctor.settings_check(load({}, given).settings)
    assert "artifacts.url gs://landing and the source gs://landing/images/ct/ overlap" in check.fault
    assert check.mend == "dicomlake config check"


NOBODY = [("roles/storage.objectViewer", "serviceAccount:other@p.iam.gserviceaccount.com")]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"source": [stored(policy=NOBODY)]}, ["grant: read gs://landing"]),
        (
            {"source": [stored(policy=[("roles/storage.objectCreator", BY_INGEST)])]},
            ["grant: read gs://landing"],
        ),
        ({"source": [*SOURCE, stored(bucket="more")]}, ["grant: read gs://more"]),
        ({"source": [stored() | {"policy": None}]}, ["grant: read gs://landing"]),
        ({"artifacts": [stored(bucket="artifacts")]}, ["grant: write gs://artifacts"]),
        (
            {"artifacts": [stored(bucket="artifacts", policy=[("roles/storage.objectViewer", BY_INGEST)])]},
            ["grant: write gs://artifacts"],
        ),
        ({"bus": bus(push(), **served(), dead_letter_publishers=[AGENT])}, ["grant: publish dead letters"]),
        ({"tables": TABLES | {"failures": []}}, ["grant: append to failures"]),
        ({"tables": TABLES | {"instances": [("READER", BY_INGEST)]}}, ["grant: append to instances"]),
        ({"tables": TABLES | {"instances": [("WRITER", BY_INGEST)]}}, []),
        ({"bus": bus(push(), **served(policy=[]))}, ["grant: run queries"]),
        ({"bus": bus(push(), **served(policy=[("roles/editor", BY_INGEST)])), "source": [stored()]}, []),
        ({"source": [stored(policy=[("projects/p/roles/lakeReader", BY_INGEST)])]}, []),  # a custom role
        ({"bus": bus(push(), **served(policy=[], unseen={"policy of the project": "403"}))}, []),
    ],
)
def test_grants_of_the_account_of_the_service(settings, changes, expected):
    whole = {"source": SOURCE, "artifacts": OUTPUTS, "bus": bus(push(), **served()), "tables": TABLES}
    found = list(doctor.grant_checks(INGEST, doctor.Held(**(whole | changes)), settings))
    assert failed(found) == expected


def test_a_missing_grant_comes_with_its_command(settings):
    held = doctor.Held([stored()], [stored(bucket="artifacts")], bus(push(), **served(policy=[]),
                       dead_letter_publishers=[]), dict.fromkeys(TABLES, ()))  # fmt: skip
    member = "--member=serviceAccount:ingest@p.iam.gserviceaccount.com"
    assert [check.mend for check in doctor.grant_checks(INGEST, held, settings)] == [
        "gcloud storage buckets add-iam-policy-binding gs://landing --role=roles/storage.objectViewer "
        + member,
        "gcloud storage buckets add-iam-policy-binding gs://artifacts --role=roles/storage.objectUser "
        + member,
        f"gcloud pubsub topics add-iam-policy-binding {LETTERS} --role=roles/pubsub.publisher {member}",
        *(
            f"bq add-iam-policy-binding --role=roles/bigquery.dataEditor --table p:lake.{name} {member}"
            for name in ("instances", "failures", "announced")
        ),
        f"gcloud projects add-iam-policy-binding p --role=roles/bigquery.jobUser {member}",
    ]


@pytest.mark.parametrize(
    ("around", "endpoint", "expected"),
    [
        (served(), "https://lake/", []),
        (served(ages={SUBSCRIPTION: 7200.0}), "https://lake/", ["lake-push: oldest message"]),
        (served(ages={}), "https://lake/", []),  # nothing was measured
        (served(services={}), "https://lake.example.org/", []),  # behind a load balancer, or on a cluster
        (served(services={}), "https://gone-1.run.app/", ["lake-push: endpoint"]),
        (
            served(services={}, unseen={"Cloud Run": "run.googleapis.com: status 403"}),
            "https://lake-1.run.app/",
            ["Cloud Run"],
        ),
    ],
)
def test_what_is_around_a_push_subscription(settings, around, endpoint, expected):
    assert failed(doctor.bus_checks(bus(push(endpoint=endpoint), **around), settings)) == expected


def test_who_pushes_may_invoke(settings):
    around = served()
    around["services"][SUBSCRIPTION]["invokers"] = [BY_INGEST]
    (check,) = (one for one in doctor.bus_checks(bus(push(), **around), settings) if one.fault)
    assert check.name == "lake-push: invoker"
    assert check.mend == (
        "gcloud run services add-iam-policy-binding lake --region=europe-west1"
        f" --member=serviceAccount:{PUSHER} --role=roles/run.invoker"
    )
    around["policy"] = [("roles/run.invoker", f"serviceAccount:{PUSHER}")]
    assert failed(doctor.bus_checks(bus(push(), **around), settings)) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"active": False}, "state"),
        ({"account": ""}, "account"),
        ({"audience": "https://other"}, "audience"),
        ({"ack_deadline_s": 10}, "ack deadline"),
        ({"retries": False}, "retries"),
        ({"expires": True}, "expiration"),
        ({"dead_letter_topic": ""}, "dead-letter topic"),
        ({"max_attempts": 4}, "attempts"),
        ({"subscribers": []}, "agent"),
    ],
)
def test_push_subscriptions(settings, changes, expected):
    assert failed(doctor.bus_checks(bus(push(**changes)), settings)) == [f"lake-push: {expected}"]


def test_a_second_lane_is_a_subscription_that_is_accepted(settings):
    lane = push(name="projects/p/subscriptions/lake-backfill")
    found = failed(doctor.bus_checks(bus(push(), lane), settings))
    assert found == ["projects/p/subscriptions/lake-backfill: accepted"]
    both = settings.bus.model_copy(update={"subscription": f"{SUBSCRIPTION}, {lane['name']}"})
    assert failed(doctor.bus_checks(bus(push(), lane), settings.model_copy(update={"bus": both}))) == []


def test_deliveries_of_pictures(settings):
    named = settings.bus.model_copy(
        update={"subscription": f"{SUBSCRIPTION},projects/p/subscriptions/f-push"}
    )
    settings = settings.model_copy(update={"bus": named})
    own = push(name="projects/p/subscriptions/f-push")
    facts = bus(own, topic="projects/p/topics/forward")
    assert failed(doctor.forward_checks(facts, settings)) == []
    early = facts | {"subscriptions": [own | {"max_attempts": 19, "dead_letter_topic": ""}]}
    assert failed(doctor.forward_checks(early, settings)) == [
        "f-push: dead-letter topic",
        "f-push: last attempt",
    ]
    assert failed(doctor.forward_checks(facts | {"subscriptions": []}, settings)) == ["subscription"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"subscriptions": []}, "subscription"),
        ({"dead_letter_topic": ""}, "dead letters"),
        ({"dead_letter_subscriptions": []}, "dead-letter table"),
        ({"dead_letter_subscriptions": [letters() | {"table_active": False}]}, "dead-letter table"),
        ({"dead_letter_publishers": []}, "dead letters of Pub/Sub"),
    ],
)
def test_dead_letters(settings, changes, expected):
    pushes = [push(dead_letter_topic=changes.get("dead_letter_topic", LETTERS))]
    assert failed(doctor.bus_checks(bus(*pushes) | changes, settings)) == [expected]


def test_the_account_of_the_store_publishes():
    check = doctor.agent_check(stored(), bus(publishers=[]))
    assert check.fault == f"{STORAGE_AGENT} may not publish to {TOPIC}"
    assert check.mend == (
        f"gcloud pubsub topics add-iam-policy-binding {TOPIC} --member=serviceAccount:{STORAGE_AGENT}"
        " --role=roles/pubsub.publisher"
    )


def test_a_queue_that_nobody_empties(settings):
    assert failed(doctor.bus_checks({"waiting": 3, "oldest_age_s": 10.0}, settings)) == []
    (check,) = doctor.bus_checks({"waiting": 3, "oldest_age_s": 7200.0}, settings)
    assert check.fault == "3 messages wait, the oldest for 7200 s"


def test_tables_of_another_version():
    check = doctor.tables_check(["studies"], "bigquery")
    assert (check.fault, check.mend) == (
        "not as this version has them: studies",
        "terraform -chdir=tf apply; a table keeps its partitions: copy it before it is replaced",
    )


def test_the_sample_is_dicom():
    dataset = dcmread(io.BytesIO(doctor.sample("2.25.123")))
    assert (dataset.SOPInstanceUID, dataset.Modality) == ("2.25.123", "OT")
    assert dataset.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"


class Service:
    """A clock whose sleeper does what the service would: process what changed."""

    def __init__(self, services, works=True):
        self.services, self.works, self.now, self.last = services, works, 0.0, None

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        listed = list(self.services.source.listing("dicomlake-doctor/"))
        kind = EventType.FINALIZE if listed else EventType.DELETE
        self.last = listed[0].ref if listed else self.last
        if self.works:
            message = notification(kind, self.last, "", self.services.now())
            pipeline.handle(message, self.services)


def test_one_object_goes_through(services):
    service = Service(services)
    checks = list(doctor.probe(services, doctor.Waiting(10.0, service, service.sleep)))
    assert [(check.name, check.fault) for check in checks] == [("probe: stored", ""), ("probe: removed", "")]
    assert list(services.source.listing()) == []


def test_an_object_that_does_not_go_through(services):
    service = Service(services, works=False)
    checks = list(doctor.probe(services, doctor.Waiting(10.0, service, service.sleep)))
    assert [check.fault for check in checks] == ["no row within 10 s"]
    assert list(services.source.listing()) == []


def test_the_doctor_of_a_laptop(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    none = CliRunner().invoke(cli, ["doctor"])
    assert none.exit_code == 1
    assert "FAIL  tables and views: there is no warehouse yet" in none.stdout
    assert list(tmp_path.iterdir()) == []
    with closing(open_warehouse(f"sqlite:{tmp_path}/lake/lake.db")) as warehouse:
        warehouse.create()
    good = CliRunner().invoke(cli, ["doctor", "--json"])
    assert good.exit_code == 0
    names = ["settings", "tables and views", "source", "artifacts", "warehouse", "bus", "disk space", "queue"]
    assert [json.loads(line) for line in good.stdout.splitlines()] == [
        {"check": name, "ok": True} for name in names
    ]
    with closing(sqlite3.connect(tmp_path / "lake/lake.db")) as database:
        database.execute("DROP VIEW studies")
        database.execute("DROP TABLE jobs")
        database.commit()
    bad = CliRunner().invoke(cli, ["doctor"])
    assert bad.exit_code == 1
    assert "FAIL  tables and views: not as this version has them: jobs, studies\n" in bad.stdout
    wrong = CliRunner().invoke(cli, ["--set", "bus.url=nothing:x", "doctor"])
    assert wrong.exit_code == 1
    assert wrong.stdout.startswith("FAIL  settings: bus.url")


def test_a_part_that_does_not_answer_is_named(services):
    services.source.root.chmod(0)
    gone = replace(services)
    services.source.root.rename(services.source.root.with_name("moved"))
    found = failed(doctor.examine(gone))
    services.source.root.with_name("moved").chmod(0o700)
    assert found == ["source"]
