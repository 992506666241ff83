"""Applies what reference runs find: pays what they confirm, and expels whom several of them contradict.

One reference run decides what the submitter gets and who is paid. It does not prove fraud: the model may give
another result in every run, or the auditor's device may. So a result that it contradicts is accused. It stays
unpaid, or its payment held, with soft evidence, until each of `references_to_expel` auditors, of different
owners, has run the job twice. If all these runs agree with each other, and none with the result, its worker
is expelled. If two of them differ, the pipeline is not reproducible: nobody is to blame, the evidence is
withdrawn, and the account's jobs on the pipeline are stopped. If there are too few auditors, the result is
unpaid and the evidence stays soft.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from tradepost.errors import PipelineQuarantined
from tradepost.money import format_credits
from tradepost.protocol import Verification
from tradepost_broker.market.model.entities import EvidenceKind, Job, Lease, LeaseState
from tradepost_broker.market.model.job_states import FINAL
from tradepost_broker.market.model.lease_states import LeaseTrigger, transition_lease
from tradepost_broker.market.model.worker_states import WorkerTrigger, transition_worker
from tradepost_broker.market.settling import (
    begun_work,
    blame,
    collusion,
    findings,
    owner_examination,
    payments,
    quarantine,
    reexamination,
    settlement,
    stage_proofs,
)
from tradepost_broker.market.settling.reference_runs import (
    contradicted,
    is_proven,
    references,
    runs_each,
)
from tradepost_broker.market.state.market_state import MarketState
from tradepost_broker.market.state.worker_state import WorkerState, in_order

_CREDIBILITY: Final = 1.0
_ACCUSED: Final = "a reference run contradicts it; the stake is kept unless other auditors confirm that"


def apply(state: MarketState, audit: Lease, agrees_with: frozenset[str]) -> None:
    """Let a reference run decide its job, check the decision that was made, or confirm an earlier one.

    A result is contradicted only if a stage proves it, or no result of its group agrees with the reference.
    """
    job = state.jobs[audit.job]
    state.close_lease(audit, LeaseTrigger.ACCEPTED)
    audit.settled_at = state.at
    judged = [lease for lease in state.leases_of[job.id] if settlement.is_result(lease)]
    groups = {lease.group for lease in judged if lease.id in agrees_with}
    wrong = [lease for lease in judged if lease.group not in groups or lease.id in contradicted(audit)]
    right = [lease for lease in judged if lease not in wrong]
    stage_proofs.note_contradicted(state, audit, wrong)
    if job.accused:
        _confirm(state, job, audit, agrees_with, groups)
        return
    for lease in right:
        findings.learn(state, lease, EvidenceKind.AUDIT_PASSED)
    job.spot_check = False
    state.end_doubt(job)
    state.save(job)
    if job.status in FINAL:
        blame.judge_again(state, job, confirmed=any(lease.id in job.accepted for lease in right))
    if state.policy.references_to_expel > 1:
        _accuse(state, audit, right, wrong)
    else:
        _convict(state, audit, right, wrong)


def admits(state: MarketState, job: Job, auditor: WorkerState) -> bool:
    """Whether a reference run by this auditor says something new: who has run it often enough is done."""
    if not job.accused:
        return True
    runs = Counter(lease.worker for lease in references(state, job))
    if auditor.record.id in runs:
        return runs[auditor.record.id] < runs_each(state, job)
    owners = {state.workers[worker].record.owner for worker in runs}
    return len(owners) < state.policy.references_to_expel and auditor.record.owner not in owners


def may_be_confirmed(state: MarketState, job: Job) -> bool:
    """Whether some auditor, here or away, could still confirm an accusation; true where there is none."""
    return not job.accused or any(
        admits(state, job, auditor) and job.pipeline not in auditor.refused
        for auditor in state.auditors.values()
    )


def give_up(state: MarketState, job: Job) -> None:
    """End an accusation that could not be confirmed: the results are unpaid, and the evidence stays soft."""
    _leave_soft(state, job, _end_accusation(state, job))
    reexamination.review(state, job)


def _leave_soft(state: MarketState, job: Job, accused: Sequence[Lease]) -> None:
    """Leave results unpaid that were accused."""
    if not accused:
        return
    reference = references(state, job)[0]
    for lease in accused:
        _reject(state, lease)
        if lease.id in state.workers[lease.worker].held:
            payments.claw_back(state, lease)
        reason = "a reference run contradicts it, and no second auditor could confirm that; the stake is kept"
        payments.send_settled(state, lease, reason)
    _claw_back_stages(state, job, accused, reference)


def _accuse(state: MarketState, audit: Lease, right: Sequence[Lease], wrong: Sequence[Lease]) -> None:
    """Apply a first reference run: it decides the job, and proves nothing about who is wrong yet."""
    job = state.jobs[audit.job]
    was_final = job.status in FINAL
    for lease in wrong:
        if lease.state is not LeaseState.REJECTED:  # being outvoted was evidence as well
            stage = stage_proofs.stage_at_fault(lease, audit)
            detail = stage_proofs.in_words("a reference run contradicts it", audit, lease)
            quarantine.hold_against(state, lease, EvidenceKind.CONTRADICTED, stage=stage, detail=detail)
    collusion.note_wrong(state, job, wrong)
    if not was_final:
        _decide(state, job, audit, right, wrong, begun_share=0.0 if right else state.policy.begun_share)
    elif _rests_on_wrong(state, job, wrong):
        _retract(job, wrong)
    known_cheats = [lease for lease in wrong if was_final and reexamination.is_of_expelled(state, lease)]
    for lease in known_cheats:
        _reject(state, lease)
        if reexamination.is_due(state, lease):
            reexamination.take(state, lease)
    accused = tuple(lease.id for lease in wrong if lease not in known_cheats)
    if accused:
        job.accused = accused
        job.accused_until = state.at + state.policy.hold_s
        job.spot_check = True
        state.accuse(job)
        state.jobs_to_advance[job.id] = None
    elif known_cheats:
        _claw_back_stages(state, job, wrong, audit)
        reexamination.review(state, job)
    state.save(job)


def _confirm(
    state: MarketState, job: Job, audit: Lease, agrees_with: frozenset[str], groups: set[str]
) -> None:
    """Apply a further reference run of a job whose results are accused; it agrees with these groups.

    A result that a stage has proven wrong is not cleared by a run that agrees within a tolerance.
    """
    earlier = [lease for lease in references(state, job) if lease.id != audit.id]
    state.jobs_to_advance[job.id] = None
    state.save(job)
    differing = [lease for lease in earlier if lease.id not in agrees_with]
    if differing:
        _dismiss(state, job, differing[0], audit)
        return
    cleared = [
        lease
        for lease in job.accused
        if state.leases[lease].group in groups and not is_proven(state, job, lease)
    ]
    quarantine.withdraw(state, job, cleared, EvidenceKind.CONTRADICTED, "another reference run confirms it")
    state.acquit(job, cleared)
    if state.policy.verdict_by_accepted and not set(cleared).isdisjoint(job.accepted):
        _restore_verdict(state, job)
    if not job.accused:
        job.spot_check = False
    elif len(earlier) + 1 >= runs_each(state, job) * state.policy.references_to_expel:
        accused = _end_accusation(state, job)
        confirmed = [lease for lease in accused if stage_proofs.is_confirmed(state, job, lease)]
        _leave_soft(state, job, [lease for lease in accused if lease not in confirmed])
        if confirmed:
            _convict(state, earlier[0], (), confirmed)
        else:
            reexamination.review(state, job)


def _dismiss(state: MarketState, job: Job, one: Lease, other: Lease) -> None:
    """Drop an accusation, because reference runs differ from each other: nobody is to blame."""
    accused = _end_accusation(state, job)
    stage = stage_proofs.stage_at_fault(other, one)
    where = f" in stage {stage}" if stage else ""
    error = PipelineQuarantined(
        f"pipeline {job.pipeline} is not reproducible: reference runs {one.id} and {other.id} with input "
        f"{job.input} differ{where}",
        hint="Publish a pipeline without random operators, or with a tolerance that its runs keep.",
        pipeline=job.pipeline,
        inputs=[job.input],
        failures=["reference runs differ"],
    )
    reason = "reference runs differ from each other"
    quarantine.withdraw(state, job, [lease.id for lease in accused], EvidenceKind.CONTRADICTED, reason)
    quarantine.not_reproducible(state, job, error)


def _convict(state: MarketState, audit: Lease, right: Sequence[Lease], wrong: Sequence[Lease]) -> None:
    """Expel whom the reference contradicts, and decide the job if that is not done yet."""
    job = state.jobs[audit.job]
    blamed = {lease.id: stage_proofs.stage_at_fault(lease, audit) for lease in wrong}
    for lease in wrong:
        detail = stage_proofs.in_words("a reference run contradicts it", audit, lease)
        findings.learn(state, lease, EvidenceKind.AUDIT_FAILED, stage=blamed[lease.id], detail=detail)
    collusion.note_wrong(state, job, wrong)
    if job.status not in FINAL:
        _decide(state, job, audit, right, wrong, begun_share=0.0)
    else:
        for lease in wrong:
            _reject(state, lease)
        _claw_back_stages(state, job, wrong, audit)
    for lease in wrong:
        _expel(state, state.workers[lease.worker], lease, blamed[lease.id])
    reexamination.review(state, job)


def _decide(
    state: MarketState,
    job: Job,
    audit: Lease,
    right: Sequence[Lease],
    wrong: Sequence[Lease],
    *,
    begun_share: float,
) -> None:
    """End an open job with what the reference confirms, or with the reference itself.

    Then the work costs `begun_share` of its price until it is proven wrong: else a pipeline that gives
    another result in every run could be run for nothing.
    """
    for lease in right:
        payments.pay(state, job, lease, "a reference run confirms it")
    for lease in wrong:
        state.close_lease(lease, LeaseTrigger.CONTRADICTED)
        lease.settled_at = state.at
        if state.policy.references_to_expel > 1:
            amount_microcredits = begun_work.share_of_price(lease, begun_share)
            payments.pay_begun(state, job, lease, amount_microcredits, _ACCUSED)
    settlement.conclude(state, job, right or [audit], wrong, _CREDIBILITY, reference=audit)


def _reject(state: MarketState, lease: Lease) -> None:
    transition_lease(lease, LeaseTrigger.CONTRADICTED)
    lease.settled_at = state.at
    state.save(lease)


def _claw_back_stages(state: MarketState, job: Job, wrong: Sequence[Lease], audit: Lease) -> None:
    """Retract a decision, and what was paid by it, if nothing that it rests on is right."""
    if _rests_on_wrong(state, job, wrong):
        _retract(job, wrong)
        payments.claw_back_stages(state, job, audit)
        state.save(job)


def _rests_on_wrong(state: MarketState, job: Job, wrong: Sequence[Lease]) -> bool:
    """Whether none of a job's accepted results is right; without one, whether none of its results is."""
    contradicted = {lease.id for lease in wrong}
    if state.policy.verdict_by_accepted and job.accepted:
        rejected = {lease for lease in job.accepted if state.leases[lease].state is LeaseState.REJECTED}
        return contradicted.union(rejected).issuperset(job.accepted)
    results = (lease.id for lease in state.leases_of[job.id] if settlement.is_result(lease))
    return contradicted.issuperset(results)


