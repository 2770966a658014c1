"""Who may do what, by every way of telling users apart; and what pages of other sites may not."""

import json
import re
import threading
import time
from base64 import urlsafe_b64decode
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from fastapi.testclient import TestClient

from app.api import create_app
from app.api.server import faults
from app.api.users import ROLES, Tokens, role_of
from app.model.errors import ConfigError
from app.services import open_services
from tests import data
from tests.conftest import lake_settings
from tests.parts import ROOT

KEY = "k" * 32
GETS = ("/studies", "/overview", "/dead-letters", "/upload", "/files", "/files/a")


@contextmanager
def lake(tmp_path, **settings):
    services = open_services(lake_settings(tmp_path, **settings))
    try:
        yield TestClient(create_app(services), raise_server_exceptions=False, follow_redirects=False)
    finally:
        services.close()


def token(role, key=KEY, life_s=60, use="api", now_s=None):
    return Tokens(key).issue("somebody", role, time.time() if now_s is None else now_s, life_s, use)


def bearer(text):
    return {"Authorization": f"Bearer {text}"}


def upload(client, headers):
    return client.post("/upload", data={"study": "a"}, files={"files": ("a.dcm", data.ct())}, headers=headers)


def purge(client, headers):
    return client.post("/dead-letters/chosen", data={"do": "purge", "id": "1"}, headers=headers)


def stow(client, headers):
    return client.post(
        "/dicomweb/studies", content=data.ct(), headers={**headers, "Content-Type": "application/dicom"}
    )


def test_each_role_may_do_what_it_says_and_no_token_nothing(tmp_path):
    with lake(tmp_path, api__users="token", api__users_key=KEY) as client:
        statuses = {
            role: (
                {client.get(path, headers=headers).status_code for path in GETS},
                upload(client, headers).status_code,
                stow(client, headers).status_code,
                purge(client, headers).status_code,
            )
            for role, headers in {
                "none": {},
                **{role: bearer(token(role)) for role in ("read-only", "user", "admin")},
            }.items()
        }
        assert statuses == {
            "none": ({401}, 401, 401, 401),
            "read-only": ({200, 404}, 403, 403, 403),
            "user": ({200, 404}, 200, 200, 403),
            "admin": ({200}, 200, 200, 404),
        }
        assert {
            client.get(path).status_code for path in ("/health", "/ready", "/metrics", "/version", "/")
        } == {200}


SERIES_PATH = "/dicomweb/studies/{study}/series/{series}"
INSTANCE_PATH = f"{SERIES_PATH}/instances/{{instance}}"
PAGE_PATH = "/studies/{study}/series/{series}"
OF_EACH = ("", "/metadata", "/rendered", "/thumbnail")
FRAMES = f"{INSTANCE_PATH}/frames/{{numbers}}"
NEEDS = {
    "nobody": {
        *("GET /health", "GET /ready", "GET /metrics", "GET /version", "GET /docs", "GET /openapi.json"),
        *("GET /login", "POST /login", "GET /login/start", "GET /login/callback", "POST /logout"),
        *("GET /", "GET /static"),  # to a browser, / is the page of studies
    },
    "the gate of events": {"POST /", "POST /dead-letters", "POST /settled"},
    "read-only": {
        *("GET /studies", "GET /studies/{study}", f"GET {PAGE_PATH}", "GET /overview", "GET /dead-letters"),
        *(f"GET {PAGE_PATH}/instances/{{instance}}", "GET /upload", "GET /upload/outcome", "GET /search"),
        *("GET /files", "GET /files/{study}", "GET /files/{study}/gif", "GET /dicomweb/"),
        *(f"GET /files/{{study}}/{{file:path}}/{kind}" for kind in ("tag", "png", "jpg", "gif")),
        *(f"GET /dicomweb/{level}" for level in ("studies", "series", "instances")),
        *(f"GET /dicomweb/studies/{{study}}/{level}" for level in ("series", "instances")),
        f"GET {SERIES_PATH}/instances",
        *(f"GET /dicomweb/studies/{{study}}{what}" for what in OF_EACH),
        *(f"GET {SERIES_PATH}{what}" for what in OF_EACH),
        *(f"GET {INSTANCE_PATH}{what}" for what in OF_EACH),
        *(f"GET {FRAMES}{what}" for what in ("", "/rendered", "/thumbnail")),
        *(f"GET {INSTANCE_PATH}/{what}" for what in ("pixeldata", "bulkdata/{tag}")),
        f"GET {INSTANCE_PATH}/bulkdata/{{tag}}/{{number}}",
        "OPTIONS /dicomweb/",
    },
    "user": {
        *("POST /upload", "POST /upload/session", "POST /api/v1/ingestion/studies"),
        *("POST /dicomweb/studies", "POST /dicomweb/studies/{study}"),
    },
    "admin": {"POST /dead-letters/chosen"},
}
"""Every route of the service by what it needs; a new one has to be entered here."""


