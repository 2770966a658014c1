import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from pydicom.data import get_testdata_file

from app import __version__
from app.api import create_app
from app.model.errors import BusUnavailable, Overloaded, StorageUnavailable, WarehouseUnavailable
from app.model.values import Stage
from app.telemetry.metrics import TOTAL
from tests.pushes import attributes, resource, wrapped
from tests.system.faults import broken

MR = Path(get_testdata_file("MR_small.dcm")).read_bytes()


@pytest.fixture
def landed(services):
    path = Path(services.source.uri("mr.dcm").removeprefix("file://"))
    path.write_bytes(MR)
    return path


@pytest.fixture
def text(services):
    path = Path(services.source.uri("x.dcm").removeprefix("file://"))
    path.write_bytes(b"no DICOM")
    return path


def rows(services, table="instances_current"):
    return services.warehouse.query(f"SELECT * FROM {table}")


def test_a_wrapped_push_is_stored(client, services, landed):
    assert client.post("/", json=wrapped(landed)).status_code == 204
    assert [(row["modality"], row["message_id"]) for row in rows(services)] == [("MR", "4711")]


def test_an_unwrapped_push_is_stored(client, services, landed):
    headers = {"x-goog-pubsub-message-id": "12", **attributes(landed)}
    assert client.post("/", content=json.dumps(resource(landed)), headers=headers).status_code == 204
    assert [row["message_id"] for row in rows(services)] == ["12"]


def test_a_binary_cloud_event_is_stored(client, services, landed):
    headers = {
        "ce-id": "13",
        "ce-specversion": "1.0",
        "ce-type": "google.cloud.storage.object.v1.finalized",
        "ce-source": "//storage.googleapis.com/projects/_/buckets/landing",
        "ce-subject": "objects/mr.dcm",
        "ce-time": "2026-01-02T03:04:05Z",
    }
    assert client.post("/", json=resource(landed), headers=headers).status_code == 204
    assert client.post("/", content=json.dumps(resource(landed)), headers=headers).status_code == 204
    assert [row["message_id"] for row in rows(services)] == ["13"]


def structured(kind, data):
    return {
        "specversion": "1.0",
        "id": "14",
        "type": kind,
        "source": "//storage.googleapis.com/projects/_/buckets/landing",
        "subject": "objects/mr.dcm",
        "time": "2026-01-02T03:04:05Z",
        "datacontenttype": "application/json",
        "data": data,
    }


def test_structured_cloud_events_are_stored(client, services, landed):
    headers = {"content-type": "application/cloudevents+json"}
    event = structured("google.cloud.storage.object.v1.finalized", resource(landed))
    assert client.post("/", content=json.dumps(event), headers=headers).status_code == 204
    relayed = structured("google.cloud.pubsub.topic.v1.messagePublished", wrapped(landed))
    assert client.post("/", content=json.dumps(relayed), headers=headers).status_code == 204
    assert len(rows(services)) == 1


def test_a_delete_is_a_tombstone(client, services, landed):
    assert client.post("/", json=wrapped(landed)).status_code == 204
    removal = wrapped(landed, event_type="OBJECT_DELETE")
    answer = client.post("/", json=removal)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_event")  # it is still there
    assert len(rows(services)) == 1
    landed.unlink()
    assert client.post("/", json=removal).status_code == 204
    assert rows(services) == []
    assert len(rows(services, "instances")) == 2


def test_the_same_push_thrice_is_one_row(client, services, landed):
    for _ in range(3):
        assert client.post("/", json=wrapped(landed)).status_code == 204
    assert len(rows(services, "instances")) == 1


