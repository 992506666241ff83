"""Workers that mean well: honest, slow, flaky, and those whose owners often want their devices back."""

from __future__ import annotations

from typing import Final

from tradepost.protocol import GiveBackReason
from tradepost_broker.simulation.workers.model import AT_ONCE_S, WorkerModel, run_time, work
from tradepost_broker.simulation.world.device import Device
from tradepost_broker.simulation.world.world import Task

_FLAKY_BREAK_S: Final = 90.0
_FLAKY_FAILURE: Final = 0.05
_PREEMPTION: Final = 0.2


class Honest(WorkerModel):
    """Runs what it trusts; its floats differ from those of other execution providers, within tolerance."""

    name = "honest"
    hostile = False
    price_factor = 1.0


class Slow(Honest):
    """Honest, and four times slower than others: some leases run out of time."""

    name = "slow"
    slowness = 4.0


class Flaky(Honest):
    """Honest, but its stream breaks every minute or two, and one run in twenty fails."""

    name = "flaky"

    def start(self, device: Device) -> None:
        """Break the stream now and then."""
        device.world.schedule.after(_FLAKY_BREAK_S * (0.5 + device.rng.random()), self._break, device)

    def take(self, device: Device, task: Task) -> None:
        """Run it, or fail."""
        if device.rng.random() < _FLAKY_FAILURE:
            device.give_back(task, GiveBackReason.FAILED, run_time(device, task) / 2)
        else:
            work(device, task)

    def _break(self, device: Device) -> None:
        if not device.world.closing:
            device.lose_connection()
            self.start(device)


class PreemptedOwner(Honest):
    """Honest, but the owner takes the device back during one run in five, after its first stage."""

    name = "preempted-owner"

    def take(self, device: Device, task: Task) -> None:
        """Run it, unless the owner comes back."""
        if device.trusts(task) and device.rng.random() < _PREEMPTION:
            device.give_back(task, GiveBackReason.PREEMPTED, run_time(device, task) / 2 + AT_ONCE_S, stages=1)
        else:
            work(device, task)
