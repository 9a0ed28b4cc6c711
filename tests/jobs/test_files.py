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


def test_the_settings_name_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = DataFolder.of(Settings(data_dir=Path("somewhere")))
    assert folder.root == tmp_path / "somewhere"
    assert Settings(data_dir=Path("somewhere")).database == f"sqlite:///{folder.database}"
