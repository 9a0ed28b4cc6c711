"""Who may ask: a key where one is set, and no page of another site, whatever address the server listens on.

On a loopback address without a key the browser is the risk: any site the user visits can send requests to 127.0.0.1, and by
rebinding its own name to that address even read the answers. So such a server answers only under loopback names, and a request
that changes something is refused when the browser says that it comes from elsewhere.
"""

from __future__ import annotations

import hmac
import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.problems import Problem, response
from jobs.settings import Settings

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
PROTECTED = "/v1"
API_POLICY = "default-src 'none'; frame-ancestors 'none'"
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; font-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
DOCS_POLICY = PAGE_POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")  # Swagger UI styles its own elements


class ServerRefuses(Exception):
    """The settings would serve strangers without a key."""


def is_loopback(host: str) -> bool:
    """Whether an address or name without its port means this machine only."""
    name = host.strip("[]").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def check_settings(settings: Settings) -> None:
    """Raises ServerRefuses for a bind address that others can reach, with neither a key nor POSTGRAD_INSECURE=1."""
    if is_loopback(settings.host) or settings.api_key is not None or settings.insecure:
        return
    raise ServerRefuses(
        f"{settings.host} can be reached from other machines: set POSTGRAD_API_KEY (clients then send it as "
        "'Authorization: Bearer ...'), or POSTGRAD_INSECURE=1 if something else keeps strangers out"
    )


class Gate:
    """ASGI middleware: lets a request through or answers 401 or 403, and puts the security headers on every answer."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._key = settings.api_key.get_secret_value().encode() if settings.api_key else None
        self._loopback_names_only = is_loopback(settings.host) and self._key is None and not settings.insecure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                _add_headers(scope["path"], MutableHeaders(scope=message))
            await send(message)

        problem = self._refusal(scope)
        handler = self._app if problem is None else response(problem)
        await handler(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> Problem | None:
        headers = Headers(scope=scope)
        if self._loopback_names_only and not is_loopback(_host_name(headers.get("host", ""))):
            return _forbidden("this server answers only under a loopback name such as localhost")
        if scope["method"] not in SAFE_METHODS and _from_another_site(headers):
            return _forbidden("requests that change something are not taken from other sites' pages")
        if self._key is not None and scope["path"].startswith(PROTECTED) and not self._has_key(headers):
            challenge = {"WWW-Authenticate": "Bearer"}
            return Problem(401, "unauthorized", "No key", "send the key as 'Authorization: Bearer pg_...'", headers=challenge)
        return None

    def _has_key(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        assert self._key is not None
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1", "replace"), self._key)


def _forbidden(detail: str) -> Problem:
    return Problem(403, "forbidden", "Not allowed", detail)


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _from_another_site(headers: Headers) -> bool:
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return True
    origin = headers.get("origin")
    if origin is None:
        return False
    try:
        return urlsplit(origin).netloc != headers.get("host")
    except ValueError:
        return True


def _add_headers(path: str, headers: MutableHeaders) -> None:
    headers.setdefault("X-Content-Type-Options", "nosniff")
    headers.setdefault("Referrer-Policy", "no-referrer")
    headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
    if path == "/" or path.startswith("/web/"):
        policy = PAGE_POLICY
    else:
        policy = DOCS_POLICY if path == "/docs" else API_POLICY
    headers.setdefault("Content-Security-Policy", policy)
