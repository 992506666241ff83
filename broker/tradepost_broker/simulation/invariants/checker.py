"""All invariants, checked after each event. See `books`, `leases` and `verdicts` for what they are."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

import msgspec

from tradepost.protocol import JobStatus
from tradepost_broker.market.core import Market
from tradepost_broker.market.ledger import Kind
from tradepost_broker.market.model.entities import (
    Evidence,
    EvidenceKind,
    Job,
    Lease,
    LeasePurpose,
    LeaseState,
    Match,
    Transfer,
    Worker,
    WorkerStanding,
)
from tradepost_broker.market.model.events import (
    Event,
    Instruction,
    JobSubmitted,
    NotifyFinished,
    NotifyVerdictChanged,
    ReceiptDelivered,
    Save,
)
from tradepost_broker.market.model.job_states import FINAL
from tradepost_broker.market.model.lease_states import LIVE
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.simulation.invariants.books import Books, check_stage_payment
from tradepost_broker.simulation.invariants.broken import require
from tradepost_broker.simulation.invariants.leases import Leases
from tradepost_broker.simulation.invariants.snapshot import compare, compare_with_records
from tradepost_broker.simulation.invariants.verdicts import Verdicts
from tradepost_broker.simulation.world.broker import Observer
from tradepost_broker.simulation.world.disk import Disk

_OVERDUE_EVERY: Final = 16


class Checker(Observer):
    """Raises `SimulationFailure` when an answer of the market breaks an invariant."""

    def __init__(self, policy: MarketPolicy) -> None:
        self._policy = policy
        self._books = Books(policy)
        self._leases = Leases(policy)
        self._verdicts = Verdicts(policy)
        #: The newest version of every record that the market saved.
        self._seen = Disk(policy)
        self._workers: dict[str, Worker] = self._seen.records[Worker]
        self._jobs: dict[str, Job] = self._seen.records[Job]
        self._open: dict[str, Job] = {}
        self._ended: set[str] = set()
        self._ended_again: set[str] = set()
        #: Jobs whose submitters were told of another verdict.
        self._changed: set[str] = set()
        #: Until when each idempotency key stands for its job.
        self._keys: dict[tuple[str, str], float] = {}
        #: The job whose result came with the event at hand, if it may be chosen for a spot check.
        self._eligible = ""
        self._events = 0

    def decided(self, event: Event, answer: Sequence[Instruction], market: Market) -> None:
        """Check one event."""
        self._leases.event(event)
        self._note_receipt(event)
        if not answer:
            return
        records: dict[type, list[Any]] = defaultdict(list)
        for instruction in answer:
            if isinstance(instruction, Save):
                records[type(instruction.record)].append(instruction.record)
            elif isinstance(instruction, NotifyFinished):
                self._note_end(instruction.job)
            elif isinstance(instruction, NotifyVerdictChanged):
                require(instruction.job not in self._changed, f"job {instruction.job} changed twice")
                self._changed.add(instruction.job)
        if records:
            self._check(event, records)

    def _note_end(self, job: str) -> None:
        """Take in that a job has ended, which it does once, and again if its verdict changed before."""
        is_first = job not in self._ended
        require(is_first or job in self._changed - self._ended_again, f"job {job} ended twice")
        (self._ended if is_first else self._ended_again).add(job)

    def restarted(self, crashed: Market | None, restored: Market) -> None:
        """Check that a restart lost nothing that was committed."""
        if crashed is not None:
            compare(crashed, restored, self._open)

    def closed(self, market: Market, at: float) -> None:
        """Check, at the end of a run, that all came to rest and nothing was left unsaved."""
        require(not self._open, f"{len(self._open)} jobs never ended, such as {next(iter(self._open), '')}")
        in_doubt = [job.id for job in self._jobs.values() if job.in_doubt_until is not None]
        require(not in_doubt, f"{len(in_doubt)} jobs stay in doubt, such as {in_doubt[:1]}")
        self._check_overdue(at)
        compare_with_records(market, self._seen)
        self._books.at_rest()
        self._verdicts.checks_made()

    def _check(self, event: Event, records: dict[type, list[Any]]) -> None:
        for job in records[Job]:
            if job.id in self._open and job.status in FINAL:
                self._verdicts.before(job, self._seen.leases_of(job.id), event.at)
        before = {job.id: self._jobs.get(job.id) for job in records[Job]}
        standings = {worker.id: self._workers.get(worker.id) for worker in records[Worker]}
        granted = [lease for lease in records[Lease] if lease.id not in self._seen.records[Lease]]
        for record in chain.from_iterable(records.values()):
            self._seen.commit((record,))
        self._books.event(records, event.at)
        for lease in records[Lease]:
            self._leases.changed(lease, event.at)
            self._books.lease(lease)
        for evidence in records[Evidence]:
            self._check_evidence(evidence)
        for transfer in records[Transfer]:
            self._check_payment(transfer)
        for match in records[Match]:
            self._leases.matched(match)
        for lease in granted:
            worker = standings.get(lease.worker) or self._workers[lease.worker]
            self._check_grant(lease, worker)
        for worker in records[Worker]:
            self._check_worker(worker, standings[worker.id])
        for job in records[Job]:
            self._check_job(job, before[job.id], event)
        self._events += 1
        if self._events % _OVERDUE_EVERY == 0:
            self._check_overdue(event.at)
            self._seen.drop_old(event.at)

    def _note_receipt(self, event: Event) -> None:
        self._eligible = ""
        if not isinstance(event, ReceiptDelivered):
            return
        lease = self._seen.records[Lease].get(event.lease)
        if lease is None:
            return
        self._leases.late_receipt(event, lease, self._seen.leases_of(lease.job))
        if lease.state is LeaseState.OPEN and lease.purpose is not LeasePurpose.AUDIT:
            auditors = [worker.id for worker in self._workers.values() if worker.auditor]
            chosen_before = self._jobs[lease.job].spot_check or self._may_be_rechecked(lease)
            if not chosen_before and not self._is_dear(lease) and self._leases.any_connected(auditors):
                self._eligible = lease.job
                self._verdicts.results += 1

    def _is_dear(self, lease: Lease) -> bool:
        """Whether a result pays so much beside what its worker may lose that it is checked more often."""
        gain_microcredits = self._policy.cheat_gain_prices * lease.price_microcredits
        at_stake_microcredits = self._books.at_stake_microcredits(lease.worker)
        return gain_microcredits > self._policy.audit_rate * (gain_microcredits + at_stake_microcredits)

    def _may_be_rechecked(self, lease: Lease) -> bool:
        """Whether a result could be accepted alone, or with a usual partner's: it is checked more often."""
        policy = self._policy
        others = [
            one
            for one in self._seen.leases_of(lease.job)
            if one.state in LIVE and one.purpose is not LeasePurpose.AUDIT and one.id != lease.id
        ]
        if policy.agreeing_check_rate and any(one.state is LeaseState.DELIVERED for one in others):
            return True  # it may be that of a usual partner
        confidence = self._jobs[lease.job].confidence
        return bool(policy.recheck_rate) and confidence > 1 - policy.fault_fraction and not others

    def _check_evidence(self, evidence: Evidence) -> None:
        lease = self._seen.records[Lease][evidence.lease]
        require(
            not self._policy.lost_at_end or self._jobs[evidence.job].status in FINAL,
            f"{evidence.id}: the job has not ended",
        )
        self._verdicts.evidence(evidence, lease, self._seen.leases_of(evidence.job), self._workers)
        self._leases.evidence(evidence, lease)
        if evidence.kind is EvidenceKind.EXPIRED and lease.state is LeaseState.RECALLED:
            self._check_hold(evidence, lease)

    def _check_hold(self, evidence: Evidence, lease: Lease) -> None:
        """A recalled lease is evidence only if another owner's result ended the job, and not too soon.

        That is at least `late_s_min` after the grant. That the owner's first hold is excused is not checked.
        """
        job, owner = self._jobs[lease.job], self._workers[lease.worker].owner
        done_by = {self._workers[self._seen.records[Lease][one].worker].owner for one in job.accepted}
        require(bool(done_by - {owner}), f"{evidence.id}: no other owner did the job")
        require(job.finished_at is not None, f"{evidence.id}: the job is open")
        least_s = self._policy.late_s_min
        held_s = (job.finished_at or 0.0) - lease.granted_at
        require(held_s >= least_s, f"{evidence.id}: it was held for {held_s} s only")

    def _check_stage_payment(self, transfer: Transfer) -> None:
        leases = {one.id: one for one in self._seen.leases_of(transfer.job)}
        accepted = [leases[one] for one in self._jobs[transfer.job].accepted]
        check_stage_payment(leases[transfer.lease], transfer.amount_microcredits, accepted)

    def _check_payment(self, transfer: Transfer) -> None:
        if transfer.kind == Kind.MATURE:
            self._check_maturity(transfer)
        elif transfer.kind == Kind.PAY_STAGES:
            self._check_stage_payment(transfer)
        elif transfer.kind == Kind.PAY_BEGUN:
            self._check_begun_payment(transfer)

    def _check_maturity(self, transfer: Transfer) -> None:
        lease = self._seen.records[Lease].get(transfer.lease)
        if lease is None:
            return  # it has left memory
        worker, job = self._workers[lease.worker], self._jobs[lease.job]
        require(
            worker.examined_since is msgspec.UNSET or job.in_doubt_until is None,
            f"lease {transfer.lease} matured while it is examined",
        )

    def _check_begun_payment(self, transfer: Transfer) -> None:
        job = self._jobs[transfer.job]
        lease = self._seen.records[Lease][transfer.lease]
        accepted = [self._seen.records[Lease][one] for one in job.accepted]
        require(
            all(one.purpose is LeasePurpose.AUDIT for one in accepted),
            f"job {job.id} has an accepted result, and pays lease {lease.id} for begun work",
        )
        require(
            transfer.amount_microcredits <= lease.price_microcredits,
            f"lease {lease.id} is paid {transfer.amount_microcredits} for begun work, its price was "
            f"{lease.price_microcredits}",
        )

    def _check_grant(self, lease: Lease, worker: Worker) -> None:
        others = [
            self._workers[one.worker].owner
            for one in self._seen.leases_of(lease.job)
            if one.state in LIVE and one.id != lease.id
        ]
        self._leases.granted(lease, worker, self._jobs[lease.job], others)
        self._leases.load(lease, self._workers[lease.worker])

    def _check_worker(self, worker: Worker, known: Worker | None) -> None:
        if worker.standing is WorkerStanding.EXPELLED:
            self._verdicts.expelled(worker)
            self._leases.expelled(worker)
            self._books.expelled(worker)
        elif known is not None:
            require(known.standing is not WorkerStanding.EXPELLED, f"{worker.id} was expelled and is back")

    def _check_job(self, job: Job, known: Job | None, event: Event) -> None:
        siblings = self._seen.leases_of(job.id)
        if known is None:
            require(isinstance(event, JobSubmitted), f"job {job.id} was never submitted")
            expires_at = self._keys.get((job.account, job.idempotency_key), 0.0)
            require(event.at >= expires_at, f"the key of job {job.id} still stands for another one")
            self._keys[job.account, job.idempotency_key] = math.inf
        if job.spot_check and job.id == self._eligible:
            self._verdicts.chosen += 1
        self._books.job(job, siblings)
        is_changed = job.verdict_changed_at is not None
        require(is_changed == (job.id in self._changed), f"job {job.id} changed, and nobody was told")
        if is_changed and known is not None and known.verdict_changed_at is None:
            self._verdicts.changed(job, known, siblings, self._workers)
        siblings = [one for one in siblings if one.attempt > job.redone_after]
        if job.status not in FINAL:
            self._open[job.id] = job
            return
        require(job.id in self._ended, f"job {job.id} ended, and its submitter was not notified")
        is_redone = job.redone_after > 0
        require(is_redone == (job.id in self._ended_again), f"job {job.id} ended again, and nobody was told")
        if known is not None and known.status in FINAL and (known.redone_after or not is_redone):
            return
        self._open.pop(job.id, None)
        self._leases.in_time(job.id, job.deadline_at, event.at)
        self._keys[job.account, job.idempotency_key] = event.at + self._policy.idempotency_s
        undecided = [one.id for one in siblings if one.state is LeaseState.DELIVERED]
        require(not undecided, f"job {job.id} ended and leaves {undecided} without a verdict")
        if job.status is JobStatus.ACCEPTED or job.accepted:
            self._verdicts.accepted(job, siblings, self._workers, event.at)

    def _check_overdue(self, at: float) -> None:
        self._leases.overdue(at)
        for job in self._open.values():
            self._leases.in_time(job.id, job.deadline_at, at)
