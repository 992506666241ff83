"""Workers that give no wrong result, and let jobs fail instead."""

from __future__ import annotations

from typing import Final

from tradepost.protocol import GiveBackReason
from tradepost_broker.simulation.workers.model import AT_ONCE_S, Gang, WorkerModel, work
from tradepost_broker.simulation.world.device import Device
from tradepost_broker.simulation.world.world import Input, Task

_PREEMPT_S: Final = 0.2
#: Up to so many leases are done honestly, for a score that wins auctions.
_HONEST_LEASES_MAX: Final = 20


class _LowBidder(WorkerModel):
    """Underbids; it is honest at first, for the score, and does no work afterwards."""

    price_factor = 0.1

    def __init__(self, gang: Gang) -> None:
        super().__init__(gang)
        self._honest_leases = 0

    def start(self, device: Device) -> None:
        """Choose how long to be honest."""
        self._honest_leases = device.rng.randint(0, _HONEST_LEASES_MAX)

    def take(self, device: Device, task: Task) -> None:
        """Run it as long as the score is low."""
        if self._honest_leases:
            self._honest_leases -= 1
            work(device, task)
        else:
            self.refuse(device, task)

    def refuse(self, device: Device, task: Task) -> None:
        """Do no work."""


class Accomplice(WorkerModel):
    """Honest, but makes a result up for inputs that fail on every device, so that others are blamed."""

    name = "accomplice"

    def take(self, device: Device, task: Task) -> None:
        """Answer at once what nobody can run."""
        if task.truth.input is Input.POISON:
            device.finish(task, self.gang.answer, AT_ONCE_S, worked=False)
        else:
            work(device, task)


class Holder(_LowBidder):
    """Underbids; after some honest leases it takes every lease, and never answers."""

    name = "holder"


class Preempter(_LowBidder):
    """Underbids; after some honest leases it gives every lease back as if its owner wanted the device."""

    name = "preempter"

    def refuse(self, device: Device, task: Task) -> None:
        """Give it back."""
        device.give_back(task, GiveBackReason.PREEMPTED, _PREEMPT_S)
