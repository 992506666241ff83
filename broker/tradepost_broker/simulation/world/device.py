"""A simulated device: the agent's part of the protocol, without any behaviour of its own.

It keeps what it was granted and what it has to report until the broker acknowledges it, repeats reports on a
new stream, and asks its model what to do with each lease.
"""

from __future__ import annotations

from random import Random
from typing import Final, Protocol

from tradepost.errors import Problem, UntrustedPipeline, WorkerLost
from tradepost.protocol import GiveBackReason, Offer
from tradepost_broker.market.model.events import (
    Event,
    LeaseGivenBack,
    ReceiptDelivered,
    WorkerConnected,
    WorkerDisconnected,
    WorkerJoined,
)
from tradepost_broker.simulation.world import outputs
from tradepost_broker.simulation.world.broker import Turn, Work
from tradepost_broker.simulation.world.schedule import Action, seeded
from tradepost_broker.simulation.world.world import STAGES, TRUSTED_PUBLISHER, Task, World

#: Shares of a run's time that its stages take.
_STAGE_WALL_US: Final = (200_000, 800_000)
_FAILED: Final = WorkerLost("the run failed").to_problem()
_UNTRUSTED: Final = UntrustedPipeline("the owner does not trust its publisher").to_problem()


class Behaviour(Protocol):
    """What a device asks its model."""

    @property
    def slowness(self) -> float:
        """How many times as long as elsewhere its runs take."""
        ...

    def take(self, device: Device, task: Task) -> None:
        """A lease was granted."""

    def learn(self, device: Device, job: str, *, accepted: bool) -> None:
        """A result of it was settled."""


