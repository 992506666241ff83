"""Collects a run's figures from what the market saves, given what is true of each job."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from tradepost.protocol import JobStatus
from tradepost_broker.market.core import Market
from tradepost_broker.market.ledger import Kind
from tradepost_broker.market.model.entities import (
    Job,
    Lease,
    LeasePurpose,
    Match,
    Transfer,
    Worker,
    WorkerStanding,
)
from tradepost_broker.market.model.events import Event, Instruction, ReceiptDelivered, Save
from tradepost_broker.market.model.job_states import FINAL
from tradepost_broker.market.model.lease_states import LOST, WITH_RECEIPT
from tradepost_broker.simulation.figures.figures import ConfidenceFigures, TeamFigures
from tradepost_broker.simulation.world import outputs
from tradepost_broker.simulation.world.broker import Observer
from tradepost_broker.simulation.world.world import Input, World

#: What a work unit of a run costs the worker that makes it.
COST_PER_UNIT_MICROCREDITS: Final = 8


class Collector(Observer):
    """Counts. `team_of` gives the figures of a worker's model, `accounts` those of an account's hand."""

    def __init__(self, world: World) -> None:
        self.team_of: dict[str, TeamFigures] = {}
        self.accounts: dict[str, TeamFigures] = {}
        self.confidences: dict[float, ConfidenceFigures] = {}
        #: Accepted jobs of customers, and how many of them had a reference run.
        self.accepted = 0
        self.checked = 0
        self.open_jobs = 0
        self.open_customers_jobs = 0
        self._world = world
        self._open: dict[str, bool] = {}
        self._latencies: dict[float, list[float]] = defaultdict(list)
        self._leases_of: dict[str, dict[str, Lease]] = defaultdict(dict)
        #: Jobs that were accepted with a wrong result, and the teams whose results these were.
        self._wrong: dict[str, ConfidenceFigures] = {}
        self._ended: set[str] = set()
        self._checked: set[str] = set()
        #: Jobs whose verdict has changed.
        self._changed: set[str] = set()
        #: Jobs that were run again and have ended.
        self._redone: set[str] = set()
        self._standings: dict[str, WorkerStanding] = {}

    def decided(self, event: Event, answer: Sequence[Instruction], market: Market) -> None:
        """Take one event into account."""
        jobs: list[Job] = []
        for instruction in answer:
            if not isinstance(instruction, Save):
                continue
            match instruction.record:
                case Lease() as lease:
                    self._take_lease(lease, event)
                case Job() as job:
                    jobs.append(job)
                case Match() as match:
                    self.team_of[match.candidates[0].worker].leases += 1
                case Transfer() as transfer:
                    self._take_transfer(transfer)
                case Worker() as worker:
                    self._take_worker(worker)
        for job in jobs:
            self._take_job(job)

    def finish(self) -> None:
        """Compute the quantiles."""
        for confidence, latencies in self._latencies.items():
            latencies.sort()
            figures = self.confidences[confidence]
            figures.latency_p50_s = round(latencies[len(latencies) // 2], 3)
            figures.latency_p95_s = round(latencies[len(latencies) * 95 // 100], 3)

    def _take_lease(self, lease: Lease, event: Event) -> None:
        if lease.job not in self._ended:
            self._leases_of[lease.job][lease.id] = lease
        team = self.team_of[lease.worker]
        if isinstance(event, ReceiptDelivered) and lease.id == event.lease and lease.state in WITH_RECEIPT:
            team.results += 1
            team.wrong_results += self._is_wrong(lease)
            if lease.purpose is LeasePurpose.AUDIT:
                self._note_check(lease.job)
        if lease.state in LOST and lease.settled_at == event.at and not lease.paid_microcredits:
            team.leases_lost += 1

    def _take_transfer(self, transfer: Transfer) -> None:
        amount_microcredits = transfer.amount_microcredits
        match transfer.kind:
            case Kind.PAY | Kind.PAY_STAGES | Kind.PAY_BEGUN:
                self.team_of[_owner(transfer.credit)].paid_microcredits += amount_microcredits
                self.accounts[_owner(transfer.debit)].spent_microcredits += amount_microcredits
            case Kind.CLAW_BACK:
                self.team_of[_owner(transfer.debit)].clawed_back_microcredits += amount_microcredits
                self.accounts[_owner(transfer.credit)].spent_microcredits -= amount_microcredits
            case Kind.SLASH:
                self.team_of[_owner(transfer.debit)].slashed_microcredits += amount_microcredits

    def _take_worker(self, worker: Worker) -> None:
        before = self._standings.get(worker.id, WorkerStanding.ACTIVE)
        self._standings[worker.id] = worker.standing
        if worker.standing is before:
            return
        team = self.team_of[worker.id]
        team.suspended += worker.standing is WorkerStanding.SUSPENDED
        team.expelled += worker.standing is WorkerStanding.EXPELLED

    def _take_job(self, job: Job) -> None:
        if job.status not in FINAL:
            if job.id in self._ended:
                self._take_contradiction(job)
            if job.id not in self._open:
                customers = self._open[job.id] = not self.accounts[job.account].hostile
                self.open_jobs += 1
                self.open_customers_jobs += customers
            return
        if job.id in self._open:
            self.open_jobs -= 1
            self.open_customers_jobs -= self._open.pop(job.id)
        if job.id in self._ended:
            self._take_contradiction(job)
            self._take_redone(job)
            return
        self._ended.add(job.id)
        leases = self._leases_of.pop(job.id, {})
        hand = self.accounts[job.account]
        if hand.hostile:
            if self._world.outcomes_are_visible and not job.paid_microcredits:
                hand.unpaid_results += any(outputs.is_right(one.outcome) for one in leases.values())
            return
        figures = self.confidences.setdefault(job.confidence, ConfidenceFigures(confidence=job.confidence))
        figures.jobs += 1
        assert job.finished_at is not None
        self._latencies[job.confidence].append(job.finished_at - job.submitted_at)
        if job.status is JobStatus.CANCELLED:
            figures.cancelled += 1
        elif job.status is JobStatus.FAILED:
            figures.failed += 1
        else:
            self._take_accepted(job, leases, figures)

    def _take_accepted(self, job: Job, leases: dict[str, Lease], figures: ConfidenceFigures) -> None:
        figures.accepted += 1
        self.accepted += 1
        self.checked += job.id in self._checked
        figures.results += sum(
            one.state in WITH_RECEIPT and one.purpose is not LeasePurpose.AUDIT for one in leases.values()
        )
        first = leases[job.accepted[0]]
        if self._is_wrong(first):
            figures.wrong_accepted += 1
            figures.wrong_at_maturity += 1
            self._wrong[job.id] = figures
            self.team_of[first.worker].wrong_accepted += 1

    def _take_contradiction(self, job: Job) -> None:
        """Take into account that a result which was accepted before is contradicted, or withdrawn."""
        is_changed = job.verdict_changed_at is not None
        if is_changed and job.id not in self._changed:
            self._changed.add(job.id)
            if not self.accounts[job.account].hostile:
                self._take_change(job)
        if is_changed or (job.verification is not None and job.verification.credibility == 0.0):
            figures = self._wrong.pop(job.id, None)
            if figures is not None:
                figures.wrong_at_maturity -= 1

    def _take_change(self, job: Job) -> None:
        figures = self.confidences[job.confidence]
        figures.redone += job.redone_after > 0
        figures.withdrawn += job.status is JobStatus.WITHDRAWN
        if job.redone_after or job.status is JobStatus.WITHDRAWN:
            figures.withdrawn_right += job.id not in self._wrong
        else:
            figures.corrected += 1

    def _take_redone(self, job: Job) -> None:
        """Take into account how a job has ended that was run again."""
        if not job.redone_after or job.id in self._redone or self.accounts[job.account].hostile:
            return
        self._redone.add(job.id)
        accepted = self._world.market.lease(job.accepted[0]) if job.accepted else None
        if accepted is not None and self._is_wrong(accepted):
            figures = self.confidences[job.confidence]
            figures.wrong_at_maturity += 1
            self._wrong[job.id] = figures

    def _note_check(self, job: str) -> None:
        self._checked.add(job)
        self.checked += job in self._ended and self._is_accepted_customers(job)

    def _is_accepted_customers(self, job: str) -> bool:
        known = self._world.market.job(job)
        return (
            known is not None
            and known.status is JobStatus.ACCEPTED
            and not self.accounts[known.account].hostile
        )

    def _is_wrong(self, lease: Lease) -> bool:
        truth = self._world.truths[lease.job]
        return truth.input is Input.ORDINARY and not outputs.is_right(lease.outcome)


def _owner(account: str) -> str:
    return account.partition(":")[2]
