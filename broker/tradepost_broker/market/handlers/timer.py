"""Events caused by time: leases expire, workers stay absent, payments mature, deadlines of jobs pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tradepost.errors import LeaseGone, WorkerLost
from tradepost_broker.market.matching import advance_job, failure_reasons
from tradepost_broker.market.model.entities import EvidenceKind, LeaseState
from tradepost_broker.market.model.events import Tick
from tradepost_broker.market.model.lease_states import LeaseTrigger
from tradepost_broker.market.settling import (
    break_offs,
    late_receipts,
    owner_examination,
    payments,
    reexamination,
    reference_verdicts,
    revocation,
    settlement,
)
from tradepost_broker.market.settling.begun_work import Cause
from tradepost_broker.market.state.market_state import MarketState
from tradepost_broker.market.state.timers import TimerPurpose
from tradepost_broker.market.state.worker_state import in_order

_OF_OPEN_LEASES: Final = frozenset({TimerPurpose.LEASE_EXPIRY, TimerPurpose.LATENESS})
_OF_JOBS: Final = frozenset(
    {
        TimerPurpose.DEADLINE,
        TimerPurpose.PATIENCE,
        TimerPurpose.RETIREMENT,
        TimerPurpose.ACCUSATION,
        TimerPurpose.DOUBT,
    }
)


def tick(state: MarketState, event: Tick) -> None:
    """Do what is due, and review what waiting jobs may hope for; what is too much for one tick stays due.

    What would end a lease whose receipt has arrived waits, and stays due since the same time: a replay, which
    has no ticks that did nothing, then does it in the same order.
    """
    arrived = frozenset(event.arrived)
    kept: list[tuple[float, TimerPurpose, str]] = []
    for at, purpose, subject in state.timers.due(event.at):
        state.job_at_hand = _job_of(state, purpose, subject)
        if arrived and not arrived.isdisjoint(_leases_ended_by(state, purpose, subject)):
            kept.append((at, purpose, subject))
            continue
        _HANDLERS[purpose](state, subject)
        # What leaves memory changes nothing else: a replay, which lacks ticks that did no more, is not to
        # count it.
        if purpose not in _FORGETTING:
            state.jobs_reviewed += 1
            state.has_progressed = True
        if not state.may_review():
            break
    # What waits for a receipt is not among it: to look at it again at once would be no use.
    state.is_cut_short = state.timers.is_due(event.at)
    for at, purpose, subject in kept:
        state.job_at_hand = _job_of(state, purpose, subject)
        # Unless a deadline that was due as well has ended the leases.
        if not arrived.isdisjoint(_leases_ended_by(state, purpose, subject)):
            state.timers.put(purpose, subject, at)
        elif purpose not in _OF_OPEN_LEASES:
            _HANDLERS[purpose](state, subject)
    revocation.end_revoked(state)
    advance_job.review_waiting(state)


def forget_due(state: MarketState) -> None:
    """Let all leave memory whose time to do so has come."""
    for purpose in _FORGETTING:
        for subject in state.timers.take_due(purpose, state.at):
            _HANDLERS[purpose](state, subject)


def _job_of(state: MarketState, purpose: TimerPurpose, subject: str) -> str:
    """The job that a timer is about; "" if it is about a worker or a key."""
    if subject in state.leases:
        return state.leases[subject].job
    return subject if subject in state.jobs and purpose in _OF_JOBS else ""


def _leases_ended_by(state: MarketState, purpose: TimerPurpose, subject: str) -> list[str]:
    """The open leases that this timer would end, or that keep a finished job in memory."""
    match purpose:
        case TimerPurpose.LEASE_EXPIRY | TimerPurpose.LATENESS:
            # With a policy that retains nothing, its job may have left memory in this very tick.
            lease = state.leases.get(subject)
            return [subject] if lease is not None and lease.state is LeaseState.OPEN else []
        case TimerPurpose.ABSENCE:
            return list(state.workers[subject].open)
        case TimerPurpose.RETIREMENT | TimerPurpose.ACCUSATION | TimerPurpose.DOUBT:
            return [lease.id for lease in state.live_leases(state.jobs[subject])]
        case _:
            return []


def _expire_lease(state: MarketState, lease_id: str) -> None:
    lease = state.leases[lease_id]
    problem = LeaseGone(f"lease {lease_id} expired").to_problem()
    if state.workers[lease.worker].connected:
        # Right after a restart, it has perhaps not been able to say yet that it is done.
        evidence = None if state.was_interrupted(lease) else EvidenceKind.EXPIRED
        settlement.lose(
            state, lease, LeaseTrigger.EXPIRED, problem, evidence=evidence, run_failed=evidence is not None
        )
    else:
        late_receipts.lose(state, lease, problem)


def _give_up_absent(state: MarketState, worker_id: str) -> None:
    problem = WorkerLost(f"worker {worker_id} disconnected").to_problem()
    for lease in in_order(state.workers[worker_id].open):
        if not state.may_review():
            state.timers.put(TimerPurpose.ABSENCE, worker_id, state.at)
            return
        state.jobs_reviewed += 1
        state.job_at_hand = lease.job
        late_receipts.lose(state, lease, problem)


def _blame(state: MarketState, lease_id: str) -> None:
    late_receipts.expire(state, state.leases[lease_id])


def _mature(state: MarketState, lease_id: str) -> None:
    lease = state.leases[lease_id]
    until = max(state.accused_until(lease.worker), owner_examination.held_until(state, lease))
    if reexamination.is_due(state, lease):
        reexamination.take(state, lease)
    elif until > (lease.matures_at or 0.0 if state.policy.matures_in_order else state.at):
        # Where the tick comes late, `until` may be over: then what was due by then is done first.
        payments.hold_until(state, lease, until)
    else:
        payments.mature(state, lease)


def _end_accusation(state: MarketState, job_id: str) -> None:
    reference_verdicts.give_up(state, state.jobs[job_id])


def _end_doubt(state: MarketState, job_id: str) -> None:
    reexamination.give_up(state, state.jobs[job_id])


def _end_late_job(state: MarketState, job_id: str) -> None:
    job = state.jobs[job_id]
    if advance_job.accept_unchecked(state, job):
        return
    settlement.fail(state, job, failure_reasons.deadline_exceeded(state, job), Cause.DEADLINE)


def _end_patience(state: MarketState, job_id: str) -> None:
    state.jobs_to_advance[job_id] = None


def _retire(state: MarketState, job_id: str) -> None:
    """Let a finished job leave memory, unless a payment is held, a receipt awaited or a check to come."""
    job = state.jobs[job_id]
    leases = [*state.earlier_leases_of.get(job_id, ()), *state.leases_of[job_id]]
    # By their timers: a lease that outlives a restart ends later than it says.
    purposes = (TimerPurpose.MATURITY, TimerPurpose.BLAME, TimerPurpose.LEASE_EXPIRY)
    pending = [
        at
        for lease in leases
        for purpose in purposes
        if (at := state.timers.due_at(purpose, lease.id)) is not None
    ]
    pending += [until for until in (job.accused_until, job.in_doubt_until) if until is not None]
    if job.spot_check and not pending and state.at < settlement.check_until(state, job):
        pending.append(settlement.check_until(state, job))
    if pending:
        # If that is past, their own timers come first: see `TimerPurpose`.
        state.timers.put(TimerPurpose.RETIREMENT, job_id, max(pending))
        return
    if job.spot_check:
        # No auditor had time for it while there was something to claw back.
        job.spot_check = False
        state.audits_wanted.discard(job_id)
        state.save(job)
    state.forget_job(job)


def _forget_key(state: MarketState, key: str) -> None:
    account, _, idempotency_key = key.partition("\x00")
    entry = state.idempotency_keys[account, idempotency_key]
    # Unless it has come to stand for another job, between its expiry and this sweep.
    if entry.expires_at is not None and entry.expires_at <= state.at:
        del state.idempotency_keys[account, idempotency_key]


def _find_late(state: MarketState, lease_id: str) -> None:
    """Have a job looked at whose lease takes too long."""
    state.watches[lease_id].is_late = True
    job = state.jobs[state.leases[lease_id].job]
    state.save(job)
    state.jobs_to_advance[job.id] = None


def _end_cooling_off(state: MarketState, owner: str) -> None:
    break_offs.end_cooling_off(state, owner)


_FORGETTING: Final = (TimerPurpose.RETIREMENT, TimerPurpose.KEY_EXPIRY)

_HANDLERS: Final[dict[TimerPurpose, Callable[[MarketState, str], None]]] = {
    TimerPurpose.LEASE_EXPIRY: _expire_lease,
    TimerPurpose.ABSENCE: _give_up_absent,
    TimerPurpose.BLAME: _blame,
    TimerPurpose.ACCUSATION: _end_accusation,
    TimerPurpose.DOUBT: _end_doubt,
    TimerPurpose.MATURITY: _mature,
    TimerPurpose.DEADLINE: _end_late_job,
    TimerPurpose.PATIENCE: _end_patience,
    TimerPurpose.RETIREMENT: _retire,
    TimerPurpose.KEY_EXPIRY: _forget_key,
    TimerPurpose.LATENESS: _find_late,
    TimerPurpose.COOLING_OFF: _end_cooling_off,
}
