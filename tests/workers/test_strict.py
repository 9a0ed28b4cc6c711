"""Profile `strict`, attacked from inside. Every program here is run by a child of `host`, which must answer afterwards."""

from __future__ import annotations

import os
import socket
import sys
import sysconfig
import threading
from pathlib import Path

import pytest

from tests.strict_host import Attack, Host, refused
from workers.sandbox import Limits, SandboxError, apply_strict, is_strict, strict, strict_refusal

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the layers are Linux's")


def test_every_layer_is_up(host: Host, folder: Path) -> None:
    assert host.run("print(*layers)", folder).said.split() == host.facts["layers"]
    assert host.facts["refusal"] is None
    assert host.facts["uid"] != 0
    assert host.facts["layers"][:2] == ["no_new_privs", "rlimits"]
    assert [layer.split("-")[0] for layer in host.facts["layers"][2:]] == ["landlock", "seccomp"]


def test_it_may_use_its_folder_its_memory_and_threads(attack: Attack) -> None:
    outcome = attack("""
import tempfile
(folder / "a").mkdir()
(folder / "a" / "new").write_text("x")
os.rename(folder / "a" / "new", folder / "moved")
with open(folder / "moved", "r+b") as file:
    file.truncate(0); os.fsync(file.fileno())
(folder / "moved").unlink()
with tempfile.TemporaryFile(dir=folder) as file:
    file.write(b"x" * 1000)
open("/dev/null", "w").write("x")
assert len(os.urandom(8)) == len(open("/dev/urandom", "rb").read(8)) == 8
thread = threading.Thread(target=print, args=("a thread",)); thread.start(); thread.join()
import colorsys, torch.distributions, workers.trainer.ingest
print(len(bytearray(2**28)), open("/proc/self/status").read().count("Seccomp:\\t2"))
""")
    assert outcome.said.splitlines() == ["a thread", f"{2**28} 1"]
    assert outcome.status == 0


# ---- files

READING = {
    "a secret": "(outer / 'secret').read_text()",
    "a folder": "os.listdir(outer)",
    "the system's users": "open('/etc/passwd').read()",
    "the root": "os.listdir('/')",
    "postgrad's other folders": "os.listdir(Path(__import__('workers').__file__).parents[1])",
    "its parent's environment": "open(f'/proc/{parent}/environ').read()",
    "its parent's memory": "open(f'/proc/{parent}/mem', 'rb').read()",
    "its parent's files": "os.listdir(f'/proc/{parent}/fd')",
    "the processes": "os.listdir('/proc')",
    "by way of its own root": "open('/proc/self/root/etc/passwd').read()",
    "a raw disk or terminal": "os.open('/dev/tty', os.O_RDWR)",
}


@pytest.mark.parametrize("deed", READING.values(), ids=READING)
def test_nothing_outside_can_be_read(attack: Attack, deed: str) -> None:
    refused(attack(f"print('GOT', {deed})"))


WRITING = {
    "a new file": "(outer / 'outside' / 'new').write_text('x')",
    "an old file": "(outer / 'outside' / 'kept').write_text('x')",
    "appended": "open(outer / 'outside' / 'kept', 'a')",
    "emptied by name": "os.truncate(outer / 'outside' / 'kept', 0)",
    "emptied by reading": "os.open(outer / 'secret', os.O_RDONLY | os.O_TRUNC)",
    "removed": "(outer / 'outside' / 'kept').unlink()",
    "a folder": "(outer / 'outside' / 'folder').mkdir()",
    "moved in": "(outer / 'outside' / 'kept').rename(folder / 'mine')",
    "mode": "os.chmod(outer / 'secret', 0)",
    "mode of an open folder": "os.fchmod(os.open(outer, os.O_PATH), 0)",
    "owner": "os.chown(outer / 'secret', os.getuid(), os.getgid())",
    "times": "os.utime(outer / 'secret')",
    "attributes": "os.setxattr(outer / 'secret', 'user.x', b'x')",
    "shared memory": "open('/dev/shm/postgrad-test', 'w')",
    "temporary folder": "open('/tmp/postgrad-test', 'w')",
    "its own standing with the kernel": "open('/proc/self/oom_score_adj', 'w')",
    "a readable dataset": "open(outer / 'secret', 'r+')",
}


