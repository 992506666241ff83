"""Advances a job: decides from its results to lease, wait, audit, settle or fail it.

`advance` is called for every job whose leases changed, `serve` for every worker that has capacity again. Both
run at the end of an event, so an event's own change is complete before anything is decided from it.
"""

from __future__ import annotations

import math
from typing import Final

from tradepost_broker.market.matching import exhaustion, failure_reasons
from tradepost_broker.market.matching.eligible_offers import EligibleOffers
from tradepost_broker.market.matching.grant import grant, request_audit
from tradepost_broker.market.matching.matching import choose, may_run
from tradepost_broker.market.matching.outlook import Outlook, outlook
from tradepost_broker.market.matching.viability import auditor_available, auditor_in_time
from tradepost_broker.market.model.amounts import bid_for
from tradepost_broker.market.model.entities import Job, LeasePurpose, LeaseState
from tradepost_broker.market.model.job_states import FINAL
from tradepost_broker.market.settling import (
    owner_examination,
    quarantine,
    rechecks,
    reexamination,
    revocation,
    settlement,
)
from tradepost_broker.market.state.market_state import MarketState
from tradepost_broker.market.state.timers import TimerPurpose
from tradepost_broker.market.state.worker_state import WorkerState
from tradepost_broker.market.trust.verification import (
    Accept,
    GiveUp,
    GroupedResult,
    NeedAudit,
    NeedReplica,
    NextStep,
    decide,
)

#: To see that a waiting job needs no review, or to know its outlook from another, takes so much less time.
_LOOKS_PER_JOB: Final = 64


def advance_all(state: MarketState) -> None:
    """Advance every job and serve every worker that events touched, until nothing is left to do.

    What is too much for one event is left for the next.
    """
    while state.has_more_to_do and state.may_advance():
        state.has_progressed = True
        if state.jobs_to_advance:
            job_id = next(iter(state.jobs_to_advance))
            del state.jobs_to_advance[job_id]
            if job_id in state.jobs:
                advance(state, state.jobs[job_id])
        elif state.examinations.to_reexamine:
            reexamination.take_next(state)
        elif state.examinations.changed:
            owner_examination.review_next(state)
        else:
            worker_id, is_new = next(iter(state.workers_freed.items()))
            del state.workers_freed[worker_id]
            serve(state, state.workers[worker_id], is_new=is_new)


def advance(state: MarketState, job: Job) -> None:
    """Bring a job as far as it can get now."""
    state.job_at_hand = job.id
    state.jobs_advanced += 1
    if revocation.end_if_revoked(state, job):
        return
    if job.status in FINAL:
        if job.spot_check:
            request_audit(state, job)
        return
    step = _next_step(state, job)
    if isinstance(step, NeedReplica) and _is_stopped(state, job):
        return
    while isinstance(step, NeedReplica):
        if exhaustion.is_exhausted(state, job):
            if accept_unchecked(state, job):
                return
            settlement.fail(state, job, failure_reasons.worker_lost(state, job))
            return
        if not _lease(state, job, step.log_odds_missing):
            _wait(state, job, step.log_odds_missing)
            return
        step = _next_step(state, job)
    _stop_waiting(state, job)
    match step:
        case Accept(group, credibility):
            settlement.accept(state, job, group, credibility)
        case NeedAudit():
            request_audit(state, job)
        case GiveUp(credibility):
            settlement.fail(state, job, failure_reasons.not_verified(state, job, credibility))


def accept_unchecked(state: MarketState, job: Job) -> bool:
    """Accept a result that would be believed alone, without the second one that nobody gives; whether so."""
    if not rechecks.lift(state, job):
        return False
    step = _next_step(state, job)
    if not isinstance(step, Accept):
        return False
    _stop_waiting(state, job)
    settlement.accept(state, job, step.group, step.credibility)
    return True


