"""`postgrad keys`: who may talk to the server. Needs a key of scope admin, or a server that asks for none."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

from postgrad import render
from postgrad.connection import LOCAL, Key, Url, talking

WIDE = 200
app = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the key is for, or whose it is.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="read, write, code or admin; repeatable. Default: read and write."),
    ] = None,
    url: Url = LOCAL,
    key: Key = None,
) -> None:
    """Make a key and print it, this once: the server keeps a hash of it.

    read opens every GET; write creates, cancels and uploads; code, with write, runs exported and Python models; admin does
    everything and looks after keys.
    """
    with talking(url, key) as client:
        made = client.create_key(name, scope or ["read", "write"])
    print(made["secret"])  # alone on standard output, for `POSTGRAD_API_KEY=$(postgrad keys create ...)`
    print(f"{made['id']} ({', '.join(made['scopes'])}): it is not shown again", file=sys.stderr)


@app.command("ls")
def list_keys(url: Url = LOCAL, key: Key = None) -> None:
    """List keys in the order they were made, the revoked ones too."""
    with talking(url, key) as client:
        found = client.get("/v1/keys")["data"]
    console = Console()
    wide = console if console.is_terminal else Console(width=WIDE)
    wide.print(render.keys_table(found))


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="Id of the key: key_...")],
    url: Url = LOCAL,
    key: Key = None,
) -> None:
    """Shut a key out from the next request on; safe to repeat."""
    with talking(url, key) as client:
        revoked = client.revoke_key(key_id)
    print(f"{revoked['id']}: revoked")
