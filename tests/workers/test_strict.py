"""Profile `strict`, attacked from inside. Every program here is run by a child of `host`, which must answer afterwards."""

from __future__ import annotations

import os
import platform
import signal
import socket
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.strict_host import Host, Outcome
from tests.workers.forbidden import FORBIDDEN
from workers.sandbox import Limits, SandboxError, Usage, apply_strict, is_strict, strict, strict_refusal

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the layers are Linux's")
x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="machine code and numbers of x86_64")

Attack = Callable[..., Outcome]

# What every program may use: where it is, and the kernel without Python in between.
PRELUDE = """
import ctypes, os, signal, socket, subprocess, threading, time
from pathlib import Path
outer = folder.parent
parent = os.getppid()
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    if libc.syscall(number, *arguments) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
"""


@pytest.fixture
def attack(host: Host, folder: Path) -> Iterator[Attack]:
    """Runs a program with an open outside: a secret that the user may read, a file and a folder that he may write."""
    outer = folder.parent
    outside = outer / "outside"
    outside.mkdir()
    for path in (outer / "secret", outside / "kept"):
        path.write_text("kept")
        path.chmod(0o666)
        os.chown(path, *_owner(folder))
    outside.chmod(0o777)
    yield lambda program, **options: host.run(PRELUDE + program, folder, **options)
    assert (outer / "secret").read_text() == "kept"
    assert (outer / "secret").stat().st_mode & 0o777 == 0o666
    assert [(path.name, path.read_text()) for path in outside.iterdir()] == [("kept", "kept")]


def _owner(folder: Path) -> tuple[int, int]:
    return folder.stat().st_uid, folder.stat().st_gid


def refused(outcome: Outcome, error: str = "PermissionError") -> None:
    """The child met this exception and ended by it, as user code would."""
    assert outcome.status == 1, outcome
    assert any(line.startswith(error) for line in outcome.said.splitlines()), outcome.said


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


# ---- processes

STARTING = {
    "a shell": "subprocess.run(['/bin/sh', '-c', 'echo GOT'])",
    "exec": "os.execv('/bin/sh', ['sh', '-c', 'echo GOT'])",
    "spawn": "os.posix_spawn('/bin/sh', ['sh', '-c', 'echo GOT'], {})",
    "forks without end": "while True:\n    if os.fork() == 0: time.sleep(5); os._exit(0)",
    "a process pool": "import multiprocessing as m; m.get_context('fork').Process(target=print).start()",
    "workers of a DataLoader": "from torch.utils.data import DataLoader\nnext(iter(DataLoader([1, 2], num_workers=2)))",
    "a file in memory to execute": "os.memfd_create('x')",
    "a session of its own": "os.setsid()",
    "a group of its own": "os.setpgid(0, 0)",
}


@pytest.mark.parametrize("deed", STARTING.values(), ids=STARTING)
def test_no_process_can_be_started(attack: Attack, deed: str) -> None:
    outcome = attack(deed)
    assert "GOT" not in outcome.said
    refused(outcome)


def test_a_shell_by_system_does_not_run(attack: Attack) -> None:
    outcome = attack("print(os.system('echo GOT > {folder}/ran') != 0, os.listdir(folder))".replace("{{folder}}", "/tmp"))
    assert outcome.said.strip() == "True []"


# Where it would hit more than the host, signal 0: it is refused like any other, and harmless if this test ever fails.
HARM = {
    "kill": "os.kill(parent, signal.SIGKILL)",
    "kill all": "os.kill(-1, 0)",
    "kill the group": "os.killpg(os.getpgrp(), 0)",
    "pidfd": "os.pidfd_open(parent)",
    "a thread of the parent": "call(234, parent, parent, signal.SIGKILL)",
    "input as a signal": "import fcntl\nfcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, parent)",
    "limits": "import resource\nresource.prlimit(parent, resource.RLIMIT_NOFILE, (3, 3))",
    "processors": "os.sched_setaffinity(parent, {0})",
    "priority": "os.setpriority(os.PRIO_PROCESS, parent, 19)",
    "outliving it": "call(157, 1, 0, 0, 0, 0)",
    "hiding from it": "call(157, 4, 0, 0, 0, 0)",
}


@x86_64
@pytest.mark.parametrize("deed", HARM.values(), ids=HARM)
def test_the_parent_cannot_be_harmed(attack: Attack, deed: str) -> None:
    refused(attack(deed))


def test_it_may_kill_itself(attack: Attack) -> None:
    assert attack("os.kill(os.getpid(), signal.SIGKILL)").signal == signal.SIGKILL
    assert attack("os.abort()").signal == signal.SIGABRT


# ---- the kernel, called directly


