"""Profile `plain`, probed from inside by processes that have put it on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from workers.sandbox import landlock_abi, layers

linux = pytest.mark.skipif(sys.platform != "linux", reason="the layers are Linux's")
landlock = pytest.mark.skipif(landlock_abi() == 0, reason="this kernel has no Landlock")


def inside(folder: Path, program: str) -> str:
    """What a program prints that runs in the sandbox with `folder` as its job's."""
    start = f"import os, sys; from pathlib import Path; from workers.sandbox import *; apply_plain(Path({str(folder)!r}))\n"
    answer = subprocess.run([sys.executable, "-c", start + program], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.strip()


@linux
def test_no_new_privileges_and_no_core() -> None:
    program = "import resource; print(resource.getrlimit(resource.RLIMIT_CORE), open('/proc/self/status').read())"
    said = inside(Path("/tmp"), program)
    assert said.startswith("(0, 0)")
    assert "NoNewPrivs:\t1" in said


@landlock
@pytest.mark.parametrize(
    "deed",
    [
        "(outside / 'new').write_text('x')",
        "(outside / 'kept').write_text('x')",
        "(outside / 'kept').unlink()",
        "(outside / 'folder').mkdir()",
        "os.truncate(outside / 'kept', 0)",
        "(job / 'mine').rename(outside / 'moved')",
        "os.symlink('/etc/passwd', outside / 'link')",
        "os.system('echo x > ' + str(outside / 'by-a-shell')) == 0 or int('no')",
    ],
)
def test_nothing_outside_the_job_can_be_changed(tmp_path: Path, deed: str) -> None:
    job, outside = tmp_path / "job", tmp_path / "outside"
    job.mkdir()
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (job / "mine").write_text("mine")
    names = f"job, outside = Path({str(job)!r}), Path({str(outside)!r})\n"
    attempt = f"try:\n    {deed}\nexcept (OSError, ValueError):\n    print('refused')"
    assert inside(job, names + attempt) == "refused"
    assert [p.name for p in outside.iterdir()] == ["kept"]
    assert (outside / "kept").read_text() == "kept"


def test_a_job_can_do_as_it_likes_in_its_own_folder(tmp_path: Path) -> None:
    program = "os.makedirs('a/b'); Path('a/t').write_text('x'); os.rename('a/t', 'a/b/t'); print(Path('a/b/t').read_text())"
    assert inside(tmp_path, f"os.chdir({str(tmp_path)!r}); {program}") == "x"


def test_the_null_device_can_be_written(tmp_path: Path) -> None:
    assert inside(tmp_path, "print(open('/dev/null', 'w').write('x'))") == "1"


@linux
def test_the_layers_that_are_up_are_named() -> None:
    assert layers()[:2] == ["no_new_privs", "rlimits"]
    assert ("landlock" in "".join(layers())) == (landlock_abi() > 0)
