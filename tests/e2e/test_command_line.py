"""The `postgrad` command against a running service: what it prints, writes and ends with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors import safe_open

from tests.e2e.conftest import Service, mlp, wait_for

POSTGRAD = str(Path(sys.executable).with_name("postgrad"))


def postgrad(service: Service, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"POSTGRAD_URL": service.url}
    return subprocess.run([POSTGRAD, *arguments], env=environment, input=stdin, capture_output=True, text=True, timeout=60)


def ok(service: Service, *arguments: str, stdin: str = "") -> str:
    done = postgrad(service, *arguments, stdin=stdin)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def finished(service: Service) -> str:
    job_id = service.submit(mlp(name="told"))
    service.finished(job_id)
    return job_id


def test_submit_changes_the_spec_and_follows_to_the_end(service: Service, tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(json.dumps(mlp()))
    changes = ["--set", "epochs=3", "--set", "model.layers.0.out_features=7", "--set", "name=from the terminal"]
    shown = ok(service, "submit", str(tmp_path / "spec.json"), *changes, "--follow")
    job = service.job(shown.split()[0])
    assert (job["status"], job["name"], job["progress"]["epochs"]) == ("succeeded", "from the terminal", 3)
    assert job["spec"]["model"]["layers"][0]["out_features"] == 7
    assert "succeeded" in shown


def test_the_outcome_is_the_exit_code(service: Service) -> None:
    timeout = mlp(epochs=100_000, timeout_seconds=0.2)
    failed = postgrad(service, "submit", "-", "--follow", stdin=json.dumps(timeout))
    assert (failed.returncode, "failed: timeout" in failed.stderr) == (1, True)
    long = subprocess.Popen(
        [POSTGRAD, "submit", "-", "--follow", "--url", service.url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert long.stdin is not None
    assert long.stdout is not None
    long.stdin.write(json.dumps(mlp(epochs=100_000)))
    long.stdin.close()
    assert "cancel" not in ok(service, "cancel", long.stdout.readline().strip())
    assert long.wait(20) == 3
    long.stdout.close()


def test_a_bad_spec_is_answered_line_by_line(service: Service) -> None:
    done = postgrad(service, "submit", "-", stdin=json.dumps(mlp(epoch=3, loss="BCELos")))
    assert done.returncode == 2
    assert "/epoch: " in done.stderr
    assert '/loss: there is no loss "BCELos"; did you mean "BCELoss"?' in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["submit", "nowhere.json"], "nowhere.json"),
        (["submit", "-"], "is not JSON"),
        (["show", "job_nothing"], "this job does not exist"),
        (["catalog", "losses", "Loss"], "no Loss in losses"),
        (["curve", "job_nothing"], "this job does not exist"),
    ],
)
def test_bad_input_ends_with_2_and_a_sentence(service: Service, arguments: list[str], words: str) -> None:
    done = postgrad(service, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_no_server_ends_with_2_and_a_sentence(service: Service) -> None:
    done = postgrad(service, "ls", "--url", "http://127.0.0.1:9")
    assert (done.returncode, "is `postgrad serve` running there?" in done.stderr) == (2, True)


def test_ls_gives_whole_ids_to_a_pipe(service: Service, finished: str) -> None:
    lines = [line for line in ok(service, "ls", "--limit", "100").splitlines() if finished in line]
    assert len(lines) == 1
    assert "told" in lines[0]
    assert "5/5" in lines[0]


def test_show_is_the_job(service: Service, finished: str) -> None:
    assert json.loads(ok(service, "show", finished)) == service.job(finished)


def test_curve_draws_and_prints_every_point(service: Service, finished: str) -> None:
    drawn = ok(service, "curve", finished)
    assert "train/loss: 75 points" in drawn
    assert "val/loss: 5 points" in drawn
    rows = ok(service, "curve", finished, "--csv", "--name", "train/loss").splitlines()
    steps, values = service.series(finished)
    assert rows == ["series,step,value", *(f"train/loss,{s},{v!r}" for s, v in zip(steps, values, strict=True))]
    missing = postgrad(service, "curve", finished, "--name", "val/accuracy")
    assert missing.returncode == 2
    assert "there is no series val/accuracy; there are" in missing.stderr


def test_pull_brings_the_weights(service: Service, finished: str, tmp_path: Path) -> None:
    ok(service, "pull", finished, "--to", str(tmp_path / "out"))
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"model.safetensors", "model.best.safetensors", "spec.json"}
    with safe_open(tmp_path / "out" / "model.safetensors", framework="numpy") as weights:
        assert weights.get_tensor("0.weight").shape == (64, 30)


def test_a_job_is_paused_resumed_retried_and_removed(service: Service) -> None:
    job_id = service.submit(mlp(epochs=100_000))
    wait_for(lambda: service.job(job_id)["progress"]["iteration"] > 0, 30)
    assert ok(service, "pause", job_id) == f"{job_id}: asked to pause\n"
    wait_for(lambda: service.job(job_id)["status"] == "paused", 20)
    assert ok(service, "resume", job_id).startswith(f"{job_id}: ")
    refused = postgrad(service, "retry", job_id, "--from", "start")
    assert (refused.returncode, "only a job that has ended can be retried" in refused.stderr) == (2, True)
    ok(service, "cancel", job_id)
    service.finished(job_id)
    assert ok(service, "retry", job_id, "--from", "checkpoint").startswith(f"{job_id}: ")
    ok(service, "cancel", job_id)
    service.finished(job_id)
    assert ok(service, "rm", job_id) == f"{job_id}: deleted\n"
    assert postgrad(service, "show", job_id).returncode == 2
    assert "Missing option '--from'" in postgrad(service, "retry", job_id).stderr


def test_an_upload_is_removed(service: Service, tmp_path: Path) -> None:
    (tmp_path / "gone.csv").write_text("a,b\n5,6\n7,8\n")
    file_id = ok(service, "upload", str(tmp_path / "gone.csv")).strip()
    assert ok(service, "rm", file_id) == f"{file_id}: deleted\n"
    assert service.client.get(f"/v1/files/{file_id}").status_code == 404


def test_upload_and_train_on_it(service: Service, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("size,bought\n" + "".join(f"{i},{'yes' if i > 20 else 'no'}\n" for i in range(40)))
    file_id = ok(service, "upload", str(tmp_path / "t.csv")).strip()
    dataset = {"type": "file", "id": file_id, "target": "bought", "normalize": "standard"}
    assert ok(service, "submit", "-", "--follow", stdin=json.dumps(mlp(dataset=dataset, epochs=2)))
    (tmp_path / "bad.csv").write_text("a,a\n1,2\n")
    refused = postgrad(service, "upload", str(tmp_path / "bad.csv"))
    assert refused.returncode == 2
    assert refused.stderr.count("stands twice") == 1


def test_catalog_says_what_may_be_named(service: Service) -> None:
    names = [line.split()[0] for line in ok(service, "catalog", "optimizers").splitlines()]
    assert "Adam" in names
    entry: dict[str, Any] = json.loads(ok(service, "catalog", "losses", "HuberLoss"))
    assert entry["schema"]["properties"]["delta"]["default"] == 1.0


def test_help_lists_every_command(service: Service) -> None:
    shown = ok(service, "--help")
    commands = {"keys", "serve", "worker", "migrate", "submit", "ls", "show", "cancel", "curve", "pull", "upload", "catalog"}
    commands |= {"pause", "resume", "retry", "rm", "prune", "backup"}
    assert {name for name in commands if f" {name} " in shown} == commands


def test_prune_says_what_would_go_and_wants_an_age(service: Service, finished: str) -> None:
    assert ok(service, "prune", "--older-than", "0s", "--dry-run").startswith("would go: ")
    assert ok(service, "prune", "--older-than", "1.5d").startswith("removed: 0 jobs, 0 files, 0 pinned weights; 0 bytes")
    assert service.job(finished)["status"] == "succeeded"
    bad = postgrad(service, "prune", "--older-than", "30")
    assert (bad.returncode, "such as 30d" in bad.stderr) == (2, True)


# ---- keys


def test_keys_are_made_listed_used_and_revoked(service: Service) -> None:
    made = postgrad(service, "keys", "create", "a [red]reader", "--scope", "read")
    secret, key_id = made.stdout.strip(), made.stderr.split()[0]
    assert secret.startswith("pg_")
    assert "POSTGRAD_API_KEY" not in made.stdout  # the key alone: it can be assigned
    listed = ok(service, "keys", "ls")
    assert [line.split()[1:4] for line in listed.splitlines() if key_id in line] == [["a", "[red]reader", "read"]]
    assert secret not in listed
    assert ok(service, "ls", "--key", secret)
    refused = postgrad(service, "submit", "-", "--key", secret, stdin=json.dumps(mlp()))
    assert (refused.returncode, "needs write" in refused.stderr) == (2, True)
    assert ok(service, "keys", "revoke", key_id) == f"{key_id}: revoked\n"
    assert "send a key" in postgrad(service, "ls", "--key", secret).stderr
    assert "this key does not exist" in postgrad(service, "keys", "revoke", "key_none").stderr
    assert "/scopes/0" in postgrad(service, "keys", "create", "x", "--scope", "root").stderr


# ---- the server's processes


def test_a_port_that_is_taken_is_told_at_once(service: Service, tmp_path: Path) -> None:
    command = [POSTGRAD, "serve", "--port", str(service.port), "--data-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert f"port {service.port}: Address already in use" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])
def test_nothing_outlives_a_server_whose_terminal_is_gone(own_service: Service, number: signal.Signals) -> None:
    assert own_service.process is not None
    family = psutil.Process(own_service.process.pid).children(recursive=True)
    assert len(family) >= 4  # API, checker, worker, zygote
    own_service.process.send_signal(number)
    own_service.process.wait(30)
    wait_for(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family), 20)
