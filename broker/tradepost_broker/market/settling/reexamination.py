"""Re-examines what an expelled worker had delivered, and changes the verdicts that were wrong.

A worker that cheated once has perhaps cheated before. So each of its payments that is still held is refunded,
and each accepted result that it was paid for, alone or with others, is in doubt until a reference run of its
job is made. There may be thousands, so they are taken one by one, as many in one event as jobs are advanced.

A result that the reference run contradicts is replaced by that run's, or withdrawn, as the submitter asked.
One that no auditor could check within `reexamine_s` stands only if the results of others who agreed with it
reach the job's confidence; else the job is run again, by other workers, or withdrawn. A verdict changes at
most once: of a job that was run again, only money is taken back.
"""

from __future__ import annotations

from typing import Final

from tradepost import errors
from tradepost.protocol import OnWrong, Verification
from tradepost_broker.market.model.entities import Job, Lease, LeaseState, WorkerStanding, is_failure
from tradepost_broker.market.model.events import NotifyVerdictChanged
from tradepost_broker.market.model.job_states import JobTrigger, transition_job
from tradepost_broker.market.settling import owner_examination, payments, settlement
from tradepost_broker.market.settling.reference_runs import references
from tradepost_broker.market.state.market_state import MarketState
from tradepost_broker.market.state.worker_state import WorkerState
from tradepost_broker.market.trust.verification import Accept, GroupedResult, decide

_REFUNDED: Final = "its worker was expelled because of another result; what was held is refunded"
_WRONG: Final = "a reference run contradicts it"
_UNCHECKED: Final = (
    "a device of its worker's owner was proven to cheat in another job, "
    "and no auditor could check this result"
)
_CREDIBILITY: Final = 1.0


def begin(state: MarketState, worker: WorkerState, proof: Lease) -> bool:
    """Have all held payments of an expelled worker taken; that of the lease which proved it, at once.

    Whether the policy has it so.
    """
    if not state.policy.reexamine_s:
        return False
    if proof.id in worker.held:
        payments.claw_back(state, proof)
    state.examinations.to_reexamine.update(dict.fromkeys(sorted(worker.held)))
    return True


def take_next(state: MarketState) -> None:
    """Take one held payment of an expelled worker that waits for it."""
    lease = state.leases.get(next(iter(state.examinations.to_reexamine)))
    if lease is not None and is_due(state, lease):
        state.jobs_advanced += 1
        take(state, lease)
    elif lease is not None and owner_examination.is_due(state, lease):
        state.jobs_advanced += 1
        owner_examination.take(state, lease)
    else:  # it was refunded by another way
        del state.examinations.to_reexamine[next(iter(state.examinations.to_reexamine))]


def is_of_expelled(state: MarketState, lease: Lease) -> bool:
    """Whether a lease's worker is expelled, so that the policy has its results re-examined."""
    is_expelled = state.workers[lease.worker].record.standing is WorkerStanding.EXPELLED
    return bool(state.policy.reexamine_s) and is_expelled


def is_due(state: MarketState, lease: Lease) -> bool:
    """Whether a lease has a held payment of an expelled worker."""
    return is_of_expelled(state, lease) and lease.id in state.workers[lease.worker].held


def take(state: MarketState, lease: Lease) -> None:
    """Refund a held payment of an expelled worker, and doubt the result that it was for."""
    job = state.jobs[lease.job]
    state.job_at_hand = job.id
    state.examinations.to_reexamine.pop(lease.id, None)
    payments.claw_back(state, lease)
    payments.send_settled(state, lease, _REFUNDED)
    is_checked = bool(job.accused or references(state, job)) or job.in_doubt_until is not None
    may_change = lease.id in job.accepted and job.verdict_changed_at is None
    if may_change and lease.state is LeaseState.ACCEPTED and not is_checked:
        state.doubt(job, state.at + state.policy.reexamine_s)
        job.spot_check = True
        state.save(job)
        state.jobs_to_advance[job.id] = None


def review(state: MarketState, job: Job) -> None:
    """Change the verdict on a finished job if reference runs contradict all that it rests on."""
    accepted = [state.leases[lease] for lease in job.accepted]
    is_wrong = bool(accepted) and all(lease.state is LeaseState.REJECTED for lease in accepted)
    if state.policy.reexamine_s and is_wrong and job.verdict_changed_at is None:
        _change(state, job, references(state, job)[0])


