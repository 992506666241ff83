"""Submitters that submit to harm others, or to gain what they do not pay for."""

from __future__ import annotations

from typing import Final

from tradepost.errors import PipelineQuarantined, Problem
from tradepost_broker.simulation.submitters.model import SubmitterModel
from tradepost_broker.simulation.world.client import Client
from tradepost_broker.simulation.world.world import TRUSTED_PUBLISHER, Input
from tradepost_reputation import credibility_of_worker

_PEEK_S: Final = 0.2


class PoisonSubmitter(SubmitterModel):
    """Submits jobs that fail on every device, so that the workers' scores fall, and lifts each quarantine."""

    name = "poison-submitter"
    input = Input.POISON

    def refused(self, client: Client, problem: Problem) -> None:
        """Begin again."""
        if problem.code == PipelineQuarantined.code():
            client.lift_quarantine(self.pipeline)


class RandomPublisher(SubmitterModel):
    """Submits to a model that gives another result in every run, so that honest workers disagree."""

    name = "random-publisher"
    input = Input.RANDOM

    def start(self, client: Client) -> None:
        """Publish the model, under a publisher that workers trust, and begin."""
        client.world.publish(self.pipeline, TRUSTED_PUBLISHER, account=client.account)
        super().start(client)

    @property
    def pipeline(self) -> str:
        """Its own model."""
        return f"random-{self.gang.name}"


class SelfDealer(SubmitterModel):
    """Submits to the common pipeline at prices that only its gang's workers take, until they are trusted."""

    name = "self-dealing-submitter"

    def submit(self, client: Client) -> None:
        """Submit one job; with the last, let the gang cheat."""
        super().submit(client)
        self.gang.armed = self.gang.armed or self.is_done


class ShamSubmitter(SelfDealer):
    """Submits to a pipeline that only its own gang's workers run, until they are trusted.

    It asks for as much as two of them reach and one does not, so that they confirm each other every time.
    """

    name = "sham-submitter"

    def start(self, client: Client) -> None:
        """Publish the sham pipeline, of one work unit, and begin."""
        client.world.publish(self.pipeline, self.gang.name, units=1, account=client.account)
        super().start(client)

    @property
    def pipeline(self) -> str:
        """Its own pipeline."""
        return f"sham-{self.gang.name}"

    def confidence(self, client: Client) -> float:
        """A little more than one of its workers reaches, if all their agreements count."""
        policy = client.world.broker.policy
        checks = self.jobs * policy.agreed_checks
        alone = credibility_of_worker(checks, fault_fraction=policy.fault_fraction)
        return alone + (1 - alone) / 10


class AuditorStarver(SelfDealer):
    """Floods the market with long jobs that its own workers answer at once, so that auditors have no time."""

    name = "auditor-starver"


class CancelOracle(SubmitterModel):
    """Watches its jobs for an outcome, and cancels before it would have to pay."""

    name = "cancel-oracle"

    def submitted(self, client: Client, job: str) -> None:
        """Begin to watch it."""
        client.world.schedule.after(_PEEK_S, self._peek, client, job)

    def _peek(self, client: Client, job: str) -> None:
        known = client.world.market.job(job)
        if known is None or known.finished_at is not None:
            return
        if client.world.visible_outcome(job):
            client.cancel(job)
        else:
            client.world.schedule.after(_PEEK_S, self._peek, client, job)
