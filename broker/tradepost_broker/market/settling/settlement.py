"""Ends jobs: verdicts, refunds, evidence, and slashing the stake of a proven cheater.

Every end goes through `_finish`: what is left of the reservation is freed, open leases are recalled, and
results without a verdict become inconclusive, so no path can forget one of them. Only a reference run proves
fraud: being outvoted is soft evidence, and costs no stake.
"""

from __future__ import annotations

from collections.abc import Sequence

from tradepost import errors
from tradepost.errors import Problem, TradepostError, invariant
from tradepost.protocol import Verification
from tradepost_broker.market.model.entities import (
    EvidenceKind,
    Job,
    Lease,
    LeasePurpose,
    LeaseState,
    is_failure,
)
from tradepost_broker.market.model.events import NotifyFinished, SendRecall
from tradepost_broker.market.model.job_states import FINAL, JobTrigger, transition_job
from tradepost_broker.market.model.lease_states import LeaseTrigger
from tradepost_broker.market.settling import (
    begun_work,
    blame,
    break_offs,
    collusion,
    findings,
    partial_pay,
    payments,
    quarantine,
    rechecks,
    stage_proofs,
)
from tradepost_broker.market.settling.begun_work import Cause
from tradepost_broker.market.state.market_state import MarketState
from tradepost_broker.market.state.timers import TimerPurpose
from tradepost_broker.market.trust.chosen_output import Member, nearest_to_median


def accept(state: MarketState, job: Job, group: str, credibility: float) -> None:
    """End a job with the results of `group`, which its confidence admits."""
    delivered = state.ordinary_leases(job, LeaseState.DELIVERED)
    agreed = [lease for lease in delivered if lease.group == group]
    disagreed = [lease for lease in delivered if lease.group != group]
    if state.policy.stage_proofs:
        # What a member agrees with is not outvoted, and ends without a verdict: it contradicts another
        # member, and which of the two is wrong nobody has found.
        disagreed = [lease for lease in disagreed if not stage_proofs.agrees_with_any(lease, agreed)]
    for lease in agreed:
        # One result alone has been checked by nobody.
        if len(agreed) > 1:
            findings.learn(
                state, lease, EvidenceKind.AGREED, confirmed_by=[one for one in agreed if one is not lease]
            )
        reason = f"{_count(agreed)}; credibility {credibility:.4f} reaches {job.confidence:g}"
        payments.pay(state, job, lease, reason)
    for lease in disagreed:
        stage = stage_proofs.stage_at_fault(lease, agreed[0])
        quarantine.hold_against(state, lease, EvidenceKind.OUTVOTED, stage=stage)
        _reject(state, lease, f"outvoted by results with credibility {credibility:.4f}; the stake is kept")
    rechecks.note_agreement(state, agreed)
    collusion.note_wrong(state, job, disagreed)
    conclude(state, job, agreed, disagreed, credibility)


def fail(state: MarketState, job: Job, error: TradepostError, cause: Cause = Cause.OTHER) -> None:
    """End a job without a result; its cap is refunded, less what was begun by its own doing.

    The `cause` tells what the work that was begun costs.
    """
    _finish(state, job, JobTrigger.GIVEN_UP, error.to_problem(), cause)


def cancel(state: MarketState, job: Job) -> None:
    """End a job because its submitter requests it; its cap is refunded, less what was begun."""
    problem = errors.JobCancelled(f"job {job.id}").to_problem()
    _finish(state, job, JobTrigger.CANCELLED, problem, Cause.CANCELLED)


def lose(
    state: MarketState,
    lease: Lease,
    trigger: LeaseTrigger,
    problem: Problem,
    *,
    evidence: EvidenceKind | None = None,
    pending_evidence: EvidenceKind | None = None,
    counts: bool = True,
    run_failed: bool = False,
) -> None:
    """Take an open lease back without a result. If it `counts`, it is one of the attempts that a job has.

    The `evidence` and `pending_evidence` of it count when the job has ended; the latter, and all of what
    `run_failed`, where the job itself may be the cause, only if others stand for it (`blame`). Under the
    rules of older journals, `evidence` counts at once.
    """
    state.close_lease(lease, trigger, problem)
    lease.settled_at = state.at
    job = state.jobs[lease.job]
    if lease.purpose is not LeasePurpose.AUDIT:
        if state.policy.lost_at_end and evidence is not None:
            evidence, pending_evidence = None, evidence
        job.failures += counts
        lease.pending_evidence = pending_evidence
        lease.run_failed = run_failed
        if run_failed:
            quarantine.note_failure(state, lease)
        if evidence is not None:
            quarantine.hold_against(state, lease, evidence, detail=findings.in_words(problem))
    note_lost_lease(state, job)


def note_lost_lease(state: MarketState, job: Job) -> None:
    """Have a job that lost a lease advanced, and queue it if that was its last live one."""
    if job.status not in FINAL and not any(state.live_leases(job)):
        transition_job(job, JobTrigger.LEASES_LOST, at=state.at)
    state.save(job)
    state.jobs_to_advance[job.id] = None


def check_until(state: MarketState, job: Job) -> float:
    """Until when a spot check of a finished job may begin: while its payments can still be clawed back."""
    assert job.finished_at is not None
    return max(job.finished_at + state.policy.hold_s, job.accused_until or 0.0, job.in_doubt_until or 0.0)


