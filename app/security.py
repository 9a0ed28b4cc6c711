"""Who may ask: who has a key where one is asked for, and no page of another site, whatever address the server listens on.

On a loopback address without a key the browser is the risk: any site the user visits can send requests to 127.0.0.1, and by
rebinding its own name to that address even read the answers. So such a server answers only under loopback names, and a request
that changes something is refused when the browser says that it comes from elsewhere.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
from urllib.parse import urlsplit

import sqlalchemy as sa
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.callers import ANYONE, OPERATOR, Caller, from_key
from app.problems import Problem, from_database, response
from jobs.database import open_engine
from jobs.keyring import READ, WRITE, digest, use_is_noted
from jobs.settings import Settings
from jobs.store import Store

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
PROTECTED = "/v1"
API_POLICY = "default-src 'none'; frame-ancestors 'none'"
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; font-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
DOCS_POLICY = PAGE_POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")  # Swagger UI styles its own elements


log = logging.getLogger(__name__)


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


def asks_for_a_key(settings: Settings) -> bool:
    """Whether a request needs one: where a key is set, and where others can reach the server."""
    return settings.api_key is not None or not (is_loopback(settings.host) or settings.insecure)


def check_settings(settings: Settings) -> None:
    """Raises ServerRefuses for a server that asks for a key when nobody has one."""
    if not asks_for_a_key(settings) or settings.api_key is not None or _has_admin_key(settings):
        return
    raise ServerRefuses(
        f"{settings.host} can be reached from other machines, and there is no key: make one with `postgrad keys create NAME "
        "--scope admin` while the server listens on a loopback address, or set POSTGRAD_API_KEY (clients send either as "
        "'Authorization: Bearer pg_...'), or POSTGRAD_INSECURE=1 if something else keeps strangers out"
    )


def _has_admin_key(settings: Settings) -> bool:
    engine = open_engine(settings)
    try:
        return Store(engine).has_admin_key()
    except sa.exc.DBAPIError:  # no schema yet, so no key
        return False
    finally:
        engine.dispose()


class Gate:
    """ASGI middleware: lets a request through or answers 401 or 403, and puts the security headers on every answer.

    Whom it let through stands in `request.state.caller`.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._operator = digest(settings.api_key.get_secret_value().encode()) if settings.api_key else None
        self._asks = asks_for_a_key(settings)
        self._loopback_names_only = not self._asks and not settings.insecure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                _add_headers(scope["path"], MutableHeaders(scope=message))
            await send(message)

        try:
            caller = self._let_in(scope)
        except Problem as refusal:
            await response(refusal)(scope, receive, send_guarded)
            return
        scope.setdefault("state", {})["caller"] = caller
        await self._app(scope, receive, send_guarded)
        if caller.key is not None and not use_is_noted(caller.key):
            await run_in_threadpool(_note_use, _store(scope), caller.key.id)  # after the answer: it may wait for the database

    def _let_in(self, scope: Scope) -> Caller:
        """Raises Problem: 401, 403, or 503 when the database that holds the keys does not answer."""
        headers = Headers(scope=scope)
        if self._loopback_names_only and not is_loopback(_host_name(headers.get("host", ""))):
            raise _forbidden("this server answers only under a loopback name such as localhost")
        safe = scope["method"] in SAFE_METHODS
        if not safe and _from_another_site(headers):
            raise _forbidden("requests that change something are not taken from other sites' pages")
        if not scope["path"].startswith(PROTECTED):
            return ANYONE
        caller = self._caller(headers, scope)
        caller.needs(READ if safe else WRITE, "reading" if safe else "changing something")
        return caller

    def _caller(self, headers: Headers, scope: Scope) -> Caller:
        """Who has sent this. A key that is sent is looked at where none is asked for too: its scopes hold there as well."""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        secret = given.strip().encode("latin-1") if scheme.lower() == "bearer" else b""
        if secret and self._operator is not None and hmac.compare_digest(digest(secret), self._operator):
            return OPERATOR
        if not secret and not self._asks:
            return ANYONE
        try:
            key = _store(scope).key_of(secret) if secret else None
        except sa.exc.OperationalError as error:
            raise from_database(error) from error
        if key is None:
            challenge = {"WWW-Authenticate": "Bearer"}
            raise Problem(401, "unauthorized", "No key", "send a key as 'Authorization: Bearer pg_...'", headers=challenge)
        return from_key(key)


def _store(scope: Scope) -> Store:
    store: Store = scope["app"].state.store
    return store


def _note_use(store: Store, key_id: str) -> None:
    try:
        store.key_used(key_id)
    except sa.exc.OperationalError as error:
        log.warning("the last use of %s could not be noted: %s", key_id, error.orig)


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
