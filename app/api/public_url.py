"""The address of this service as its clients see it: behind a proxy the service itself knows another.

`api.public_url` decides; without it the headers of the proxy, and else the Host of the request.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from starlette.requests import Request

from app.api.auth import Forbidden

EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104 - compared, not bound
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]{1,64}){1,8}")


def base_url(request: Request) -> str:
    """Return the URL that the routes of this service are below, without a slash at its end."""
    if public := request.app.state.services.settings.api.public_url:
        return str(public).rstrip("/")
    return f"{_forwarded_origin(request)}{root_path(request)}"


def origin_of(request: Request) -> str:
    """Return scheme and host of this service, as a browser writes them in `Origin`."""
    parts = urlsplit(base_url(request))
    return f"{parts.scheme}://{parts.netloc}"


def is_secure(request: Request) -> bool:
    """Tell whether the client speaks https with this service, or with the proxy before it."""
    return base_url(request).startswith("https://")


def check_host(request: Request) -> None:
    """Raise Forbidden for a foreign name in `Host`, where the service listens on loopback alone.

    With DNS rebinding, a page's own host name resolves to this machine, and its requests look like ours; the
    name gives them away. The address itself is accepted: an IP address cannot be rebound.
    """
    api = request.app.state.services.settings.api
    address = (request.scope.get("server") or ("",))[0]
    if api.host in EVERYWHERE or not (address == "::1" or address.startswith("127.")):
        return
    names = {name.strip("[]") for name in LOOPBACK}
    ours = {*names, api.host.lower(), address, urlsplit(api.public_url).hostname} - {None}
    for host in request.headers.getlist("host"):
        if re.sub(r":[0-9]*$", "", host).strip("[]").lower() not in ours:
            raise Forbidden("host: is not the address that is listened on; see api.host")


def root_path(request: Request) -> str:
    """Return the path that a proxy puts this service below, empty or beginning with a slash."""
    prefix = request.headers.get("x-forwarded-prefix", "").rstrip("/")
    return prefix if _PREFIX.fullmatch(prefix) else str(request.scope.get("root_path", "")).rstrip("/")


def _forwarded_origin(request: Request) -> str:
    headers = request.headers
    scheme = headers.get("x-forwarded-proto", "").partition(",")[0].strip().lower()
    hosts = (headers.get("x-forwarded-host", "").partition(",")[0].strip(), headers.get("host", ""))
    host = next((host for host in hosts if _HOST.fullmatch(host)), None)
    name, port = request.scope.get("server") or ("localhost", None)
    if host is None:
        host = f"{name}:{port}" if port else name
    elif host in LOOPBACK and host == hosts[1] and port not in (None, 80):  # some clients leave the port out
        host = f"{host}:{port}"
    return f"{scheme if scheme in ('http', 'https') else request.url.scheme}://{host}"
