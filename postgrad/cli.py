"""The `postgrad` command. Exit codes: 0 done, 1 the job failed, 2 bad input or no server, 3 the job was cancelled."""

from __future__ import annotations

import json
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from postgrad import care_commands, key_commands, launch, render
from postgrad.client import Client
from postgrad.connection import BAD_INPUT, LOCAL, Key, Url, talking

OUTCOMES = {"succeeded": 0, "failed": 1, "cancelled": 3}
CURVE_HEIGHT = 16
WIDE = 200

app = typer.Typer(
    help="Train PyTorch models over HTTP: POST a spec, watch the gradient descend.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(key_commands.app, name="keys")
app.command()(care_commands.backup)
app.command()(care_commands.prune)
console = Console()

JobId = Annotated[str, typer.Argument(help="Id of the job: job_...")]
DataDir = Annotated[Path | None, typer.Option(help="Folder of the database, uploads and jobs. [POSTGRAD_DATA_DIR, or ./data]")]


class Origin(StrEnum):
    """Where a retry begins."""

    START = "start"
    CHECKPOINT = "checkpoint"


# ---- the server's side


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. [POSTGRAD_HOST, or 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on. [POSTGRAD_PORT, or 8000]")] = None,
    data_dir: DataDir = None,
    no_worker: Annotated[bool, typer.Option("--no-worker", help="The API alone; `postgrad worker` starts workers.")] = False,
) -> None:
    """Run the API and one worker; the database is brought up to date first."""
    raise typer.Exit(launch.serve(launch.environment(host, port, data_dir), worker=not no_worker))


@app.command()
def worker(data_dir: DataDir = None) -> None:
    """Run one worker on the same data folder as the API; it waits until the database is there."""
    raise typer.Exit(launch.run("workers", launch.environment(data_dir=data_dir)))


@app.command()
def migrate(data_dir: DataDir = None) -> None:
    """Bring the database up to date."""
    raise typer.Exit(launch.run("migrations", launch.environment(data_dir=data_dir)))


# ---- the user's side


@app.command()
def submit(
    spec: Annotated[Path, typer.Argument(help="The spec, a JSON file; - reads standard input.")],
    changes: Annotated[list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Such as optimizer.lr=0.01.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Show progress; exit 0 succeeded, 1 failed, 3 cancelled.")] = False,
    url: Url = LOCAL,
    key: Key = None,
) -> None:
    """Queue a job and print its id."""
    body = read_spec(spec)
    for change in changes or []:
        apply(body, change)
    with talking(url, key) as client:
        job = client.submit(body)
        print(job["id"], flush=True)
        if follow:
            raise typer.Exit(_follow(client, job["id"]))


def read_spec(path: Path) -> Any:
    """The file's JSON. Ends the command when there is none."""
    try:
        return json.loads(sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8"), parse_constant=_no_json)
    except OSError as error:
        raise _bad(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise _bad(f"{path} is not JSON: {error}") from error


def apply(body: Any, change: str) -> None:
    """Sets one member: `model.layers.0.out_features=32`. The value is JSON, or else a string."""
    path, equals, text = change.partition("=")
    if not equals:
        raise _bad(f"--set wants PATH=VALUE, got {change!r}")
    try:
        value = json.loads(text, parse_constant=_no_json)
    except ValueError:
        value = text
    *parents, last = path.split(".")
    holder = body
    try:
        for member in parents:
            holder = holder[int(member)] if isinstance(holder, list) else holder.setdefault(member, {})
        if isinstance(holder, list):
            holder[int(last)] = value
        else:
            holder[last] = value
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise _bad(f"--set {path}: there is no such place in the spec") from error


def _no_json(literal: str) -> Any:
    raise ValueError(f"{literal} is not JSON")


def _bad(message: str) -> typer.Exit:
    print(message, file=sys.stderr)
    return typer.Exit(BAD_INPUT)


def _follow(client: Client, job_id: str) -> int:
    with render.Follow(console) as bar:
        for kind, data in client.stream(job_id):
            bar.event(kind, data)
            if kind == "end":
                outcome = data["status"]  # by the time we look again, somebody may have asked for a retry
    job = client.get(f"/v1/jobs/{job_id}")
    if job["failure"]:
        message = "\n".join(
            map(render.plain, job["failure"]["message"].split("\n"))
        )  # it may quote what the user's program said
        print(f"{job['status']}: {job['failure']['reason']}: {message}", file=sys.stderr)
    return OUTCOMES[outcome]


@app.command("ls")
def list_jobs(
    status: Annotated[str | None, typer.Option(help="queued, running, paused, succeeded, failed or cancelled.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many, newest first.")] = 20,
    url: Url = LOCAL,
    key: Key = None,
) -> None:
    """List jobs, newest first."""
    with talking(url, key) as client:
        query = {"limit": limit} | ({"status": status} if status else {})
        wide = console if console.is_terminal else Console(width=WIDE)  # a pipe has no width: nothing is cut off there
        wide.print(render.jobs_table(client.get("/v1/jobs", **query)["data"]))


@app.command()
def show(job_id: JobId, url: Url = LOCAL, key: Key = None) -> None:
    """Print a job as JSON."""
    with talking(url, key) as client:
        shown = json.dumps(client.get(f"/v1/jobs/{job_id}"), indent=2, ensure_ascii=False)
        print(render.plain_lines(shown))  # an escape in a JSON string is JSON too


@app.command()
def cancel(job_id: JobId, url: Url = LOCAL, key: Key = None) -> None:
    """Ask a job to stop."""
    with talking(url, key) as client:
        _told(client.cancel(job_id), "asked to stop")


@app.command()
def pause(job_id: JobId, url: Url = LOCAL, key: Key = None) -> None:
    """Ask a job to save its place and free its device."""
    with talking(url, key) as client:
        _told(client.pause(job_id), "asked to pause")


@app.command()
def resume(job_id: JobId, url: Url = LOCAL, key: Key = None) -> None:
    """Let a paused job go on where it stood."""
    with talking(url, key) as client:
        _told(client.resume(job_id), "goes on")


@app.command()
def retry(
    job_id: JobId,
    origin: Annotated[Origin, typer.Option("--from", help="start: with an empty curve; checkpoint: on from the last one.")],
    url: Url = LOCAL,
    key: Key = None,
) -> None:
    """Run a job again that has ended, under the same id."""
    with talking(url, key) as client:
        _told(client.retry(job_id, origin.value), "runs again")


@app.command("rm")
def delete(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of jobs that do not run, or of uploads: file_...")],
    url: Url = LOCAL,
    key: Key = None,
) -> None:
    """Delete jobs with all that they left, or uploads that no job still needs."""
    with talking(url, key) as client:
        for thing_id in ids:
            client.delete(thing_id)
            print(f"{thing_id}: deleted")


def _told(job: dict[str, Any], if_running: str) -> None:
    print(f"{job['id']}: {if_running if job['status'] == 'running' else job['status']}")


@app.command()
def curve(
    job_id: JobId,
    name: Annotated[list[str] | None, typer.Option(help="Series to draw. Default: train/loss and val/loss.")] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print every point as series,step,value.")] = False,
    url: Url = LOCAL,
    key: Key = None,
) -> None:
    """Draw a job's curve in the terminal."""
    with talking(url, key) as client:
        found = client.curve(job_id, 0 if csv else 2000)
    wanted = name or ([s["name"] for s in found] if csv else ["train/loss", "val/loss"])
    drawn = [s for s in found if s["name"] in wanted]
    if csv:
        print("series,step,value")
    for series in drawn:
        _draw(series, csv)
    missing = [n for n in name or [] if n not in {s["name"] for s in drawn}]
    if missing and found:
        raise _bad(f"there is no series {', '.join(missing)}; there are {', '.join(s['name'] for s in found)}")
    if not drawn:
        raise _bad("there is no point yet")


def _draw(series: dict[str, Any], csv: bool) -> None:
    if csv:
        for step, value in zip(series["steps"], series["values"], strict=True):
            print(f"{series['name']},{step},{value!r}" if isinstance(value, float) else f"{series['name']},{step},{value}")
        return
    print(f"{series['name']}: {series['total']} points, last {render.number(series['last']['value'])}")
    if series["min"] is not None:  # none when no value is finite
        for line in render.plot(series["steps"], series["values"], max(console.width - 16, 20), CURVE_HEIGHT):
            print(line)


@app.command()
def pull(
    job_id: JobId,
    to: Annotated[Path | None, typer.Option(help="Folder for the files; default: one named after the job.")] = None,
    url: Url = LOCAL,
    key: Key = None,
) -> None:
    """Download a job's artifacts: the weights (last and best) and the spec."""
    folder = to or Path(job_id)
    with talking(url, key) as client:
        artifacts = client.get(f"/v1/jobs/{job_id}/artifacts")["data"]
        folder.mkdir(parents=True, exist_ok=True)
        for artifact in artifacts:
            # A name of the server's is not trusted with a path.
            target = folder / os.path.basename(artifact["name"])
            client.download(f"/v1/jobs/{job_id}/artifacts/{artifact['name']}", target)
            print(target)
    if not artifacts:
        raise _bad("there is no artifact yet")


@app.command()
def upload(
    path: Annotated[
        Path,
        typer.Argument(
            exists=True, dir_okay=False, help="CSV, Parquet, NPZ, a ZIP of images, plain text; a .pt2 or .py model."
        ),
    ],
    format: Annotated[
        str, typer.Option(help="auto tells by the content; csv, text and python say which of them it is.")
    ] = "auto",
    url: Url = LOCAL,
    key: Key = None,
) -> None:
    """Upload a data file or a model and print its id."""
    with talking(url, key) as client:
        print(client.upload(path, format)["id"])


@app.command()
def catalog(
    section: Annotated[
        str | None,
        typer.Argument(help="losses, optimizers, lr_schedulers, layers, operations, initializers, metrics, datasets, models."),
    ] = None,
    name: Annotated[str | None, typer.Argument(help="One entry, with its arguments.")] = None,
    url: Url = LOCAL,
    key: Key = None,
) -> None:
    """Show what a spec may name."""
    with talking(url, key) as client:
        found = client.get(f"/v1/catalog/{section}" if section else "/v1/catalog")
    if name is not None:
        entries = [e for e in found["data"] if e["name"] == name]
        if not entries:
            raise _bad(f"there is no {name} in {section}")
        found = entries[0]
    elif section is not None:
        for entry in found["data"]:
            print(entry["name"] + (f"  (cannot be used: {entry['refused']})" if entry.get("refused") else ""))
        return
    print(json.dumps(found, indent=2, ensure_ascii=False))
