"""Verdicts: nothing is accepted without evidence, nobody is expelled without proof, checks are made."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Final

from tradepost.protocol import OnWrong
from tradepost_broker.market.model.entities import (
    Evidence,
    EvidenceKind,
    Job,
    Lease,
    LeasePurpose,
    LeaseState,
    Worker,
    WorkerStanding,
    is_failure,
)
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.market.settling.reference_runs import contradicted
from tradepost_broker.simulation.invariants.broken import require
from tradepost_broker.simulation.invariants.track_records import TrackRecords, reaches
from tradepost_broker.simulation.world import outputs

#: How unlikely a run's number of spot checks must be to be called a defect.
_CHANCE: Final = 1e-9
_JUDGED: Final = frozenset({LeaseState.ACCEPTED, LeaseState.REJECTED})


class Verdicts:
    """Checks how jobs are decided, given what every lease really brought."""

    def __init__(self, policy: MarketPolicy) -> None:
        self._policy = policy
        self._agree = outputs.agree if policy.stage_proofs else outputs.are_near
        self._records = TrackRecords(policy)
        self._guilty: set[str] = set()
        self._log_odds: dict[str, float] = {}
        self.results = 0
        self.chosen = 0

    def before(self, job: Job, leases: list[Lease], at: float) -> None:
        """Note how credible the workers of a job's leases are, before the event's evidence counts."""
        for lease in leases:
            self._log_odds[lease.id] = self._records.log_odds(lease.worker, job.pipeline, job.account, at)

    def evidence(
        self, evidence: Evidence, lease: Lease, siblings: list[Lease], workers: Mapping[str, Worker]
    ) -> None:
        """Take evidence into account; proof of fraud must be one. `siblings` are all leases of the job."""
        references = _reference_runs(siblings)
        others = [
            workers[one.worker].owner
            for one in siblings
            if one.worker != lease.worker and self._agree(one.outcome, lease.outcome)
        ]
        self._records.add(evidence, workers[lease.worker].owner, others)
        done_by = [
            workers[one.worker].owner
            for one in siblings
            if one.state in _JUDGED and not is_failure(one.outcome)
        ]
        self._records.blame(evidence, workers[lease.worker].owner, done_by)
        if evidence.kind in (EvidenceKind.AUDIT_FAILED, EvidenceKind.CONTRADICTED):
            require(bool(references), f"{evidence.id} without a reference run")
            require(
                not any(self._agree(lease.outcome, one.outcome) for one in references),
                f"{evidence.id}: lease {lease.id} agrees with the reference run",
            )
        if evidence.kind is EvidenceKind.AUDIT_PASSED:
            require(
                any(self._agree(lease.outcome, one.outcome) for one in references),
                f"{evidence.id}: lease {lease.id} agrees with no reference run",
            )
        if evidence.kind is EvidenceKind.AUDIT_FAILED:
            require(lease.state is LeaseState.REJECTED, f"{evidence.id}: the lease is {lease.state}")
            self._proof(evidence, references, workers)

    def _proof(self, evidence: Evidence, references: list[Lease], workers: Mapping[str, Worker]) -> None:
        """Fraud is proven by auditors of so many owners, each of whom agrees with itself and the others.

        Each has run the job twice, but once where a kernel proves it.
        """
        needed = self._policy.references_to_expel
        if needed > 1:
            runs = Counter(one.worker for one in references)
            # A kernel cannot give another result in every run.
            each = 1 if any(contradicted(one).get(evidence.lease) for one in references) else 2
            owners = {workers[worker].owner for worker, count in runs.items() if count >= each}
            require(len(owners) >= needed, f"{evidence.id} is proven by the runs {dict(runs)}")
            require(
                all(self._agree(one.outcome, references[0].outcome) for one in references),
                f"{evidence.id} is proven by reference runs that differ",
            )
        self._guilty.add(evidence.worker)

    def expelled(self, worker: Worker) -> None:
        """Only proof expels."""
        require(worker.id in self._guilty, f"{worker.id} is expelled, and no reference run contradicts it")

    def accepted(self, job: Job, leases: list[Lease], workers: Mapping[str, Worker], at: float) -> None:
        """Check that what was accepted has the credibility that the job asks for, or a reference run."""
        require(bool(job.accepted), f"job {job.id} is accepted without a result")
        by_id = {lease.id: lease for lease in leases}
        accepted = [by_id[lease] for lease in job.accepted]
        require(
            all(self._agree(accepted[0].outcome, one.outcome) for one in accepted[1:]),
            f"job {job.id}: its accepted results disagree",
        )
        if any(self._agree(accepted[0].outcome, one.outcome) for one in _reference_runs(leases)):
            return
        owners = [workers[one.worker].owner for one in accepted]
        require(len(owners) == len(set(owners)), f"job {job.id}: one owner confirms itself")
        groups: dict[str, list[float]] = defaultdict(list)
        for one in leases:
            if one.purpose is not LeasePurpose.AUDIT and one.state in _JUDGED:
                now = self._records.log_odds(one.worker, job.pipeline, job.account, at)
                # Other jobs that were decided in the same event may have changed it either way.
                before = self._log_odds.get(one.id, now)
                groups[one.group].append(max(now, before) if one in accepted else min(now, before))
        own = groups.pop(accepted[0].group, [])
        require(
            len(own) == len(accepted) and reaches(own, groups.values(), job.confidence),
            f"job {job.id} is accepted at {job.confidence} with log odds {own} "
            f"against {list(groups.values())}",
        )

    def changed(self, job: Job, known: Job, leases: list[Lease], workers: Mapping[str, Worker]) -> None:
        """Check that a verdict changed because the result was wrong, or an expelled worker's and unchecked.

        `known` is the job before.
        """
        require(known.verdict_changed_at is None, f"the verdict on job {job.id} changed twice")
        by_id = {lease.id: lease for lease in leases}
        before = [by_id[lease] for lease in known.accepted]
        first_run = [one for one in leases if not job.redone_after or one.attempt <= job.redone_after]
        references = _reference_runs(first_run)
        require(bool(before), f"the verdict on job {job.id} changed, and it had no result")
        require(
            not any(self._agree(before[0].outcome, one.outcome) for one in references),
            f"the verdict on job {job.id} changed, and a reference run confirms it",
        )
        if not references:
            expelled = {one.owner for one in workers.values() if one.standing is WorkerStanding.EXPELLED}
            require(
                any(workers[one.worker].owner in expelled for one in before),
                f"the verdict on job {job.id} changed, and nothing speaks against its result",
            )
        is_replaced = any(one.id in job.accepted for one in references)
        require(
            is_replaced == (bool(references) and job.on_wrong is OnWrong.REDO),
            f"job {job.id} was to be corrected by {job.on_wrong}, and has {job.accepted}",
        )
        kept = {one.id for one in first_run if one.purpose is not LeasePurpose.AUDIT}
        require(kept.isdisjoint(job.accepted), f"job {job.id} is withdrawn and keeps a result")
        require(
            not job.redone_after or not (references or job.on_wrong is OnWrong.REFUND),
            f"job {job.id} is run again, and {job.on_wrong} was asked for",
        )

    def checks_made(self) -> None:
        """Check that results were chosen for spot checks about as often as the policy says."""
        rate, results = self._policy.audit_rate, self.results
        if not 0 < rate < 1 or results == 0:
            return
        # Chernoff's bound for a binomial tail. Where auditors fall behind, fewer are chosen on purpose.
        share = self.chosen / results
        if share > rate or self._policy.audit_backlog_max > results:
            exponent = results * _divergence(share, rate)
            require(
                math.exp(-exponent) > _CHANCE,
                f"{self.chosen} of {results} results were chosen for a spot check, at a rate of {rate}",
            )


def _reference_runs(leases: list[Lease]) -> list[Lease]:
    return [one for one in leases if one.purpose is LeasePurpose.AUDIT and one.outcome]


def _divergence(share: float, rate: float) -> float:
    terms = [(share, rate), (1 - share, 1 - rate)]
    return sum(a * math.log(a / b) for a, b in terms if a > 0)
