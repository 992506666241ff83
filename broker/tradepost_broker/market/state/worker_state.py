"""The state of each worker besides its record: open leases, refusals, and beliefs.

Beliefs come from evidence, per capability class, through `tradepost_reputation`; they are cached until new
evidence or a new day changes them. Nothing here is random or timed by itself: the day is an argument.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from tradepost.errors import Problem
from tradepost_broker.market.model.entities import (
    Evidence,
    EvidenceKind,
    Lease,
    Pipeline,
    Worker,
    WorkerStanding,
)
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.market.state.offer_book import Seat
from tradepost_reputation import Tally, Weight, credibility_of_worker, explain, log_odds
from tradepost_reputation.score import DAY_S

#: The capability class of pipelines that name no execution provider.
ANY_PROVIDER: Final = "any"


class Belief(NamedTuple):
    """The expectations of one worker in one capability class.

    `score` is for leases that go well, `credibility` for one result that is right, `checks` what it rests on.
    """

    score: float
    credibility: float
    log_odds: float
    checks: float


class Reputation(NamedTuple):
    """A worker's reputation in one capability class, and the sentences that explain it."""

    capability: str
    score: float
    credibility: float
    explanation: tuple[str, ...]


def capability_of(pipeline: Pipeline) -> str:
    """The class within which workers on this pipeline are comparable: its execution providers."""
    return "+".join(sorted(pipeline.providers)) or ANY_PROVIDER


def day_of(at: float) -> int:
    """Days since the epoch."""
    return int(at // DAY_S)


def weights(policy: MarketPolicy) -> dict[EvidenceKind, Weight]:
    """What each kind of evidence adds to a record."""
    return {
        EvidenceKind.AGREED: Weight(good=policy.agreed_weight, checks=policy.agreed_checks),
        EvidenceKind.AUDIT_PASSED: Weight(good=policy.audit_passed_weight, checks=1.0),
        EvidenceKind.OUTVOTED: Weight(bad=policy.outvoted_weight, checks=-policy.outvoted_checks),
        EvidenceKind.CONTRADICTED: Weight(bad=policy.outvoted_weight, checks=-policy.outvoted_checks),
        EvidenceKind.AUDIT_FAILED: Weight(fraud=1.0),
        EvidenceKind.FAILED: Weight(bad=policy.lost_weight),
        EvidenceKind.EXPIRED: Weight(bad=policy.lost_weight),
        EvidenceKind.WITHDRAWN: Weight(),
    }


def in_order(leases: dict[str, Lease]) -> list[Lease]:
    """Leases in an order that does not depend on when they came into memory, so that journals replay."""
    return [leases[lease] for lease in sorted(leases)]


class WorkerState:
    """One worker while the broker runs. Starts disconnected, without leases."""

    __slots__ = (
        "_beliefs",
        "_policy",
        "_proven",
        "_tallies",
        "_weights",
        "connected",
        "delivered",
        "held",
        "open",
        "record",
        "refused",
        "seat",
        "too_old",
    )

    def __init__(
        self, record: Worker, *, policy: MarketPolicy, evidence_weights: dict[EvidenceKind, Weight]
    ) -> None:
        self.record = record
        self.connected = False
        self.open: dict[str, Lease] = {}
        self.delivered: dict[str, Lease] = {}
        self.held: dict[str, Lease] = {}
        #: Pipelines that its owner does not allow, as far as it told since it connected.
        self.refused: dict[str, Problem] = {}
        self.seat: Seat | None = None
        #: Its engines are below the floors of the operator's revocation list.
        self.too_old = False
        self._policy = policy
        self._weights = evidence_weights
        self._tallies: dict[str, Tally] = {}
        self._beliefs: dict[str, tuple[int, Belief]] = {}
        self._proven: tuple[int, bool] | None = None

    def learn(self, evidence: Evidence) -> None:
        """Take one more piece of evidence into account."""
        tally = self._tallies.get(evidence.capability)
        if tally is None:
            tally = self._tallies[evidence.capability] = Tally(self._policy.half_life_days)
        tally.add(evidence.kind.value, self._weights[evidence.kind], day=day_of(evidence.at))
        self._beliefs.pop(evidence.capability, None)
        self._proven = None

    def withdraw(self, evidence: Evidence) -> None:
        """Let a piece of evidence that was learned before count no more."""
        weight = self._weights[evidence.kind]
        self._tallies[evidence.capability].withdraw(evidence.kind.value, weight, day=day_of(evidence.at))
        self._beliefs.pop(evidence.capability, None)
        self._proven = None

    def belief(self, capability: str, day: int) -> Belief:
        """What to expect of it on `day`."""
        cached = self._beliefs.get(capability)
        if cached is not None and cached[0] == day:
            return cached[1]
        record = self._tally(capability).record(day=day)
        credibility = credibility_of_worker(record.checks, fault_fraction=self._policy.fault_fraction)
        belief = Belief(record.score, credibility, log_odds(credibility), record.checks)
        self._beliefs[capability] = (day, belief)
        return belief

    def capacity(self, day: int) -> int:
        """How many leases it may have open: what it offers, less for a newcomer, none if it may not work."""
        offer = self.record.offer
        if not self.connected or offer is None or self.too_old:
            return 0
        if self.record.standing is not WorkerStanding.ACTIVE:
            return 0
        limit = self._policy.exposure_leases_max
        if offer.capacity <= limit or self.record.auditor or self.is_proven(day):
            return offer.capacity
        return limit

    def is_proven(self, day: int) -> bool:
        """Whether it has passed enough checks, of any class, to be trusted with all of its capacity."""
        if self._proven is None or self._proven[0] != day:
            checks = sum(tally.record(day=day).checks for tally in self._tallies.values())
            self._proven = (day, checks >= self._policy.proven_checks)
        return self._proven[1]

    def deserves_suspension(self, capability: str, day: int) -> bool:
        """Whether there is enough evidence, and it is bad enough, to give it no more leases for now."""
        record = self._tally(capability).record(day=day)
        return (
            record.good + record.bad >= self._policy.suspend_evidence_min
            and record.score < self._policy.suspend_below_score
        )

    def deserves_return(self, day: int) -> bool:
        """Whether what suspended it has been outweighed, or half forgotten."""
        records = [tally.record(day=day) for tally in self._tallies.values()]
        return all(
            record.score >= self._policy.suspend_below_score
            or record.good + record.bad < self._policy.suspend_evidence_min / 2
            for record in records
        )

    def reputations(self, day: int) -> dict[str, Reputation]:
        """Its reputation by capability class."""
        return {
            capability: Reputation(
                capability,
                self.belief(capability, day).score,
                self.belief(capability, day).credibility,
                tuple(explain(tally, day=day, fault_fraction=self._policy.fault_fraction)),
            )
            for capability, tally in self._tallies.items()
        }

    def _tally(self, capability: str) -> Tally:
        return self._tallies.get(capability) or Tally(self._policy.half_life_days)