def routes_of(app):
    """Yield method and path of every route, HEAD left out where GET is there."""
    for route in app.routes:
        for one in (
            getattr(route, "original_router", app).routes if hasattr(route, "original_router") else [route]
        ):
            methods = getattr(one, "methods", None) or {"GET"}
            yield from (f"{method} {one.path}" for method in methods - {"HEAD"})


def test_every_route_needs_the_role_that_is_entered_for_it(tmp_path):
    with lake(tmp_path, api__users="token", api__users_key=KEY) as client:
        entered = {route: role for role, routes in NEEDS.items() for route in routes}
        assert sorted(set(routes_of(client.app))) == sorted(entered)
        senders = {"": {}, **{role: bearer(token(role)) for role in ROLES}}
        for route, needed in entered.items():
            method, path = re.sub(r"[{}]|:path", "", route).split()
            path = {"/static": "/static/style.css"}.get(path, path)
            for sent in [method, "HEAD"] if method == "GET" else [method]:
                got = {
                    role: client.request(sent, path, headers=senders[role]).status_code for role in senders
                }
                refused = refusals(needed)
                assert got == got | refused, (sent, path)
                let_in = {status for role, status in got.items() if role not in refused}
                if needed in ROLES:
                    assert not let_in & {401, 403}, (sent, path)
                else:
                    assert len(let_in) == 1, (sent, path)  # whoever asks
        assert client.get("/no/such/route").status_code == 401


def refusals(needed):
    """Return who is refused how by a route: no token 401, too low a role 403."""
    return {"": 401} | dict.fromkeys(ROLES[: ROLES.index(needed)], 403) if needed in ROLES else {}


def test_the_page_on_roles_names_each_route_that_changes_data():
    table = (ROOT / "docs/browse.md").read_text()
    (row,) = re.findall(r"^\| `user` \|.*$", table, re.M)
    assert set(re.findall(r"`(POST /[^`]*)`", row)) == NEEDS["user"]
    (row,) = re.findall(r"^\| `admin` \|.*$", table, re.M)
    assert set(re.findall(r"`(POST /[^`]*)`", row)) == NEEDS["admin"]
    (row,) = re.findall(r"^\| nobody \|.*$", table, re.M)
    assert set(re.findall(r"`([A-Z]+ /[^`]*)`", row)) == NEEDS["nobody"]


@pytest.mark.parametrize(
    "wrong",
    [
        token("admin", key="x" * 32),
        token("admin", life_s=-60),
        token("admin", use="session"),
        token("owner"),
        jwt.encode({"iss": "dicomlake", "sub": "x", "role": "admin", "use": "api", "iat": 0}, KEY),
        jwt.encode({"iss": "dicomlake", "use": "api", "role": "admin", "iat": 0, "exp": 2**40}, "", "none"),
        "a.b.c",
        "",
    ],
    ids=["other key", "expired", "session", "no role", "no expiry", "no signature", "no token", "empty"],
)
def test_a_token_that_is_not_valid_now_for_this_is_401(tmp_path, wrong):
    with lake(tmp_path, api__users="token", api__users_key=KEY) as client:
        answer = client.get("/files", headers=bearer(wrong))
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.json()["success"] is False


def test_a_session_begins_with_a_token_and_ends_with_logout(tmp_path):
    with lake(tmp_path, api__users="token", api__users_key=KEY) as client:
        page = {"Accept": "text/html"}
        away = client.get("/studies?modality=CT", headers=page)
        assert (away.status_code, away.headers["location"]) == (303, "/login?next=%2Fstudies%3Fmodality%3DCT")
        wrong = client.post("/login", data={"token": "x", "next": "/overview"})
        assert wrong.status_code == 401
        begun = client.post("/login", data={"token": token("user"), "next": "/overview"})
        assert (begun.status_code, begun.headers["location"]) == (303, "/overview")
        cookie = begun.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
        assert token("user").split(".")[1] not in cookie  # a token of our own, short-lived
        shown = client.get("/overview", headers=page)
        assert "somebody" in shown.text
        client.post("/logout")
        assert client.get("/overview").status_code == 401


