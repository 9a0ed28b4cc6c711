"""One piece of work in a forked child under profile `strict`, for who must not run it himself: the checker of a source."""

from __future__ import annotations

import json
import os
import select
import signal
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from workers.child import signal_name
from workers.sandbox.kernel import SandboxError, die_with, status
from workers.sandbox.limits import Limits
from workers.sandbox.strict import apply_strict, strict_refusal

MAX_ANSWER_BYTES = 2**20
MAX_TEXT = 500


class Disposed(Exception):
    """The child gave no answer; the sentence says why."""


def in_disposable_child(
    work: Callable[[], Any],
    *,
    limits: Limits,
    seconds: float,
    readable: Iterable[Path] = (),
    what: str = "the user's code",
    max_bytes: int = MAX_ANSWER_BYTES,
) -> Any:
    """What `work` returns, as JSON carries it, from a child that can write nowhere and is gone afterwards.

    The answer is a stranger's word: user code in `work` can forge it. The calling process must have one thread and is never
    held up for longer than `seconds`. `what` is what sentences call that which runs in `work`. Raises Disposed when there is
    no answer (an exception, death, silence, too many bytes), and SandboxError where the child could not be put under the
    profile or not be forked.
    """
    if (why := strict_refusal()) is not None:
        raise SandboxError(why)
    if (count := int(status()["Threads"])) != 1:
        raise SandboxError(f"a process of {count} threads must not fork")
    parent = os.getpid()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        _child(work, parent, writing, limits, readable)
    os.close(writing)
    try:
        data = _read(reading, seconds, max_bytes, what)
    finally:
        os.close(reading)
        os.kill(pid, signal.SIGKILL)
        ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return _answer(data, ended, what)


def _answer(data: bytes, ended: int, what: str) -> Any:
    try:
        message = json.loads(data)
        kind, content = message["kind"], message["content"]
    except (ValueError, TypeError, KeyError, RecursionError):
        how = f"was killed by {signal_name(-ended)}" if ended < 0 else f"ended with status {ended}"
        raise Disposed(f"the process that ran {what} {how} and gave no answer") from None
    if kind == "refused":
        raise SandboxError(str(content)[:MAX_TEXT])
    if kind == "failed":
        raise Disposed(str(content)[:MAX_TEXT])
    return content


def _read(fd: int, seconds: float, max_bytes: int, what: str) -> bytes:
    """All bytes until the other side closes. Raises Disposed when they are late or too many."""
    data, end = b"", time.monotonic() + seconds
    while len(data) <= max_bytes:
        if not select.select([fd], [], [], max(0.0, end - time.monotonic()))[0]:
            raise Disposed(f"{what} took longer than {seconds:g} s")
        if not (part := os.read(fd, 65536)):
            return data
        data += part
    raise Disposed(f"{what} answered with more than {max_bytes} bytes")


def _child(work: Callable[[], Any], parent: int, writing: int, limits: Limits, readable: Iterable[Path]) -> NoReturn:
    try:
        die_with(parent)
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):  # the parent's words go out there
            os.dup2(null, fd)
        text = _worked(work, limits, readable, writing)
        while text:
            text = text[os.write(writing, text) :]
    finally:
        os._exit(0)


def _worked(work: Callable[[], Any], limits: Limits, readable: Iterable[Path], writing: int) -> bytes:
    try:
        apply_strict(None, limits=limits, readable=readable, keep={writing})
    except BaseException as error:
        return _message("refused", str(error))
    try:
        return _message("answer", work())
    except BaseException as error:
        return _message("failed", traceback.format_exception_only(error)[-1].strip())


def _message(kind: str, content: Any) -> bytes:
    return json.dumps({"kind": kind, "content": content}).encode()
