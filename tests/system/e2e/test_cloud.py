"""From an upload through Google's client to a row in BigQuery over real protocols, and every way back."""

import json
from itertools import pairwise

import httpx
import pytest

from benchmarks.cloud_run import run
from tests.data import ct
from tests.system.e2e.cloud import Cloud, running_cloud
from tests.system.e2e.relay import Relay

pytestmark = pytest.mark.xdist_group("cloud")

CT = ct()
LIMIT = 300_000


@pytest.fixture(scope="module")
def cloud(tmp_path_factory, pubsub, session_front):
    settings = {"source__max_object_bytes": LIMIT, "delivery__permanent_attempts": 3, "workers__count": 1}
    folder = tmp_path_factory.mktemp("cloud")
    with running_cloud(folder, pubsub, session_front, versioned=["versioned"], **settings) as cloud:
        yield cloud


def test_one_worker_runs_all_that_needs_an_emulator(request):
    grouped = request.config.getoption("loadgroup", False)
    assert request.node.nodeid.endswith("@cloud") == grouped


def test_an_upload_becomes_objects_and_a_row(cloud: Cloud):
    generation = cloud.upload("ct/1.dcm", CT)
    cloud.settle()
    image, document = f"images/ct/1.dcm.{generation}.png", f"metadata/ct/1.dcm.{generation}.json"
    assert cloud.artifacts("ct/1.dcm") == [image, document]
    kept = cloud.gcs.buckets["artifacts"].live
    assert kept[image].data[:8] == b"\x89PNG\r\n\x1a\n"
    assert json.loads(kept[document].data)["00080060"] == {"vr": "CS", "Value": ["CT"]}
    (row,) = cloud.rows("instances_current", "ct/1.dcm")
    assert (row["generation"], row["event_type"]) == (generation, "OBJECT_FINALIZE")
    assert (row["message_id"], row["delivery_attempt"]) == (cloud.published[-1], 1)
    assert (row["modality"], row["rows"], row["columns"]) == ("CT", 16, 8)
    assert row["size_bytes"] == len(CT)
    assert row["preview_uri"] == f"gs://artifacts/{image}"
    assert row["metadata_uri"] == f"gs://artifacts/{document}"
    assert row["metadata"]["Modality"] == "CT"


def test_an_overwrite_leaves_the_new_version_alone(cloud: Cloud):
    first = cloud.upload("over.dcm", CT)
    cloud.settle()
    second = cloud.upload("over.dcm", ct(Modality="MR"))
    cloud.settle()
    assert [(row["generation"], row["modality"]) for row in cloud.rows("instances_current", "over.dcm")] == [
        (second, "MR")
    ]
    assert [(row["generation"], row["event_type"]) for row in cloud.rows("instances", "over.dcm")] == [
        (first, "OBJECT_DELETE"),
        (first, "OBJECT_FINALIZE"),
        (second, "OBJECT_FINALIZE"),
    ]
    assert cloud.artifacts("over.dcm") == [
        f"images/over.dcm.{second}.png",
        f"metadata/over.dcm.{second}.json",
    ]


def test_a_delete_leaves_a_tombstone_and_no_artifacts(cloud: Cloud):
    generation = cloud.upload("gone.dcm", CT)
    cloud.settle()
    cloud.delete("gone.dcm")
    cloud.settle()
    assert cloud.rows("instances_current", "gone.dcm") == []
    assert [(row["generation"], row["event_type"]) for row in cloud.rows("instances", "gone.dcm")] == [
        (generation, "OBJECT_DELETE"),
        (generation, "OBJECT_FINALIZE"),
    ]
    assert cloud.artifacts("gone.dcm") == []


def test_a_delete_in_a_versioned_bucket_is_an_archive_and_hides_the_row_too(cloud: Cloud):
    generation = cloud.upload("kept.dcm", CT, bucket="versioned")
    cloud.settle()
    assert len(cloud.rows("instances_current", "kept.dcm", bucket="versioned")) == 1
    cloud.delete("kept.dcm", bucket="versioned")
    cloud.settle()
    assert cloud.rows("instances_current", "kept.dcm", bucket="versioned") == []
    history = cloud.rows("instances", "kept.dcm", bucket="versioned")
    assert [(row["generation"], row["event_type"]) for row in history] == [
        (generation, "OBJECT_ARCHIVE"),
        (generation, "OBJECT_FINALIZE"),
    ]
    assert cloud.artifacts("kept.dcm") == []


