"""The base of all models of workers, and what the members of a gang share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Final

from tradepost.protocol import GiveBackReason
from tradepost_broker.simulation.world import outputs
from tradepost_broker.simulation.world.device import Device
from tradepost_broker.simulation.world.world import WALL_S, Input, Task

#: How soon something is answered that takes no work.
AT_ONCE_S: Final = 0.05
_POISON_S: Final = 1.0


@dataclass(slots=True)
class Gang:
    """What workers and submitters under one hand know together. `answer` is their common made-up outcome."""

    name: str
    #: Whether they have gained enough trust to begin to cheat.
    armed: bool = False
    #: Which members have had a lease of each job, and what they decided to answer.
    holders: dict[str, set[str]] = field(default_factory=dict)
    decisions: dict[str, str] = field(default_factory=dict)

    @property
    def answer(self) -> str:
        """The outcome that its members agree on without a run."""
        return outputs.made_up(self.name)


class WorkerModel:
    """How one worker behaves. `price_factor` multiplies the price that an honest worker would ask."""

    name: ClassVar[str] = ""
    hostile: ClassVar[bool] = True
    price_factor: ClassVar[float] = 0.95
    slowness: ClassVar[float] = 1.0

    def __init__(self, gang: Gang) -> None:
        self.gang = gang

    def start(self, device: Device) -> None:
        """The device has joined."""

    def take(self, device: Device, task: Task) -> None:
        """A lease was granted."""
        work(device, task)

    def learn(self, device: Device, job: str, *, accepted: bool) -> None:
        """A result was settled."""


def work(device: Device, task: Task) -> None:
    """Do what an honest agent does with a lease: refuse it, run it, or report what went wrong."""
    if not device.auditor and not device.trusts(task):
        device.give_back(task, GiveBackReason.REFUSED, AT_ONCE_S)
        return
    run_s = run_time(device, task)
    if task.truth.input is Input.POISON:
        device.give_back(task, GiveBackReason.FAILED, min(run_s, _POISON_S))
        return
    left_s = min(task.expires_at - device.world.schedule.at, WALL_S) - AT_ONCE_S
    if run_s >= left_s:
        device.give_back(task, GiveBackReason.EXHAUSTED, max(left_s, 0.0))
        return
    device.finish(task, honest_outcome(device, task), run_s)


def run_time(device: Device, task: Task) -> float:
    """How long this device takes for a run, in seconds."""
    return task.truth.run_s * device.behaviour.slowness * (0.8 + 0.4 * device.rng.random())


def honest_outcome(device: Device, task: Task) -> str:
    """What a run on this device gives."""
    if task.truth.input is Input.RANDOM:
        return random_outcome(device)
    return outputs.right(device.provider, device.rng)


def random_outcome(device: Device) -> str:
    """An outcome that agrees with no other."""
    return outputs.made_up(f"{device.rng.getrandbits(64):x}")