def test_over_https_the_session_is_bound_to_the_host(tmp_path):
    with lake(tmp_path, api__users="token", api__users_key=KEY) as client:
        answer = client.post("/login", data={"token": token("user")}, headers={"X-Forwarded-Proto": "https"})
        assert answer.headers["set-cookie"].startswith("__Host-dicomlake=")
        assert "Secure" in answer.headers["set-cookie"]
        assert "Path=/" in answer.headers["set-cookie"]


@pytest.mark.parametrize(
    "path", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:x", ""]
)
def test_login_leads_nowhere_else(tmp_path, path):
    with lake(tmp_path, api__users="token", api__users_key=KEY) as client:
        answer = client.post("/login", data={"token": token("user"), "next": path})
        assert answer.headers["location"] == "/studies"


def test_a_page_of_another_site_may_neither_read_nor_change(tmp_path):
    with lake(tmp_path, api__users="token", api__users_key=KEY) as client:
        client.post("/login", data={"token": token("admin")})
        for headers in (
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
        ):
            assert client.get("/files", headers=headers).status_code == 403
            assert purge(client, headers).status_code == 403
            assert upload(client, headers).status_code == 403
            assert client.post("/logout", headers=headers).status_code == 403
        navigation = {
            "Sec-Fetch-Site": "cross-site",
            "Sec-Fetch-Mode": "navigate",
            "Sec-Fetch-Dest": "document",
        }
        assert client.get("/studies", headers=navigation).status_code == 200
        assert purge(client, navigation).status_code == 403
        own = {"Origin": "http://testserver", "Sec-Fetch-Site": "same-origin"}
        assert upload(client, own).status_code == 200


def test_a_name_that_was_made_to_lead_here_is_refused_where_nobody_logs_in(tmp_path):
    services = open_services(lake_settings(tmp_path))
    try:
        client = TestClient(
            create_app(services), base_url="http://127.0.0.1:8080", raise_server_exceptions=False
        )
        client.app_state = None
        assert client.get("/files").status_code == 200
        assert client.get("/files", headers={"Host": "localhost:8080"}).status_code == 200
        assert client.get("/files", headers={"Host": "evil.example"}).status_code == 403
        assert client.get("/files", headers={"Host": "evil.example:8080"}).status_code == 403
    finally:
        services.close()


def test_origins_that_are_named_may_ask(tmp_path):
    with lake(tmp_path, api__cors_origins=["https://viewer.example"]) as client:
        asked = {"Origin": "https://viewer.example", "Sec-Fetch-Site": "cross-site"}
        answer = client.get("/files", headers=asked)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://viewer.example"
        preflight = client.options("/files", headers={**asked, "Access-Control-Request-Method": "GET"})
        assert preflight.status_code == 200
        other = client.get("/files", headers={"Origin": "https://evil.example"})
        assert other.status_code == 403
        assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize(
    ("claims", "role"),
    [
        ({"email": "ann@clinic.example", "email_verified": True}, "admin"),
        ({"email": "Ann@Clinic.example"}, "admin"),
        ({"email": "ann@clinic.example", "email_verified": False}, None),
        ({"email": "bob@clinic.example", "email_verified": True}, "read-only"),
        ({"email": "bob@elsewhere.example"}, None),
        ({"groups": ["radiology", "other"]}, "user"),
        ({"department": "research"}, "user"),
        ({"department": ["x", "research"]}, "user"),
        ({"email": "accounts.google.com:ann@clinic.example"}, "admin"),
        ({}, None),
    ],
)
def test_the_highest_role_that_fits_counts(claims, role):
    roles = {
        "ann@clinic.example": "admin",
        "domain:clinic.example": "read-only",
        "group:radiology": "user",
        "claim:department=research": "user",
    }
    assert role_of(claims, roles) == role


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"api__users": "token"}, "api.users_key"),
        ({"api__users": "token", "api__users_key": "short"}, "api.users_key"),
        ({"api__users": "oidc", "api__oidc_issuer": "https://id.example"}, "api.users_audience"),
        ({"api__users": "oidc", "api__users_audience": "a"}, "api.oidc_issuer"),
        (
            {"api__users": "oidc", "api__users_audience": "a", "api__oidc_issuer": "https://id.example"},
            "api.roles",
        ),
        ({"api__users": "iap", "api__users_audience": "a"}, "api.roles"),
    ],
)
def test_settings_that_could_tell_nobody_apart_do_not_start(tmp_path, settings, word):
    given = lake_settings(tmp_path, **settings)
    assert any(word in fault for fault in faults(given))
    services = open_services(given)
    try:
        with pytest.raises(ConfigError):
            create_app(services)
    finally:
        services.close()


