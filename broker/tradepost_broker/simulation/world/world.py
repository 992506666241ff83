"""What devices and clients share: time, network, broker, and what is true of each job.

Behaviours may look at more here than a real attacker could know; that makes the figures those of the worst
case. What the broker shows of undecided jobs is a switch of its own, `outcomes_are_visible`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final

from tradepost_broker.market.core import Market
from tradepost_broker.market.model.entities import Lease, Pipeline
from tradepost_broker.market.model.events import (
    Instruction,
    NotifyFinished,
    PipelinePublished,
    SendAcknowledged,
    SendGrant,
    SendRecall,
    SendSettled,
)
from tradepost_broker.market.testing import make_pipeline
from tradepost_broker.simulation.world.broker import SimulatedBroker
from tradepost_broker.simulation.world.network import Network
from tradepost_broker.simulation.world.schedule import Schedule

PROVIDERS: Final = ("cpu", "cuda", "openvino")
#: The pipeline that everybody runs, and its publisher.
COMMON: Final = "common"
TRUSTED_PUBLISHER: Final = "trusted"
STAGES: Final = ("prepare", "infer")
WALL_S: Final = 30.0


class Input(Enum):
    """What running a job's input does."""

    ORDINARY = auto()
    POISON = auto()  # the run fails on every device
    RANDOM = auto()  # every run gives another result


@dataclass(frozen=True, slots=True)
class Truth:
    """What is true of a job. `run_s` is how long an ordinary device takes; `hand` is who submitted it."""

    input: Input
    run_s: float
    hand: str


@dataclass(frozen=True, slots=True)
class Task:
    """A lease as its worker sees it, and what is true of its job."""

    lease: str
    job: str
    pipeline: str
    account: str
    units: int
    granted_at: float
    expires_at: float
    truth: Truth


@dataclass(slots=True)
class World:
    """Everything that one run's devices and clients share."""

    schedule: Schedule
    network: Network
    seed: int
    outcomes_are_visible: bool
    broker: SimulatedBroker = field(init=False)
    truths: dict[str, Truth] = field(default_factory=dict)
    #: Who gets instructions: workers by id, and the accounts that wait for the ends of jobs by job.
    devices: dict[str, Any] = field(default_factory=dict)
    clients: dict[str, Any] = field(default_factory=dict)
    #: Called with a device that left to let another one join in its place.
    recruit: Callable[..., None] = field(init=False)
    #: The hostile leave, and nobody submits any more: the run is about to end.
    closing: bool = False

    @property
    def market(self) -> Market:
        """The market as it is now."""
        return self.broker.market

    def publish(self, pipeline: str, publisher: str, *, units: int = 100, account: str = "") -> None:
        """Publish a pipeline of two stages that runs on any provider."""
        record: Pipeline = make_pipeline(
            pipeline, providers=PROVIDERS, wall_s=WALL_S, units=units, publishers=(publisher,)
        )
        self.broker.insist(lambda turn: PipelinePublished(at=turn.at, pipeline=record, account=account))

    def task(self, lease: Lease) -> Task | None:
        """What its worker is told about a lease; nothing if its job has left memory."""
        job = self.market.job(lease.job)
        if job is None:
            return None
        return Task(
            lease.id,
            lease.job,
            job.pipeline,
            job.account,
            job.units,
            lease.granted_at,
            lease.expires_at,
            self.truths[lease.job],
        )

    def visible_outcome(self, job: str) -> str:
        """The first outcome that the broker shows of a job that is not decided; "" if there is none."""
        if not self.outcomes_are_visible:
            return ""
        return next((lease.outcome for lease in self.market.results_of(job)), "")

    def is_believed_alone(self, job: str) -> bool:
        """Whether a job was accepted on one result."""
        known = self.market.job(job)
        return known is not None and len(known.accepted) == 1

    def release(self, instruction: Instruction) -> None:
        """Carry out an instruction: pass it to the device or the client that it is for."""
        match instruction:
            case SendGrant(lease, worker):
                record = self.market.lease(lease)
                task = None if record is None else self.task(record)
                if task is not None:
                    self.devices[worker].receive_grant(task)
            case SendRecall(lease, worker):
                self.devices[worker].receive_end(lease)
            case SendAcknowledged(lease, worker):
                self.devices[worker].receive_end(lease)
            case SendSettled(lease, worker, verdict, _, _):
                self.devices[worker].receive_settled(lease, verdict)
            case NotifyFinished(job):
                client = self.clients.get(job)
                if client is not None:
                    client.receive_finished(job)
