"""Tokens: who may push, decided by the headers alone."""

import base64
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import jwt
import pytest
from fastapi.testclient import TestClient
from starlette.datastructures import Headers

from app.api import create_app, server
from app.api.auth import (
    KEYS_PAUSE_S,
    Forbidden,
    Gate,
    Keys,
    Rules,
    Unauthorized,
    bearer,
    check_claims,
    claims_unsigned,
    open_gate,
)
from app.model.errors import ConfigError, TransientError
from app.services import open_services
from tests import data
from tests.conftest import lake_settings
from tests.processes import PATIENCE_S, wait_until

NOW = 1_800_000_000
ACCOUNT = "push@p.iam.gserviceaccount.com"
RULES = Rules("https://lake.example/", (ACCOUNT,))
GOOD = {
    "iss": "https://accounts.google.com",
    "aud": "https://lake.example/",
    "email": ACCOUNT,
    "email_verified": True,
    "iat": NOW,
    "exp": NOW + 3600,
}


def then():
    return datetime.fromtimestamp(NOW, UTC)


def unsigned(claims):
    parts = [json.dumps({"alg": "RS256"}), json.dumps(claims)]
    encoded = [base64.urlsafe_b64encode(part.encode()).rstrip(b"=").decode() for part in parts]
    return ".".join([*encoded, "SIGNATURE_REMOVED_BY_GOOGLE"])


@pytest.mark.parametrize(
    "change", [{}, {"iss": "accounts.google.com"}, {"nbf": NOW}, {"exp": NOW - 29, "iat": NOW - 3000}]
)
def test_a_token_for_us_of_an_allowed_account_passes(change):
    check_claims(GOOD | change, RULES, NOW)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"iss": "https://evil.example"}, Unauthorized),
        ({"exp": NOW - 31, "iat": NOW - 3000}, Unauthorized),
        ({"exp": None}, Unauthorized),
        ({"exp": "never"}, Unauthorized),
        ({"exp": True}, Unauthorized),
        ({"exp": NOW + 3600.5}, Unauthorized),
        ({"exp": NOW + 3600 * 24}, Unauthorized),
        ({"iat": NOW + 31, "exp": NOW + 3000}, Unauthorized),
        ({"nbf": NOW + 31}, Unauthorized),
        ({"aud": "https://lake.example/x"}, Forbidden),
        ({"aud": ["https://lake.example/"]}, Forbidden),
        ({"aud": None}, Forbidden),
        ({"email": ACCOUNT.upper()}, Forbidden),
        ({"email": [ACCOUNT]}, Forbidden),
        ({"email": None}, Forbidden),
        ({"email_verified": "true"}, Forbidden),
        ({"email_verified": False}, Forbidden),
    ],
)
def test_any_other_token_is_refused(change, error):
    with pytest.raises(error):
        check_claims(GOOD | change, RULES, NOW)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "Basic abc",
        "Bearer",
        "Bearer ",
        "Bearer a.b",
        "Bearer a.b.c.d",
        "Bearer " + "a" * 20_000 + ".b.c",
    ],
)
def test_what_is_no_bearer_token_is_refused(value):
    with pytest.raises(Unauthorized):
        bearer(Headers({} if value is None else {"authorization": value}), "authorization")


@pytest.mark.parametrize(
    "payload", ["", "!!!", "bm90IGpzb24", "W10", base64.urlsafe_b64encode(b"[" * 9000).decode()]
)
def test_claims_that_are_none_are_refused(payload):
    with pytest.raises(Unauthorized):
        claims_unsigned(f"a.{payload}.c")


def test_keys_that_cannot_be_had_are_a_nack_not_a_refusal():
    jwt = pytest.importorskip("jwt")
    token = jwt.encode(GOOD, "secret-of-enough-bytes-for-the-library", headers={"kid": "x"})
    with pytest.raises(TransientError):
        Keys("http://127.0.0.1:9/keys").claims(token)


def test_a_gate_that_could_let_anyone_in_does_not_open(tmp_path):
    for auth in ("iam", "oidc"):
        with pytest.raises(ConfigError, match=r"needs api\.audience"):
            open_gate(lake_settings(tmp_path, api__auth=auth).api)


@pytest.fixture
def platform(services):
    """Return a client of a service behind Cloud Run."""
    api = services.settings.api.model_copy(
        update={"auth": "iam", "audience": RULES.audience, "service_accounts": (ACCOUNT,)}
    )
    settings = services.settings.model_copy(update={"api": api})
    app = create_app(replace(services, settings=settings, now=then))
    return TestClient(app, headers={"content-type": "application/json"})


def carried(name, **change):
    return name, f"Bearer {unsigned(GOOD | change)}"


def test_the_platform_mode_checks_the_claims_before_the_body(platform):
    def post(*headers):
        return platform.post("/", content=b"no event", headers=headers)

    assert post(carried("authorization")).status_code == 400  # let in, and then no event
    refused = post(carried("authorization", email="else@x"))
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    missing = post()
    assert (missing.status_code, missing.headers["www-authenticate"]) == (401, "Bearer")
    assert platform.get("/health").status_code == 200


CHECKED, PASSED_ON = "x-serverless-authorization", "authorization"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([carried(CHECKED)], 400),  # let in, and then no event
        ([carried(CHECKED), (PASSED_ON, "Basic abc")], 400),
        ([carried(CHECKED), carried(PASSED_ON, email="else@x")], 400),
        ([carried(CHECKED, email="else@x"), carried(PASSED_ON)], 403),
        ([carried(PASSED_ON), carried(CHECKED, email="else@x")], 403),
        ([(CHECKED, ""), carried(PASSED_ON)], 401),
        ([(CHECKED, "Basic abc"), carried(PASSED_ON)], 401),
        ([carried(CHECKED), carried(CHECKED, email="else@x")], 401),
        ([carried(CHECKED), carried(CHECKED)], 401),
        ([carried(PASSED_ON), carried(PASSED_ON, email="else@x")], 401),
    ],
)
def test_behind_the_platform_only_the_one_token_that_it_checks_counts(platform, headers, status):
    assert platform.post("/", content=b"no event", headers=headers).status_code == status