def serve(state: MarketState, worker: WorkerState, *, is_new: bool) -> None:
    """Give a worker that has capacity again what waits for it.

    Jobs that no standing offer could take are tried only if its offer `is_new`. Those that found no worker go
    to the end, and `rematches_max` of them are enough: a queue of hopeless jobs must not hold up the market.
    """
    if worker.record.auditor:
        _serve_auditor(state, worker)
        return
    tries_left = state.policy.rematches_max - state.tries_used.pop(worker.record.id, 0)
    offer = worker.seat.offer if worker.seat else None
    waiting = state.job_queue.suited(offer, looks_max=state.policy.waiting_looks_max) if offer else ()
    for job in waiting:
        if worker.seat is None or not worker.seat.idle or tries_left == 0:
            return
        if not state.may_advance():
            state.workers_freed[worker.record.id] = is_new
            state.tries_used[worker.record.id] = state.policy.rematches_max - tries_left
            return
        state.job_at_hand = job
        if job in state.job_queue and _may_take(state, worker, state.jobs[job], is_new=is_new):
            attempts = state.jobs[job].attempts
            advance(state, state.jobs[job])
            if state.jobs[job].attempts == attempts:
                tries_left -= 1
                state.job_queue.postpone(job)


def review_waiting(state: MarketState) -> None:
    """Have those waiting jobs looked at for which there is somebody now, or nobody any more.

    A review that one event has no time for goes on with the next tick. Its jobs are judged by what is offered
    when their turn comes; what changes after that is the next review's.
    """
    _begin_review(state)
    seen: dict[tuple[object, ...], bool] = {}
    limit = state.policy.jobs_per_event_max or math.inf
    looks_left = limit * _LOOKS_PER_JOB
    while state.to_review and state.may_review() and len(state.jobs_to_advance) < limit and looks_left > 0:
        looks_left -= 1
        job_id = next(iter(state.to_review))
        del state.to_review[job_id]
        state.has_progressed = True
        job = state.jobs.get(job_id)
        if job is None or job_id not in state.job_queue:
            continue
        state.job_at_hand = job_id
        if state.ordinary_leases(job, LeaseState.OPEN):
            continue
        # Fresh jobs that ask the same have the same outlook, and there may be very many of them.
        fresh = (job.pipeline, job.requirements, job.units, job.max_price_microcredits, job.confidence)
        kind: tuple[object, ...] = (job.id,) if job.attempts else fresh
        if kind not in seen:
            state.jobs_reviewed += 1
            step = _next_step(state, job)
            missing = step.log_odds_missing if isinstance(step, NeedReplica) else 0.0
            seen[kind] = _prospect(state, job, missing) is Outlook.POSSIBLE
        if seen[kind] != (job.unmatched_since is None):
            state.jobs_to_advance[job.id] = None


def _begin_review(state: MarketState) -> None:
    if state.to_review or not state.supply_changed:
        return
    # Without jobs there is nothing to review, and a replay, which lacks the tick, does not know of it.
    if len(state.job_queue) or state.policy.jobs_per_event_max == 0:
        state.supply_changed = False
        state.to_review = dict.fromkeys(state.job_queue)
        state.has_progressed = True


def _next_step(state: MarketState, job: Job) -> NextStep:
    """What `verification.decide` says of the job as it stands."""
    scope = state.scope(job)
    results: list[GroupedResult] = []
    open_log_odds: list[float] = []
    hedges_left = state.policy.hedges_max
    for lease in state.live_leases(job):
        if lease.purpose is LeasePurpose.AUDIT:
            continue
        if hedges_left and lease.state is LeaseState.OPEN and state.is_late(lease):
            hedges_left -= 1  # another is granted as if this one were lost; the first result counts
            continue
        log_odds = state.workers[lease.worker].belief(scope, state.day).log_odds
        if lease.state is LeaseState.OPEN:
            open_log_odds.append(log_odds)
        else:
            must_be_confirmed = lease.must_be_confirmed or lease.recheck
            results.append(GroupedResult(lease.id, lease.group, log_odds, must_be_confirmed))
    contested = len({result.group for result in results}) > 1
    return decide(
        results,
        open_log_odds=open_log_odds,
        confidence=job.confidence,
        auditor_available=contested and auditor_in_time(state, job),
        results_max=state.policy.results_max,
    )


