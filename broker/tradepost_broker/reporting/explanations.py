"""Explains a job from the records: why each worker got its lease, and the evidence found."""

from __future__ import annotations

from sqlalchemy import select

from tradepost_broker.market.model.entities import Candidate, Evidence, Job, Lease, Match
from tradepost_broker.reporting.views import Explanation
from tradepost_broker.storage.rows import CODECS
from tradepost_broker.storage.store import Store
from tradepost_reputation.dashboard import CandidateView, EvidenceView, LeaseView


def explain_job(store: Store, job: Job) -> Explanation:
    """The leases of a job in the order in which they were granted, and the evidence that came of it."""
    leases, evidence = CODECS[Lease].table, CODECS[Evidence].table
    granted = select(leases).where(leases.c.job == job.id).order_by(leases.c.id)
    found = select(evidence).where(evidence.c.job == job.id).order_by(evidence.c.at)
    ordered = sorted(store.find_readable(Lease, granted), key=lambda lease: lease.attempt)
    return Explanation(
        job=job.id,
        status=job.status.value,
        leases=tuple(lease_view(lease, store.get(Match, lease.id)) for lease in ordered),
        evidence=tuple(evidence_view(one) for one in store.find_readable(Evidence, found)),
        problem="" if job.problem is None else f"{job.problem.title} {job.problem.detail}".strip(),
    )


def lease_view(lease: Lease, match: Match | None) -> LeaseView:
    """A lease and the match that gave it."""
    return LeaseView(
        lease=lease.id,
        job=lease.job,
        worker=lease.worker,
        attempt=lease.attempt,
        purpose=lease.purpose.value,
        state=lease.state.value,
        granted_at=lease.granted_at,
        price_microcredits=lease.price_microcredits,
        paid_microcredits=lease.paid_microcredits,
        outcome=lease.outcome,
        agrees_with=lease.group,
        problem="" if lease.problem is None else f"{lease.problem.title} {lease.problem.detail}".strip(),
        candidates=tuple(_candidate(one) for one in match.candidates) if match is not None else (),
        left_out={} if match is None else match.left_out,
    )


def evidence_view(evidence: Evidence) -> EvidenceView:
    """A finding as it is shown."""
    return EvidenceView(
        kind=evidence.kind.value,
        capability=evidence.capability,
        job=evidence.job,
        lease=evidence.lease,
        at=evidence.at,
        stage=evidence.stage,
        detail=evidence.detail,
    )


def _candidate(candidate: Candidate) -> CandidateView:
    return CandidateView(
        worker=candidate.worker,
        bid_microcredits=candidate.bid_microcredits,
        score_microcredits=candidate.score_microcredits,
        lost_because=candidate.lost_because,
    )
