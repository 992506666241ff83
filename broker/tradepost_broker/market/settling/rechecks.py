"""Checks of results that need none to be accepted: spot checks, and second results for the believed.

A spot check is a reference run after the job has ended. A result of a worker that is believed alone is
checked more often, by its record and the job's confidence (`trust.check_rate`): by a reference run if an
auditor is idle, else by a result of another owner, which the job waits for. A worker of which another result
is contradicted, and not cleared yet, is not believed alone at all, nor one whose owner is found to collude,
or had another device expelled.
"""

from __future__ import annotations

from tradepost_broker.market.model.entities import Job, Lease, LeasePurpose, LeaseState
from tradepost_broker.market.settling import owner_examination
from tradepost_broker.market.settling.reference_runs import able_auditors
from tradepost_broker.market.state import seeded_random
from tradepost_broker.market.state.market_state import MarketState
from tradepost_broker.market.trust.check_rate import check_rate


def choose(state: MarketState, job: Job, lease: Lease) -> None:
    """Choose by chance, now that a result is committed, whether and how it is checked."""
    policy = state.policy
    if (
        state.auditors
        and not job.spot_check
        and state.audits_wanted.has_room(job.account, policy.audit_backlog_max)
    ):
        # The check comes after the job has ended, by an auditor, whose work the operator pays: no submitter
        # waits for it.
        job.spot_check = seeded_random.fraction(state.seed, "spot check", lease.id) < policy.audit_rate
    rate = _rate(state, job, lease)
    if rate == 0 or seeded_random.fraction(state.seed, "recheck", lease.id) >= rate:
        return
    if _has_idle_auditor(state, job):
        job.spot_check = True
    else:
        lease.recheck = True


def lift(state: MarketState, job: Job) -> bool:
    """Let a job do without the second result that nobody can give; whether it waited for one."""
    chosen = [lease for lease in state.ordinary_leases(job, LeaseState.DELIVERED) if lease.recheck]
    for lease in chosen:
        lease.recheck = False
        state.save(lease)
        job.spot_check = job.spot_check or bool(state.auditors)
    return bool(chosen)


def _rate(state: MarketState, job: Job, lease: Lease) -> float:
    """The probability that a second opinion is asked for; 0 unless this one result would be accepted."""
    policy = state.policy
    if not policy.recheck_rate or lease.must_be_confirmed or job.confidence <= 1 - policy.fault_fraction:
        return 0.0
    if any(one is not lease and one.purpose is not LeasePurpose.AUDIT for one in state.live_leases(job)):
        return 0.0
    belief = state.workers[lease.worker].belief(state.scope(job), state.day)
    if belief.credibility < job.confidence:
        return 0.0
    worker = state.workers[lease.worker]
    is_suspect = owner_examination.is_suspect(state, worker) or state.finding_of(worker.record.owner)
    if is_suspect or _is_in_doubt(state, lease):
        return 1.0
    return check_rate(
        belief.checks,
        job.confidence,
        fault_fraction=policy.fault_fraction,
        rate_max=policy.recheck_rate,
    )


def _is_in_doubt(state: MarketState, lease: Lease) -> bool:
    """Whether another result of the worker is contradicted, by a reference run or another worker's result."""
    if lease.worker in state.accusations:
        return True
    others = state.workers[lease.worker].delivered.values()
    return any(
        sibling.group != other.group
        for other in others
        if other is not lease
        for sibling in state.ordinary_leases(state.jobs[other.job], LeaseState.DELIVERED)
    )


def _has_idle_auditor(state: MarketState, job: Job) -> bool:
    return any(len(auditor.open) < auditor.capacity(state.day) for auditor in able_auditors(state, job))
