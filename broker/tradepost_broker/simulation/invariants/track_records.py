"""What each worker's evidence is worth, restated from `docs/verification.md` without the core's own code.

It is used in one direction: no finding may count more than this allows, and a result may be accepted only if
its credibility, as computed here, reaches the job's confidence. A market that asks for more passes.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

from tradepost_broker.market.model.entities import Evidence, EvidenceKind
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.simulation.invariants.broken import require

_DAY_S: Final = 86_400
_SLACK: Final = 1e-6
_CREDIBILITY_MAX: Final = 1 - 1e-9

#: A decaying amount as of a day.
_Amount = tuple[int, float]


class TrackRecords:
    """Passed checks by worker, pipeline and submitter, with their decay."""

    def __init__(self, policy: MarketPolicy) -> None:
        self._policy = policy
        self._own: dict[tuple[str, str, str], _Amount] = {}
        self._vouched: dict[tuple[str, str, str], _Amount] = {}
        self._by_partner: dict[tuple[str, str, str], _Amount] = {}
        #: The submitters that have vouched for a worker in a pipeline.
        self._vouchers: dict[tuple[str, str], set[str]] = defaultdict(set)
        #: Failures by worker and who stands for them, an account or an owner.
        self._blamed: dict[tuple[str, str, str], _Amount] = {}
        self._blames: dict[str, Evidence] = {}
        self._worth: Final = {
            EvidenceKind.AGREED: policy.agreed_checks,
            EvidenceKind.AUDIT_PASSED: 1.0,
            EvidenceKind.OUTVOTED: -policy.outvoted_checks,
            EvidenceKind.CONTRADICTED: -policy.outvoted_checks,
        }

    def add(self, evidence: Evidence, owner: str, other_owners: Iterable[str]) -> None:
        """Take a finding about a worker of `owner` into account; results of `other_owners` agree with it."""
        if not self._policy.independent_partners:
            return
        worth = self._worth.get(evidence.kind, 0.0)
        if evidence.kind is not EvidenceKind.WITHDRAWN:
            self._check_amounts(evidence, worth)
        if evidence.kind is EvidenceKind.AGREED and evidence.checks > 0:
            require(
                evidence.partner != owner and evidence.partner in other_owners,
                f"{evidence.id} of {owner} is confirmed by {evidence.partner!r}",
            )
            partner = evidence.worker, evidence.pipeline, evidence.partner
            confirmed = self._raise(self._by_partner, partner, evidence.checks, evidence.at)
            limit = self._policy.partner_checks_max
            require(confirmed <= limit + _SLACK, f"{evidence.id}: {evidence.partner} confirmed {confirmed}")
        key = evidence.worker, evidence.pipeline, evidence.account
        self._raise(self._own, key, evidence.checks, evidence.at)
        vouched = self._raise(self._vouched, key, evidence.vouched_checks, evidence.at)
        require(
            vouched <= self._policy.vouched_checks_max + _SLACK,
            f"{evidence.id}: {evidence.account} vouches for {vouched} checks",
        )
        self._vouchers[evidence.worker, evidence.pipeline].add(evidence.account)

    def blame(self, evidence: Evidence, owner: str, successful_owners: Iterable[str]) -> None:
        """Check who stands for a failure of a worker of `owner`, if it rests on the word of others."""
        if evidence.kind is EvidenceKind.WITHDRAWN:
            found = self._blames.pop(evidence.id.removesuffix(f":{evidence.kind.value}"), None)
            if found is not None:
                for key in _witnesses(found):
                    day = int(found.at // _DAY_S)
                    fade = 0.5 ** ((int(evidence.at // _DAY_S) - day) / self._policy.half_life_days)
                    self._raise(self._blamed, key, -fade, evidence.at)
            return
        if not evidence.partner or evidence.kind not in (EvidenceKind.FAILED, EvidenceKind.EXPIRED):
            return
        require(
            evidence.partner in set(successful_owners) - {owner, evidence.account},
            f"{evidence.id} of {owner} rests on {evidence.partner!r}, in a job of {evidence.account}",
        )
        self._blames[evidence.id] = evidence
        for key in _witnesses(evidence):
            count = self._raise(self._blamed, key, 1.0, evidence.at)
            require(
                count <= self._policy.failures_counted_max + _SLACK,
                f"{evidence.id}: {key} stands for {count} failures",
            )

    def _check_amounts(self, evidence: Evidence, worth: float) -> None:
        require(evidence.checks <= max(worth, 0.0) + _SLACK, f"{evidence.id} counts {evidence.checks} checks")
        require(
            evidence.vouched_checks <= max(evidence.checks, 0.0) + _SLACK,
            f"{evidence.id} vouches for {evidence.vouched_checks} of {evidence.checks} checks",
        )
        if worth < 0:
            require(
                evidence.checks <= worth + _SLACK, f"{evidence.id} cancels only {-evidence.checks} checks"
            )

    def log_odds(self, worker: str, pipeline: str, account: str, at: float) -> float:
        """The log odds that one result of a worker is right, in a job of this account.

        Under the rules of older journals they are not computed again, and without a bound.
        """
        if not self._policy.independent_partners:
            return math.inf
        checks = self._on(self._own, (worker, pipeline, account), at)
        for other in self._vouchers[worker, pipeline] - {account}:
            checks += self._on(self._vouched, (worker, pipeline, other), at)
        doubt = self._policy.fault_fraction
        if checks > 0:
            doubt = min(doubt, doubt / ((1 - doubt) * math.e * checks))
        credibility = min(1 - doubt, _CREDIBILITY_MAX)
        return math.log(credibility / (1 - credibility))

    def _raise(
        self,
        amounts: dict[tuple[str, str, str], _Amount],
        key: tuple[str, str, str],
        amount: float,
        at: float,
    ) -> float:
        total = self._on(amounts, key, at) + amount
        amounts[key] = int(at // _DAY_S), total
        return total

    def _on(
        self, amounts: dict[tuple[str, str, str], _Amount], key: tuple[str, str, str], at: float
    ) -> float:
        day, amount = amounts.get(key, (0, 0.0))
        return amount * float(0.5 ** ((int(at // _DAY_S) - day) / self._policy.half_life_days))


def _witnesses(evidence: Evidence) -> tuple[tuple[str, str, str], ...]:
    """Who stands for a failure."""
    return (
        (evidence.worker, "account", evidence.account),
        (evidence.worker, "owner", evidence.partner),
    )


def reaches(own: Sequence[float], others: Iterable[Sequence[float]], confidence: float) -> bool:
    """Whether a group of results with these log odds is credible enough against the other groups."""
    against = math.log(1 + sum(math.exp(min(sum(group), 500.0)) for group in others))
    wanted = min(confidence, _CREDIBILITY_MAX)
    return sum(own) - against >= math.log(wanted / (1 - wanted)) - _SLACK
