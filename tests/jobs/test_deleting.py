"""Deletions of what has rows and files: whole or not at all, whenever the process dies."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs import deleting
from jobs.deleting import delete_file, delete_job, finish_deletions
from jobs.files import DataFolder
from jobs.store import FileInUse, Store, UnknownFile, UnknownJob, VersionDiffers, WrongState
from tests.jobs.queue_of_jobs import add_job, open_store

SHA = "0f" * 32


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    return DataFolder(tmp_path, tmp_path / "sets")


def job_with_files(store: Store, folder: DataFolder) -> str:
    job_id = store.request_cancel(add_job(store).id).id
    (folder.make_job(job_id) / "attempt-1.log").write_text("hello")
    folder.artifact(job_id, "model.safetensors").write_bytes(b"weights")
    (folder.checkpoints(job_id) / "000000000005.json").write_text("{}")
    return job_id


def upload(store: Store, folder: DataFolder) -> str:
    folder.file(SHA).parent.mkdir(exist_ok=True)
    folder.file(SHA).write_bytes(b"a,b\n")
    folder.prepared(SHA).mkdir()
    (folder.prepared(SHA) / "schema.json").write_text("{}")
    return store.add_file(sha256=SHA, name="x.csv", size_bytes=4, preview={})[0].id


def left(folder: DataFolder) -> list[str]:
    """Everything in the data folder but the database and the lock."""
    found = (str(path.relative_to(folder.root)) for path in folder.root.rglob("*") if path.is_file())
    return sorted(name for name in found if not name.startswith(("postgrad.db", "deleting.lock")))


def test_a_deleted_job_leaves_nothing_and_its_neighbour_everything(store: Store, folder: DataFolder) -> None:
    job_id, neighbour = job_with_files(store, folder), job_with_files(store, folder)
    delete_job(store, folder, job_id)
    with pytest.raises(UnknownJob):
        store.job(job_id)
    assert not folder.job(job_id).exists()
    assert len(left(folder)) == 3
    assert all(neighbour in name for name in left(folder))
    with pytest.raises(UnknownJob):
        delete_job(store, folder, job_id)


def test_a_deleted_file_leaves_nothing(store: Store, folder: DataFolder) -> None:
    file_id = upload(store, folder)
    delete_file(store, folder, file_id)
    assert left(folder) == []
    with pytest.raises(UnknownFile):
        delete_file(store, folder, file_id)


def test_what_is_refused_leaves_every_file_and_no_mark(store: Store, folder: DataFolder) -> None:
    file_id = upload(store, folder)
    running = add_job(store, files=[file_id])
    folder.make_job(running.id)
    (folder.job(running.id) / "attempt-1.log").touch()
    store.claim("w", ["cpu"], 30)
    before = left(folder)
    with pytest.raises(WrongState):
        delete_job(store, folder, running.id)
    with pytest.raises(VersionDiffers):
        delete_job(store, folder, running.id, [1])
    with pytest.raises(FileInUse):
        delete_file(store, folder, file_id)
    assert left(folder) == before


def die_in(monkeypatch: pytest.MonkeyPatch, step: str, when: str) -> None:
    """Lets the process be killed before or after this step of a deletion."""
    owner = DataFolder if hasattr(DataFolder, step) else Store
    original: Callable[..., None] = getattr(owner, step)

    def fatal(*arguments: object) -> None:
        if when == "after":
            original(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(owner, step, fatal)


def killed(action: Callable[[], None]) -> None:
    """Does it in a process of its own, which must not survive it."""
    pid = os.fork()
    if pid == 0:
        try:
            action()
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["mark", "delete_", "remove", "unmark"])
@pytest.mark.parametrize("what", ["job", "file"])
def test_a_deletion_that_is_cut_short_is_finished_or_never_happened(
    store: Store, folder: DataFolder, monkeypatch: pytest.MonkeyPatch, what: str, step: str, when: str
) -> None:
    name = job_with_files(store, folder) if what == "job" else upload(store, folder)
    whole = left(folder)
    store.engine.dispose()
    with monkeypatch.context() as patch:
        die_in(patch, f"delete_{what}" if step == "delete_" else step, when)
        killed(lambda: (delete_job if what == "job" else delete_file)(open_store(folder.root), folder, name))
    finish_deletions(store, folder)
    try:
        store.job(name) if what == "job" else store.file(name)
        known = True
    except (UnknownJob, UnknownFile):
        known = False
    assert known == (step == "mark" or (step, when) == ("delete_", "before"))
    assert left(folder) == (whole if known else [])
    assert folder.marked() == []


def test_a_folder_that_cannot_be_removed_now_is_removed_at_a_later_start(
    store: Store, folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = job_with_files(store, folder)
    with monkeypatch.context() as patch:
        patch.setattr("jobs.files.shutil.rmtree", _refuse)
        delete_job(store, folder, job_id)
    assert folder.job(job_id).exists()
    with pytest.raises(UnknownJob):
        store.job(job_id)
    finish_deletions(store, folder)
    assert left(folder) == []


def _refuse(_path: Path) -> None:
    raise PermissionError("somebody else's file")


def test_a_link_in_a_folders_place_is_removed_and_not_followed(store: Store, folder: DataFolder, tmp_path: Path) -> None:
    job_id, outside = job_with_files(store, folder), tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    (folder.job(job_id) / "inner").symlink_to(outside)
    artifacts = folder.artifacts(job_id)
    artifacts.rename(outside / "moved")
    artifacts.symlink_to(outside)
    folder.clear_job(job_id)
    assert not artifacts.is_symlink()
    delete_job(store, folder, job_id)
    assert (outside / "kept").exists()


def test_clearing_a_job_keeps_its_logs_only(store: Store, folder: DataFolder) -> None:
    job_id = job_with_files(store, folder)
    assert folder.has_checkpoint(job_id)
    folder.clear_job(job_id)
    assert left(folder) == [f"jobs/{job_id}/attempt-1.log"]
    assert folder.checkpoints(job_id).is_dir()
    assert not folder.has_checkpoint(job_id)


def test_an_upload_waits_for_the_deletion_of_the_same_bytes(
    store: Store, folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_id = upload(store, folder)
    order: list[str] = []
    inside, go_on = threading.Event(), threading.Event()
    original = deleting._remove

    def slowly(*arguments: object) -> None:
        inside.set()
        go_on.wait(20)
        original(folder, SHA)
        order.append("removed")

    def upload_again() -> None:
        with folder.exclusively():
            order.append("kept")

    monkeypatch.setattr(deleting, "_remove", slowly)
    first = threading.Thread(target=lambda: delete_file(store, folder, file_id))
    first.start()
    assert inside.wait(20)
    second = threading.Thread(target=upload_again)
    second.start()
    second.join(0.2)
    assert second.is_alive()
    go_on.set()
    first.join(20)
    second.join(20)
    assert order == ["removed", "kept"]