@pytest.mark.parametrize("form", [", ".join, tuple])
def test_pushes_of_several_subscriptions_are_taken_and_of_no_other(services, landed, form):
    live, lane = "projects/p/subscriptions/lake-push", "projects/p/subscriptions/lake-backfill-push"
    bus = services.settings.bus.model_copy(update={"subscription": form([live, lane])})
    settings = services.settings.model_copy(update={"bus": bus})
    client = TestClient(create_app(replace(services, settings=settings)))
    answers = {
        name: client.post("/", json={**wrapped(landed), "subscription": name}).status_code
        for name in (live, lane, f"{lane}-2", f"{live},{lane}")
    }
    assert list(answers.values()) == [204, 204, 403, 403]


def test_names_of_subscriptions_that_are_blank_accept_none(services, landed):
    for blank in (" , ", ("",)):
        bus = services.settings.bus.model_copy(update={"subscription": blank})
        settings = services.settings.model_copy(update={"bus": bus})
        client = TestClient(create_app(replace(services, settings=settings)))
        assert client.post("/", json={**wrapped(landed), "subscription": ""}).status_code == 403


def test_an_event_of_an_older_version_is_superseded(client, services, landed):
    push = wrapped(landed)
    landed.write_bytes(MR + b"\0\0")
    assert client.post("/", json=push).status_code == 204
    assert rows(services) == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "body"),
        (b"nonsense", "body"),
        (b"[]", ""),
        (b'{"message": {"attributes": {}, "messageId": "1"}}', "message.attributes"),
    ],
)
def test_a_body_that_is_no_event_is_refused_with_its_path(client, body, message):
    answer = client.post("/", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["code"] == "bad_event"
    assert message in answer.json()["message"]
    assert answer.json()["permanent"] is True


def test_an_event_of_a_foreign_bucket_is_refused(client, services, landed):
    push = wrapped(landed)
    push["message"]["attributes"]["bucketId"] = "elsewhere"
    push["message"]["data"] = ""
    push["message"]["attributes"]["payloadFormat"] = "NONE"
    answer = client.post("/", json=push)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_event")
    assert "elsewhere" not in answer.text
    assert [row["object_uri"] for row in rows(services, "failures")] == ["gs://elsewhere/mr.dcm"]


def test_a_letter_of_a_foreign_bucket_names_that_bucket_whatever_its_sender_says(client, services, landed):
    push = wrapped(landed, 5)
    push["message"]["data"] = ""
    push["message"]["attributes"] |= {"bucketId": "elsewhere", "objectUri": services.source.uri("mr.dcm")}
    assert client.post("/", json=push).status_code == 204
    assert [row["object_uri"] for row in rows(services, "dead_letters")] == ["gs://elsewhere/mr.dcm"]


def test_a_letter_that_is_no_event_has_no_address_of_its_senders(client, services, landed):
    push = wrapped(landed, 5)
    push["message"]["attributes"] = {"objectUri": services.source.uri("mr.dcm")}
    assert client.post("/", json=push).status_code == 204
    assert [row["object_uri"] for row in rows(services, "dead_letters")] == [None]


def test_a_body_over_the_limit_is_refused_whether_announced_or_not(client):
    big, headers = b" " * 11_000_001, {"content-type": "application/json"}
    assert client.post("/", content=big, headers=headers).status_code == 413
    unannounced = client.post("/", content=iter([big[:6_000_000], big[6_000_000:]]), headers=headers)
    assert (unannounced.status_code, unannounced.json()["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        [("content-type", "application/json"), ("content-type", "Text/Plain; charset=utf-8")],
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
def test_a_body_of_a_wrong_kind_is_refused(client, landed, headers):
    answer = client.post("/", content=json.dumps(wrapped(landed)), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_body")


JSON = ("content-type", "application/json")
PAGE = ("sec-fetch-site", "cross-site")


@pytest.mark.parametrize(
    "headers",
    [
        [JSON, ("origin", "https://elsewhere.example")],
        [JSON, ("origin", "null")],
        [JSON, ("origin", "http://127.0.0.1:8080"), ("sec-fetch-site", "same-origin")],
        [JSON, ("origin", ""), ("origin", "")],
        [JSON, PAGE],
        [JSON, ("sec-fetch-site", "same-site")],
        [JSON, ("sec-fetch-site", "none"), PAGE],
        [PAGE, ("sec-fetch-mode", "no-cors")],
    ],
)
def test_a_page_in_a_browser_may_not_push(client, services, landed, headers):
    answer = client.post("/", content=json.dumps(wrapped(landed)), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert rows(services) == []


def test_a_body_without_a_type_is_taken_from_what_is_no_browser(client, landed):
    assert client.post("/", content=json.dumps(wrapped(landed))).status_code == 204


@pytest.mark.parametrize("site", ["none", "same-origin"])
def test_what_no_other_page_sent_is_taken(client, landed, site):
    assert client.post("/", json=wrapped(landed), headers={"sec-fetch-site": site}).status_code == 204


def push_to(services, landed, hosts, url="http://127.0.0.1", **settings):
    """Push with these Host headers over a connection to the address in `url`."""
    api = services.settings.api.model_copy(update={"insecure": True, **settings})
    served = replace(services, settings=services.settings.model_copy(update={"api": api}))
    headers = [("host", host) for host in hosts]
    return TestClient(create_app(served), base_url=url).post("/", json=wrapped(landed), headers=headers)


@pytest.mark.parametrize(
    "hosts",
    [
        ["evil.example"],
        ["evil.example:8080"],
        ["127.0.0.1.evil.example:8080"],
        ["evil.example:127.0.0.1"],
        ["[::1].evil.example"],
        ["0.0.0.0:8080"],
        [""],
        ["127.0.0.1", "evil.example"],
        ["evil.example", "127.0.0.1"],
    ],
)
def test_a_foreign_name_that_leads_to_this_machine_is_refused(services, landed, hosts):
    answer = push_to(services, landed, hosts)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert "evil" not in answer.text
    assert rows(services) == []


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:8080", "localhost:9", "LocalHost", "[::1]", "[::1]:8080"],
)
@pytest.mark.parametrize("url", ["http://127.0.0.1", "http://[::1]"])
def test_the_names_of_this_machine_are_taken(services, landed, host, url):
    assert push_to(services, landed, [host], url).status_code == 204


@pytest.mark.parametrize(
    ("host", "listening"),
    [("Lake.example:8080", "lake.example"), ("127.0.0.2:8080", "127.0.0.2"), ("[::2]", "::2")],
)
def test_the_address_in_the_settings_is_taken(services, landed, host, listening):
    assert push_to(services, landed, [host], host=listening).status_code == 204


@pytest.mark.parametrize("listening", ["lake-machine", "127.1.1"])
def test_the_address_that_the_one_in_the_settings_leads_to_is_taken(services, landed, listening):
    """The embedded queue pushes to it: Debian has the name of a machine lead to 127.0.1.1."""
    address = "127.0.1.1"
    taken = push_to(services, landed, [f"{address}:8080"], f"http://{address}", host=listening)
    assert taken.status_code == 204
    refused = push_to(services, landed, ["evil.example:8080"], f"http://{address}", host=listening)
    assert refused.status_code == 403


@pytest.mark.parametrize("listening", ["0.0.0.0", "::", ""])
def test_a_service_for_all_addresses_is_known_by_any_name(services, landed, listening):
    assert push_to(services, landed, ["dicomlake:8080"], host=listening).status_code == 204


def test_a_service_at_another_address_is_known_by_any_name(services, landed):
    answer = push_to(services, landed, ["lake.example"], "http://192.0.2.1", host="192.0.2.1")
    assert answer.status_code == 204


def test_a_sender_that_is_no_page_by_its_headers_need_not_name_the_type(client, landed):
    headers = {"authorization": "Bearer a.b.c"}
    assert client.post("/", content=json.dumps(wrapped(landed)), headers=headers).status_code == 204


def test_a_permanent_failure_is_nacked_until_its_fifth_delivery(client, services, text):
    for attempt in (1, 4):
        answer = client.post("/", json=wrapped(text, attempt))
        assert (answer.status_code, answer.json()["code"]) == (422, "not_dicom")
        assert answer.json() | {"message": ""} == {
            "code": "not_dicom", "message": "", "message_id": "4711", "permanent": True
        }  # fmt: skip
    assert rows(services, "dead_letters") == []
    assert client.post("/", json=wrapped(text, 5)).status_code == 204
    (letter,) = rows(services, "dead_letters")
    assert (letter["code"], letter["object"], letter["event_type"]) == (
        "not_dicom",
        "x.dcm",
        "OBJECT_FINALIZE",
    )
    assert [row["delivery_attempt"] for row in rows(services, "failures")] == [1, 4, 5]


def test_without_attempt_numbers_a_permanent_failure_is_left_to_the_subscription(client, services, text):
    assert client.post("/", json=wrapped(text)).status_code == 422
    assert rows(services, "dead_letters") == []


def test_a_dead_letter_that_cannot_be_kept_is_a_nack(services, text):
    client = TestClient(create_app(broken(services, "dead_letter", BusUnavailable("down"))))
    assert client.post("/", json=wrapped(text, 5)).status_code == 503


def test_a_bug_while_a_dead_letter_is_kept_is_told_as_any_other(services, text):
    client = TestClient(create_app(broken(services, "dead_letter", MemoryError("secret"))))
    answer = client.post("/", json=wrapped(text, 5))
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "secret" not in answer.text
    assert 'status="failed"' in services.metrics.render()[0].decode()


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ("read", StorageUnavailable("down")),
        ("write", StorageUnavailable("down")),
        ("append", WarehouseUnavailable("down")),
    ],
)
def test_a_failed_step_nacks_and_the_next_delivery_heals(step, error, services, client, landed):
    failing = TestClient(create_app(broken(services, step, error)))
    answer = failing.post("/", json=wrapped(landed, 7))
    assert (answer.status_code, answer.json()["permanent"]) == (503, False)
    assert rows(services) == []
    assert client.post("/", json=wrapped(landed, 8)).status_code == 204
    assert len(rows(services)) == 1


def test_no_room_is_429(services, landed):
    client = TestClient(create_app(broken(services, "read", Overloaded("full"))))
    assert client.post("/", json=wrapped(landed)).status_code == 429


def test_our_own_bug_is_500_without_its_text(services, landed):
    client = TestClient(create_app(broken(services, "read", ZeroDivisionError("a secret"))))
    answer = client.post("/", json=wrapped(landed, 1))
    assert (answer.status_code, answer.json()["code"], answer.json()["permanent"]) == (
        500,
        "internal_error",
        False,
    )
    assert "secret" not in answer.text
    (failure,) = rows(services, "failures")
    assert failure["code"] == "internal_error"


def test_health_ready_version_metrics_and_docs_answer(client, landed):
    assert client.get("/health").json() == {"status": "ok"}
    ready = {"status": "ok", "source": "ok", "artifacts": "ok", "warehouse": "ok", "bus": "ok"}
    assert client.get("/ready").json() == ready
    assert client.get("/version").json() == {"name": "dicomlake", "version": __version__}
    assert client.get("/").json() == client.get("/version").json()
    client.post("/", json=wrapped(landed))
    assert 'status="stored"' in client.get("/metrics").text
    assert client.get("/docs").status_code == 200


def test_ready_names_the_part_that_does_not_answer(services):
    class Down:
        def check(self):
            raise BusUnavailable("down")

        def close(self):
            pass

    client = TestClient(create_app(replace(services, bus=Down())))
    answer = client.get("/ready")
    assert (answer.status_code, answer.json()["bus"], answer.json()["source"]) == (
        503,
        "bus_unavailable",
        "ok",
    )


def test_every_stage_that_the_metrics_list_is_a_step_that_events_take(client, services, landed):
    client.post("/", json=wrapped(landed))
    text = client.get("/metrics").text
    stages = set(re.findall(r'dicomlake_stage_seconds_count\{stage="(\w+)"\}', text))
    assert stages == {"event", "read", "describe", "write", "append", "announce", "forward", "total"}
    assert stages == {*Stage, TOTAL}


def pubsub(message, **top):
    return json.dumps({"message": message, **top}).encode()


RELAYED = "google.cloud.pubsub.topic.v1.messagePublished"
STORED = "google.cloud.storage.object.v1.finalized"
BINARY = {"ce-id": "13", "ce-specversion": "1.0", "ce-source": "//x", "ce-type": STORED}
UNWRAPPED = {"x-goog-pubsub-message-id": "12"}
STRUCTURED = {"content-type": "application/cloudevents+json"}
BAD_PUSH = {"message": {"messageId": "9", "data": 1}}


@pytest.mark.parametrize(
    ("status", "headers", "body", "message_id"),
    [
        (400, {}, pubsub({"attributes": {}, "messageId": "9"}), "9"),
        (400, {}, pubsub({"attributes": {"a": 1}, "messageId": "9"}), "9"),
        (400, {}, pubsub({"attributes": [], "message_id": "9"}), "9"),
        (400, {}, pubsub({"messageId": 9, "message_id": "9"}), "9"),
        (400, {}, pubsub({"data": "*", "messageId": "9"}), "9"),
        (400, {}, pubsub({"attributes": {"a": "x" * 1025}, "messageId": "9"}), "9"),
        (400, {}, pubsub({"messageId": "9"}, subscription=1), "9"),
        (400, {}, b'{"message": {"messageId": "9"}, "message": {"messageId": "9"}}', "9"),
        (400, {}, b'{"message": {"messageId": "9", "data": NaN}}', "9"),
        (415, UNWRAPPED | {"content-encoding": "gzip"}, b"x", "12"),
        (413, UNWRAPPED, b" " * 11_000_001, "12"),
        (403, UNWRAPPED | {"origin": "null"}, b"{}", "12"),
        (400, UNWRAPPED | {"objectId": "x" * 1025}, b"{}", "12"),
        (400, UNWRAPPED, b"{}", "12"),
        (400, {**BINARY, "ce-source": ""}, b"{}", "13"),
        (400, {**BINARY, "ce-type": "x"}, b"{}", "13"),
        (400, {**BINARY, "ce-id": '"%313"'}, b"{}", "13"),
        (400, BINARY, b"{", "13"),
        (400, {**BINARY, "ce-type": RELAYED}, pubsub({"attributes": [], "messageId": "9"}), "9"),
        (400, {**BINARY, "ce-type": RELAYED}, pubsub({"attributes": []}), "13"),
        (400, STRUCTURED, json.dumps({"id": "14"}).encode(), "14"),
        (400, STRUCTURED, json.dumps(structured("x", {})).encode(), "14"),
        (400, STRUCTURED, json.dumps(structured(STORED, {"name": 1})).encode(), "14"),
        (400, STRUCTURED, json.dumps(structured(RELAYED, BAD_PUSH)).encode(), "9"),
        (400, STRUCTURED, b'{"id": "14", "data_base64": "eyJtZXNzYWdlIjp7Im1lc3NhZ2VJZCI6IjkifX0="}', "9"),
        (400, {}, b"nonsense", None),
        (400, {}, b"[[]]", None),
        (400, {}, b'{"message": []}', None),
        (400, {}, b'{"message": {"messageId": "\\ud800"}}', None),
        (400, {}, pubsub({"messageId": "9" * 1025}), None),
        (400, {}, b'{"message": {"messageId": "9", "data": ' + b"[" * 100_000, None),
    ],
)  # fmt: skip
def test_every_refusal_has_the_message_id_that_came(client, status, headers, body, message_id):
    answer = client.post("/", content=body, headers={"content-type": "application/json"} | headers)
    assert (answer.status_code, answer.json()["message_id"]) == (status, message_id)