@pytest.mark.parametrize("deed", WRITING.values(), ids=WRITING)
def test_nothing_outside_can_be_changed(attack: Attack, folder: Path, deed: str) -> None:
    readable = [str(folder.parent / "secret")]
    refused(attack(deed, readable=readable))


def test_a_file_cannot_be_moved_out(attack: Attack) -> None:
    refused(attack("(folder / 'mine').write_text('x'); (folder / 'mine').rename(outer / 'outside' / 'mine')"))


TRAPS = {
    "symbolic": "os.symlink(outer / 'secret', folder / 'model.safetensors')",
    "hard": "(folder / 'a').write_text('x'); os.link(folder / 'a', folder / 'b')",
    "pipe": "os.mkfifo(folder / 'model.safetensors')",
    "device": "os.mknod(folder / 'null', 0o020666, os.makedev(1, 3))",
    "closed folder": "os.mkdir(folder / 'hidden', 0)",
}


@pytest.mark.parametrize("deed", TRAPS.values(), ids=TRAPS)
def test_its_folder_holds_nothing_that_could_trap_who_reads_it(attack: Attack, deed: str) -> None:
    refused(attack(deed))


def test_the_mask_cannot_close_a_folder(attack: Attack, folder: Path) -> None:
    attack("libc.umask(0o777); os.mkdir(folder / 'hidden')")
    assert (folder / "hidden").stat().st_mode & 0o700 == 0o700


def test_what_is_readable_can_be_read(attack: Attack, folder: Path) -> None:
    outcome = attack("print((outer / 'secret').read_text())", readable=[str(folder.parent / "secret")])
    assert outcome.said.strip() == "kept"


def test_without_a_folder_nothing_can_be_written(host: Host) -> None:
    refused(host.run("open('/tmp/postgrad-test', 'w')", None))


def test_descriptors_that_it_should_not_have_are_closed(host: Host, folder: Path) -> None:
    program = "import os; print(sorted(map(int, os.listdir('/proc/self/fd')))[:-1], os.readlink('/proc/self/fd/0'))"
    assert host.run(program, folder).said.strip() == "[0, 1, 2] /dev/null"


# ---- network

SOCKETS = {
    "TCP": "socket.create_connection(('127.0.0.1', {port}))",
    "UDP": "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
    "Unix": "socket.socket(socket.AF_UNIX).connect({path!r})",
    "abstract": "socket.socket(socket.AF_UNIX).connect('\\0postgrad')",
    "listening": "socket.create_server(('127.0.0.1', 0))",
    "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "pair": "socket.socketpair()",
    "asyncio": "import asyncio; asyncio.run(asyncio.sleep(0))",
}


@pytest.mark.parametrize("deed", SOCKETS.values(), ids=SOCKETS)
def test_no_socket_can_be_made(attack: Attack, folder: Path, deed: str) -> None:
    path = str(folder.parent / "socket")
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(path)
        unix.listen()
        refused(attack(deed.format(port=tcp.getsockname()[1], path=path)))


# ---- where it cannot be had


def test_the_data_folder_must_not_be_readable_by_user_code(host: Host) -> None:
    outcome = host.run("print('GOT')", Path(sysconfig.get_paths()["purelib"]) / "data")
    assert outcome.status == 1
    assert "move it elsewhere" in outcome.said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is refused as root")
def test_root_is_refused() -> None:
    assert "runs as root" in (strict_refusal() or "")
    with pytest.raises(SandboxError, match="runs as root"):
        apply_strict(None, limits=Limits(2**30, 2**20))
    assert not is_strict()


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("landlock_abi", 0, "does not have it"),
        ("landlock_abi", 1, "has only version 1"),
        ("status", {"CapPrm": "0000000000000400"}, "holds capabilities"),
    ],
)
def test_a_missing_layer_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: object, sentence: str) -> None:
    monkeypatch.setattr(os, "getresuid", lambda: (1, 1, 1))
    monkeypatch.setattr(strict, "status", lambda: {"CapPrm": "0"})
    monkeypatch.setattr(strict, name, lambda: value)
    assert sentence in (strict_refusal() or "")


def test_a_process_of_several_threads_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strict, "strict_refusal", lambda: None)
    done = threading.Event()
    threading.Thread(target=done.wait).start()
    with pytest.raises(SandboxError, match="thread by thread"):
        apply_strict(None, limits=Limits(2**30, 2**20))
    done.set()
