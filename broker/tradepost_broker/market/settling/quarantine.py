"""Finds the pipelines and inputs that fail on everybody, and stops them before they harm workers.

What fails on all owners that try it is its author's fault, not theirs. So it is noted, for each account and
pipeline, on which owners its jobs fail and which give results: a balance for each owner, which is small, so
that new outcomes soon outweigh old ones. Once there are `quarantine_owners` of the former, and more than of
the latter, the account's jobs on the pipeline get no more leases, and the evidence that their failures had
put on workers is withdrawn. An owner in a conspiracy with the author counts once, however often it succeeds;
owners in a conspiracy against an author count less than the honest ones that succeed. If that happens to two
accounts or more, and with the outcomes of all accounts taken together, the pipeline itself is stopped.

The submitter's word lifts an account's quarantine, publishing again that of a pipeline; both begin anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tradepost.errors import PipelineQuarantined, TradepostError
from tradepost_broker.market.model.entities import (
    EvidenceKind,
    Job,
    Lease,
    LeaseState,
    PipelineUse,
    is_failure,
)
from tradepost_broker.market.settling import collusion, findings
from tradepost_broker.market.state import recorded_evidence
from tradepost_broker.market.state.market_state import MarketState

#: Owners whose outcomes are kept for one account and pipeline, those that changed last.
_OWNERS_MAX: Final = 32
#: An owner's balance of results and failures is at most so far from 0.
_BALANCE_MAX: Final = 3
#: Findings that can be withdrawn, of one account and pipeline, the newest.
_EVIDENCE_MAX: Final = 256
#: Accounts whose jobs a pipeline must have failed before it is stopped for everybody.
_ACCOUNTS_MIN: Final = 2
_SHOWN_MAX: Final = 4
_EVERYBODY: Final = ""


def check(state: MarketState, pipeline: str, account: str) -> None:
    """Raise `PipelineQuarantined` if jobs of this account on this pipeline get no leases."""
    error = quarantined(state, pipeline, account)
    if error is not None:
        raise error


def quarantined(state: MarketState, pipeline: str, account: str) -> TradepostError | None:
    """Why jobs of this account on this pipeline get no leases; `None` if they do."""
    for whose in (account, _EVERYBODY):
        use = state.uses.get((pipeline, whose))
        if use is not None and use.quarantined_at is not None and use.problem is not None:
            return TradepostError.from_problem(use.problem)
    return None


def lift(state: MarketState, pipeline: str, account: str) -> bool:
    """End a quarantine, and forget what led to it; whether there was one."""
    use = state.uses.get((pipeline, account))
    if use is None or use.quarantined_at is None:
        return False
    _end(use)
    use.outcomes = ()
    state.save(use)
    return True


def hold_against(
    state: MarketState,
    lease: Lease,
    kind: EvidenceKind,
    *,
    stage: str = "",
    detail: str = "",
    partner: str = "",
) -> None:
    """Record evidence about a lease's worker, which is withdrawn if the job turns out to be at fault.

    There is none if that is known already. `partner` is the owner whose result it rests on.
    """
    job = state.jobs[lease.job]
    if quarantined(state, job.pipeline, job.account) is not None:
        return
    evidence = findings.learn(state, lease, kind, stage=stage, detail=detail, partner=partner)
    if not state.policy.quarantine_owners and state.policy.references_to_expel == 1:
        return  # there is nothing that could withdraw it
    use = state.use(job.pipeline, job.account)
    kept = (*use.evidence, evidence.id)
    for forgotten in kept[:-_EVIDENCE_MAX]:
        state.withdrawable.pop(forgotten, None)  # its record may have been unreadable
    use.evidence = kept[-_EVIDENCE_MAX:]
    state.withdrawable[evidence.id] = evidence
    state.save(use)


def note_failure(state: MarketState, lease: Lease) -> None:
    """Note that a run failed on a lease's owner, and draw the conclusions."""
    _note(state, state.jobs[lease.job], failed=[lease])


def note_end(state: MarketState, job: Job, *, verified: bool) -> None:
    """Note which owners gave the result of a job that ends, or that its results all differ."""
    if verified:
        _note(state, job, succeeded=_accepted_results(state, job))
    else:
        leases = state.ordinary_leases(job, LeaseState.DELIVERED)
        if len({lease.group for lease in leases}) == len(leases) >= state.policy.quarantine_owners:
            _note(state, job, failed=leases)


def _note(
    state: MarketState, job: Job, *, failed: Sequence[Lease] = (), succeeded: Sequence[Lease] = ()
) -> None:
    if not state.policy.quarantine_owners:
        return
    outcomes = dict.fromkeys(_owners(state, failed), False) | dict.fromkeys(_owners(state, succeeded), True)
    for account in (job.account, _EVERYBODY):
        use = state.use(job.pipeline, account)
        if _take(use, outcomes):
            state.save(use)
        _conclude(state, use, failed)


def withdraw(state: MarketState, job: Job, leases: Sequence[str], kind: EvidenceKind, reason: str) -> None:
    """Withdraw what was held against the workers of these leases of a job, if it can be still."""
    use = state.use(job.pipeline, job.account)
    for lease in leases:
        evidence = f"{lease}:{kind.value}"
        if _withdraw_one(state, evidence, reason):
            use.evidence = tuple(one for one in use.evidence if one != evidence)
            state.save(use)


