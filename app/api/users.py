"""Who browses: the users of the page, DICOMweb and REST, by `api.users`, and what each may do.

    none      anybody who reaches the port, with every right: for a laptop
    token     a JWT signed with our own key, made by `dicomlake token`
    oidc      an ID token of any OpenID Connect issuer; people log in on the page
    iap       what Google's Identity-Aware Proxy has checked and signed
    platform  whom Cloud Run's own check let in; it has taken the signature away

Every way ends in a User: a name and a role. `api.roles` maps what a token claims to roles, but for our own
tokens, which hold their role.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import jwt
from starlette.requests import Request

from app.api.auth import LEEWAY_S, PLATFORM_TOKEN, Keys, Unauthorized, bearer, claims_unsigned, is_loopback
from app.config.settings import Api
from app.model.errors import ConfigError, DicomlakeError, TransientError

ROLES = ("read-only", "user", "admin")
"""In rising order: read everything; also upload; also work on dead letters."""
ISSUER = "dicomlake"
SESSION_S = 8 * 3600
LOGIN_S = 600
MIN_KEY_BYTES = 32
IAP_HEADER = "x-goog-iap-jwt-assertion"
IAP_ISSUER = "https://cloud.google.com/iap"
IAP_KEYS = "https://www.gstatic.com/iap/verify/public_key-jwk"
ASYMMETRIC = ("RS256", "ES256")


class NotAllowed(DicomlakeError):
    """The user is known but has no role that allows this."""

    code = "not_allowed"


@dataclass(frozen=True, slots=True)
class User:
    """Somebody with a role; `name` is an e-mail address or what the token calls its subject."""

    name: str
    role: str

    def may(self, role: str) -> bool:
        """Return whether this role includes another."""
        return ROLES.index(self.role) >= ROLES.index(role)


def role_of(claims: Mapping[str, Any], roles: Mapping[str, str]) -> str | None:
    """Return the highest role that `api.roles` gives to what a checked token claims, None for none.

    Its keys are an e-mail address, `group:NAME`, `domain:NAME`, `claim:NAME=VALUE` or `*` for everybody.
    """
    email = str(claims.get("email", "")).lower()
    if claims.get("email_verified", True) is not True:  # an address that anyone could have typed
        email = ""
    email = email.removeprefix("accounts.google.com:")
    fits = {"*", email, f"domain:{email.rpartition('@')[2]}"} if email else {"*"}
    for group in _listed(claims.get("groups")):
        fits.add(f"group:{group}")
    for name, value in claims.items():
        fits |= {f"claim:{name}={one}" for one in _listed(value)}
    found = [role for key, role in roles.items() if (key.lower() if "@" in key else key) in fits]
    return max(found, key=ROLES.index, default=None)


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [] if value is None else [value]


@dataclass(frozen=True)
class Tokens:
    """Tokens signed with our own key: those of `dicomlake token`, and the sessions of the page."""

    key: str

    def issue(self, name: str, role: str, now_s: float, life_s: float, use: str = "api") -> str:
        """Return a token for somebody; `use` keeps a session from being used as a token of the API."""
        claims = {"iss": ISSUER, "sub": name, "role": role, "use": use}
        return self.sign(claims, now_s, life_s)

    def sign(self, claims: Mapping[str, object], now_s: float, life_s: float) -> str:
        """Return claims as a token that is valid from now on for some seconds."""
        times = {"iat": int(now_s), "exp": int(now_s + life_s)}
        return jwt.encode({**claims, **times}, self.key, algorithm="HS256")

    def read(self, token: str, use: str, now_s: float) -> dict[str, Any]:
        """Return the claims of one of our own tokens; raises Unauthorized unless it is valid for this use."""
        try:
            claims = jwt.decode(
                token,
                self.key,
                algorithms=["HS256"],
                options={"verify_exp": False, "verify_iat": False, "require": ["exp", "iat", "iss"]},
            )
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise Unauthorized("the token is not one of ours") from None
        expires = claims["exp"]
        if claims["iss"] != ISSUER or claims.get("use") != use or not isinstance(expires, int):
            raise Unauthorized("the token is not one of ours")
        if expires < now_s - LEEWAY_S:
            raise Unauthorized("the token has expired")
        return claims

    def user(self, token: str, use: str, now_s: float) -> User:
        """Return the user of one of our own tokens."""
        claims = self.read(token, use, now_s)
        if claims.get("role") not in ROLES:
            raise Unauthorized("the token is not one of ours")
        return User(str(claims.get("sub", "")), claims["role"])


@dataclass(frozen=True)
class Issuer:
    """An OpenID Connect issuer: where people log in, and the keys it signs with."""

    url: str
    authorize_url: str
    token_url: str
    keys: Keys

    @classmethod
    def discovered(cls, url: str) -> Issuer:
        """Ask an issuer for its addresses; OpenID Connect Discovery 1.0, section 4."""
        try:
            place = f"{url.rstrip('/')}/.well-known/openid-configuration"
            found = httpx.get(place, timeout=5).raise_for_status().json()
            if found["issuer"] != url:
                raise ConfigError("api.oidc_issuer: the issuer calls itself otherwise")
            keys = Keys(str(found["jwks_uri"]), algorithms=ASYMMETRIC, setting="api.oidc_issuer")
            return cls(url, str(found["authorization_endpoint"]), str(found["token_endpoint"]), keys)
        except (httpx.HTTPError, httpx.InvalidURL, KeyError, ValueError, TypeError) as exc:
            text = f"the configuration of api.oidc_issuer cannot be had ({type(exc).__name__})"
            raise TransientError(text) from exc


class Users:
    """Identifies who sent a request; `cookie` is the name of the page's session cookie."""

    def __init__(self, api: Api, now_s: Callable[[], float]) -> None:
        check_users(api)
        self._api, self._now_s = api, now_s
        self.kind = api.users
        self.tokens = Tokens(api.users_key or secrets.token_hex(32))
        self._issuer: Issuer | None = None
        self._iap = Keys(IAP_KEYS, algorithms=("ES256",), setting="api.users") if api.users == "iap" else None

    @property
    def open(self) -> bool:
        """Whether everybody may do everything."""
        return self.kind == "none"

    @property
    def has_login(self) -> bool:
        """Whether people log in on the page."""
        return self.kind == "token" or (self.kind == "oidc" and bool(self._api.oidc_client_id))

    def issuer(self) -> Issuer:
        """Return the issuer; its addresses are fetched on first use."""
        if self._issuer is None:
            self._issuer = Issuer.discovered(self._api.oidc_issuer)
        return self._issuer

    def of(self, request: Request, cookie: str) -> User | None:
        """Return who sent a request, None where everybody may do everything.

        Raises
        ------
        Unauthorized : there is no token, or no valid one
        NotAllowed : the user has no role
        TransientError : the keys of the issuer cannot be fetched
        """
        now_s, headers = self._now_s(), request.headers
        if self.kind == "none":
            return None
        if self.kind == "platform":
            name = PLATFORM_TOKEN if PLATFORM_TOKEN in headers else "authorization"
            return self._with_role(claims_unsigned(bearer(headers, name)))
        if self._iap is not None:
            return self._with_role(self._checked(self._iap, headers.get(IAP_HEADER, ""), IAP_ISSUER, now_s))
        if "authorization" not in headers and cookie in request.cookies:
            return self.tokens.user(request.cookies[cookie], "session", now_s)
        token = bearer(headers, "authorization")
        if self.kind == "token":
            return self.tokens.user(token, "api", now_s)
        return self.of_id_token(token)

    def of_id_token(self, token: str, nonce: str | None = None) -> User:
        """Return the user of an ID token from the issuer; `nonce` is the one that the login sent."""
        issuer = self.issuer()
        claims = self._checked(issuer.keys, token, issuer.url, self._now_s())
        if nonce is not None and not secrets.compare_digest(str(claims.get("nonce", "")), nonce):
            raise Unauthorized("the token is of another login")
        return self._with_role(claims)

    def _checked(self, keys: Keys, token: str, issuer: str, now_s: float) -> dict[str, Any]:
        claims = keys.claims(token)
        audiences = _listed(claims.get("aud"))
        try:
            expires, *begins = (float(claims[name]) for name in ("exp", "iat"))
            begins.append(float(claims.get("nbf", begins[0])))
        except (KeyError, TypeError, ValueError):
            raise Unauthorized("the token does not say from when until when it is valid") from None
        if expires < now_s - LEEWAY_S or max(begins) > now_s + LEEWAY_S:
            raise Unauthorized("the token is not valid now")
        if claims.get("iss") != issuer or self._api.users_audience not in audiences:
            raise Unauthorized("the token is of another issuer or audience; see api.users_audience")
        return claims

    def _with_role(self, claims: Mapping[str, Any]) -> User:
        name = str(claims.get("email") or claims.get("sub") or "")
        if self.kind == "platform" and not self._api.roles:
            return User(name, "read-only")  # the platform has let this one in
        role = role_of(claims, self._api.roles)
        if role is None:
            raise NotAllowed("this account has no role here; see api.roles")
        return User(name, role)


