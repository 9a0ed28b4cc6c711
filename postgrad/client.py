"""What the command line needs of the HTTP API. Errors of the server become ServerError, a sentence for a person."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

Body = dict[str, Any]
CHUNK_BYTES = 2**20
RETRY_SECONDS = (0.5, 1.0, 2.0, 4.0)  # between tries; a server takes about a second to start again
UPLOAD_TIMEOUT = httpx.Timeout(60, read=660)  # the server reads a file for ten minutes at most before it answers
IN_USE = "/problems/idempotency-key-in-use"  # the first try is still being answered


class ServerError(Exception):
    """The server refused, or cannot be reached. `status` is the HTTP status, 0 when there was no answer.

    `heard`: the server may have done what was asked. `unanswered`: it has not said yet whether it did.
    """

    def __init__(self, message: str, status: int = 0, *, heard: bool = True, unanswered: bool = False) -> None:
        super().__init__(message)
        self.status, self.heard, self.unanswered = status, heard, unanswered


class Client:
    """One server. Every method raises ServerError."""

    def __init__(self, url: str, key: str | None = None, transport: httpx.BaseTransport | None = None) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=60, transport=transport)
        self._url = url

    def get(self, path: str, **query: Any) -> Body:
        body: Body = self._send("GET", path, params=query).json()
        return body

    def submit(self, spec: Any) -> Body:
        """The new job. Sent again when the connection breaks, under a key that makes it one job."""
        body: Body = self._send_once(lambda headers: self._send("POST", "/v1/jobs", json=spec, headers=headers)).json()
        return body

    def cancel(self, job_id: str) -> Body:
        """The job: cancelled, or running until its process has stopped. The same holds for `pause`."""
        return self._ask(job_id, "cancel")

    def pause(self, job_id: str) -> Body:
        return self._ask(job_id, "pause")

    def resume(self, job_id: str) -> Body:
        return self._ask(job_id, "resume")

    def retry(self, job_id: str, origin: str) -> Body:
        """Runs an ended job again, from its "start" or its last "checkpoint"."""
        return self._ask(job_id, "retry", json={"from": origin})

    def delete(self, thing_id: str) -> None:
        """A job that does not run, or an upload that no job still needs."""
        kind = "files" if thing_id.startswith("file_") else "jobs"
        self._send("DELETE", f"/v1/{kind}/{thing_id}")

    def _ask(self, job_id: str, what: str, **request: Any) -> Body:
        body: Body = self._send("POST", f"/v1/jobs/{job_id}/{what}", **request).json()
        return body

    def upload(self, path: Path, format: str = "auto") -> Body:
        """The file, as the server knows it. Sent again when the connection breaks."""

        def send(headers: dict[str, str]) -> httpx.Response:
            with path.open("rb") as file:
                request: Body = {"files": {"file": (path.name, file)}, "params": {"format": format}, "headers": headers}
                return self._send("POST", "/v1/files", timeout=UPLOAD_TIMEOUT, **request)

        body: Body = self._send_once(send).json()
        return body

    def create_key(self, name: str, scopes: list[str]) -> Body:
        """The new key with its `secret`, which no later answer has."""
        body: Body = self._send("POST", "/v1/keys", json={"name": name, "scopes": scopes}).json()
        return body

    def revoke_key(self, key_id: str) -> Body:
        body: Body = self._send("POST", f"/v1/keys/{key_id}/revoke").json()
        return body

    def prune(self, wanted: Body) -> Body:
        """Removes old jobs and files, as POST /v1/prune does; what went."""
        body: Body = self._send("POST", "/v1/prune", json=wanted).json()
        return body

    def curve(self, job_id: str, max_points: int) -> list[Body]:
        """The series of a job's curve."""
        series: list[Body] = self.get(f"/v1/jobs/{job_id}/metrics", max_points=max_points)["series"]
        return series

    def download(self, path: str, target: Path) -> None:
        """Writes one artifact under `target`; a half-written file never has that name."""
        partial = target.with_name(target.name + ".part")
        with self._translated(), self._http.stream("GET", path) as answer:
            if answer.is_error:
                answer.read()
                raise refused(answer)
            with partial.open("wb") as file:
                for chunk in answer.iter_bytes(CHUNK_BYTES):
                    file.write(chunk)
        partial.replace(target)

    def stream(self, job_id: str) -> Iterator[tuple[str, Body]]:
        """(event, data) of the job's stream until its `end`; taken up again where it broke off."""
        last: str | None = None
        while True:
            headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last else {})
            with self._translated(), self._http.stream("GET", f"/v1/jobs/{job_id}/stream", headers=headers) as answer:
                if answer.is_error:
                    answer.read()
                    raise refused(answer)
                for event, data, identity in _events(answer.iter_lines()):
                    last = identity or last
                    yield event, data
                    if event == "end":
                        return

    def _send_once(self, send: Callable[[dict[str, str]], httpx.Response]) -> httpx.Response:
        """Sends until there is an answer, under one Idempotency-Key: whether it was heard before is the server's to know.

        A server that was never reached is not waited for.
        """
        headers = {"Idempotency-Key": f'"{uuid.uuid4()}"'}
        heard = False
        for pause in RETRY_SECONDS:
            try:
                return send(headers)
            except ServerError as error:
                heard = heard or error.heard
                if not (heard and error.unanswered):
                    raise
            time.sleep(pause)
        return send(headers)

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        with self._translated():
            answer = self._http.request(method, path, **request)
        if answer.is_error:
            raise refused(answer)
        return answer

    def _translated(self) -> _Translated:
        return _Translated(self._url)


class _Translated:
    """Turns httpx's transport errors into ServerError."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, httpx.TransportError):
            sentence = f"no answer from {self._url} ({error}); is `postgrad serve` running there?"
            heard = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            raise ServerError(sentence, heard=heard, unanswered=True) from error


def refused(answer: httpx.Response) -> ServerError:
    """A problem document as lines: what was wrong, then one line for each pointer."""
    try:
        problem = answer.json()
        lines = [problem.get("detail") or problem["title"]]
        places = [(e.get("pointer") or e.get("parameter"), e["detail"]) for e in problem.get("errors", [])]
        lines += [f"  {place}: {detail}" if place else f"  {detail}" for place, detail in places if place or detail != lines[0]]
        unanswered = problem.get("type") == IN_USE
    except (ValueError, KeyError, AttributeError):
        lines, unanswered = [f"the server answered {answer.status_code} {answer.reason_phrase}"], False
    return ServerError("\n".join(lines), answer.status_code, unanswered=unanswered)


def _events(lines: Iterator[str]) -> Iterator[tuple[str, Body, str | None]]:
    """Server-sent events (WHATWG HTML, section 9.2): fields up to an empty line."""
    event, data, identity = "message", "", None
    for line in lines:
        if not line:
            if data:
                yield event, json.loads(data), identity
            event, data, identity = "message", "", None
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            event = value
        elif name == "data":
            data += value
        elif name == "id":
            identity = value
