"""Profile `strict`, attacked from inside: processes, the kernel called directly, and more than a job's share."""

from __future__ import annotations

import os
import platform
import signal
import sys
from pathlib import Path

import pytest

from tests.strict_host import Attack, refused
from tests.workers.forbidden import FORBIDDEN
from workers.sandbox import Usage

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the layers are Linux's")
x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="machine code and numbers of x86_64")


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
