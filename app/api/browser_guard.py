"""Guards of every route that shows or changes data: the name in Host, the page that asks, the user, the role.

    request ─▶ is the route open? ─▶ Host ─▶ Origin, Sec-Fetch-Site ─▶ user ─▶ role ─▶ the route ─▶ audit line

Closed by default: a route that nobody named here needs a user with `read-only`, or with `user` to change
anything. The push of events has its own gate and is passed through.
"""

from __future__ import annotations

import logging
import re
from urllib.parse import quote

from fastapi.responses import JSONResponse, RedirectResponse
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.auth import Forbidden, Unauthorized
from app.api.public_url import check_host, is_secure, origin_of, root_path
from app.api.users import NotAllowed, User, Users
from app.config.settings import Api
from app.model.errors import DicomlakeError, TransientError

audit = logging.getLogger("dicomlake.audit")

OPEN = frozenset(("/health", "/ready", "/metrics", "/version", "/docs", "/openapi.json"))
LOGIN = ("/login", "/login/start", "/login/callback", "/logout")
PUSHED = ("/dead-letters", "/settled")
"""Routes of Google's senders; as for events, `api.auth` says who may call them."""
SAFE = ("GET", "HEAD", "OPTIONS")
UIDS = re.compile(r"/(studies|series|instances)/([0-9.]{1,64})(?=/|$)")
STATUS = (
    (Unauthorized, 401),
    (Forbidden, 403),
    (NotAllowed, 403),
    (TransientError, 503),
    (DicomlakeError, 500),
)


def cookie_name(request: Request) -> str:
    """Return the name of the session's cookie; over https, one that browsers bind to this host."""
    return "__Host-dicomlake" if is_secure(request) else "dicomlake"


def role_needed(method: str, path: str, is_page: bool) -> str | None:
    """Return the role that a route needs, None where it is open to all."""
    if path in OPEN or path in LOGIN or path.startswith("/static/"):
        return None
    if path in PUSHED and method not in SAFE:
        return None
    if path == "/":
        return "read-only" if method in SAFE and is_page else None
    if method in SAFE:
        return "read-only"
    return "admin" if path.startswith("/dead-letters/") else "user"


def is_rest(path: str) -> bool:
    """Return whether errors of this route are `{"error": "...", "success": false}`."""
    return path.partition("/")[2].partition("/")[0] in ("api", "files", "upload", "search")


class BrowserGuard:
    """Wraps the application; every answer to a user is a line of the audit log."""

    def __init__(self, app: ASGIApp, api: Api, users: Users) -> None:
        self._app, self._api, self._users = app, api, users

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the application answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        # As the router has it: `request.url` ends at a `?` or `#` that was percent-encoded in the path.
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        is_page = "text/html" in request.headers.get("accept", "")
        role = role_needed(request.method, path, is_page)
        try:
            if role is not None or path in LOGIN:
                if self._users.open:  # else a token decides, which no foreign page has
                    check_host(request)
                self._check_page(request, path)
            if role is not None:
                user = await self._user(request)
                scope.setdefault("state", {})["user"] = user
                if user is not None and not user.may(role):
                    raise NotAllowed(f"this needs the role {role}")
        except DicomlakeError as error:
            response = self._refusal(request, error, path, is_page)
            self._audit(request, None, path, response.status_code)
            await response(scope, receive, send)
            return
        if role is None:
            await self._app(scope, receive, send)
            return

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._audit(request, user, path, message["status"])
            await send(message)

        await self._app(scope, receive, told)

    async def _user(self, request: Request) -> User | None:
        from fastapi.concurrency import run_in_threadpool

        name = cookie_name(request)
        if self._users.kind in ("none", "token", "platform"):  # nothing there asks another host
            return self._users.of(request, name)
        return await run_in_threadpool(self._users.of, request, name)

    def _check_page(self, request: Request, path: str) -> None:
        """Raise Forbidden for a request that a page of another site sends through its visitor's browser."""
        headers = request.headers
        origin = headers.get("origin")
        known = origin is None or origin == origin_of(request) or origin in self._api.cors_origins
        if not known and request.method not in ("OPTIONS",):
            raise Forbidden("origin: a page of another site may not ask; see api.cors_origins")
        site = headers.get("sec-fetch-site", "none")
        if site in ("none", "same-origin") or (origin is not None and known):
            return
        # A link from elsewhere may lead to a page; what it shows, the other site cannot read.
        navigates = (
            headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        )
        if not (navigates and request.method == "GET"):
            raise Forbidden("sec-fetch-site: a page of another site may not ask")

    def _refusal(self, request: Request, error: DicomlakeError, path: str, is_page: bool) -> Response:
        status = next(number for kind, number in STATUS if isinstance(error, kind))
        base = root_path(request)
        if is_page and status == 401 and self._users.has_login and request.method == "GET":
            query = f"?{request.url.query}" if request.url.query else ""
            return RedirectResponse(f"{base}/login?next={quote(path + query, safe='')}", 303)
        if is_page and request.app.state.pages is not None:
            titles = {401: "Log in", 403: "Not allowed", 503: "Not now"}
            words = f"{error.text[:1].upper()}{error.text[1:]}."
            page: Response = request.app.state.pages.problem(
                request, status, titles.get(status, "Error"), words
            )
            return page
        headers = {"WWW-Authenticate": 'Bearer realm="dicomlake"'} if status == 401 else None
        if is_rest(path):
            return JSONResponse({"error": error.text, "success": False}, status, headers)
        return JSONResponse({"code": error.code, "message": error.text}, status, headers)

    def _audit(self, request: Request, user: User | None, path: str, status: int) -> None:
        route = getattr(request.scope.get("route"), "path", None)
        uids = dict(UIDS.findall(path))
        audit.info(
            "access",
            extra={
                "user": user.name if user else None,
                "role": user.role if user else None,
                "method": request.method,
                "route": route or "-",
                "study": uids.get("studies"),
                "series": uids.get("series"),
                "instance": uids.get("instances"),
                "http_status": status,
            },
        )
