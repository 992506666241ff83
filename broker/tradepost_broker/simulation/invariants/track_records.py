"""What each worker's evidence is worth, restated from `docs/verification.md` without the core's own code.

It is used in one direction: a result may be accepted only if its credibility, as computed here, reaches the
job's confidence. A market that asks for more than that passes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

from tradepost_broker.market.model.entities import Evidence, EvidenceKind
from tradepost_broker.market.model.policy import MarketPolicy

_DAY_S: Final = 86_400
_SLACK: Final = 1e-6
_CREDIBILITY_MAX: Final = 1 - 1e-9


class TrackRecords:
    """Passed checks by worker and capability class, with their decay."""

    def __init__(self, policy: MarketPolicy) -> None:
        self._policy = policy
        self._checks: dict[tuple[str, str], tuple[int, float]] = {}
        self._cancelled: dict[str, Evidence] = {}
        self._worth: Final = {
            EvidenceKind.AGREED: policy.agreed_checks,
            EvidenceKind.AUDIT_PASSED: 1.0,
            EvidenceKind.OUTVOTED: -policy.outvoted_checks,
            EvidenceKind.CONTRADICTED: -policy.outvoted_checks,
        }

    def add(self, evidence: Evidence) -> None:
        """Take one more piece of evidence into account."""
        day = int(evidence.at // _DAY_S)
        known_day, checks = self._checks.get((evidence.worker, evidence.capability), (day, 0.0))
        faded = checks * self._fade(day - known_day)
        worth = self._worth.get(evidence.kind, 0.0)
        if worth < 0:
            self._cancelled[evidence.id] = evidence
        if evidence.kind is EvidenceKind.WITHDRAWN:
            withdrawn = self._cancelled.pop(evidence.id.rpartition(":")[0], None)
            if withdrawn is not None:
                age = day - int(withdrawn.at // _DAY_S)
                worth = -self._worth[withdrawn.kind] * self._fade(age)
        self._checks[evidence.worker, evidence.capability] = (day, faded + worth)

    def log_odds(self, worker: str, capability: str, at: float) -> float:
        """The log odds that one result of a worker is right."""
        day = int(at // _DAY_S)
        known_day, checks = self._checks.get((worker, capability), (day, 0.0))
        checks *= self._fade(day - known_day)
        doubt = self._policy.fault_fraction
        if checks > 0:
            doubt = min(doubt, doubt / ((1 - doubt) * math.e * checks))
        credibility = min(1 - doubt, _CREDIBILITY_MAX)
        return math.log(credibility / (1 - credibility))

    def _fade(self, days: int) -> float:
        return float(0.5 ** (days / self._policy.half_life_days))


def reaches(own: Sequence[float], others: Iterable[Sequence[float]], confidence: float) -> bool:
    """Whether a group of results with these log odds is credible enough against the other groups."""
    against = math.log(1 + sum(math.exp(min(sum(group), 500.0)) for group in others))
    wanted = min(confidence, _CREDIBILITY_MAX)
    return sum(own) - against >= math.log(wanted / (1 - wanted)) - _SLACK
