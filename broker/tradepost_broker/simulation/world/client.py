"""A simulated submitter's client: submits under an idempotency key, and repeats until it has an answer."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final, Protocol

from tradepost.errors import Problem
from tradepost.protocol import Requirements
from tradepost_broker.market.model.events import (
    CancelRequested,
    Event,
    Funded,
    Instruction,
    JobSubmitted,
    QuarantineLifted,
    ReplyRefused,
    ReplySubmitted,
)
from tradepost_broker.simulation.world.broker import Turn
from tradepost_broker.simulation.world.schedule import seeded
from tradepost_broker.simulation.world.world import COMMON, Truth, World

_RETRY_S: Final = 10.0


class Submitting(Protocol):
    """What a client tells its model."""

    def submitted(self, client: Client, job: str) -> None:
        """The broker took a job in."""

    def refused(self, client: Client, problem: Problem) -> None:
        """The broker refused a job."""

    def finished(self, client: Client, job: str) -> None:
        """A job ended."""


class Client:
    """One account. `hand` is whose it is: accounts and workers under one hand share their profit."""

    def __init__(self, world: World, account: str, *, hand: str, model: Submitting) -> None:
        self.world = world
        self.account = account
        self.hand = hand
        self.model = model
        self.rng: Random = seeded(world.seed, "client", account)
        self.funded_microcredits = 0
        self.submitted = 0
        self.refused = 0
        self._requests = 0
        self._attempts = 0
        #: Requests without an answer yet.
        self.unanswered: dict[str, None] = {}
        self._link = world.network.link(account, opened=lambda: None, broke=lambda: None)
        self._link.open()

    def fund(self, amount_microcredits: int) -> None:
        """Have the operator give the account credits."""
        self.funded_microcredits += amount_microcredits
        transfer = f"fund-{self.account}-{self.funded_microcredits}"
        self.world.broker.insist(
            lambda turn: Funded(
                at=turn.at,
                transfer=transfer,
                account=self.account,
                amount_microcredits=amount_microcredits,
            )
        )

    def submit(
        self,
        truth: Truth,
        *,
        cap_microcredits: int,
        confidence: float,
        pipeline: str = COMMON,
        deadline_s: float = 300.0,
        patience_s: float = 30.0,
    ) -> None:
        """Submit a job, again and again until there is an answer."""
        self._requests += 1
        key = f"{self.account}/{self._requests:06}"
        self.unanswered[key] = None

        def submission(turn: Turn) -> Event:
            self._attempts += 1
            job = f"{key}@{self._attempts}"
            self.world.truths[job] = truth
            self.world.clients[job] = self
            return JobSubmitted(
                at=turn.at,
                job=job,
                account=self.account,
                idempotency_key=key,
                request_hash=key,
                pipeline=pipeline,
                input="input",
                input_bytes=1000,
                max_price_microcredits=cap_microcredits,
                confidence=confidence,
                deadline_s=deadline_s,
                patience_s=patience_s,
                requirements=Requirements(),
                seed=turn.seed,
            )

        def answered(answer: Sequence[Instruction]) -> None:
            self._link.send(False, self._answered, key, answer)

        def attempt() -> None:
            if key in self.unanswered:
                self._link.send(True, self.world.broker.submit, submission, answered)
                self.world.schedule.after(_RETRY_S, attempt)

        attempt()

    def cancel(self, job: str) -> None:
        """Cancel a job; a lost message is not repeated."""
        self._link.send(
            True,
            self.world.broker.submit,
            lambda turn: CancelRequested(at=turn.at, job=job, account=self.account, seed=turn.seed),
        )

    def lift_quarantine(self, pipeline: str) -> None:
        """Let its jobs on a pipeline be leased again; a lost message is not repeated."""
        self._link.send(
            True,
            self.world.broker.submit,
            lambda turn: QuarantineLifted(
                at=turn.at, account=self.account, pipeline=pipeline, seed=turn.seed
            ),
        )

    def receive_finished(self, job: str) -> None:
        """The broker says that a job ended."""
        self._link.send(False, self.model.finished, self, job)

    def _answered(self, key: str, answer: Sequence[Instruction]) -> None:
        if key not in self.unanswered:
            return
        del self.unanswered[key]
        for instruction in answer:
            if isinstance(instruction, ReplySubmitted):
                self.submitted += 1
                self.model.submitted(self, instruction.job)
            elif isinstance(instruction, ReplyRefused):
                self.refused += 1
                self.model.refused(self, instruction.problem)
