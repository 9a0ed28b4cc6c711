"""The data folder: names, and that nothing else becomes a path."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.errors import UnsafeName
from jobs.files import DataFolder
from jobs.settings import Settings
from jobs.store import new_job_id

SHA = "0f" * 32
HOSTILE = [
    "",
    ".",
    "..",
    "../x",
    "a/b",
    "/etc/passwd",
    ".hidden",
    "a\0b",
    "a\n",
    "job_../../../../../../../../etc",
    SHA.upper(),
]


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    return DataFolder(tmp_path / "data", tmp_path / "builtin")


def test_everything_lies_below_the_root(folder: DataFolder) -> None:
    job = new_job_id()
    paths = [folder.database, folder.file(SHA), folder.prepared(SHA), folder.job(job), folder.checkpoints(job)]
    paths += [folder.artifacts(job), folder.artifact(job, "model.safetensors"), folder.log(job, 2)]
    assert len(set(paths)) == len(paths)
    assert all(path.is_relative_to(folder.root) for path in paths)
    assert folder.log(job, 2).name == "attempt-2.log"
    assert folder.builtin("iris") == folder.builtin_dir / "iris"


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("method", ["file", "prepared", "job", "checkpoints", "artifacts", "logs"])
def test_no_path_is_made_of_a_hostile_name(folder: DataFolder, method: str, name: str) -> None:
    path: Callable[[str], object] = getattr(folder, method)
    with pytest.raises(UnsafeName):
        path(name)


@pytest.mark.parametrize("name", [name for name in HOSTILE if name != SHA.upper()])
def test_no_artifact_or_built_in_set_has_a_hostile_name(folder: DataFolder, name: str) -> None:
    with pytest.raises(UnsafeName):
        folder.artifact(new_job_id(), name)
    with pytest.raises(UnsafeName):
        folder.builtin(name)
    with pytest.raises(UnsafeName):
        folder.log(name, 1)


def test_an_upload_is_kept_once_by_its_content(folder: DataFolder) -> None:
    for _ in range(2):
        with folder.incoming() as incoming:
            incoming.write_bytes(b"a,b\n1,2\n")
            sha = hashlib.sha256(incoming.read_bytes()).hexdigest()
            assert folder.keep(incoming, sha) == folder.file(sha)
    assert [path.name for path in (folder.root / "files").iterdir()] == [sha]
    assert folder.file(sha).read_bytes() == b"a,b\n1,2\n"


def test_logs_come_in_the_order_of_attempts(folder: DataFolder) -> None:
    job = new_job_id()
    assert folder.logs(job) == []
    assert folder.make_job(job) == folder.job(job)
    for attempt in (10, 2, 1):
        folder.log(job, attempt).write_text("x")
    assert [attempt for attempt, _ in folder.logs(job)] == [1, 2, 10]
    assert folder.checkpoints(job).is_dir()
    assert folder.artifacts(job).is_dir()


def test_a_door_leads_into_the_jobs_folder_until_a_later_attempt_opens_its_own(folder: DataFolder) -> None:
    job = new_job_id()
    first = folder.open_attempt(job, 1)
    (first / "checkpoints" / "a").write_text("of attempt 1")
    assert (folder.checkpoints(job) / "a").read_text() == "of attempt 1"
    second = folder.open_attempt(job, 2)
    assert (second / "checkpoints" / "a").read_text() == "of attempt 1"
    for write in (lambda: (first / "checkpoints" / "a").write_text("late"), lambda: (first / "checkpoints" / "a").unlink()):
        with pytest.raises(FileNotFoundError):
            write()
    with pytest.raises(FileNotFoundError):
        (second / "checkpoints" / "a").rename(first / "artifacts" / "a")
    assert (folder.checkpoints(job) / "a").read_text() == "of attempt 1"
    assert (first.name, second.name, folder.logs(job)) == ("attempt-1", "attempt-2", [])


def test_a_late_attempt_leaves_the_doors_of_later_ones_open(folder: DataFolder) -> None:
    job = new_job_id()
    second = folder.open_attempt(job, 2)
    folder.open_attempt(job, 1)
    folder.shut_attempts(job, 1)
    assert [path.name for path in folder.job(job).iterdir() if path.is_symlink()] == [second.name]
    folder.shut_attempts(job, 2)
    folder.shut_attempts(job, 2)
    assert not second.exists()


def test_what_a_trainer_puts_in_the_place_of_a_door_goes(folder: DataFolder) -> None:
    job = new_job_id()
    (folder.make_job(job) / "attempt-2" / "artifacts").mkdir(parents=True)
    (folder.job(job) / "attempt-3").symlink_to(folder.root)
    assert folder.open_attempt(job, 2).resolve() == folder.job(job)
    assert folder.open_attempt(job, 3).resolve() == folder.job(job)
    assert folder.root.is_dir()


def test_the_settings_name_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = DataFolder.of(Settings(data_dir=Path("somewhere")))
    assert folder.root == tmp_path / "somewhere"
    assert Settings(data_dir=Path("somewhere")).database == f"sqlite:///{folder.database}"