@x86_64
def test_forbidden_calls_fail_by_number_too(attack: Attack) -> None:
    numbers = {name: number for name, (number, _) in FORBIDDEN.items() if number is not None}
    outcome = attack(f"""
for name, number in {numbers!r}.items():
    if libc.syscall(number, 0, 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() != (38 if name == "clone3" else 1):
        print(name, ctypes.get_errno())
print("end")
""")
    assert outcome.said.splitlines() == ["end"]


CODE = """
import mmap
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes.fromhex({code!r}))
function = ctypes.CFUNCTYPE(ctypes.c_int64)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
print(function())
"""


@x86_64
@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("b82a000000c3", 42),  # mov eax, 42: native code does run
        ("b829000000bf02000000be0100000031d20f05c3", -1),  # socket(AF_INET, SOCK_STREAM, 0)
        ("b814000000cd80c3", -1),  # getpid by the 32-bit gate
        ("b8270000400f05c3", -1),  # getpid of x32
    ],
)
def test_machine_code_meets_the_same_walls(attack: Attack, code: str, answer: int) -> None:
    assert attack(CODE.format(code=code)).said.strip() == str(answer)


def test_a_library_of_its_own_meets_the_same_walls(attack: Attack) -> None:
    outcome = attack("""
import shutil
libc_file = next(line.split()[-1] for line in open("/proc/self/maps") if line.strip().endswith("/libc.so.6"))
shutil.copyfile(libc_file, folder / "mine.so")
mine = ctypes.CDLL(str(folder / "mine.so"))
print(mine.getpid() == os.getpid(), mine.socket(2, 1, 0), mine.unshare(0x10000000), mine.kill(parent, 9))
""")
    assert outcome.said.strip() == "True -1 -1 -1"


# ---- more than its share

GREED = {
    "a tensor": ("import torch\ntorch.ones(10**10)", "RuntimeError: [enforce fail at alloc_cpu"),
    "objects": ("kept = []\nfor n in range(64): kept.append(bytearray(2**26))", "MemoryError"),
    "maps": ("import mmap\nkept = []\nfor n in range(64): kept.append(mmap.mmap(-1, 2**28))", "OSError: [Errno 12]"),
    "one file": (
        "with open(folder / 'big', 'wb') as file:\n    for n in range(99): file.write(bytes(2**22))",
        "OSError: [Errno 27]",
    ),
    "a file of holes": ("os.truncate(os.open(folder / 'big', os.O_RDWR | os.O_CREAT), 2**40)", "OSError: [Errno 27]"),
    "open files": ("for n in range(9999): os.dup(0)", "OSError: [Errno 24]"),
    "a recursion": ("def again(): again()\nagain()", "RecursionError"),
}


@pytest.mark.parametrize(("deed", "error"), GREED.values(), ids=GREED)
def test_the_kernel_bounds_what_one_process_takes(attack: Attack, deed: str, error: str) -> None:
    refused(attack(deed, limits={"memory_bytes": 2**29}), error)


HOARDS = {
    "bytes in many files": (
        """
for n in range(99): (folder / str(n)).write_bytes(bytes(2**20))
time.sleep(60)
""",
        "it may have 16777216",
    ),
    "bytes in files without a name": (
        """
kept = []
for n in range(99):
    kept.append(open(folder / "x", "wb", buffering=0)); kept[-1].write(bytes(2**20)); (folder / "x").unlink()
time.sleep(60)
""",
        "it may have 16777216",
    ),
    "empty files": (
        """
for n in range(11000): os.close(os.open(folder / str(n), os.O_CREAT))
time.sleep(60)
""",
        "more than 10000 files",
    ),
    "folders in folders": (
        """
os.chdir(folder)
for n in range(99): os.mkdir("d"); os.chdir("d")
time.sleep(60)
""",
        "deeper than 32",
    ),
    "threads": (
        """
threading.stack_size(65536)
for n in range(900): threading.Thread(target=time.sleep, args=(60,)).start()
""",
        "it may have 512",
    ),
}


@pytest.mark.parametrize(("deed", "sentence"), HOARDS.values(), ids=HOARDS)
def test_who_watches_sees_what_the_kernel_does_not_bound(attack: Attack, deed: str, sentence: str) -> None:
    outcome = attack(deed, disk_bytes=2**24)
    assert outcome.excess is not None, outcome
    assert sentence in outcome.excess
    assert outcome.signal == signal.SIGKILL


def test_what_hides_from_who_watches_is_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(path: str) -> None:
        raise PermissionError(path)

    usage = Usage(os.getpid(), tmp_path, disk_bytes=2**20)
    assert usage.excess() is None
    monkeypatch.setattr(os, "scandir", closed)
    assert usage.excess() == "the job has made a folder that cannot be looked into"


def test_a_child_with_a_limit_of_processor_time_ends(attack: Attack) -> None:
    assert attack("while True: pass", limits={"cpu_seconds": 1}).signal == signal.SIGXCPU


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
    monkeypatch.setattr(os, "getresgid", lambda: (1, 1, 1))
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