def _is_stopped(state: MarketState, job: Job) -> bool:
    """Whether the job's pipeline is in quarantine: it gets no more leases, and fails if none is open."""
    error = quarantine.quarantined(state, job.pipeline, job.account)
    if error is not None and not state.ordinary_leases(job, LeaseState.OPEN):
        if accept_unchecked(state, job):
            return True
        settlement.fail(state, job, error)
    return error is not None


def _lease(state: MarketState, job: Job, log_odds_missing: float) -> bool:
    """Grant the job's next ordinary lease, if anybody can have it now."""
    award = choose(state, job, log_odds_missing, proven_only=exhaustion.needs_proven(state, job))
    if award is not None:
        grant(state, job, award)
    return award is not None


def _wait(state: MarketState, job: Job, log_odds_missing: float) -> None:
    """Let the job wait for a worker, or fail once its patience with nobody being there is over."""
    delivered = state.ordinary_leases(job, LeaseState.DELIVERED)
    if job.id not in state.job_queue:
        state.save(job)
    state.job_queue.add(job.id, state.need(job), has_results=bool(delivered))
    if state.ordinary_leases(job, LeaseState.OPEN):
        _set_unmatched(state, job, None)
        return
    prospect = _prospect(state, job, log_odds_missing)
    if prospect is not Outlook.POSSIBLE and accept_unchecked(state, job):
        return
    if prospect is Outlook.NOBODY and delivered and auditor_available(state, job):
        request_audit(state, job)
        prospect = Outlook.POSSIBLE
    if prospect is Outlook.POSSIBLE:
        _set_unmatched(state, job, None)
        return
    since = max(state.patience_from, state.at if job.unmatched_since is None else job.unmatched_since)
    _set_unmatched(state, job, since)
    if state.at >= since + job.patience_s:
        settlement.fail(state, job, failure_reasons.explain(state, job, log_odds_missing, prospect))


def _prospect(state: MarketState, job: Job, log_odds_missing: float) -> Outlook:
    """What a waiting job may hope for, of those workers that `_lease` would ask."""
    proven_only = state.policy.proven_price_counts and exhaustion.needs_proven(state, job)
    return outlook(state, job, log_odds_missing, again=True, proven_only=proven_only)


def _stop_waiting(state: MarketState, job: Job) -> None:
    if job.id in state.job_queue:
        state.job_queue.discard(job.id)
        _set_unmatched(state, job, None)
        state.save(job)


def _set_unmatched(state: MarketState, job: Job, since: float | None) -> None:
    if since == job.unmatched_since:
        return
    job.unmatched_since = since
    state.save(job)
    if since is None:
        state.timers.cancel(TimerPurpose.PATIENCE, job.id)
    else:
        state.timers.put(TimerPurpose.PATIENCE, job.id, since + job.patience_s)


def _serve_auditor(state: MarketState, auditor: WorkerState) -> None:
    def suits(job_id: str) -> bool:
        # Where events are not sliced, every job that waits is advanced, as older journals have it.
        return state.policy.jobs_per_event_max == 0 or may_run(state, state.jobs[job_id], auditor)

    for job_id in state.audits_wanted.in_turn(suits):
        if len(auditor.open) >= auditor.capacity(state.day):
            return
        if not state.may_advance():
            state.workers_freed[auditor.record.id] = False
            return
        state.audits_wanted.discard(job_id)  # `advance` puts it back if the reference run is still wanted
        advance(state, state.jobs[job_id])


def _may_take(state: MarketState, worker: WorkerState, job: Job, *, is_new: bool) -> bool:
    """Whether it is worth matching a waiting job again, now that this worker is idle."""
    if worker.seat is None or (job.unmatched_since is not None and not is_new):
        return False
    bid_microcredits = bid_for(worker.seat.offer.price_per_unit_microcredits, job.units)
    if bid_microcredits > job.cap_microcredits - job.committed_microcredits:
        return False
    return not EligibleOffers(state, job, again=True).why_ineligible(worker)
