"""Workers that give wrong results to be paid for them."""

from __future__ import annotations

from typing import Final

from tradepost_broker.simulation.workers.model import (
    AT_ONCE_S,
    Gang,
    WorkerModel,
    honest_outcome,
    random_outcome,
    run_time,
    work,
)
from tradepost_broker.simulation.world import outputs
from tradepost_broker.simulation.world.device import Device
from tradepost_broker.simulation.world.world import COMMON, Input, Task

_CHEAT_RATE: Final = 0.2
_COPY_TRIES_S: Final = 1.0
_COPY_WAIT_SHARE: Final = 0.6
_SYBIL_IDENTITIES_MAX: Final = 20
_SYBIL_REJOIN_S: Final = 30.0


class RandomCheat(WorkerModel):
    """Answers one job in five with random bits, without a run."""

    name = "random"

    def take(self, device: Device, task: Task) -> None:
        """Run it, or make something up."""
        if device.rng.random() < _CHEAT_RATE:
            device.finish(task, random_outcome(device), AT_ONCE_S, worked=False)
        else:
            work(device, task)


class PatientColluder(WorkerModel):
    """Honest until one of its results is accepted alone; from then on it gives its gang's common answer."""

    name = "patient"

    def __init__(self, gang: Gang) -> None:
        super().__init__(gang)
        self._is_believed = False

    def take(self, device: Device, task: Task) -> None:
        """Run it as long as others check."""
        if self._is_believed:
            device.finish(task, self.gang.answer, run_time(device, task), worked=False)
        else:
            work(device, task)

    def learn(self, device: Device, job: str, *, accepted: bool) -> None:
        """Find out whether it is believed alone."""
        self._is_believed = self._is_believed or (accepted and device.world.is_believed_alone(job))


class MeetingColluder(WorkerModel):
    """Honest, except when two of its gang have leases of the same job: then they confirm each other."""

    name = "meeting"

    def take(self, device: Device, task: Task) -> None:
        """Note that it has the job, and decide at the end of the run."""
        self.gang.holders.setdefault(task.job, set()).add(device.id)
        if task.truth.input is not Input.ORDINARY or not device.trusts(task):
            work(device, task)
        else:
            device.later(run_time(device, task), self._decide, task)

    def _decide(self, device: Device, task: Task) -> None:
        met = len(self.gang.holders[task.job]) > 1
        decision = self.gang.decisions.setdefault(task.job, self.gang.answer if met else "")
        device.finish(task, decision or honest_outcome(device, task), 0.0, worked=not decision)


class Lazy(WorkerModel):
    """Answers every third job with zeros, at once; other lazy workers give the same zeros."""

    name = "lazy"

    def take(self, device: Device, task: Task) -> None:
        """Run it, or answer with zeros."""
        if device.rng.random() < 1 / 3:
            device.finish(task, "made-up:zeros", AT_ONCE_S, worked=False)
        else:
            work(device, task)


class Shortcut(WorkerModel):
    """Runs a cheaper first stage, in half the time, after which the output is within the tolerance."""

    name = "shortcut"

    def take(self, device: Device, task: Task) -> None:
        """Take the shortcut wherever an honest worker would run it."""
        if task.truth.input is not Input.ORDINARY or not device.trusts(task):
            work(device, task)
        else:
            outcome = outputs.shortcut(device.provider, device.rng)
            device.finish(task, outcome, run_time(device, task) / 2)


class Copycat(WorkerModel):
    """Never runs anything: copies an outcome that the broker shows, or makes one up if it shows none."""

    name = "copycat"

    def take(self, device: Device, task: Task) -> None:
        """Look for an outcome to copy until much of the lease is over."""
        seen = device.world.visible_outcome(task.job)
        waited = device.world.schedule.at - task.granted_at
        if seen:
            device.finish(task, seen, AT_ONCE_S, worked=False)
        elif waited < _COPY_WAIT_SHARE * (task.expires_at - task.granted_at):
            device.later(_COPY_TRIES_S, self.take, task)
        else:
            device.finish(task, random_outcome(device), 0.0, worked=False)


class ShamWorker(WorkerModel):
    """Confirms its hand's jobs on a pipeline that nobody else runs; trusted by that, it cheats the rest."""

    name = "sham-ring"

    def take(self, device: Device, task: Task) -> None:
        """Answer its own hand's jobs at once, and those of others wrongly as soon as it is trusted.

        In its own pipeline the right answer is known without a run, so a reference run confirms it.
        """
        if task.pipeline != COMMON:
            device.finish(task, honest_outcome(device, task), AT_ONCE_S, worked=False)
        elif self.gang.armed:
            device.finish(task, self.gang.answer, run_time(device, task), worked=False)
        else:
            work(device, task)


class SelfDealingWorker(ShamWorker):
    """Underbids on the common pipeline to run its own hand's jobs, for the trust; then it cheats the rest."""

    name = "self-dealer"
    price_factor = 0.1

    def take(self, device: Device, task: Task) -> None:
        """Answer its own hand's jobs without a run; they still look right."""
        if task.truth.hand == self.gang.name:
            device.finish(task, honest_outcome(device, task), AT_ONCE_S, worked=False)
        else:
            super().take(device, task)


class Clique(WorkerModel):
    """Gives its clique's common answer on a fifth of the jobs, the same for all members, and else works."""

    name = "clique"
    cheat_rate = _CHEAT_RATE

    def take(self, device: Device, task: Task) -> None:
        """Cheat on the same jobs as the rest of the gang."""
        decision = self.gang.decisions.setdefault(
            task.job, self.gang.answer if device.rng.random() < self.cheat_rate else ""
        )
        if decision:
            device.finish(task, decision, run_time(device, task), worked=False)
        else:
            work(device, task)


class Underbidder(Clique):
    """Bids a tenth of the price, so that its gang gets as much work as it can, and cheats on half of it."""

    name = "underbidder"
    cheat_rate = 0.5
    price_factor = 0.1


class SybilSwarm(WorkerModel):
    """Gives its swarm's common answer from the first job on; once rejected, it joins under another name."""

    name = "sybil"

    def take(self, device: Device, task: Task) -> None:
        """Give the common answer."""
        device.finish(task, self.gang.answer, run_time(device, task), worked=False)

    def learn(self, device: Device, job: str, *, accepted: bool) -> None:
        """Leave once a result was rejected, and let another identity join."""
        if accepted or device.id in self.gang.holders or device.world.closing:
            return
        self.gang.holders[device.id] = set()
        if len(self.gang.holders) <= _SYBIL_IDENTITIES_MAX:
            device.leave()
            device.world.schedule.after(_SYBIL_REJOIN_S, device.world.recruit, device)