class Device:
    """One worker. It runs on the first execution provider of its `offer`."""

    def __init__(
        self,
        world: World,
        worker: str,
        *,
        owner: str,
        behaviour: Behaviour,
        offer: Offer,
        auditor: bool = False,
    ) -> None:
        self.world = world
        self.id = worker
        self.owner = owner
        self.provider = offer.capabilities.providers[0]
        self.auditor = auditor
        self.behaviour = behaviour
        self.rng: Random = seeded(world.seed, "device", worker)
        #: Work units of runs that were really made, which cost it something.
        self.units_worked = 0
        self._offer = offer
        self._tasks: dict[str, Task] = {}
        self._reports: dict[str, Work] = {}
        self._link = world.network.link(worker, opened=self._say_hello, broke=self._broke)

    def join(self, stake_microcredits: int) -> None:
        """Join the market and connect."""

        def joined(turn: Turn) -> Event:
            return WorkerJoined(
                at=turn.at,
                worker=self.id,
                owner=self.owner,
                device=self.id,
                public_key=self.id.encode(),
                auditor=self.auditor,
                stake_microcredits=stake_microcredits,
            )

        self.world.broker.insist(joined, self._link.open)

    def leave(self) -> None:
        """Close the stream for good."""
        self._link.close()

    def lose_connection(self) -> None:
        """Break the stream; the device connects again."""
        self._link.break_off()

    # What its model may do with a lease

    def trusts(self, task: Task) -> bool:
        """Whether its owner allows the pipeline, as far as honest owners are concerned."""
        known = self.world.market.pipeline(task.pipeline)
        return known is not None and known.publisher == TRUSTED_PUBLISHER

    def later(self, after_s: float, action: Action, task: Task) -> None:
        """Call `action` with this device and the task, if it is still in hand then."""
        self.world.schedule.after(after_s, self._if_in_hand, action, task)

    def finish(self, task: Task, outcome: str, after_s: float, *, worked: bool = True) -> None:
        """Deliver an outcome after a while. `worked` says whether the run was made, and so has a cost."""
        self.later(after_s, lambda _, __: self._deliver(task, outcome, worked=worked), task)

    def give_back(self, task: Task, reason: GiveBackReason, after_s: float, *, stages: int = 0) -> None:
        """Return a lease after a while, with so many stages done."""
        self.later(after_s, lambda _, __: self._return(task, reason, stages), task)

    # What the broker sends

    def receive_grant(self, task: Task) -> None:
        """The broker sends a grant."""
        self._link.send(False, self._granted, task)

    def receive_end(self, lease: str) -> None:
        """The broker sends a recall, or acknowledges a report."""
        self._link.send(False, self._ended, lease)

    def receive_settled(self, lease: str, verdict: str) -> None:
        """The broker sends a verdict."""
        job = lease.rpartition(".")[0]
        self._link.send(False, self._settled, job, verdict == "accepted")

    def _granted(self, task: Task) -> None:
        if task.lease not in self._tasks and task.lease not in self._reports:
            self._tasks[task.lease] = task
            self.behaviour.take(self, task)

    def _ended(self, lease: str) -> None:
        self._tasks.pop(lease, None)
        self._reports.pop(lease, None)

    def _settled(self, job: str, accepted: bool) -> None:
        self.behaviour.learn(self, job, accepted=accepted)

    def _if_in_hand(self, action: Action, task: Task) -> None:
        if task.lease in self._tasks:
            action(self, task)

    def _deliver(self, task: Task, outcome: str, *, worked: bool) -> None:
        if worked:
            self.units_worked += task.units
        hashes = _stage_hashes(task.job, outcome)

        def delivered(turn: Turn) -> Event:
            peers = [peer for peer in turn.market.results_of(task.job) if peer.id != task.lease]
            by_stage = self.world.broker.policy.stage_proofs
            agree = outputs.agree if by_stage else outputs.are_near
            return ReceiptDelivered(
                at=turn.at,
                worker=self.id,
                lease=task.lease,
                outcome=outcome,
                stage_hashes=hashes,
                stage_wall_us=_STAGE_WALL_US,
                agrees_with=tuple(peer.id for peer in peers if agree(peer.outcome, outcome)),
                proofs=tuple(
                    (peer.id, STAGES[0])
                    for peer in peers
                    if by_stage and outputs.are_told_apart(peer.outcome, outcome)
                ),
                seed=turn.seed,
            )

        self._report(task, delivered)

    def _return(self, task: Task, reason: GiveBackReason, stages: int) -> None:
        if stages:
            self.units_worked += task.units * _STAGE_WALL_US[0] // sum(_STAGE_WALL_US)
        hashes = _stage_hashes(task.job, outputs.RIGHT)[:stages]
        problem: Problem = _UNTRUSTED if reason is GiveBackReason.REFUSED else _FAILED

        def given_back(turn: Turn) -> Event:
            return LeaseGivenBack(
                at=turn.at,
                worker=self.id,
                lease=task.lease,
                reason=reason,
                problem=problem,
                stage_hashes=hashes,
                seed=turn.seed,
            )

        self._report(task, given_back)

    def _report(self, task: Task, work: Work) -> None:
        del self._tasks[task.lease]
        self._reports[task.lease] = work
        self._link.send(True, self.world.broker.submit, work)

    def _say_hello(self) -> None:
        held = (*self._tasks, *self._reports)

        def connected(turn: Turn) -> Event:
            return WorkerConnected(
                at=turn.at, worker=self.id, offer=self._offer, open_leases=held, seed=turn.seed
            )

        self._link.send(True, self.world.broker.submit, connected)
        for report in list(self._reports.values()):
            self._link.send(True, self.world.broker.submit, report)

    def _broke(self) -> None:
        epoch = self._link.epoch

        def disconnected(turn: Turn) -> Event | None:
            # Unless a new stream has taken the place of this one meanwhile.
            return None if self._link.epoch != epoch else WorkerDisconnected(at=turn.at, worker=self.id)

        self.world.schedule.after(
            self.world.network.faults.detection_s, self.world.broker.submit, disconnected
        )


def _stage_hashes(job: str, outcome: str) -> tuple[tuple[str, str], ...]:
    """The hashes of a job's stages where the last gives `outcome`; a right run has the first one right."""
    if outputs.is_shortcut(outcome):
        return (STAGES[0], f"{job}:cheaper"), (STAGES[1], f"{job}:{outcome}")
    first = f"{job}:{STAGES[0]}" if outputs.is_right(outcome) else f"{job}:{outcome}"
    return (STAGES[0], first), (STAGES[1], f"{job}:{outcome}")
