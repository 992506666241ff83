"""Explains leases and evidence from the records, to those whom they concern, once they are decided.

Nothing of a job that has not ended is shown to anyone. Somebody who knows an outcome, the purpose of a lease
or the other workers of a job can copy a result, or cheat where nobody checks. An output stays its
submitter's. Its CID is not shown where the job ended without a verdict on it: a small output can be guessed
from its CID, and the job cancelled.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from sqlalchemy import Select, select, tuple_

from tradepost.protocol import Preference
from tradepost_broker.market.model.entities import (
    Candidate,
    Evidence,
    EvidenceKind,
    Job,
    Lease,
    LeasePurpose,
    LeaseState,
    Match,
)
from tradepost_broker.market.model.job_states import FINAL
from tradepost_broker.market.model.lease_states import LIVE
from tradepost_broker.reporting.compared_stages import compared_stages
from tradepost_broker.reporting.views import Explanation
from tradepost_broker.storage.rows import CODECS
from tradepost_broker.storage.store import Reader
from tradepost_reputation.dashboard import (
    CandidateView,
    ComparedStageView,
    EvidenceView,
    LeaseView,
    SettledLeaseView,
)

#: Leases whose outcome had a verdict.
_JUDGED = (LeaseState.ACCEPTED, LeaseState.REJECTED)


def explain_job(store: Reader, job: Job, *, with_outcomes: bool) -> Explanation:
    """The leases of a job that has ended, in the order in which they were granted, and their evidence.

    Before its end there are none, and the reference run of a spot check appears with its verdict.
    `with_outcomes` is for the submitter.
    """
    leases: list[LeaseView] = []
    evidence: list[EvidenceView] = []
    if job.status in FINAL:
        settled = sorted(_settled(store, _of_job(Lease, job)), key=lambda lease: lease.attempt)
        stages = compared_stages(store, job, settled)
        leases = [
            _lease_view(
                lease,
                store.get(Match, lease.id),
                with_outcome=with_outcomes,
                stages=stages.get(lease.id, ()),
            )
            for lease in settled
        ]
        found = _of_job(Evidence, job).order_by(CODECS[Evidence].table.c.at)
        evidence = [evidence_view(one) for one in store.find_readable(Evidence, found)]
    return Explanation(
        job=job.id,
        status=job.status.value,
        leases=tuple(leases),
        evidence=tuple(evidence),
        preference=_in_words(job.preference) if job.preference else "",
        problem="" if job.problem is None else f"{job.problem.title} {job.problem.detail}".strip(),
    )


def _in_words(preference: Preference) -> str:
    weights = {name: getattr(preference, name) for name in preference.__struct_fields__}
    return ", ".join(f"{name} {weight:g}" for name, weight in weights.items())


def newest_settled(store: Reader, *, count: int) -> tuple[SettledLeaseView, ...]:
    """The newest leases of jobs that have ended, as everyone may see them."""
    leases, jobs = CODECS[Lease].table, CODECS[Job].table
    newest = (
        select(leases)
        .join(jobs, jobs.c.id == leases.c.job)
        .where(jobs.c.finished_at.is_not(None), leases.c.state.not_in([state.value for state in LIVE]))
        .order_by(leases.c.id.desc())
        .limit(count)
    )
    return tuple(
        _public_view(lease, store.get(Match, lease.id)) for lease in store.find_readable(Lease, newest)
    )


#: The place of a finding in the order of its worker's: its time, and its id.
FindingPlace = tuple[float, str]


def newest_evidence(
    store: Reader, worker: str, *, count: int, before: FindingPlace | None = None
) -> tuple[EvidenceView, ...]:
    """The newest findings about a worker, of jobs that have ended, as everyone may see them.

    With `before`, the newest of those that are older than this place.
    """
    return page_of_evidence(store, worker, count=count, before=before)[0]


def page_of_evidence(
    store: Reader, worker: str, *, count: int, before: FindingPlace | None = None
) -> tuple[tuple[EvidenceView, ...], FindingPlace | None]:
    """As `newest_evidence`, with the place of the last one if older ones follow."""
    evidence, jobs = CODECS[Evidence].table, CODECS[Job].table
    newest = (
        select(evidence)
        .join(jobs, jobs.c.id == evidence.c.job)
        .where(evidence.c.worker == worker, jobs.c.finished_at.is_not(None))
        .order_by(evidence.c.at.desc(), evidence.c.id.desc())
        .limit(count + 1)
    )
    if before is not None:
        newest = newest.where(tuple_(evidence.c.at, evidence.c.id) < tuple_(*before))
    found = list(store.find_readable(Evidence, newest))
    last = found[count - 1] if len(found) > count else None
    views = tuple(_public_evidence(one) for one in found[:count])
    return views, None if last is None else (last.at, last.id)


def evidence_view(evidence: Evidence) -> EvidenceView:
    """A finding as it is shown to those whom it concerns."""
    return EvidenceView(
        kind=evidence.kind.value,
        capability=evidence.capability,
        job=evidence.job,
        lease=evidence.lease,
        at=evidence.at,
        stage=evidence.stage,
        detail=evidence.detail,
    )


def _of_job(kind: type[Lease] | type[Evidence], job: Job) -> Select[tuple[object, ...]]:
    table = CODECS[kind].table
    return select(table).where(table.c.job == job.id)


def _settled(store: Reader, statement: Select[tuple[object, ...]]) -> Iterable[Lease]:
    return (lease for lease in store.find_readable(Lease, statement) if lease.state not in LIVE)


def _lease_view(
    lease: Lease, match: Match | None, *, with_outcome: bool, stages: tuple[ComparedStageView, ...]
) -> LeaseView:
    is_judged = lease.state in _JUDGED
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
        outcome=lease.outcome if is_judged and with_outcome else "",
        agrees_with=lease.group if is_judged else "",
        problem="" if lease.problem is None else f"{lease.problem.title} {lease.problem.detail}".strip(),
        candidates=_candidates(match),
        left_out={} if match is None else match.left_out,
        sole_bidder=_had_no_rival(match),
        stages=stages,
    )


def _public_view(lease: Lease, match: Match | None) -> SettledLeaseView:
    return SettledLeaseView(
        lease=lease.id,
        job=lease.job,
        worker=lease.worker,
        state=lease.state.value,
        granted_at=lease.granted_at,
        price_microcredits=lease.price_microcredits,
        paid_microcredits=lease.paid_microcredits,
        candidates=_candidates(match),
        left_out={} if match is None else match.left_out,
        sole_bidder=_had_no_rival(match),
    )


def _had_no_rival(match: Match | None) -> bool:
    """Whether no other offer, idle or busy, competed on price in an auction."""
    return (
        match is not None
        and match.purpose is LeasePurpose.AUCTION
        and len(match.candidates) == 1
        and not match.left_out.get("busy")
    )


def _public_evidence(evidence: Evidence) -> EvidenceView:
    """As `evidence_view`, without a worker's own text about its failure, which may quote the input."""
    view = evidence_view(evidence)
    return msgspec.structs.replace(view, detail="") if evidence.kind is EvidenceKind.FAILED else view


def _candidates(match: Match | None) -> tuple[CandidateView, ...]:
    return tuple(_candidate(one) for one in match.candidates) if match is not None else ()


def _candidate(candidate: Candidate) -> CandidateView:
    return CandidateView(
        worker=candidate.worker,
        bid_microcredits=candidate.bid_microcredits,
        score_microcredits=candidate.score_microcredits,
        lost_because=candidate.lost_because,
    )