def check_users(api: Api) -> None:
    """Raise ConfigError for settings by which users could not be told apart."""
    if api.users == "none" and api.serve != "ingest" and not api.insecure and not is_loopback(api.host):
        raise ConfigError(
            f"api.users none: anyone who can reach api.host {api.host!r} could read everything; choose"
            " another api.users, let api.host be 127.0.0.1, set api.serve to ingest, or api.insecure to true"
        )
    if api.users == "token" and len(api.users_key.encode()) < MIN_KEY_BYTES:
        raise ConfigError(
            f"api.users token: needs api.users_key, a secret of at least {MIN_KEY_BYTES} bytes;"
            " make one with `openssl rand -hex 32`"
        )
    if api.users_key and len(api.users_key.encode()) < MIN_KEY_BYTES:
        raise ConfigError(f"api.users_key: is shorter than {MIN_KEY_BYTES} bytes")
    if api.users in ("oidc", "iap") and not api.users_audience:
        raise ConfigError(f"api.users {api.users}: needs api.users_audience, for which tokens are issued")
    trusted = "https://", "http://localhost", "http://127.0.0.1"
    if api.users == "oidc" and not api.oidc_issuer.startswith(trusted):
        raise ConfigError("api.users oidc: needs api.oidc_issuer, an https address")
    if api.users == "oidc" and api.oidc_client_id and not api.users_key:
        raise ConfigError("api.oidc_client_id: the login needs api.users_key, which signs its sessions")
    if api.users in ("oidc", "iap") and not api.roles:
        raise ConfigError(f"api.users {api.users}: api.roles is empty, so nobody could read anything")
    if api.users in ("oidc", "iap"):
        try:
            import cryptography  # noqa: F401 - without it PyJWT knows neither RS256 nor ES256
        except ModuleNotFoundError as exc:
            raise ConfigError(
                f"api.users {api.users}: needs dicomlake[oidc]; cryptography is missing"
            ) from exc
