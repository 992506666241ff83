"""The ends of leases that workers report: with a receipt, or given back without one.

What comes for a lease that is not open any more harms nobody: a worker repeats what was not acknowledged, so
a second receipt is answered like the first, and one that comes too late is told so.
"""

from __future__ import annotations

from typing import Final

from tradepost.errors import InputTooCostly, LeaseGone, Problem
from tradepost.protocol import GiveBackReason
from tradepost_broker.market.model.entities import (
    EvidenceKind,
    Job,
    Lease,
    LeasePurpose,
    LeaseState,
    is_failure,
)
from tradepost_broker.market.model.events import (
    LeaseGivenBack,
    ReceiptDelivered,
    SendAcknowledged,
    SendSettled,
)
from tradepost_broker.market.model.lease_states import WITH_RECEIPT, LeaseTrigger
from tradepost_broker.market.settling import (
    break_offs,
    late_receipts,
    rechecks,
    reference_verdicts,
    settlement,
    stage_proofs,
)
from tradepost_broker.market.state.market_state import MarketState

#: How much earlier than the broker a worker may find a time to be over: leases end on whole seconds.
_OUT_OF_TIME_S_EARLY: Final = 1.0
_CODE_MAX: Final = 64
_TEXT_MAX: Final = 500


def deliver(state: MarketState, event: ReceiptDelivered) -> None:
    """A result is in: commit to it, group it, and perhaps choose it for a check."""
    lease = state.leases.get(event.lease)
    if lease is None or lease.worker != event.worker or lease.state is not LeaseState.OPEN:
        if lease is not None and lease.worker == event.worker:
            state.is_repeated = not late_receipts.forgive(state, lease, event)
        else:
            state.is_repeated = True
        _answer_again(state, event, lease)
        return
    if (watch := state.watches.get(lease.id)) is not None:
        watch.run_s = event.at - lease.granted_at
    lease.outcome = event.outcome
    lease.stage_hashes = event.stage_hashes
    lease.stage_wall_us = event.stage_wall_us
    lease.must_be_confirmed = event.must_be_confirmed or is_failure(event.outcome)
    lease.shares = dict(zip(event.agrees_with, event.shares, strict=False))
    stage_proofs.note(state, lease, event)
    job = state.jobs[lease.job]
    agrees_with = frozenset(event.agrees_with)
    if lease.purpose is LeasePurpose.AUDIT:
        lease.group = lease.id
        state.close_lease(lease, LeaseTrigger.RECEIPT_DELIVERED, event.problem)
        state.send(SendAcknowledged(lease.id, lease.worker))
        reference_verdicts.apply(state, lease, agrees_with)
        return
    peers = state.ordinary_leases(job, LeaseState.DELIVERED)
    lease.group = stage_proofs.group_of(lease, peers, agrees_with)
    state.close_lease(lease, LeaseTrigger.RECEIPT_DELIVERED, event.problem)
    if lease.must_be_confirmed and lease.group == lease.id:
        _leave_room_for_others(job, lease)
    rechecks.choose(state, job, lease)
    state.send(SendAcknowledged(lease.id, lease.worker))
    state.save(job)
    state.jobs_to_advance[job.id] = None


