"""What all lists have in common: their envelope, and the parameters that page through them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from fastapi import Query, Request, params
from fastapi.dependencies.utils import get_flat_params
from fastapi.routing import APIRoute

from app.problems import Problem
from jobs.arguments import did_you_mean

MAX_PAGE = 100

After = Annotated[str | None, Query(max_length=64, description="The `last_id` of the page before.")]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="The most entries in one page.")]
Order = Annotated[Literal["asc", "desc"], Query(description="`desc` is newest first.")]


def envelope(data: Iterable[dict[str, Any]], *, has_more: bool = False, key: str = "id") -> dict[str, Any]:
    """The list object; its first and last ids are the members named `key`."""
    entries = list(data)
    first, last = (entries[0][key], entries[-1][key]) if entries else (None, None)
    return {"object": "list", "data": entries, "first_id": first, "last_id": last, "has_more": has_more}


def refuse_unknown_parameters(request: Request) -> None:
    """A dependency of every route: a query parameter that the endpoint does not take is an error, not a silence."""
    route = request.scope.get("route")
    if not isinstance(route, APIRoute) or not request.query_params:
        return
    known = [field.alias for field in get_flat_params(route.dependant) if isinstance(field.field_info, params.Query)]
    errors = [
        {
            "pointer": "",
            "parameter": name,
            "code": "unknown_parameter",
            "detail": f"this endpoint takes no such parameter{did_you_mean(name, known)}",
        }
        for name in request.query_params
        if name not in known
    ]
    if errors:
        raise Problem(422, "invalid-parameter", "A parameter is not valid", "unknown query parameters are refused", errors)