def test_only_the_token_of_the_push_account_for_this_service_opens_it(cloud: Cloud):
    def answer(headers: dict[str, str]) -> int:
        return httpx.post(f"{cloud.service.url}/", json={}, headers=headers).status_code

    def with_token(**claims: object) -> int:
        return answer({"authorization": f"Bearer {cloud.relay.token(**claims)}"})

    assert answer({}) == 401
    assert with_token(email="somebody@demo-project.iam.gserviceaccount.com") == 403
    assert with_token(aud="another-service") == 403
    assert with_token() == 400  # it is let in, and {} is no event


def test_the_relay_takes_202_for_an_acknowledgement_as_pub_sub_does(cloud: Cloud):
    with Relay() as target, Relay() as relay:
        target.forward = lambda body: 202
        relay.target = target.url
        push = json.dumps({"message": {"messageId": "1"}}).encode()
        assert relay.forward(push) == 200
        assert relay.acked() == {"1"}


def test_a_hundred_objects_are_a_hundred_rows(cloud: Cloud):
    found = run(cloud, 100)
    print(found)
    assert (found.rows, found.previews, found.dead_letters) == (100, 100, 0)
    assert 0 < found.cpu_s < 0.2


@pytest.fixture(scope="module")
def given_up(cloud: Cloud) -> dict[str, str]:
    """Objects that were given up, and the id of each one's message: two by the service, one by Pub/Sub."""
    cloud.gcs.fail(403, times=1000, target="held.dcm")  # a grant is missing: transient to the end
    ids = {}
    for name, data in {"broken": CT[:-40], "large": ct(Rows=512, Columns=512), "held": CT}.items():
        cloud.upload(f"{name}.dcm", data)
        ids[name] = cloud.published[-1]
        cloud.wait_for_letter(f"gs://landing/{name}.dcm")  # one by one: see PubSubEmulator
    cloud.published.clear()  # one of them is never acknowledged
    return ids


def lines(cloud: Cloud, *command: str) -> list[dict[str, object]]:
    """Return the JSON lines that a command prints, which must succeed."""
    ran = cloud.service.run(*command)
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_a_corrupt_file_is_refused_tried_again_and_given_up_with_its_reason(cloud: Cloud, given_up):
    deliveries = cloud.relay.of(given_up["broken"])
    assert [(one.attempt, one.status) for one in deliveries] == [(1, 422), (2, 422), (3, 204)]
    times = [one.time_s for one in deliveries]
    assert all(later - earlier >= 0.1 for earlier, later in pairwise(times))  # the least backoff
    failures = cloud.rows("failures", "broken.dcm")
    assert {(row["delivery_attempt"], row["code"], row["permanent"]) for row in failures} == {
        (attempt, "truncated", True) for attempt in (1, 2, 3)
    }
    assert cloud.rows("instances", "broken.dcm") == []
    assert cloud.artifacts("broken.dcm") == []


def test_the_dead_letters_are_listed_with_their_reasons(cloud: Cloud, given_up):
    listed = {line["object"]: line for line in lines(cloud, "dlq", "list")}
    assert {name: (line["code"], line["delivery_count"]) for name, line in listed.items()} == {
        "broken.dcm": ("truncated", 3),
        "large.dcm": ("object_too_large", 3),
        "held.dcm": ("storage_unavailable", 5),  # Pub/Sub gave it up; the reason is its last failure's
    }
    assert listed["large.dcm"]["reason"] == "read: the object is over source.max_object_bytes (300000)"
    (shown,) = lines(cloud, "dlq", "show", str(listed["held.dcm"]["message_id"]))
    assert [one["delivery_attempt"] for one in shown["attempts"]] == [1, 2, 3, 4, 5]


def test_what_was_mended_is_stored_when_it_is_requeued(cloud: Cloud, given_up):
    fixed = cloud.upload("broken.dcm", CT)
    cloud.settle()
    cloud.gcs.faults.clear()
    cloud.service.stop()
    cloud.service.env["DICOMLAKE__SOURCE__MAX_OBJECT_BYTES"] = "0"
    cloud.service.start()
    requeued = lines(cloud, "dlq", "requeue", "--all")
    assert len(requeued) == 2  # the broken version was overwritten: nothing is open about it
    assert not any("kept" in line for line in requeued)
    cloud.published += [line["requeued_as"] for line in requeued]
    cloud.settle()
    assert [row["generation"] for row in cloud.rows("instances_current", "broken.dcm")] == [fixed]
    assert [row["modality"] for row in cloud.rows("instances_current", "held.dcm")] == ["CT"]
    assert [row["rows"] for row in cloud.rows("instances_current", "large.dcm")] == [512]
    assert lines(cloud, "dlq", "list") == []
