"""Check the OIDC token that Pub/Sub and Eventarc send with a push, before the body is read.

`oidc`: anyone can reach the service, so check everything here, the signature first.
`platform`: Cloud Run has checked the token and the invoker's role; check nothing here.
`iam`: Cloud Run has checked the token and the invoker's role, and replaced the signature by a placeholder.
Check the claims here and trust the platform for the signature. Of two tokens, Cloud Run has checked only one.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

import httpx
from fastapi import Request
from starlette.datastructures import Headers

from app.config.settings import Api
from app.model.errors import ConfigError, DicomlakeError, TransientError
from app.model.values import OWN_QUEUE
from app.services import Services

ISSUERS = ("https://accounts.google.com", "accounts.google.com")
LEEWAY_S = 30
MAX_LIFE_S = 3600
MAX_TOKEN_BYTES = 16_384
# If this header is present, Cloud Run checks only it, and passes `Authorization` on unchecked.
PLATFORM_TOKEN = "x-serverless-authorization"  # noqa: S105 - the name of a header
SIGNATURE_ONLY: Any = {  # `check_claims` does that, with the clock as an argument
    "verify_signature": True,
    **dict.fromkeys(("verify_exp", "verify_nbf", "verify_iat", "verify_aud"), False),
    **dict.fromkeys(("verify_iss", "verify_sub", "verify_jti"), False),
}
KEYS_LIFE_S = 3600
KEYS_PAUSE_S = 60
KEYS_FAILED_S = 5
NO_KEYS = (ValueError, AttributeError, TypeError, RecursionError)
"""Errors raised by an answer that is not a set of keys."""


class Unauthorized(DicomlakeError):
    """The token is missing, not signed by Google, or not valid now."""

    code = "unauthorized"


class Forbidden(DicomlakeError):
    """The token is genuine but for another service or account, or a web page sent the request."""

    code = "forbidden"


@dataclass(frozen=True, slots=True)
class Rules:
    """What a token must claim."""

    audience: str
    service_accounts: tuple[str, ...]


def check_claims(claims: Mapping[str, Any], rules: Rules, now_s: float) -> None:
    """Check the claims of a token against `rules`; times in seconds since 1970.

    Raises
    ------
    Unauthorized : not issued by Google, or not valid now, or valid for longer than an hour
    Forbidden : for another audience, or of another account
    """
    issued, expires = claims.get("iat"), claims.get("exp")
    not_before = claims.get("nbf", issued)
    if claims.get("iss") not in ISSUERS:
        raise Unauthorized("the token is not issued by Google")
    if not all(type(moment) is int for moment in (issued, expires, not_before)):
        raise Unauthorized("the token does not say from when until when it is valid")
    assert isinstance(issued, int)
    assert isinstance(expires, int)
    if max(issued, not_before) > now_s + LEEWAY_S or expires < now_s - LEEWAY_S:
        raise Unauthorized("the token is not valid now")
    if expires - issued > MAX_LIFE_S + LEEWAY_S:
        raise Unauthorized("the token is valid for too long")
    if claims.get("aud") != rules.audience:
        raise Forbidden("the token is for another audience; see api.audience")
    if claims.get("email") not in rules.service_accounts or claims.get("email_verified") is not True:
        raise Forbidden("the token is of an account that may not push; see api.service_accounts")


def bearer(headers: Headers, name: str) -> str:
    """Return the token in the header `name`; raise Unauthorized if it is missing or oversized."""
    given = headers.getlist(name)
    scheme, _, token = (given[0] if len(given) == 1 else "").partition(" ")
    if scheme.lower() != "bearer" or not token or len(token) > MAX_TOKEN_BYTES or token.count(".") != 2:
        raise Unauthorized(f"{name}: is no bearer token")
    return token


def claims_unsigned(token: str) -> dict[str, Any]:
    """Return the claims of a token whose signature the platform has checked and removed."""
    payload = token.split(".")[1]
    try:
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (ValueError, RecursionError):
        raise Unauthorized("authorization: is no token") from None
    if not isinstance(claims, dict):
        raise Unauthorized("authorization: is no token")
    return claims


@dataclass
class Keys:
    """The public signing keys of an issuer, fetched on first use and cached for an hour."""

    url: str
    _keys: dict[str, Any] = field(default_factory=dict)
    _fetched: float = float("-inf")
    _failed: float = float("-inf")
    _lock: threading.Lock = field(default_factory=threading.Lock)
    algorithms: tuple[str, ...] = ("RS256",)
    setting: str = "api.keys_url"

    def claims(self, token: str) -> dict[str, Any]:
        """Return the claims of a token signed by one of the keys with an algorithm of these, and no other.

        Raises
        ------
        Unauthorized : the signature does not hold
        TransientError : the keys cannot be fetched
        """
        import jwt  # only a service that verifies tokens loads it

        try:
            header = jwt.get_unverified_header(token)
            if "crit" in header or not isinstance(header.get("kid"), str):
                raise Unauthorized("the token names no key, or asks for more than is understood")
            claims: dict[str, Any] = jwt.decode(
                token,
                self._key(header["kid"]),
                algorithms=list(self.algorithms),
                options=SIGNATURE_ONLY,
            )
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise Unauthorized("the token is not signed with a key of its issuer") from None
        return claims

    def _key(self, kid: str) -> Any:
        if not self._good(kid):
            with self._lock:  # one thread fetches for all; a token with a known key does not wait
                self._renew(kid)
        key = self._keys.get(kid)
        if key is None:
            raise Unauthorized("the token is signed with an unknown key")
        return key

    def _good(self, kid: str) -> bool:
        return kid in self._keys and time.monotonic() - self._fetched <= KEYS_LIFE_S

    def _renew(self, kid: str) -> None:
        """Fetch the keys if that may help, but not too often: anyone can send an unknown key id."""
        now = time.monotonic()
        if self._good(kid) or now - self._fetched <= KEYS_PAUSE_S:
            return
        if now - self._failed <= KEYS_FAILED_S:
            raise TransientError(f"the keys of {self.setting} could not be had a moment ago")
        try:
            self._keys, self._fetched = self._fetch(), time.monotonic()
        except TransientError:
            self._failed = time.monotonic()
            raise

    def _fetch(self) -> dict[str, Any]:
        from jwt import PyJWKSet
        from jwt.exceptions import PyJWTError

        try:
            answer = httpx.get(self.url, timeout=5).raise_for_status()
            keys = PyJWKSet.from_dict(answer.json()).keys
            return {key.key_id: key for key in keys if key.key_id}
        except (httpx.HTTPError, httpx.InvalidURL, PyJWTError, *NO_KEYS) as exc:
            raise TransientError(f"the keys of {self.setting} cannot be had ({type(exc).__name__})") from exc


@dataclass(frozen=True)
class Gate:
    """Accepts or refuses a request by its headers."""

    rules: Rules
    keys: Keys | None

    def check(self, headers: Headers, now_s: float) -> None:
        """Return if the sender may push; otherwise raise Unauthorized or Forbidden."""
        if self.keys is None:
            name = PLATFORM_TOKEN if PLATFORM_TOKEN in headers else "authorization"
            claims = claims_unsigned(bearer(headers, name))
        else:
            claims = self.keys.claims(bearer(headers, "authorization"))
        check_claims(claims, self.rules, now_s)


def open_gate(api: Api) -> Gate | None:
    """Return the gate for `api.auth`, or None if every request is accepted.

    Raises as `check_gate`.
    """
    check_gate(api)
    if api.auth in ("none", "platform"):
        return None
    keys = Keys(api.keys_url) if api.auth == "oidc" else None
    return Gate(Rules(api.audience, api.service_accounts), keys)


def check_gate(api: Api) -> None:
    """Raise ConfigError for settings that would let strangers push."""
    if api.auth == "none" and not api.insecure and not is_loopback(api.host):
        raise ConfigError(
            f"api.auth none: anyone who can reach api.host {api.host!r} could push; choose another api.auth,"
            " let api.host be 127.0.0.1, or set api.insecure to true"
        )
    if api.auth in ("none", "platform"):
        return
    if not api.audience or not api.service_accounts:
        raise ConfigError(f"api.auth {api.auth}: needs api.audience and api.service_accounts")
    if api.auth == "oidc":
        try:
            import cryptography  # noqa: F401 - without it PyJWT knows no RS256
            import jwt  # noqa: F401
        except ModuleNotFoundError as exc:
            raise ConfigError(f"api.auth oidc: needs dicomlake[gcp]; {exc.name} is not installed") from exc


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address; for names other than `localhost`, False."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def needs_token(request: Request) -> bool:
    """Return whether a request must have a token; the embedded queue needs none."""
    return request.app.state.gate is not None and not getattr(request.state, OWN_QUEUE, False)


def check_token(request: Request) -> None:
    """Accept or refuse a request by its token; this may wait for the keys of Google."""
    gate: Gate = request.app.state.gate
    services: Services = request.app.state.services
    gate.check(request.headers, services.now().timestamp())
