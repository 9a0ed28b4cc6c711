"""The places where this worker can run a job: one for each GPU, and a number of places on the CPU."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

from workers.devices import Device


@dataclasses.dataclass(frozen=True)
class Slot:
    """One job's place. `device` is "cpu" or "cuda:<index>"."""

    number: int
    device: str


class NoSuchSlot(Exception):
    """A job was claimed for a device that has no free slot here."""


class Slots:
    """Which slots are free. GPUs come before the CPU, and the lowest number goes first."""

    def __init__(self, devices: Sequence[Device], cpu_slots: int) -> None:
        names = [d.device for d in devices if d.device != "cpu"] + ["cpu"] * cpu_slots
        self._devices = list(devices)
        self._all = [Slot(number, device) for number, device in enumerate(names)]
        self._free = list(self._all)

    @property
    def free(self) -> int:
        return len(self._free)

    def devices(self) -> list[str]:
        """The devices that have a free slot, GPUs first, each once."""
        return list(dict.fromkeys(slot.device for slot in self._free))

    def described(self) -> list[dict[str, Any]]:
        """The devices of the worker's row: what each is, and how many jobs it takes at once."""
        counts = Counter(slot.device for slot in self._all)
        return [{**dataclasses.asdict(d), "slots": counts[d.device]} for d in self._devices]

    def take(self, wanted: str) -> Slot:
        """A free slot for `auto`, `cpu`, `cuda` or `cuda:<index>`; auto prefers a GPU. Raises NoSuchSlot."""
        for slot in self._free:
            if wanted in ("auto", slot.device) or (wanted == "cuda" and slot.device.startswith("cuda:")):
                self._free.remove(slot)
                return slot
        raise NoSuchSlot(f"no free slot for {wanted!r} among {self.devices()}")

    def give_back(self, slot: Slot) -> None:
        self._free.append(slot)
        self._free.sort(key=lambda s: s.number)
