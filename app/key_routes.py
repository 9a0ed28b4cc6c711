"""/v1/keys: made, listed and revoked by whoever has the scope admin."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from app.answers import answer
from app.body import read_json
from app.callers import only
from app.job_json import timestamp
from app.lists import envelope
from app.problems import Problem, model_errors
from app.state import Parts
from jobs.keyring import ADMIN
from jobs.names import Name
from jobs.store import Key

router = APIRouter(tags=["keys"], dependencies=[Depends(only(ADMIN, "looking after keys"))])

MAX_NAME_CHARACTERS = 200
# The answer that holds the key itself is kept by nobody on the way.
NOT_STORED = {"Cache-Control": "no-store"}


class KeyWanted(BaseModel):
    """What POST /v1/keys takes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[Name, StringConstraints(min_length=1, max_length=MAX_NAME_CHARACTERS)] = Field(
        description="What the key is for, or whose it is."
    )
    scopes: Annotated[list[Literal["read", "write", "code", "admin"]], Field(min_length=1, max_length=4)] = Field(
        default=["read", "write"],
        description="read: every GET. write: create, cancel, upload. code: jobs that bring an exported or Python program, on "
        "top of write. admin: everything, keys too.",
    )


def wanted(body: Annotated[Any, Depends(read_json)]) -> KeyWanted:
    """The body, checked. Raises Problem 422."""
    try:
        return KeyWanted.model_validate(body)
    except ValidationError as invalid:
        detail = "check the name and the scopes"
        raise Problem(422, "invalid-key", "The key cannot be made", detail, model_errors(invalid)) from invalid


@router.post("/v1/keys", status_code=201, summary="Make a key", responses={201: answer("NewKey")})
def create_key(parts: Parts, body: Annotated[KeyWanted, Depends(wanted)]) -> JSONResponse:
    """`secret` is the key itself, shown this once: what is stored is its SHA-256."""
    key, secret = parts.store.add_key(body.name, body.scopes)
    return JSONResponse({**key_body(key), "secret": secret}, 201, NOT_STORED)


@router.get("/v1/keys", summary="List keys", responses={200: answer("Keys")})
def list_keys(parts: Parts) -> JSONResponse:
    """Every key in the order they were made, the revoked ones too; never the keys themselves."""
    return JSONResponse(envelope(key_body(key) for key in parts.store.api_keys()))


@router.post("/v1/keys/{key_id}/revoke", summary="Revoke a key", responses={200: answer("Key")})
def revoke_key(parts: Parts, key_id: str) -> JSONResponse:
    """The next request with it is refused. Safe to repeat."""
    return JSONResponse(key_body(parts.store.revoke_key(key_id)))


def key_body(key: Key) -> dict[str, Any]:
    """A key as JSON values."""
    return {
        "object": "key",
        "id": key.id,
        "name": key.name,
        "scopes": list(key.scopes),
        "created_at": timestamp(key.created_at),
        "last_used_at": timestamp(key.last_used_at),
        "revoked_at": timestamp(key.revoked_at),
        "links": {"revoke": f"/v1/keys/{key.id}/revoke"},
    }
