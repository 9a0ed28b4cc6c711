"""HEAD for whatever answers GET, and a true Allow on every 405."""

from __future__ import annotations

from fastapi import Request
from starlette.routing import BaseRoute, Match, Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


class _Answered(Exception):
    """The head of the answer is out, and of the rest nothing is wanted: a stream would go on for ever."""


class HeadAsGet:
    """ASGI middleware: HEAD is answered as GET would be, without the body, which is not even made."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            await send(message)
            await send({"type": "http.response.body", "body": b""})
            raise _Answered

        try:
            await self._app({**scope, "method": "GET"}, receive, send_head)
        except _Answered:
            return


def allowed(request: Request) -> list[str]:
    """The methods that the path of a request takes. The router itself tells those of the first route with this path only."""
    outer = {**request.scope, "root_path": request.scope.get("app_root_path", "")}  # a mount has moved it
    found = [method for method in METHODS if any(_takes(route, {**outer, "method": method}) for route in request.app.routes)]
    return ["GET", "HEAD", *found[1:]] if found[:1] == ["GET"] else found


def _takes(route: BaseRoute, scope: Scope) -> bool:
    if isinstance(route, Mount) and scope["method"] != "GET":
        return False  # files; a mount says yes to everything
    match, _ = route.matches(scope)
    return match == Match.FULL
