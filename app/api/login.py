"""Logging in on the page: with a token of `dicomlake token`, or at an OpenID Connect issuer.

The issuer's way is the code flow with PKCE (RFC 7636). Its state is in a signed cookie that is valid for ten
minutes, so any instance of the service can take the answer.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from typing import Annotated
from urllib.parse import urlencode

import httpx
from fastapi import Form, Request
from fastapi.responses import RedirectResponse, Response

from app.api.auth import Unauthorized
from app.api.browser_guard import cookie_name
from app.api.pages import Pages
from app.api.public_url import base_url, is_secure, root_path
from app.api.router import Router
from app.api.users import LOGIN_S, SESSION_S, User, Users
from app.model.errors import TransientError
from app.services import Services

router = Router(include_in_schema=False)
STATE = "dicomlake-login"


def _parts(request: Request) -> tuple[Users, Pages, Services]:
    state = request.app.state
    return state.users, state.pages, state.services


@router.get("/login")
def login_page(request: Request, next: str = "/studies") -> Response:
    """Show how to log in."""
    users, pages, _ = _parts(request)
    if not users.has_login:
        return pages.problem(request, 404, "No login", "There is nothing to log in to here.")
    return _form(request, next)


def _form(request: Request, next: str, problem: str = "", status: int = 200) -> Response:
    users, pages, _ = _parts(request)
    provider = "your organisation" if users.kind == "oidc" else ""
    return pages.page(request, "login.html", status, next=_local(next), problem=problem, provider=provider)


@router.post("/login")
def login(request: Request, token: Annotated[str, Form()], next: Annotated[str, Form()] = "") -> Response:
    """Take a token and begin a session."""
    users, _, services = _parts(request)
    if users.kind != "token":
        return _form(request, next, "Tokens are not taken here.", 403)
    try:
        user = users.tokens.user(token.strip(), "api", services.now().timestamp())
    except Unauthorized as error:
        return _form(request, next, f"{error.text[:1].upper()}{error.text[1:]}.", 401)
    return _begun(request, user, next)


@router.get("/login/start")
def start(request: Request, next: str = "/studies") -> Response:
    """Send the browser to the issuer."""
    users, pages, services = _parts(request)
    if users.kind != "oidc" or not users.has_login:
        return pages.problem(request, 404, "No login", "There is no issuer to log in at here.")
    state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    api = services.settings.api
    asked = {
        "response_type": "code",
        "client_id": api.oidc_client_id,
        "redirect_uri": f"{base_url(request)}/login/callback",
        "scope": "openid email profile",
        "state": state,
        "nonce": nonce,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    url = users.issuer().authorize_url
    response = RedirectResponse(f"{url}{'&' if '?' in url else '?'}{urlencode(asked)}", 303)
    kept = {"iss": "dicomlake", "use": "login", "state": state, "nonce": nonce, "verifier": verifier}
    signed = users.tokens.sign({**kept, "next": _local(next)}, services.now().timestamp(), LOGIN_S)
    _set(response, request, STATE, signed, LOGIN_S)
    return response


@router.get("/login/callback")
def callback(request: Request, state: str = "", code: str = "") -> Response:
    """Take the issuer's answer, check the ID token and begin a session."""
    users, pages, services = _parts(request)
    try:
        kept = users.tokens.read(request.cookies.get(STATE, ""), "login", services.now().timestamp())
        if not code or not secrets.compare_digest(str(kept["state"]), state):
            raise Unauthorized("this is the answer to another login")
        user = users.of_id_token(_id_token(request, code, str(kept["verifier"])), str(kept["nonce"]))
    except Unauthorized as error:
        words = f"{error.text[:1].upper()}{error.text[1:]}; try again."
        return pages.problem(request, 401, "Not logged in", words)
    response = _begun(request, user, str(kept["next"]))
    response.delete_cookie(STATE)
    return response


def _id_token(request: Request, code: str, verifier: str) -> str:
    users, _, services = _parts(request)
    api = services.settings.api
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": f"{base_url(request)}/login/callback",
        "client_id": api.oidc_client_id,
        "client_secret": api.oidc_client_secret,
        "code_verifier": verifier,
    }
    try:
        answer = httpx.post(users.issuer().token_url, data=form, timeout=10)
        if answer.status_code in (400, 401):
            raise Unauthorized("the issuer did not take the code")
        return str(answer.raise_for_status().json()["id_token"])
    except (httpx.HTTPError, httpx.InvalidURL, KeyError, ValueError, TypeError) as exc:
        raise TransientError(f"the issuer cannot be asked ({type(exc).__name__})") from exc


@router.post("/logout")
def logout(request: Request) -> Response:
    """End the session in this browser."""
    response = RedirectResponse(f"{root_path(request)}/login", 303)
    response.delete_cookie(cookie_name(request), secure=is_secure(request), httponly=True, samesite="lax")
    return response


def _begun(request: Request, user: User, next: str) -> RedirectResponse:
    users, _, services = _parts(request)
    base = root_path(request)
    response = RedirectResponse(f"{base}{_local(next)}", 303)
    session = users.tokens.issue(user.name, user.role, services.now().timestamp(), SESSION_S, "session")
    _set(response, request, cookie_name(request), session, SESSION_S)
    return response


def _set(response: Response, request: Request, name: str, value: str, life_s: int) -> None:
    # Lax, not Strict: the way back from the issuer is a navigation from another site.
    response.set_cookie(
        name, value, max_age=life_s, path="/", secure=is_secure(request), httponly=True, samesite="lax"
    )


def _local(path: str) -> str:
    """Return a path of this service; anything that could lead to another host becomes the list of studies."""
    plain = path.startswith("/") and not path.startswith("//") and "\\" not in path and path.isprintable()
    return path if plain else "/studies"
