"""Grants leases: ordinary ones to the workers that `matching` chose, and reference runs to auditors.

A lease's id is `<job>.<attempt>`; its nonce is made from the event's seed, so a receipt cannot be prepared
before its lease was granted.
"""

from __future__ import annotations

import math

from tradepost_broker.market.matching import lateness
from tradepost_broker.market.matching.matching import Award, choose_auditor
from tradepost_broker.market.model.amounts import bid_for
from tradepost_broker.market.model.entities import Job, Lease, LeasePurpose, Match
from tradepost_broker.market.model.events import SendGrant
from tradepost_broker.market.model.job_states import FINAL, JobTrigger, transition_job
from tradepost_broker.market.settling import reexamination, reference_verdicts, settlement
from tradepost_broker.market.settling.reference_runs import lost_runs, runs_so_far
from tradepost_broker.market.state import seeded_random
from tradepost_broker.market.state.market_state import MarketState
from tradepost_broker.market.state.worker_state import WorkerState


def grant(state: MarketState, job: Job, award: Award) -> None:
    """Lease the job to the worker that was chosen."""
    worker = award.worker
    job.attempts += 1
    lease_id = f"{job.id}.{job.attempts}"
    lease = Lease(
        id=lease_id,
        job=job.id,
        worker=worker.record.id,
        attempt=job.attempts,
        purpose=award.purpose,
        price_microcredits=award.price_microcredits,
        nonce=seeded_random.nonce(state.seed, lease_id),
        granted_at=state.at,
        expires_at=_expiry(state, job, worker),
        drawn_from=award.drawn_from if state.policy.independent_partners else 0,
        price_share=_price_share(state, job, award),
    )
    job.committed_microcredits += award.price_microcredits
    if job.status not in FINAL:
        transition_job(job, JobTrigger.LEASE_GRANTED, at=state.at)
    state.add_lease(lease)
    if award.purpose is LeasePurpose.AUDIT:
        limit_s = state.pipelines[job.pipeline].wall_s
        state.audits_wanted.begin(lease_id, state.flow(job), limit_s=limit_s, at=state.at)
    else:
        if award.purpose is LeasePurpose.AUCTION and worker.record.offer is not None:
            price_microcredits = worker.record.offer.price_per_unit_microcredits
            state.price_levels.note(state.capability(job), worker.record.owner, price_microcredits)
        lateness.watch(state, job, lease, fetch_s=_fetch_s(state, job, worker))
    state.place(worker)
    state.save(job)
    state.save(lease)
    state.save(
        Match(
            id=lease_id,
            job=job.id,
            purpose=award.purpose,
            clearing_price_microcredits=award.price_microcredits,
            candidates=award.candidates,
            left_out=award.left_out,
            at=state.at,
        )
    )
    state.send(SendGrant(lease_id, worker.record.id))


def request_audit(state: MarketState, job: Job) -> None:
    """Have the reference run of a job made, now or when an auditor is idle."""
    if any(lease.purpose is LeasePurpose.AUDIT for lease in state.live_leases(job)):
        return
    finished = job.status in FINAL
    queue = state.audits_wanted
    award = choose_auditor(state, job)
    if award is not None:
        queue.discard(job.id)
        grant(state, job, award)
    elif finished and not _is_worth_checking(state, job):
        queue.discard(job.id)
        if job.accused:
            reference_verdicts.give_up(state, job)
        elif job.in_doubt_until is not None:
            reexamination.give_up(state, job)
        job.spot_check = False
        state.save(job)
    elif job.id not in queue:
        queue.add(job.id, state.flow(job), is_decided=finished, history=runs_so_far(state, job))
        state.save(job)


def _is_worth_checking(state: MarketState, job: Job) -> bool:
    """Whether a finished job should go on waiting for its spot check."""
    few_lost = len(lost_runs(state, job)) < state.policy.audits_lost_max
    in_time = state.at < settlement.check_until(state, job)
    return few_lost and in_time and reference_verdicts.may_be_confirmed(state, job)


def _price_share(state: MarketState, job: Job, award: Award) -> float:
    """How much of the market's price for the job the award is paid: a quarter of the offers ask less."""
    if award.purpose is LeasePurpose.AUDIT or not state.policy.independent_partners:
        return 1.0
    price_microcredits = bid_for(state.offers.lower_quartile(state.need(job)), job.units)
    return min(1.0, award.price_microcredits / price_microcredits) if price_microcredits else 1.0


def _expiry(state: MarketState, job: Job, worker: WorkerState) -> float:
    """When the lease ends: after run, transfers and grace. A whole second, as on the wire."""
    pipeline = state.pipelines[job.pipeline]
    expires_at = state.at + pipeline.wall_s + _fetch_s(state, job, worker) + state.policy.lease_grace_s
    if job.status not in FINAL:
        expires_at = min(expires_at, job.deadline_at)
    return float(math.ceil(expires_at))


def _fetch_s(state: MarketState, job: Job, worker: WorkerState) -> float:
    """How long the worker may take to fetch what it has not cached."""
    offer = worker.record.offer
    if offer is not None and job.pipeline in offer.warm:
        return 0.0
    return state.pipelines[job.pipeline].artifact_bytes / state.policy.fetch_bytes_per_s