def test_where_every_signature_is_checked_here_only_authorization_counts():
    gate = Gate(RULES, Keys("http://127.0.0.1:9/keys"))
    with pytest.raises(Unauthorized):
        gate.check(Headers(dict([carried(CHECKED)])), NOW)


class KeysServer(ThreadingHTTPServer):
    """Counts who asks for keys, and fails them, once it may answer."""

    def __init__(self):
        self.asked = 0
        self.answering = threading.Event()
        self.answering.set()
        super().__init__(("127.0.0.1", 0), KeysHandler)
        self.url = f"http://127.0.0.1:{self.server_port}/keys"


NO_KEYS = {
    "AttributeError": b"[]",
    "TypeError": b'{"keys": [{"kty": "oct", "k": "AAAA", "kid": ["a"]}]}',
    "RecursionError": b"[" * 100_000,
}


class KeysHandler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked += 1
        self.server.answering.wait(PATIENCE_S)
        answer = NO_KEYS.get(self.path.rpartition("/")[2])
        if answer is None:
            return self.send_error(503)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


@pytest.fixture
def failing_keys():
    with KeysServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def signed(kid):
    return jwt.encode(GOOD, "x" * 32, algorithm="HS256", headers={"kid": kid})


def test_strangers_do_not_make_one_request_for_keys_each_while_those_cannot_be_had(failing_keys):
    keys = Keys(failing_keys.url)
    for number in range(5):
        with pytest.raises(TransientError):
            keys.claims(signed(f"k{number}"))
    assert failing_keys.asked == 1


@pytest.mark.parametrize("name", NO_KEYS)
def test_an_answer_that_is_no_keys_is_an_outage_too(failing_keys, name):
    with pytest.raises(TransientError, match=rf"api\.keys_url cannot be had \({name}\)"):
        Keys(f"{failing_keys.url}/{name}").claims(signed("k"))


def test_a_known_key_waits_for_no_request_for_an_unknown_one(failing_keys):
    failing_keys.answering.clear()
    keys = Keys(failing_keys.url, {"known": "key"}, time.monotonic() - KEYS_PAUSE_S - 1)
    with ThreadPoolExecutor(1) as pool:
        stranger = pool.submit(keys.claims, signed("unknown"))
        assert wait_until(lambda: failing_keys.asked == 1)
        with pytest.raises(Unauthorized):  # the key was there; it is only none for this token
            keys.claims(signed("known"))
        assert not stranger.done()
        failing_keys.answering.set()
        assert isinstance(stranger.exception(), TransientError)


@pytest.fixture
def guarded(tmp_path):
    """A lake in a folder that takes pushes with a token of the account alone, from one subscription."""
    settings = lake_settings(
        tmp_path,
        api__auth="iam",
        api__audience=RULES.audience,
        api__service_accounts=[ACCOUNT],
        bus__subscription="projects/p/subscriptions/s",
    )
    services = open_services(settings)
    yield services
    services.close()


def test_the_embedded_queue_may_push_where_others_need_a_token_and_a_subscription(guarded):
    with server.listen("127.0.0.1", 0) as sock:
        http = server.make_server(guarded)
        thread = threading.Thread(target=server.run, args=(http, guarded, sock))
        thread.start()
        (guarded.source.root / "ct.dcm").write_bytes(data.ct())
        stored = wait_until(lambda: bool(guarded.warehouse.query("SELECT 1 FROM instances")))
        stranger = httpx.post(f"http://127.0.0.1:{sock.getsockname()[1]}/", json={})
        http.should_exit = True
        thread.join(PATIENCE_S)
    assert stored
    assert stranger.status_code == 401


FAR = ["0.0.0.0", "::", "", "192.0.2.1", "fe80::1", "lake.example", "127.0.0.1.example", "localhost.example"]


@pytest.mark.parametrize("host", FAR)
@pytest.mark.parametrize("serve", ["all", "ingest", "browse"])
def test_a_service_that_anyone_may_push_to_listens_on_loopback_alone(tmp_path, host, serve):
    settings = lake_settings(tmp_path, api__host=host, api__serve=serve)
    with pytest.raises(ConfigError, match=r"api\.auth none: .*api\.host .*api\.insecure"):
        open_gate(settings.api)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "LocalHost"])
def test_on_loopback_no_token_is_needed(tmp_path, host):
    assert open_gate(lake_settings(tmp_path, api__host=host).api) is None


@pytest.mark.parametrize("more", [{"api__auth": "platform"}, {"api__insecure": True}])
def test_it_starts_elsewhere_where_the_platform_checks_or_somebody_wished_it(tmp_path, more):
    assert open_gate(lake_settings(tmp_path, api__host="0.0.0.0", **more).api) is None


def test_the_platform_alone_lets_in_under_any_name(services):
    api = services.settings.api.model_copy(update={"auth": "platform", "host": "0.0.0.0", "serve": "ingest"})
    app = create_app(replace(services, settings=services.settings.model_copy(update={"api": api})))
    for address in ("http://lake.example", "http://127.0.0.1"):
        client = TestClient(app, base_url=address, headers={"content-type": "application/json"})
        assert client.post("/", content=b"no event", headers={"host": "lake.example"}).status_code == 400
