"""Workers that give no wrong result, and let jobs fail instead."""

from __future__ import annotations

from typing import Final

from tradepost.protocol import GiveBackReason
from tradepost_broker.simulation.workers.model import Gang, WorkerModel, work
from tradepost_broker.simulation.world.device import Device
from tradepost_broker.simulation.world.world import Task

_PREEMPT_S: Final = 0.2
#: So many leases are done honestly, for a score that wins auctions.
_HONEST_LEASES: Final = 20


class _LowBidder(WorkerModel):
    """Underbids; it is honest at first, for the score, and does no work afterwards."""

    price_factor = 0.1

    def __init__(self, gang: Gang) -> None:
        super().__init__(gang)
        self._leases = 0

    def take(self, device: Device, task: Task) -> None:
        """Run it as long as the score is low."""
        self._leases += 1
        if self._leases <= _HONEST_LEASES:
            work(device, task)
        else:
            self.refuse(device, task)

    def refuse(self, device: Device, task: Task) -> None:
        """Do no work."""


class Holder(_LowBidder):
    """Underbids; after twenty honest leases it takes every lease, and never answers."""

    name = "holder"


class Preempter(_LowBidder):
    """Underbids; after twenty honest leases it gives every lease back as if its owner wanted the device."""

    name = "preempter"

    def refuse(self, device: Device, task: Task) -> None:
        """Give it back."""
        device.give_back(task, GiveBackReason.PREEMPTED, _PREEMPT_S)
