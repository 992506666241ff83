"""Workers that give no wrong result, and let jobs fail instead."""

from __future__ import annotations

from typing import Final

from tradepost.protocol import GiveBackReason
from tradepost_broker.simulation.workers.model import WorkerModel
from tradepost_broker.simulation.world.device import Device
from tradepost_broker.simulation.world.world import Task

_PREEMPT_S: Final = 0.2


class Holder(WorkerModel):
    """Bids low, takes every lease, and never answers."""

    name = "holder"
    price_factor = 0.1

    def take(self, device: Device, task: Task) -> None:
        """Do nothing."""


class Preempter(WorkerModel):
    """Bids low, takes every lease, and gives it back as if its owner wanted the device."""

    name = "preempter"
    price_factor = 0.1

    def take(self, device: Device, task: Task) -> None:
        """Give it back."""
        device.give_back(task, GiveBackReason.PREEMPTED, _PREEMPT_S)
