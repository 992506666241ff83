"""The reference runs of a job: which auditors can make one, which are in, and which were lost."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from tradepost_broker.market.model.entities import Job, Lease, LeasePurpose, LeaseState
from tradepost_broker.market.model.lease_states import LOST
from tradepost_broker.market.state.market_state import MarketState
from tradepost_broker.market.state.offer_book import fits
from tradepost_broker.market.state.worker_state import WorkerState


def able_auditors(state: MarketState, job: Job) -> list[WorkerState]:
    """Connected auditors that can run the job; none once too many reference runs of it were lost.

    An auditor that lost one of it is left out if there is another.
    """
    lost = lost_runs(state, job)
    if len(lost) >= state.policy.audits_lost_max:
        return []
    need = state.reference_need(job)
    able = [
        auditor
        for _, auditor in sorted(state.auditors.items())
        if auditor.record.offer is not None
        and auditor.capacity(state.day) > 0
        and job.pipeline not in auditor.refused
        and fits(auditor.record.offer, need)
    ]
    if not state.policy.fair_audits:
        return able
    losers = {lease.worker for lease in lost}
    return [auditor for auditor in able if auditor.record.id not in losers] or able


def terms(state: MarketState, job: Job) -> Hashable:
    """What decides which auditors may run a job: those of one pipeline that are alike in it suit the same."""
    if not state.policy.audits_by_terms:
        return ()
    runs = [
        (lease.worker, lease.state.value)
        for lease in state.leases_of[job.id]
        if is_reference(lease) or (lease.purpose is LeasePurpose.AUDIT and lease.state in LOST)
    ]
    each = runs_each(state, job) if job.accused else 0
    return state.reference_need(job), each, tuple(sorted(runs))


def contradicted(lease: Lease) -> Mapping[str, str]:
    """The results of its job that a lease's contradicts, each with the stage that proves it or ""."""
    return lease.contradicts or {}


def is_proven(state: MarketState, job: Job, lease: str) -> bool:
    """Whether a stage proves that a reference run contradicts a result."""
    return any(contradicted(audit).get(lease) for audit in references(state, job))


def runs_each(state: MarketState, job: Job) -> int:
    """How often each auditor runs a job whose results are accused: twice, so that it must agree with itself.

    Once if a stage proves all of them wrong: a kernel cannot give another result in every run.
    """
    return 1 if all(is_proven(state, job, lease) for lease in job.accused) else 2


def is_reference(lease: Lease) -> bool:
    """Whether a lease is a reference run whose outcome is in."""
    return lease.purpose is LeasePurpose.AUDIT and lease.state is LeaseState.ACCEPTED


def references(state: MarketState, job: Job) -> list[Lease]:
    """The reference runs of a job whose outcome is in, in order."""
    return [lease for lease in state.leases_of[job.id] if is_reference(lease)]


def lost_runs(state: MarketState, job: Job) -> list[Lease]:
    """The reference runs of a job that were lost."""
    return [
        lease
        for lease in state.leases_of[job.id]
        if lease.purpose is LeasePurpose.AUDIT and lease.state in LOST
    ]