def give_up(state: MarketState, job: Job, *, may_redo: bool = True) -> None:
    """End the doubt about a result that no auditor could check: it stands if others are enough for it.

    Else the job is run again, if it may be and its submitter wants it and can pay it.
    """
    for lease in list(state.live_leases(job)):
        settlement.recall(state, lease)
    state.audits_wanted.discard(job.id)
    job.spot_check = False
    state.end_doubt(job)
    if not _stands_without_expelled(state, job):
        _refund_suspects(state, job)
        _change(state, job, None, may_redo=may_redo)


def _is_of_cheat(state: MarketState, lease: Lease) -> bool:
    """Whether a lease's worker, or another device of its owner, is expelled."""
    is_suspect = owner_examination.is_suspect(state, state.workers[lease.worker])
    return is_suspect or is_of_expelled(state, lease)


def _refund_suspects(state: MarketState, job: Job) -> None:
    """Refund what is held for a result that does not stand, of devices of which another was expelled."""
    for lease in (state.leases[one] for one in job.accepted):
        if _is_of_cheat(state, lease) and lease.id in state.workers[lease.worker].held:
            payments.claw_back(state, lease)
            payments.send_settled(state, lease, _UNCHECKED)


def _stands_without_expelled(state: MarketState, job: Job) -> bool:
    """Whether the results of owners of whom no device is expelled reach the job's confidence."""
    scope = state.scope(job)
    results = [
        GroupedResult(
            lease.id,
            lease.group,
            state.workers[lease.worker].belief(scope, state.day).log_odds,
            lease.must_be_confirmed,
        )
        for lease in state.leases_of[job.id]
        if settlement.is_result(lease) and not _is_of_cheat(state, lease)
    ]
    step = decide(
        results,
        open_log_odds=(),
        confidence=job.confidence,
        auditor_available=False,
        results_max=state.policy.results_max,
    )
    return isinstance(step, Accept) and step.group == state.leases[job.accepted[0]].group


def _change(state: MarketState, job: Job, reference: Lease | None, *, may_redo: bool = True) -> None:
    """Replace the result by that of the reference run, have it run again, or withdraw it."""
    disagreed = tuple(state.leases[lease].worker for lease in job.accepted)
    if job.on_wrong is OnWrong.REFUND:
        _withdraw(state, job, disagreed, _WRONG if reference is not None else _UNCHECKED)
    elif reference is not None:
        _correct(state, job, reference, disagreed)
    elif not may_redo:
        _withdraw(state, job, disagreed, f"{_UNCHECKED}, and its pipeline is revoked")
    else:
        _redo(state, job, disagreed)
    state.save(job)
    state.send(NotifyVerdictChanged(job.id))


def _correct(state: MarketState, job: Job, reference: Lease, disagreed: tuple[str, ...]) -> None:
    job.accepted = (reference.id,)
    job.verification = Verification(credibility=_CREDIBILITY, agreed=(reference.worker,), disagreed=disagreed)
    if is_failure(reference.outcome):
        transition_job(job, JobTrigger.FAILURE_CORRECTED, at=state.at)
        job.problem = reference.problem or errors.StageFailure(reference.outcome).to_problem()
    else:
        transition_job(job, JobTrigger.RESULT_CORRECTED, at=state.at)
        job.problem = None


def _redo(state: MarketState, job: Job, disagreed: tuple[str, ...]) -> None:
    """Queue a job again, with as much time as it had, and what is left of its cap."""
    try:
        left_microcredits = job.max_price_microcredits - job.paid_microcredits
        state.ledger.reserve(job.id, job.account, left_microcredits)
    except errors.InsufficientFunds as error:
        _withdraw(state, job, disagreed, f"{_UNCHECKED}, and it cannot be run again: {error.detail}")
        return
    transition_job(job, JobTrigger.REDONE, at=state.at)
    job.spent_microcredits = job.paid_microcredits
    job.redone_after = job.attempts
    job.failures = 0
    job.accepted = ()
    job.verification = None
    job.problem = None
    job.deadline_at = state.at + (job.deadline_at - job.submitted_at)
    state.reopen_job(job)
    state.jobs_to_advance[job.id] = None


def _withdraw(state: MarketState, job: Job, disagreed: tuple[str, ...], why: str) -> None:
    job.accepted = ()
    job.verification = Verification(credibility=0.0, disagreed=disagreed)
    transition_job(job, JobTrigger.RESULT_WITHDRAWN, at=state.at)
    error = errors.ResultWithdrawn(f"the result of job {job.id} is withdrawn: {why}")
    job.problem = error.to_problem()
