"""What a verdict counts as: the checks that it is for the job's submitter, and for all others."""

from __future__ import annotations

from collections.abc import Sequence

from tradepost.errors import Problem
from tradepost_broker.market.model.entities import Evidence, EvidenceKind, Job, Lease
from tradepost_broker.market.settling.reference_runs import able_auditors
from tradepost_broker.market.state import recorded_evidence
from tradepost_broker.market.state.market_state import MarketState
from tradepost_broker.market.trust.partners import Party, independent_partners
from tradepost_reputation import Counted, Finding
from tradepost_reputation.checks import NOTHING


def in_words(problem: Problem | None) -> str:
    """What a finding says of why a lease was lost."""
    return problem.detail or problem.title if problem else ""


def learn(
    state: MarketState,
    lease: Lease,
    kind: EvidenceKind,
    *,
    confirmed_by: Sequence[Lease] = (),
    stage: str = "",
    detail: str = "",
    partner: str = "",
) -> Evidence:
    """Record a verdict about a lease as evidence. `confirmed_by` are the results that agree with it.

    `partner` is the owner whose result a failure rests on.
    """
    job = state.jobs[lease.job]
    amount = recorded_evidence.checks_of(state, kind)
    if not state.policy.independent_partners:
        counted = Counted(amount)
    elif kind is EvidenceKind.AGREED:
        partner, counted = _agreement(state, job, lease, confirmed_by, amount * lease.price_share)
    else:
        share = lease.price_share if amount > 0 else 1.0
        counted = _count(state, job, lease, "", amount * share)
    return recorded_evidence.learn(
        state, lease, kind, stage=stage, detail=detail, partner=partner, counted=counted
    )


def _agreement(
    state: MarketState, job: Job, lease: Lease, others: Sequence[Lease], amount: float
) -> tuple[str, Counted]:
    """The partner that an agreement counts most with, and what it counts; of equals, who confirmed least.

    Nothing where the market has auditors and none of them could check it: a ring would have its own pipeline.
    """
    if state.auditors and not able_auditors(state, job):
        return "", NOTHING
    own = _party(state, lease)
    parties = (_party(state, other) for other in others)
    strangers = (party for party in parties if not state.are_kept_apart(own.owner, party.owner))
    shares = independent_partners(own, strangers, state.hands)
    counted = {
        owner: _count(state, job, lease, owner, amount * share) for owner, share in sorted(shares.items())
    }
    worker = state.workers[lease.worker]

    def rank(owner: str) -> tuple[float, float]:
        return counted[owner].checks, -worker.confirmed(job.pipeline, owner, state.day)

    partner = max(counted, key=rank, default="")
    return partner, counted.get(partner, NOTHING)


def _count(state: MarketState, job: Job, lease: Lease, partner: str, amount: float) -> Counted:
    worker = state.workers[lease.worker]
    owner = worker.record.owner
    claims = state.pipelines[job.pipeline].claims
    staged = any(state.hands.are_one(owner, name) for name in (job.account, claims[0][0] if claims else ""))
    vouchers = () if staged else sorted(state.hands.of(job.account))
    finding = Finding(job.pipeline, job.account, partner)
    return worker.count(amount, finding, vouchers=vouchers, day=state.day)


def _party(state: MarketState, lease: Lease) -> Party:
    return Party(state.workers[lease.worker].record.owner, lease.drawn_from)
