"""Says which lost leases count against their workers, when their job has ended.

Whether a run failed because of the device or because of the job, only somebody else can tell. An account
that knows an input on which every device fails could ruin the score of any worker, with an accomplice that
makes a result up. So a failed run counts only if another owner has given the job's result, and only as far as
somebody independent stands for it: for so many findings, within a half-life, as `failures_counted_max` says
for each account and each other owner. A reference run of the job cannot be staged, so what it confirms counts
beyond that. What the broker has found itself (an invalid receipt, a stream that stayed closed) needs no
witness.

Nothing counts before the job has ended: scores and suspensions would tell what happens in it.
"""

from __future__ import annotations

from tradepost_broker.market.model.entities import EvidenceKind, Job, Lease, is_failure
from tradepost_broker.market.settling import findings, quarantine
from tradepost_broker.market.settling.reference_runs import references
from tradepost_broker.market.state.market_state import MarketState
from tradepost_reputation import has_room


def judge(state: MarketState, job: Job) -> None:
    """Hold lost leases of a job that ends against their workers, as far as that is justified.

    What nobody independent stands for any more waits for the job's spot check, if there is to be one.
    """
    for lease in state.leases_of[job.id]:
        kind = lease.pending_evidence
        if kind is None:
            continue
        state.save(lease)
        lease.pending_evidence = None
        detail = findings.in_words(lease.problem)
        if state.policy.lost_at_end and not lease.run_failed:
            quarantine.hold_against(state, lease, kind, detail=detail)
        elif not hold_failure_against(state, lease, kind, detail=detail) and _may_be_confirmed(state, lease):
            lease.pending_evidence = kind


def hold_failure_against(state: MarketState, lease: Lease, kind: EvidenceKind, *, detail: str) -> bool:
    """Hold against a worker what its job may be the cause of; whether somebody stands for that."""
    job = state.jobs[lease.job]
    if not _other_owners(state, lease):
        return False
    partner = ""
    if state.policy.failures_counted_max and not _is_decided_by_reference(state, job):
        partner = _witness(state, lease)
        if not partner:
            return False
    quarantine.hold_against(state, lease, kind, detail=detail, partner=partner)
    return True


def judge_again(state: MarketState, job: Job, *, confirmed: bool) -> None:
    """Apply the spot check of a job that has ended: if it confirms the result, who failed is to blame."""
    for lease in state.leases_of[job.id]:
        kind, lease.pending_evidence = lease.pending_evidence, None
        if kind is not None:
            state.save(lease)
            if confirmed:
                quarantine.hold_against(state, lease, kind, detail=findings.in_words(lease.problem))


def successful_owners(state: MarketState, job: Job) -> set[str]:
    """The owners who gave the job's accepted result; nobody if there is none, or if it is a failure."""
    return {
        state.workers[state.leases[accepted].worker].record.owner
        for accepted in job.accepted
        if not is_failure(state.leases[accepted].outcome)
    }


def _other_owners(state: MarketState, lease: Lease) -> set[str]:
    own = state.workers[lease.worker].record.owner
    return successful_owners(state, state.jobs[lease.job]) - {own}


def _may_be_confirmed(state: MarketState, lease: Lease) -> bool:
    """Whether a spot check can still tell that the job's result, of another owner, is right."""
    is_bounded = state.policy.failures_counted_max > 0
    return is_bounded and state.jobs[lease.job].spot_check and bool(_other_owners(state, lease))


def _is_decided_by_reference(state: MarketState, job: Job) -> bool:
    return job.verification is not None and job.verification.credibility > 0 and bool(references(state, job))


def _witness(state: MarketState, lease: Lease) -> str:
    """The owner of an accepted result who stands for a failure, of those who may, the one who has least.

    "" if nobody may: the account and its hand, or all these owners, stand for as many as they may already.
    """
    policy, blame = state.policy, state.workers[lease.worker].blame
    account, own = state.jobs[lease.job].account, state.workers[lease.worker].record.owner
    if not has_room(blame.by_accounts(state.hands.of(account), state.day), policy.failures_counted_max):
        return ""
    independent = (
        owner
        for owner in _other_owners(state, lease)
        if not state.hands.are_one(owner, account) and not state.hands.are_one(owner, own)
    )
    findings_of = {owner: blame.by_partners(state.hands.of(owner), state.day) for owner in independent}
    return min(
        (owner for owner, found in findings_of.items() if has_room(found, policy.failures_counted_max)),
        key=lambda owner: (findings_of[owner], owner),
        default="",
    )
