"""The commands for a whole lake on buckets: prefixes, further buckets, and events like the store's own."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from app import pipeline
from app.jobs import backfill as backfilling
from app.jobs import doctor, lane
from app.jobs.compare import Place, compare, places
from app.jobs.reconcile import Wanted, reconcile
from app.model.errors import ConfigError
from app.model.values import EventType, ObjectRef
from app.services import Services, open_services
from app.sources.notifications import notification
from tests import data
from tests.conftest import lake_settings
from tests.data import SOP
from tests.fake_gcs import FakeGcs
from tests.jobs.test_reconcile import Sent, pacing

pytestmark = pytest.mark.xdist_group("cloud")


@pytest.fixture
def gcs(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGcs]:
    with FakeGcs() as fake:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", fake.url)
        for bucket in ("landing", "more", "out"):
            fake.make_bucket(bucket)
        yield fake


@pytest.fixture
def cloud(gcs: FakeGcs, tmp_path) -> Iterator[Services]:
    """A lake of `gs://landing/ct/` and the bucket `more`, two hours after what is put there."""
    settings = lake_settings(
        tmp_path, source__url="gs://landing/ct/", source__buckets=["more"], artifacts__url="gs://out"
    )
    services = open_services(settings)
    yield replace(services, now=lambda: datetime.now(UTC) + timedelta(hours=2))
    services.close()


@pytest.fixture
def objects(gcs: FakeGcs) -> dict[str, ObjectRef]:
    """Four objects of the source and one beside it."""
    found = {}
    for number, (bucket, name) in enumerate(
        [("landing", "ct/a"), ("landing", "ct/é"), ("landing", "ct/b"), ("more", "x/c"), ("landing", "mr/d")]
    ):
        version = gcs.put(bucket, name, data.ct(SOPInstanceUID=f"{SOP}.{number}"))
        found[f"gs://{bucket}/{name}"] = ObjectRef(bucket, name, version.generation)
    return found


def job_of(services, url):
    return lane.begin(services, "backfill", {"url": url})


def reconciled(services, fix=False):
    lines, sent = [], Sent()
    summary = reconcile(services, sent, Wanted(tuple(places(services)), fix), lines.append)
    return [(one["kind"], one.get("object_uri", "")) for one in lines], summary, sent


def test_a_url_is_a_part_of_the_source(cloud):
    assert places(cloud, "gs://landing/ct/") == [Place("landing", "")]
    assert places(cloud, "gs://landing/ct/2025/") == [Place("landing", "2025/")]
    assert places(cloud, "gs://more") == [Place("more", "")]
    with pytest.raises(ConfigError):
        places(cloud, "gs://landing/mr/")


def test_a_backfilled_object_has_the_row_of_its_own_notification(cloud, objects):
    sent = Sent()
    counts = backfilling.backfill(cloud, sent, job_of(cloud, "gs://landing/ct/"), pacing()[0])
    assert counts == {"objects": 3, "published": 3}
    named = [message.attributes["objectUri"] for message in sent.messages]
    assert named == ["gs://landing/ct/a", "gs://landing/ct/b", "gs://landing/ct/é"]
    for message in sent.messages:
        assert pipeline.handle(message, cloud).status == "stored"
    own = notification(EventType.FINALIZE, objects["gs://landing/ct/a"], "gs://landing/ct/a", cloud.now())
    assert pipeline.handle(own, cloud).status == "stored"
    assert cloud.warehouse.query("SELECT COUNT(*) AS n FROM instances") == [{"n": 3}]
    assert cloud.warehouse.query("SELECT DISTINCT storage_class FROM instances") == [
        {"storage_class": "STANDARD"}
    ]


def test_both_buckets_are_reconciled_and_removals_found(cloud, objects, gcs):
    lines, summary, sent = reconciled(cloud, fix=True)
    assert sorted(uri for _, uri in lines) == sorted(uri for uri in objects if "/mr/" not in uri)
    for message in sent.messages:
        pipeline.handle(message, cloud)
    assert reconciled(cloud)[0] == []
    gcs.delete("landing", "ct/b")
    gcs.delete("more", "x/c")
    lines, summary, sent = reconciled(cloud, fix=True)
    # Rows of this test carry a time two hours from now, so that they count as young.
    assert (lines, summary["young"]) == ([], 2)
    cloud = replace(cloud, now=lambda: datetime.now(UTC) + timedelta(hours=4))
    lines, summary, sent = reconciled(cloud, fix=True)
    assert lines == [("orphan_row", "gs://landing/ct/b"), ("orphan_row", "gs://more/x/c")]
    assert [pipeline.handle(message, cloud).status for message in sent.messages] == ["deleted", "deleted"]
    assert reconciled(cloud)[0] == []


def test_a_cursor_is_where_the_listing_begins(cloud, objects, gcs):
    gcs.requests.clear()
    found = [one.object_uri for one in compare(cloud, Place("landing"), "gs://landing/ct/a")]
    assert found == ["gs://landing/ct/b", "gs://landing/ct/é"]
    (listed,) = [request for request in gcs.requests if request.method == "GET"]
    assert listed.query["startOffset"] == "ct/a"
    of_another = [one.object_uri for one in compare(cloud, Place("more"), "gs://landing/ct/a")]
    assert of_another == ["gs://more/x/c"]


def test_a_dry_run_counts_bytes_hours_and_usd(cloud, objects):
    found = backfilling.estimate(cloud, "gs://landing/ct/")
    size = len(data.ct(SOPInstanceUID=f"{SOP}.0"))
    assert (found["objects"], found["known"], found["to_publish"]) == (3, 0, 3)
    assert found["bytes"] == {"STANDARD": 3 * size}
    assert found["usd"]["total"] == 0.0
    assert set(found["usd"]) >= {"cloud_run", "storage_writes", "listing", "pubsub", "bigquery", "logging"}


def test_the_doctor_sees_how_a_bucket_tells_of_changes(cloud, gcs):
    """The resource of a notification is that of the JSON API; a field that is not set is left out there."""
    gcs.buckets["landing"].versioning = True
    gcs.buckets["landing"].configurations = [
        {
            "kind": "storage#notification",
            "id": "1",
            "topic": "//pubsub.googleapis.com/projects/dicomlake-demo/topics/lake-events",
            "payload_format": "JSON_API_V1",
            "event_types": ["OBJECT_FINALIZE", "OBJECT_DELETE"],
            "object_name_prefix": "ct/",
            "etag": "1",
        },
        {
            "kind": "storage#notification",
            "id": "2",
            "topic": "//pubsub.googleapis.com/projects/dicomlake-demo/topics/other",
            "payload_format": "NONE",
            "etag": "1",
        },
    ]
    gcs.buckets["landing"].bindings = [
        {"role": "roles/storage.objectViewer", "members": ["serviceAccount:ingest@p", "user:me@p"]}
    ]
    landing, more = cloud.source.setup()
    assert landing == {
        "bucket": "landing",
        "notifications": [
            {
                "topic": "projects/dicomlake-demo/topics/lake-events",
                "events": ["OBJECT_FINALIZE", "OBJECT_DELETE"],
                "payload": "JSON_API_V1",
                "prefix": "ct/",
            },
            {"topic": "projects/dicomlake-demo/topics/other", "events": [], "payload": "NONE", "prefix": ""},
        ],
        "versioning": True,
        "agent": "service-123456789012@gs-project-accounts.iam.gserviceaccount.com",
        "policy": [
            ("roles/storage.objectViewer", "serviceAccount:ingest@p"),
            ("roles/storage.objectViewer", "user:me@p"),
        ],
    }
    assert (more["bucket"], more["notifications"], more["policy"]) == ("more", [], [])
    gcs.grants = {"storage.buckets.get"}
    assert [one["policy"] for one in cloud.source.setup()] == [None, None]
    gcs.grants = set()
    faults = {check.name: check for check in doctor.examine(cloud) if check.fault}
    assert {"setup of the source", "setup of the artifacts"} <= set(faults)
    assert "roles/viewer and roles/iam.securityReviewer" in faults["setup of the source"].mend