def not_reproducible(state: MarketState, job: Job, error: TradepostError) -> None:
    """Stop an account's jobs on a pipeline whose reference runs differ from each other."""
    if state.policy.quarantine_owners:
        _begin(state, state.use(job.pipeline, job.account), error)


def _accepted_results(state: MarketState, job: Job) -> list[Lease]:
    accepted = (state.leases[lease] for lease in job.accepted)
    return [lease for lease in accepted if not is_failure(lease.outcome)]


def _owners(state: MarketState, leases: Sequence[Lease]) -> list[str]:
    return [state.workers[lease.worker].record.owner for lease in leases]


def _take(use: PipelineUse, outcomes: dict[str, bool]) -> bool:
    """Take owners' newest outcomes into account; whether that changed something."""
    known = dict(use.outcomes)
    changed: dict[str, int] = {}
    for owner, gave in outcomes.items():
        balance = known.get(owner, 0) + (1 if gave else -1)
        if abs(balance) <= _BALANCE_MAX:
            changed[owner] = balance
    if changed:
        kept = {owner: balance for owner, balance in known.items() if owner not in changed}
        use.outcomes = tuple((kept | changed).items())[-_OWNERS_MAX:]
    return bool(changed)


def _conclude(state: MarketState, use: PipelineUse, failed: Sequence[Lease]) -> None:
    gave = sum(balance > 0 for _, balance in use.outcomes)
    owners = sum(balance < 0 for _, balance in use.outcomes)
    at_fault = owners >= state.policy.quarantine_owners and owners > gave
    if use.quarantined_at is not None:
        if use.follows_outcomes and not at_fault:
            _end(use)
            state.save(use)
        return
    if not at_fault or not failed or not _proven_workers_failed(state, use):
        return
    if use.account == _EVERYBODY and len(_stopped_accounts(state, use.pipeline)) < _ACCOUNTS_MIN:
        return
    use.follows_outcomes = True
    _begin(state, use, _error(state, use, failed, owners=owners))


def _proven_workers_failed(state: MarketState, use: PipelineUse) -> bool:
    """Whether enough owners of proven workers failed as well, or all that there are.

    Newcomers cost nothing, so any number of them could agree to fail the jobs of others.
    """
    failed = {owner for owner, balance in use.outcomes if balance < 0}
    proven = {
        worker.record.owner
        for worker in state.workers.values()
        if not worker.record.auditor and worker.capacity(state.day) and worker.is_proven(state.day)
    }
    return len(proven & failed) >= state.policy.attempts_proven_max or proven <= failed


def _stopped_accounts(state: MarketState, pipeline: str) -> list[PipelineUse]:
    return [
        use
        for (whose, account), use in state.uses.items()
        if whose == pipeline and account != _EVERYBODY and use.quarantined_at is not None
    ]


def _begin(state: MarketState, use: PipelineUse, error: TradepostError) -> None:
    use.quarantined_at = state.at
    use.problem = error.to_problem()
    state.save(use)
    for other in list(state.uses.values()):
        if other.pipeline == use.pipeline and use.account in (other.account, _EVERYBODY):
            _withdraw_evidence(state, other)
    for job in state.jobs.values():
        if (
            job.finished_at is None
            and job.pipeline == use.pipeline
            and use.account in (job.account, _EVERYBODY)
        ):
            state.jobs_to_advance[job.id] = None


def _end(use: PipelineUse) -> None:
    use.quarantined_at = None
    use.problem = None
    use.follows_outcomes = False


def _withdraw_evidence(state: MarketState, use: PipelineUse) -> None:
    ids, use.evidence = use.evidence, ()
    for evidence in ids:
        _withdraw_one(state, evidence, f"pipeline {use.pipeline} fails on everybody")
    if ids:
        state.save(use)


def _withdraw_one(state: MarketState, evidence_id: str, reason: str) -> bool:
    """Withdraw a finding and what follows from it; whether it can be still."""
    evidence = state.withdrawable.pop(evidence_id, None)
    if evidence is None:
        return False
    recorded_evidence.withdraw(state, evidence, reason)
    collusion.withdraw(state, evidence)
    return True


def _error(
    state: MarketState, use: PipelineUse, failed: Sequence[Lease], *, owners: int
) -> PipelineQuarantined:
    inputs = list(dict.fromkeys(state.jobs[lease.job].input for lease in failed))[:_SHOWN_MAX]
    causes = [_cause(lease) for lease in failed]
    shown = list(dict.fromkeys(causes))[:_SHOWN_MAX]
    whose = "its jobs" if use.account == _EVERYBODY else f"jobs of account {use.account}"
    return PipelineQuarantined(
        f"pipeline {use.pipeline}: {whose} failed on {owners} owners' workers, and more than gave a result; "
        f"the last, with input {', '.join(inputs)}: {'; '.join(shown)}",
        pipeline=use.pipeline,
        inputs=inputs,
        owners=owners,
        failures=shown,
    )


def _cause(lease: Lease) -> str:
    if lease.problem is None:
        return "a result that agrees with no other"
    return f"{lease.problem.title} {lease.problem.detail}".strip()
