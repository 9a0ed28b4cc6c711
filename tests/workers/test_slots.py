"""Slots, devices and the out-of-memory counter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from workers.devices import Device, discover
from workers.oom import OomCounter, counter_file, kills_in
from workers.slots import NoSuchSlot, Slots

TWO_GPUS = [Device("cpu", "c"), Device("cuda:0", "g"), Device("cuda:1", "g")]


def test_one_slot_for_each_gpu_and_as_many_as_asked_on_the_cpu() -> None:
    slots = Slots(TWO_GPUS, cpu_slots=2)
    assert slots.free == 4
    assert slots.devices() == ["cuda:0", "cuda:1", "cpu"]
    assert [(d["device"], d["slots"]) for d in slots.described()] == [("cpu", 2), ("cuda:0", 1), ("cuda:1", 1)]


def test_auto_prefers_a_gpu() -> None:
    slots = Slots(TWO_GPUS, cpu_slots=1)
    assert [slots.take("auto").device for _ in range(3)] == ["cuda:0", "cuda:1", "cpu"]


@pytest.mark.parametrize(("wanted", "given"), [("cpu", "cpu"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1")])
def test_a_named_device_is_that_device(wanted: str, given: str) -> None:
    assert Slots(TWO_GPUS, cpu_slots=1).take(wanted).device == given


def test_a_taken_slot_is_not_given_twice_and_comes_back() -> None:
    slots = Slots(TWO_GPUS, cpu_slots=0)
    taken = slots.take("cuda:1")
    assert slots.devices() == ["cuda:0"]
    with pytest.raises(NoSuchSlot):
        slots.take("cuda:1")
    with pytest.raises(NoSuchSlot):
        slots.take("cpu")
    slots.give_back(taken)
    assert slots.take("cuda:1") == taken


def test_discovery_starts_with_the_cpu_and_leaves_torch_outside() -> None:
    program = "import sys, workers.devices as d; print(d.discover()[0].device, 'torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).split() == ["cpu", "False"]


def test_a_torch_that_does_not_answer_leaves_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.devices.PROBE", "raise SystemExit(1)")
    assert [d.device for d in discover()] == ["cpu"]


def test_the_oom_counter_of_either_kind_of_control_group(tmp_path: Path) -> None:
    old = tmp_path / "memory" / "box" / "memory.oom_control"
    old.parent.mkdir(parents=True)
    old.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    assert counter_file("4:memory:/box\n0::/", tmp_path) == old
    new = tmp_path / "memory.events"
    new.write_text("low 0\noom 7\noom_kill 4\n")
    assert counter_file("0::/as/seen/from/the/host\n", tmp_path) == new
    assert (kills_in(old.read_text()), kills_in(new.read_text()), kills_in("")) == (3, 4, 0)
    assert counter_file("1:cpu:/\n", tmp_path) is None


def test_the_oom_counter_tells_a_rise_once(tmp_path: Path) -> None:
    file = tmp_path / "memory.events"
    file.write_text("oom_kill 1\n")
    counter = OomCounter(file)
    assert not counter.rose()
    file.write_text("oom_kill 2\n")
    assert counter.rose()
    assert not counter.rose()