PRIVATE = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PROXY = ec.generate_private_key(ec.SECP256R1())


class Issuer(BaseHTTPRequestHandler):
    """An OpenID Connect issuer that takes any code and checks PKCE."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        base = f"http://127.0.0.1:{self.server.server_port}"
        if self.path.startswith("/.well-known"):
            self.answer({
                "issuer": base,
                "jwks_uri": f"{base}/keys",
                "authorization_endpoint": f"{base}/authorize",
                "token_endpoint": f"{base}/token",
            })  # fmt: skip
        else:
            key = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(PRIVATE.public_key()))
            proxy = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(PROXY.public_key()))
            self.answer({"keys": [
                {**key, "kid": "1", "use": "sig", "alg": "RS256"},
                {**proxy, "kid": "2", "use": "sig", "alg": "ES256"},
            ]})  # fmt: skip

    def do_POST(self):
        form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
        self.server.asked.append({name: values[0] for name, values in form.items()})
        self.answer({"id_token": self.server.id_token})

    def answer(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def issuer():
    with ThreadingHTTPServer(("127.0.0.1", 0), Issuer) as server:
        server.asked = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def id_token(issuer, **claims):
    now = int(time.time())
    whole = {
        "iss": f"http://127.0.0.1:{issuer.server_port}",
        "aud": "dicomlake",
        "iat": now,
        "exp": now + 300,
        "email": "ann@clinic.example",
        "email_verified": True,
    }
    return jwt.encode({**whole, **claims}, PRIVATE, "RS256", headers={"kid": "1"})


def oidc(issuer):
    return {
        "api__users": "oidc",
        "api__oidc_issuer": f"http://127.0.0.1:{issuer.server_port}",
        "api__users_audience": "dicomlake",
        "api__oidc_client_id": "dicomlake",
        "api__users_key": KEY,
        "api__roles": {"ann@clinic.example": "user"},
    }


def test_a_program_sends_the_id_token_of_the_issuer(tmp_path, issuer):
    with lake(tmp_path, **oidc(issuer)) as client:

        def status(**claims):
            return client.get("/files", headers=bearer(id_token(issuer, **claims))).status_code

        assert status() == 200
        assert status(aud="another") == 401
        assert status(iss="https://evil.example") == 401
        assert status(exp=int(time.time()) - 120) == 401
        assert status(email="bob@clinic.example") == 403
        other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        forged = jwt.encode({"iss": "x"}, other, "RS256", headers={"kid": "1"})
        assert client.get("/files", headers=bearer(forged)).status_code == 401


def test_people_log_in_at_the_issuer_with_pkce(tmp_path, issuer):
    with lake(tmp_path, **oidc(issuer)) as client:
        away = client.get("/login/start?next=/overview")
        asked = {name: one[0] for name, one in parse_qs(urlsplit(away.headers["location"]).query).items()}
        assert asked["code_challenge_method"] == "S256"
        assert len(urlsafe_b64decode(asked["code_challenge"] + "=")) == 32
        assert asked["redirect_uri"] == "http://testserver/login/callback"
        issuer.id_token = id_token(issuer, nonce=asked["nonce"])
        other = client.get("/login/callback?code=c&state=another")
        assert other.status_code == 401
        back = client.get(f"/login/callback?code=c&state={asked['state']}")
        assert (back.status_code, back.headers["location"]) == (303, "/overview")
        assert issuer.asked[0]["code_verifier"]
        assert client.get("/files").status_code == 200
        assert purge(client, {}).status_code == 403


def test_an_id_token_of_another_login_begins_no_session(tmp_path, issuer):
    with lake(tmp_path, **oidc(issuer)) as client:
        away = client.get("/login/start")
        state = parse_qs(urlsplit(away.headers["location"]).query)["state"][0]
        issuer.id_token = id_token(issuer, nonce="another")
        assert client.get(f"/login/callback?code=c&state={state}").status_code == 401
        assert client.get("/files").status_code == 401


def test_an_issuer_that_does_not_answer_is_an_outage_and_no_refusal(tmp_path):
    settings = {
        "api__users": "oidc",
        "api__oidc_issuer": "http://127.0.0.1:9",
        "api__users_audience": "dicomlake",
        "api__roles": {"*": "read-only"},
    }
    with lake(tmp_path, **settings) as client:
        assert client.get("/files", headers=bearer("a.b.c")).status_code == 503


# https://cloud.google.com/iap/docs/signed-headers-howto#verifying_the_jwt_payload, of a Cloud Run service
IAP_AUDIENCE = "/projects/123456789012/locations/us-central1/services/dicomlake-browse"
IAP_CLAIMS = {
    "iss": "https://cloud.google.com/iap",
    "aud": IAP_AUDIENCE,
    "sub": "accounts.google.com:1234",
    "email": "ann@clinic.example",
    "hd": "clinic.example",
}


def test_what_identity_aware_proxy_has_signed_for_this_service_counts(tmp_path, issuer):
    settings = {
        "api__users": "iap",
        "api__users_audience": IAP_AUDIENCE,
        "api__roles": {"domain:clinic.example": "read-only"},
    }
    with lake(tmp_path, **settings) as client:
        # Google's own keys are at a fixed address, which a test cannot sign for.
        client.app.state.users._iap.url = f"http://127.0.0.1:{issuer.server_port}/keys"
        now = int(time.time())

        def status(key=PROXY, algorithm="ES256", kid="2", header="X-Goog-IAP-JWT-Assertion", **claims):
            whole = {**IAP_CLAIMS, "iat": now, "exp": now + 600, **claims}
            text = jwt.encode(whole, key, algorithm, headers={"kid": kid})
            return client.get("/files", headers={header: text}).status_code

        assert status() == 200
        assert status(email="bob@elsewhere.example") == 403
        assert status(aud="/projects/123456789012/locations/us-central1/services/other") == 401
        assert status(iss="https://accounts.google.com") == 401
        assert status(exp=now - 60) == 401
        assert status(key=ec.generate_private_key(ec.SECP256R1())) == 401
        assert status(key=PRIVATE, algorithm="RS256", kid="1") == 401
        assert status(header="X-Goog-Authenticated-User-Email") == 401
        assert client.get("/files").status_code == 401
        assert upload(client, {"X-Goog-IAP-JWT-Assertion": "a.b.c"}).status_code == 401


def test_the_platform_is_believed_where_it_has_checked(tmp_path):
    with lake(tmp_path, api__users="platform") as client:
        headers = bearer(jwt.encode({"email": "ann@clinic.example"}, KEY))
        assert client.get("/files", headers=headers).status_code == 200
        assert upload(client, headers).status_code == 403
        assert client.get("/files").status_code == 401
    with lake(tmp_path, api__users="platform", api__roles={"ann@clinic.example": "user"}) as client:
        assert upload(client, headers).status_code == 200


def test_the_audit_log_tells_who_asked_for_which_uid_and_nothing_else(tmp_path, caplog):
    with (
        lake(tmp_path, api__users="token", api__users_key=KEY) as client,
        caplog.at_level("INFO", "dicomlake"),
    ):
        client.get("/studies/1.2.3?patient_name=Secret", headers=bearer(token("read-only")))
        client.get("/studies?patient_name=Secret", headers=bearer(token("read-only")))
    lines = [record for record in caplog.records if record.name == "dicomlake.audit"]
    assert [(one.user, one.role, one.route, one.study, one.http_status) for one in lines] == [
        ("somebody", "read-only", "/studies/{study}", "1.2.3", 404),
        ("somebody", "read-only", "/studies", None, 200),
    ]
    assert "Secret" not in caplog.text


@pytest.mark.parametrize("path", ["/health%3F/../files", "/health%23", "/static%2F..%2Ffiles", "/FILES"])
def test_no_spelling_of_a_path_leads_around_the_guard(tmp_path, path):
    with lake(tmp_path, api__users="token", api__users_key=KEY) as client:
        assert client.get(path).status_code in (401, 404)
        assert "studiesCount" not in client.get(path).text


def test_a_link_puts_no_words_of_its_own_on_a_page(tmp_path):
    with lake(tmp_path) as client:
        page = client.get("/dead-letters?sent=3&dropped=call+me&said=call+me&done=1")
        assert "sent 3 again" in page.text
        assert "call me" not in page.text