def is_result(lease: Lease) -> bool:
    """Whether an ordinary lease brought a result that stands, stood when its job was decided, or was paid."""
    judged = (LeaseState.DELIVERED, LeaseState.ACCEPTED, LeaseState.REJECTED)
    is_paid_anyway = lease.state is LeaseState.INCONCLUSIVE and lease.paid_microcredits > 0
    return lease.purpose is not LeasePurpose.AUDIT and (lease.state in judged or is_paid_anyway)


def conclude(
    state: MarketState,
    job: Job,
    accepted: Sequence[Lease],
    rejected: Sequence[Lease],
    credibility: float,
    *,
    reference: Lease | None = None,
) -> None:
    """End a job with accepted leases; a stage failure that was accepted is how the job failed.

    The output of the first lease in `job.accepted` is the submitter's.
    """
    outcome = _chosen(state, job, accepted, reference)
    job.accepted = tuple(dict.fromkeys([outcome.id, *(lease.id for lease in accepted)]))
    job.verification = Verification(
        credibility=credibility,
        agreed=tuple(lease.worker for lease in accepted),
        disagreed=tuple(lease.worker for lease in rejected),
    )
    payments.pay_stages(state, job, accepted)
    if not is_failure(outcome.outcome):
        _finish(state, job, JobTrigger.RESULT_ACCEPTED, None)
        return
    unnamed = errors.StageFailure(outcome.outcome).to_problem()
    _finish(state, job, JobTrigger.FAILURE_ACCEPTED, outcome.problem or unnamed)


def _chosen(state: MarketState, job: Job, accepted: Sequence[Lease], reference: Lease | None) -> Lease:
    """The lease whose outcome the submitter gets: the reference, or the nearest to the median."""
    if reference is not None:
        same = (lease for lease in accepted if lease.outcome == reference.outcome)
        return next(same, reference)
    scope = state.scope(job)
    members = [
        Member(
            lease.id,
            lease.outcome,
            lease.shares,
            state.workers[lease.worker].belief(scope, state.day).log_odds,
        )
        for lease in accepted
    ]
    return state.leases[nearest_to_median(members)]


def _finish(
    state: MarketState,
    job: Job,
    trigger: JobTrigger,
    problem: Problem | None,
    cause: Cause = Cause.OTHER,
) -> None:
    """What every end of a job has in common."""
    verified = trigger in (JobTrigger.RESULT_ACCEPTED, JobTrigger.FAILURE_ACCEPTED)
    live = list(state.live_leases(job))
    quarantine.note_end(state, job, verified=verified)
    begun = [] if verified else payments.due_for_begun(state, job, cause)
    paid = {lease.id for lease, _ in begun}
    is_result_paid = cause is not Cause.OTHER and any(
        lease.state is LeaseState.DELIVERED for lease, _ in begun
    )
    job.spot_check = job.spot_check and (verified or is_result_paid)
    for lease in live:
        if lease.state is not LeaseState.DELIVERED:
            if lease.purpose is not LeasePurpose.AUDIT or not job.spot_check:
                recall(state, lease)
        elif lease.id in paid:
            _close_undecided(state, lease)
        else:
            leave_undecided(state, lease, "the job ended before its results were verified")
    for lease, amount_microcredits in begun:
        payments.pay_begun(state, job, lease, amount_microcredits, begun_work.reason(lease, cause))
    transition_job(job, trigger, at=state.at)
    job.problem = problem
    for lease in partial_pay.preempted(state.leases_of[job.id]):
        if not lease.paid_microcredits:
            payments.send_settled(
                state, lease, "no result of another owner verified its stages; preempted by owner"
            )
    blame.judge(state, job)
    break_offs.judge(state, job, blame.successful_owners(state, job))
    state.ledger.void(job.id)
    state.job_queue.discard(job.id)
    state.audits_wanted.discard(job.id)
    state.timers.cancel(TimerPurpose.DEADLINE, job.id)
    state.timers.cancel(TimerPurpose.PATIENCE, job.id)
    state.retire_job(job)
    if job.spot_check:
        state.jobs_to_advance[job.id] = None
    invariant(
        job.committed_microcredits == 0, f"job {job.id} ends with {job.committed_microcredits} committed"
    )
    state.save(job)
    state.send(NotifyFinished(job.id))


def _reject(state: MarketState, lease: Lease, reason: str) -> None:
    state.close_lease(lease, LeaseTrigger.OUTVOTED)
    lease.settled_at = state.at
    payments.send_settled(state, lease, reason)


def _close_undecided(state: MarketState, lease: Lease) -> None:
    """Take a delivered lease out of its worker's hands without a verdict."""
    state.close_lease(lease, LeaseTrigger.UNDECIDED)
    lease.settled_at = state.at


def leave_undecided(state: MarketState, lease: Lease, reason: str) -> None:
    _close_undecided(state, lease)
    payments.send_settled(state, lease, reason)


def recall(state: MarketState, lease: Lease) -> None:
    state.close_lease(lease, LeaseTrigger.RECALLED)
    lease.settled_at = state.at
    state.send(SendRecall(lease.id, lease.worker))


def _count(leases: Sequence[Lease]) -> str:
    return "one result" if len(leases) == 1 else f"{len(leases)} results of different owners agree"
