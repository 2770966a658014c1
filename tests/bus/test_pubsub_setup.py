"""What is around push subscriptions, from answers of Google's REST APIs as their references describe them."""

import json
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.iam.v1.policy_pb2 import Policy
from google.protobuf.json_format import MessageToDict

from app.bus.pubsub_setup import around, asking
from app.model.errors import BusUnavailable

NOW = datetime(2026, 12, 1, 12, 0, tzinfo=UTC)
PUSH = {"name": "projects/p/subscriptions/lake-push", "endpoint": "https://lake-ab12-ew.a.run.app/"}
OTHER = {"name": "projects/p/subscriptions/elsewhere", "endpoint": "https://lake.example.org/"}
SERVICES = {
    "apiVersion": "serving.knative.dev/v1",
    "kind": "ServiceList",
    "items": [
        {
            "kind": "Service",
            "metadata": {
                "name": "lake",
                "namespace": "123",
                "labels": {"cloud.googleapis.com/location": "europe-west1"},
                "annotations": {
                    "run.googleapis.com/urls": '["https://lake-123.europe-west1.run.app",'
                    '"https://lake-ab12-ew.a.run.app"]'
                },
            },
            "spec": {"template": {"spec": {"serviceAccountName": "ingest@p.iam.gserviceaccount.com"}}},
            "status": {"url": "https://lake-ab12-ew.a.run.app"},
        },
        {"kind": "Service", "metadata": {"name": "new"}, "spec": {"template": {"spec": {}}}},
    ],
}


def policy(*bindings):
    """Return a policy as its REST API would, from the type of the client."""
    return MessageToDict(Policy(version=3, bindings=bindings), preserving_proto_field_name=False)


class Google:
    """Answers by what is asked for, and keeps the URLs."""

    def __init__(self, refused=()):
        self.asked, self.refused = [], refused

    def __call__(self, url, body=None):
        parts = urlsplit(url)
        self.asked.append((parts.hostname, parts.path, parse_qs(parts.query), body))
        if parts.hostname in self.refused:
            raise BusUnavailable(f"{parts.hostname}: status 403")
        if parts.path.endswith("/services"):
            return SERVICES
        if parts.path.endswith("services/lake:getIamPolicy"):
            push = {"role": "roles/run.invoker", "members": ["serviceAccount:push@p.iam.gserviceaccount.com"]}
            return policy(push, {"role": "roles/run.viewer", "members": ["user:me@example.org"]})
        if parts.path.endswith("/timeSeries"):
            old = {"interval": {"endTime": "2026-12-01T11:59:00Z"}, "value": {"int64Value": "4000"}}
            older = {"interval": {"endTime": "2026-12-01T11:58:00Z"}, "value": {"int64Value": "3940"}}
            of_push = "lake-push" in parse_qs(parts.query)["filter"][0]
            return {"timeSeries": [{"points": [old, older]}]} if of_push else {}
        return policy({"role": "roles/bigquery.jobUser", "members": ["serviceAccount:ingest@p"]})


def test_the_service_its_callers_and_the_oldest_message_are_found():
    google = Google()
    assert around([PUSH, OTHER], "p", google, NOW) == {
        "services": {
            "projects/p/subscriptions/lake-push": {
                "path": "projects/p/locations/europe-west1/services/lake",
                "name": "lake",
                "region": "europe-west1",
                "account": "ingest@p.iam.gserviceaccount.com",
                "hosts": [
                    "lake-123.europe-west1.run.app",
                    "lake-ab12-ew.a.run.app",
                    "lake-ab12-ew.a.run.app",
                ],
                "invokers": ["serviceAccount:push@p.iam.gserviceaccount.com"],
            }
        },
        "ages": {"projects/p/subscriptions/lake-push": 4000.0},
        "policy": [("roles/bigquery.jobUser", "serviceAccount:ingest@p")],
        "unseen": {},
    }
    assert google.asked[0] == ("run.googleapis.com", "/v1/projects/p/locations/-/services", {}, None)
    measured = google.asked[2]
    assert measured[:2] == ("monitoring.googleapis.com", "/v3/projects/p/timeSeries")
    assert measured[2] == {
        "filter": [
            'metric.type="pubsub.googleapis.com/subscription/oldest_unacked_message_age"'
            ' AND resource.labels.subscription_id="lake-push"'
        ],
        "interval.startTime": ["2026-12-01T11:50:00Z"],
        "interval.endTime": ["2026-12-01T12:00:00Z"],
    }
    assert google.asked[-1] == (
        "cloudresourcemanager.googleapis.com",
        "/v1/projects/p:getIamPolicy",
        {},
        {"options": {"requestedPolicyVersion": 3}},
    )


@pytest.mark.parametrize(
    ("host", "what"),
    [
        ("run.googleapis.com", "Cloud Run"),
        ("monitoring.googleapis.com", "Cloud Monitoring"),
        ("cloudresourcemanager.googleapis.com", "policy of the project"),
    ],
)
def test_what_cannot_be_seen_hides_nothing_else(host, what):
    found = around([PUSH], "p", Google([host]), NOW)
    assert found["unseen"] == {what: f"{host}: status 403"}
    kept = {"Cloud Run": "services", "Cloud Monitoring": "ages", "policy of the project": "policy"}
    assert [name for name, key in kept.items() if not found[key]] == [what]


class Answers(BaseHTTPRequestHandler):
    """Gives tokens, and answers only those who bring one."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/token":
            self._answer(200, {"access_token": "issued", "expires_in": 3600, "token_type": "Bearer"})
        else:
            self._answer(200, {"posted": self.headers["Authorization"]})

    def do_GET(self):
        good = self.path == "/good"
        self._answer(200 if good else 403, {"authorization": self.headers["Authorization"]})

    def _answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server, and default credentials whose tokens it issues."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as opened:
        url = f"http://127.0.0.1:{opened.server_address[1]}"
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        account = {
            "type": "service_account",
            "client_email": "me@p.iam.gserviceaccount.com",
            "project_id": "p",
        }
        account |= {"private_key": key.decode(), "private_key_id": "1", "token_uri": f"{url}/token"}
        (tmp_path / "key.json").write_text(json.dumps(account))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
        threading.Thread(target=opened.serve_forever, daemon=True).start()
        yield url
        opened.shutdown()


def test_google_is_asked_with_default_credentials(server):
    ask = asking()
    assert ask(f"{server}/good") == {"authorization": "Bearer issued"}
    assert ask(f"{server}/good", {}) == {"posted": "Bearer issued"}
    with pytest.raises(BusUnavailable, match=r"^127\.0\.0\.1: status 403$"):
        ask(f"{server}/refused")


def test_without_credentials_nothing_is_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(BusUnavailable, match="no credentials"):
        asking()
