"""Records and withdraws evidence about workers, with what that changes in their standing and their offers."""

from __future__ import annotations

from typing import Final

from tradepost_broker.market.model.entities import Evidence, EvidenceKind, Lease, WorkerStanding
from tradepost_broker.market.model.worker_states import WorkerTrigger, transition_worker
from tradepost_broker.market.state.market_state import MarketState
from tradepost_broker.market.state.worker_state import day_of
from tradepost_reputation import Counted, in_steps
from tradepost_reputation.checks import NOTHING

#: Results of these were compared with those of others.
_COMPARED: Final = (EvidenceKind.AGREED, EvidenceKind.OUTVOTED, EvidenceKind.CONTRADICTED)


def checks_of(state: MarketState, kind: EvidenceKind) -> float:
    """How many passed checks a finding of this kind is worth, before its circumstances count."""
    return state.evidence_weights[kind].checks


def learn(
    state: MarketState,
    lease: Lease,
    kind: EvidenceKind,
    *,
    stage: str = "",
    detail: str = "",
    partner: str = "",
    counted: Counted = NOTHING,
) -> Evidence:
    """Record evidence about a lease's worker, believe it, and suspend the worker if it comes to that."""
    worker, job = state.workers[lease.worker], state.jobs[lease.job]
    capability = state.capability(job)
    evidence = Evidence(
        id=f"{lease.id}:{kind.value}",
        worker=lease.worker,
        capability=capability,
        kind=kind,
        job=lease.job,
        lease=lease.id,
        at=state.at,
        stage=stage,
        detail=detail,
        pipeline=job.pipeline,
        account=job.account,
        partner=partner,
        checks=counted.checks,
        vouched_checks=counted.vouched,
    )
    worker.learn(evidence)
    judge(state, evidence)
    state.supply_changed = True
    state.save(evidence)
    if worker.record.standing is WorkerStanding.ACTIVE and worker.deserves_suspension(capability, state.day):
        transition_worker(worker.record, WorkerTrigger.REPUTATION_FELL)
        state.save(worker.record)
    state.place(worker)  # its exposure cap may have changed as well
    return evidence


def judge(state: MarketState, evidence: Evidence) -> None:
    """Take in that a result was compared with those of others, if this evidence says so."""
    if evidence.kind in _COMPARED:
        state.co_wrong.judge(evidence.pipeline, state.workers[evidence.worker].record.owner)


def withdraw(state: MarketState, evidence: Evidence, reason: str) -> None:
    """Record that a piece of evidence does not count, and end the suspension of its worker if need be."""
    worker = state.workers[evidence.worker]
    age_days = state.day - day_of(evidence.at)
    fade = 0.5 ** (age_days / state.policy.half_life_days)
    withdrawal = Evidence(
        id=f"{evidence.id}:{EvidenceKind.WITHDRAWN.value}",
        worker=evidence.worker,
        capability=evidence.capability,
        kind=EvidenceKind.WITHDRAWN,
        job=evidence.job,
        lease=evidence.lease,
        at=state.at,
        detail=reason,
        pipeline=evidence.pipeline,
        account=evidence.account,
        partner=evidence.partner,
        checks=-in_steps(evidence.checks * fade),
        vouched_checks=-in_steps(evidence.vouched_checks * fade),
    )
    worker.learn(withdrawal)
    worker.withdraw(evidence, state.day)
    state.supply_changed = True
    state.save(withdrawal)
    if worker.record.standing is WorkerStanding.SUSPENDED and worker.deserves_return(state.day):
        transition_worker(worker.record, WorkerTrigger.EVIDENCE_WITHDRAWN)
        state.save(worker.record)
    state.place(worker)