def give_back(state: MarketState, event: LeaseGivenBack) -> None:
    """A worker returned a lease. Only failing is held against it; what its owner wants never is.

    It is held against it if somebody else succeeds: what fails on every device is its submitter's fault, or
    its publisher's. A receipt that is not valid is the worker's own fault, whatever the job. Running out of
    time is no failure where the time was over: submitters set the deadline, and publishers the time limit,
    so that either could lower any score. Before that, to claim it is to fail.

    What a preempted one had done is kept: it is paid if the job's result confirms it.
    """
    lease = state.leases.get(event.lease)
    if lease is None or lease.worker != event.worker or lease.state is not LeaseState.OPEN:
        state.is_repeated = True
        state.send(SendAcknowledged(event.lease, event.worker))
        return
    state.send(SendAcknowledged(lease.id, lease.worker))
    problem = _bounded(event.problem)
    refused = event.reason is GiveBackReason.REFUSED
    if refused:
        state.workers[lease.worker].refused[state.jobs[lease.job].pipeline] = problem
        state.supply_changed = True
    lease.stage_hashes = event.stage_hashes
    if event.reason is GiveBackReason.PREEMPTED:
        break_offs.charge(state, lease)
    settlement.lose(
        state,
        lease,
        LeaseTrigger.PREEMPTED if event.reason is GiveBackReason.PREEMPTED else LeaseTrigger.GIVEN_BACK,
        problem,
        evidence=EvidenceKind.FAILED if event.forged else None,
        pending_evidence=EvidenceKind.FAILED if _may_be_blamed(state, lease, event) else None,
        counts=_counts(state, lease, event.reason),
        run_failed=not event.forged and event.reason in (GiveBackReason.FAILED, GiveBackReason.EXHAUSTED),
    )


def _counts(state: MarketState, lease: Lease, reason: GiveBackReason) -> bool:
    """Whether the job has one attempt less. The first time, an owner who wants the device costs it none.

    Else a few owners who underbid, and preempt each lease, would fail every job that others can do.
    """
    if reason is GiveBackReason.PREEMPTED and state.policy.losses_by_owner:
        return state.loser(state.workers[lease.worker]) in state.losers(state.jobs[lease.job])
    return reason is not GiveBackReason.REFUSED


def _leave_room_for_others(job: Job, lease: Lease) -> None:
    """Lower the price to a third of the cap, if it is more.

    So there is something left for the result that confirms it, and for one that decides if that one differs.
    """
    excess_microcredits = lease.price_microcredits - job.cap_microcredits // 3
    if excess_microcredits > 0:
        lease.price_microcredits -= excess_microcredits
        job.committed_microcredits -= excess_microcredits


def _may_be_blamed(state: MarketState, lease: Lease, event: LeaseGivenBack) -> bool:
    """Whether this is held against the worker once somebody else succeeds."""
    if event.forged:
        return False  # it is blamed at once
    if state.policy.interrupted_excused and state.was_interrupted(lease):
        return False  # what it needed from the broker, or had to tell it in time, it could not
    if event.reason is GiveBackReason.EXHAUSTED:
        pipeline = state.pipelines[state.jobs[lease.job].pipeline]
        over_at = min(lease.expires_at, lease.granted_at + pipeline.wall_s)
        return event.at < over_at - _OUT_OF_TIME_S_EARLY
    if event.problem.code == InputTooCostly.code():
        return False  # another device may have more memory
    return event.reason is GiveBackReason.FAILED


def _bounded(problem: Problem) -> Problem:
    """As much of a worker's own words as is kept, and may be shown to the submitter."""
    return Problem(
        code=problem.code[:_CODE_MAX],
        title=problem.title[:_TEXT_MAX],
        detail=problem.detail[:_TEXT_MAX],
        status=problem.status,
        fault=problem.fault[:_CODE_MAX],
    )


def _answer_again(state: MarketState, event: ReceiptDelivered, lease: Lease | None) -> None:
    if lease is None or lease.worker != event.worker or lease.state not in WITH_RECEIPT:
        gone = LeaseGone(f"lease {event.lease}").to_problem()
        state.send(SendAcknowledged(event.lease, event.worker, gone))
        return
    settled_at = lease.settled_at
    if settled_at is not None and event.at >= settled_at + state.policy.retain_s:
        # As if it had left memory, which it may have: time decides, not when a tick swept.
        gone = LeaseGone(f"lease {event.lease}").to_problem()
        state.send(SendAcknowledged(event.lease, event.worker, gone))
        return
    state.send(SendAcknowledged(lease.id, lease.worker))
    if settled_at is not None:
        state.send(
            SendSettled(lease.id, lease.worker, lease.state.value, lease.paid_microcredits, "settled before")
        )
