"""What every command that talks to a server has in common: where it is, the key, and what happens when it says no."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from postgrad.client import Client, ServerError
from postgrad.render import plain_lines

BAD_INPUT = 2
LOCAL = "http://127.0.0.1:8000"

Url = Annotated[str, typer.Option(envvar="POSTGRAD_URL", help="Address of the server.")]
# Other users of a machine see what stands on a command line, and not what is in the environment.
Key = Annotated[str | None, typer.Option(envvar="POSTGRAD_API_KEY", help="API key, better set in the environment.")]


@contextmanager
def talking(url: str, key: str | None) -> Iterator[Client]:
    """A client whose errors end the command with a sentence and exit code 2."""
    try:
        yield Client(url, key)
    except ServerError as error:
        print(plain_lines(str(error)), file=sys.stderr)
        raise typer.Exit(BAD_INPUT) from error
