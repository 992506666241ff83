"""The base of all models of submitters."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from tradepost.errors import Problem
from tradepost_broker.simulation.workers.model import Gang
from tradepost_broker.simulation.world.client import Client
from tradepost_broker.simulation.world.world import COMMON, Input, Truth


class SubmitterModel:
    """How one submitter behaves. It submits one job every `1 / rate_per_s` seconds on average.

    `run_s` is how long its jobs take on an ordinary device, `cap_microcredits` what they may cost.
    """

    name: ClassVar[str] = ""
    hostile: ClassVar[bool] = True
    input: ClassVar[Input] = Input.ORDINARY

    def __init__(
        self,
        gang: Gang,
        *,
        rate_per_s: float = 1.0,
        confidences: tuple[float, ...] = (0.9,),
        run_s: float = 2.0,
        cap_microcredits: int = 20_000,
        deadline_s: float = 300.0,
        jobs_max: int = 0,
    ) -> None:
        self.gang = gang
        self._rate_per_s = rate_per_s
        self._confidences = confidences
        self._run_s = run_s
        self._cap_microcredits = cap_microcredits
        self._deadline_s = deadline_s
        #: How many jobs it submits; 0 is as many as it can until the run closes.
        self._jobs_max = jobs_max
        self.jobs = 0

    @property
    def is_done(self) -> bool:
        """Whether it has submitted all the jobs that it was to submit."""
        return self._jobs_max > 0 and self.jobs >= self._jobs_max

    def start(self, client: Client) -> None:
        """Begin to submit."""
        self._wait(client, self._submit_next)

    @property
    def pipeline(self) -> str:
        """The pipeline that it submits to."""
        return COMMON

    def submit(self, client: Client) -> None:
        """Submit one job."""
        client.submit(
            self.truth(client),
            pipeline=self.pipeline,
            cap_microcredits=self._cap_microcredits,
            confidence=self.confidence(client),
            deadline_s=self._deadline_s,
        )

    def confidence(self, client: Client) -> float:
        """What the next job asks for."""
        return client.rng.choice(self._confidences)

    def truth(self, client: Client) -> Truth:
        """What is true of the next job."""
        return Truth(self.input, self._run_s * (0.5 + client.rng.random()), client.hand)

    def submitted(self, client: Client, job: str) -> None:
        """A job was taken in."""

    def refused(self, client: Client, problem: Problem) -> None:
        """A job was refused."""

    def finished(self, client: Client, job: str) -> None:
        """A job ended."""

    def _submit_next(self, client: Client) -> None:
        if client.world.closing or self.is_done:
            return
        self.jobs += 1
        self.submit(client)
        self._wait(client, self._submit_next)

    def _wait(self, client: Client, then: Callable[[Client], None]) -> None:
        client.world.schedule.after(client.rng.expovariate(self._rate_per_s), then, client)
