"""The reference runs of a job: which auditors can make one, which are in, and which were lost."""

from __future__ import annotations

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


def is_reference(lease: Lease) -> bool:
    """Whether a lease is a reference run whose outcome is in."""
    return lease.purpose is LeasePurpose.AUDIT and lease.state is LeaseState.ACCEPTED


def references(state: MarketState, job: Job) -> list[Lease]:
    """The reference runs of a job whose outcome is in, in order."""
    return [lease for lease in state.leases_of[job.id] if is_reference(lease)]


def runs_so_far(state: MarketState, job: Job) -> tuple[str, ...]:
    """Who has run or lost the job's reference runs, in any order: jobs of one pipeline with the same suit the
    same auditors. A job without an accusation suits all that have not lost it."""
    runs = [lease for lease in state.leases_of[job.id] if lease.purpose is LeasePurpose.AUDIT]
    told = [f"{lease.worker} {lease.state.value}" for lease in runs if job.accused or lease.state in LOST]
    return ("accused", *sorted(told)) if job.accused else tuple(sorted(told))


def lost_runs(state: MarketState, job: Job) -> list[Lease]:
    """The reference runs of a job that were lost."""
    return [
        lease
        for lease in state.leases_of[job.id]
        if lease.purpose is LeasePurpose.AUDIT and lease.state in LOST
    ]
