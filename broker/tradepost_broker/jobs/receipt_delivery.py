"""Delivers a checked receipt to the market, with the comparison to the earlier results of its job.

Results that arrive together must each be compared with those before them, and only the engine decides their
order. So the delivery's turn names the earlier results that it was not compared with; these are compared
outside the turn, where documents may be read, and the delivery gets another turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from tradepost.errors import STAGE_FAILURES, Problem
from tradepost.pipeline.manifest import Manifest
from tradepost.protocol import Deliver
from tradepost.receipts import Failed, JobOutcome, Receipt, Returned, SignedReceipt
from tradepost_broker.engine.engine import Decision, Moment, Postponed
from tradepost_broker.jobs.output_checks import CheckedResult
from tradepost_broker.jobs.result_comparison import CompareOutputs, ResultComparison
from tradepost_broker.market.model.entities import FAILED_PREFIX, Lease, LeaseState
from tradepost_broker.market.model.events import ReceiptDelivered
from tradepost_broker.storage.shell_records import Delivery


class Results(Protocol):
    """The part of the market that a delivery uses."""

    def results_of(self, job: str) -> list[Lease]:
        """The leases that a new result of the job is to be compared with."""
        ...


class ReceiptDelivery:
    """Work that delivers a checked receipt.

    `manifest` is the pipeline's. `compare_outputs` compares outputs that are not the same bytes. `find_lease`
    gives the lease as it is in a later turn.
    """

    def __init__(
        self,
        *,
        results: Results,
        manifest: Manifest,
        compare_outputs: CompareOutputs,
        lease: Lease,
        receipt: Receipt,
        result: CheckedResult,
        frame: Deliver,
        find_lease: Callable[[str], Lease | None] = lambda _: None,
    ) -> None:
        self._find_lease = find_lease
        self._results = results
        self._lease = lease
        self._receipt = receipt
        self._result = result.outcome
        self._must_be_confirmed = result.must_be_confirmed
        self._outcome = outcome_of(result.outcome)
        self._delivery = delivery_of(
            lease.id,
            frame.receipt,
            output=frame.output if isinstance(result.outcome, Returned) else None,
            output_cid=result.outcome.output if isinstance(result.outcome, Returned) else "",
        )
        self._comparison = ResultComparison(
            manifest=manifest,
            outcome=self._outcome,
            stage_hashes=stage_hashes(receipt),
            compare_outputs=compare_outputs,
        )

    def decide(self, moment: Moment) -> Decision | Postponed:
        """The outcome, and with which earlier ones it agrees; receipt and output of a lease still open."""
        # As it is now: the market may have been restored since the receipt was checked.
        self._lease = self._find_lease(self._lease.id) or self._lease
        earlier = self._earlier_results()
        uncompared = [other for other in earlier if self._comparison.needs_documents(other)]
        if uncompared:
            return Postponed(partial(self._compare, uncompared), lease=self._lease.id)
        agreements = {other.id: self._comparison.agreement(other) for other in earlier}
        agreeing = {other: found.share for other, found in agreements.items() if found.agrees}
        delivered = ReceiptDelivered(
            at=moment.at,
            worker=self._lease.worker,
            lease=self._lease.id,
            outcome=self._outcome,
            stage_hashes=stage_hashes(self._receipt),
            stage_wall_us=self._stage_wall_us(),
            agrees_with=tuple(agreeing),
            shares=tuple(agreeing.values()) if any(agreeing.values()) else (),
            proofs=tuple((other, found.proof) for other, found in agreements.items() if found.proof),
            must_be_confirmed=self._must_be_confirmed,
            problem=_problem_of(self._result),
            seed=moment.seed,
        )
        # A repeated or late delivery changes nothing, so what was kept of the first one stays.
        is_open = self._lease.state is LeaseState.OPEN
        return Decision(event=delivered, records=(self._delivery,) if is_open else ())

    def _earlier_results(self) -> list[Lease]:
        """The results that this one is compared with: none where the market ignores what it agrees with."""
        if self._lease.state is not LeaseState.OPEN and self._lease.blame_at is None:
            return []
        return [other for other in self._results.results_of(self._lease.job) if other.id != self._lease.id]

    async def _compare(self, others: Sequence[Lease]) -> None:
        for other in others:
            await self._comparison.compare_documents(self._delivery, other)

    def _stage_wall_us(self) -> tuple[int, ...]:
        """How long the stages took: of use where there are several, and unknown of one that failed."""
        stages = self._receipt.stages
        if len(stages) < 2 or isinstance(self._result, Failed):
            return ()
        return tuple(stage.wall_us for stage in stages)


def outcome_of(result: JobOutcome) -> str:
    """What identifies the outcome in the market: the output's CID, or `failed:<stage>:<code>`."""
    return result.output if isinstance(result, Returned) else f"{FAILED_PREFIX}{result.stage}:{result.code}"


def stage_hashes(receipt: Receipt) -> tuple[tuple[str, str], ...]:
    """The stages that a receipt reports, each with the hash of its output, as the market compares them."""
    return tuple((stage.stage, stage.output) for stage in receipt.stages)


def delivery_of(
    lease: str, signed: SignedReceipt, *, output: bytes | None = None, output_cid: str = ""
) -> Delivery:
    """The record that keeps a lease's receipt, and its output if it has one."""
    return Delivery(
        id=lease,
        payload=signed.payload,
        public_key=signed.public_key,
        signature=signed.signature,
        output=output,
        output_cid=output_cid,
    )


def _problem_of(result: JobOutcome) -> Problem | None:
    if isinstance(result, Returned):
        return None
    return STAGE_FAILURES[result.code](result.detail, stage=result.stage).to_problem()