def _retract(job: Job, wrong: Sequence[Lease]) -> None:
    job.verification = Verification(credibility=0.0, disagreed=tuple(lease.worker for lease in wrong))


def _restore_verdict(state: MarketState, job: Job) -> None:
    """Let the accepted results that a reference run has cleared be the verdict again."""
    agreed = [lease for one in job.accepted if (lease := state.leases[one]).state is LeaseState.ACCEPTED]
    results = (lease for lease in state.leases_of[job.id] if settlement.is_result(lease))
    job.verification = Verification(
        credibility=_CREDIBILITY,
        agreed=tuple(lease.worker for lease in agreed),
        disagreed=tuple(lease.worker for lease in results if lease not in agreed),
    )


def _end_accusation(state: MarketState, job: Job) -> list[Lease]:
    """Let nobody be accused of a job any more, and stop its reference run; the leases that were accused."""
    accused = [state.leases[lease] for lease in job.accused]
    for lease in list(state.live_leases(job)):
        settlement.recall(state, lease)
    job.spot_check = False
    state.audits_wanted.discard(job.id)
    state.acquit(job, job.accused)
    return accused


def _expel(state: MarketState, worker: WorkerState, lease: Lease, stage: str) -> None:
    """Take what a proven cheat has left here, and give its other work to others."""
    transition_worker(worker.record, WorkerTrigger.FRAUD_PROVEN)
    state.examinations.expelled_owners[worker.record.owner] = None
    state.save(worker.record)
    stake_microcredits = state.ledger.slash(worker.record.id, at=state.at, lease=lease.id)
    returned_microcredits = sum(held.paid_microcredits for held in worker.held.values())
    if not reexamination.begin(state, worker, lease):
        for held in in_order(worker.held):
            payments.claw_back(state, held)
    for live in in_order(worker.open | worker.delivered):
        if live.state is LeaseState.OPEN:
            settlement.recall(state, live)
        else:
            settlement.leave_undecided(state, live, "its worker was expelled because of another result")
        settlement.note_lost_lease(state, state.jobs[live.job])
    state.place(worker)
    owner_examination.begin(state, worker)
    where = f" in stage {stage}" if stage else ""
    payments.send_settled(
        state,
        lease,
        f"a reference run contradicts it{where}; its stake of {format_credits(stake_microcredits)} credits "
        f"is taken, and {format_credits(returned_microcredits)} credits of held earnings are refunded to "
        "submitters",
    )
