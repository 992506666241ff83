"""The state of each worker besides its record: open leases, refusals, and beliefs.

Beliefs come from evidence, through `tradepost_reputation`: the score per capability class, the checks per
pipeline and submitter. They are cached until new evidence or a new day changes them. Nothing here is random
or timed by itself: the day is an argument.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

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
from tradepost_reputation import (
    BlameRecord,
    CheckRecord,
    Counted,
    Finding,
    Tally,
    Weight,
    Witnesses,
    credibility_of_worker,
    explain,
    log_odds,
)
from tradepost_reputation.score import DAY_S

#: The capability class of pipelines that name no execution provider.
ANY_PROVIDER: Final = "any"
#: Beliefs that are cached for one worker.
_BELIEFS_KEPT: Final = 256


class Scope(NamedTuple):
    """For whom and in what a worker is believed: jobs of `submitter` in `pipeline`, of this class."""

    capability: str
    pipeline: str
    submitter: str


class Belief(NamedTuple):
    """The expectations of one worker in one scope.

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


def _witnesses(evidence: Evidence) -> Witnesses | None:
    """Whose word a failure rests on; `None` if the broker or a reference run has found it."""
    if evidence.kind not in (EvidenceKind.FAILED, EvidenceKind.EXPIRED) or not evidence.partner:
        return None
    return Witnesses(evidence.account, evidence.partner)


def in_order(leases: dict[str, Lease]) -> list[Lease]:
    """Leases in an order that does not depend on when they came into memory, so that journals replay."""
    return [leases[lease] for lease in sorted(leases)]


class WorkerState:
    """One worker while the broker runs. Starts disconnected, without leases."""

    __slots__ = (
        "_beliefs",
        "_checks",
        "_policy",
        "_proven",
        "_tallies",
        "_weights",
        "absence_blamed",
        "absent_since",
        "blame",
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
        #: When its stream closed last, and which absence was held against it last; a restart forgets that.
        self.absent_since = 0.0
        self.absence_blamed: float | None = None
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
        self._checks = CheckRecord(
            policy.half_life_days,
            partner_max=policy.partner_checks_max,
            vouched_max=policy.vouched_checks_max,
        )
        #: Who stands for the failures that count against it.
        self.blame = BlameRecord(policy.half_life_days)
        self._beliefs: dict[Scope, tuple[int, Belief]] = {}
        self._proven: tuple[int, bool] | None = None

    def learn(self, evidence: Evidence) -> None:
        """Take one more piece of evidence into account."""
        tally = self._tallies.get(evidence.capability)
        if tally is None:
            tally = self._tallies[evidence.capability] = Tally(self._policy.half_life_days)
        day = day_of(evidence.at)
        tally.add(evidence.kind.value, self._weights[evidence.kind], day=day)
        finding = Finding(evidence.pipeline, evidence.account, evidence.partner)
        self._checks.add(Counted(evidence.checks, evidence.vouched_checks), finding, day)
        if (witnesses := _witnesses(evidence)) is not None:
            self.blame.add(witnesses, day)
        self._beliefs.clear()
        self._proven = None

    def withdraw(self, evidence: Evidence, day: int) -> None:
        """Let a piece of evidence that was learned before count no more in its score from `day` on.

        What it counted as checks is taken back by the finding `withdrawn`.
        """
        weight = self._weights[evidence.kind]
        found_on = day_of(evidence.at)
        self._tallies[evidence.capability].withdraw(evidence.kind.value, weight, day=found_on)
        if (witnesses := _witnesses(evidence)) is not None:
            fade = 0.5 ** ((day - found_on) / self._policy.half_life_days)
            self.blame.add(witnesses, day, amount=-fade)
        self._beliefs.clear()
        self._proven = None

    def count(self, amount: float, finding: Finding, *, vouchers: Iterable[str], day: int) -> Counted:
        """What a finding of `amount` checks would count, as `CheckRecord.count` says."""
        return self._checks.count(amount, finding, vouchers=vouchers, day=day)

    def confirmed(self, pipeline: str, partner: str, day: int) -> float:
        """The checks that agreements with one partner count for, as `CheckRecord.confirmed` says."""
        return self._checks.confirmed(pipeline, partner, day)

    def belief(self, scope: Scope, day: int) -> Belief:
        """What to expect of it on `day`."""
        cached = self._beliefs.get(scope)
        if cached is not None and cached[0] == day:
            return cached[1]
        record = self._tally(scope.capability).record(day=day)
        checks = record.checks
        if self._policy.independent_partners:
            checks = self._checks.passed(scope.pipeline, scope.submitter, day)
        credibility = credibility_of_worker(checks, fault_fraction=self._policy.fault_fraction)
        belief = Belief(record.score, credibility, log_odds(credibility), checks)
        if len(self._beliefs) >= _BELIEFS_KEPT:
            self._beliefs.clear()
        self._beliefs[scope] = (day, belief)
        return belief

    def capacity(self, day: int) -> int:
        """How many leases it may have open: what it offers, less for a newcomer, none if it may not work."""
        offer = self.record.offer
        if not self.connected or offer is None or self.too_old:
            return 0
        if self.record.standing is not WorkerStanding.ACTIVE or self.is_examined:
            return 0
        limit = self._policy.exposure_leases_max
        if offer.capacity <= limit or self.record.auditor or self.is_proven(day):
            return offer.capacity
        return limit

    @property
    def is_examined(self) -> bool:
        """Whether it gets no leases until what it did is checked, because of another device of its owner."""
        return self.record.examined_since is not msgspec.UNSET

    @property
    def kind(self) -> str:
        """Its execution providers and engines, by its last offer: devices of a kind have the same faults."""
        if self.record.offer is None:
            return ""
        capabilities = self.record.offer.capabilities
        engines = (f"{name}={version}" for name, version in capabilities.engines.items())
        return "+".join(sorted((*capabilities.providers, *engines)))

    def is_proven(self, day: int) -> bool:
        """Whether it has passed enough checks, of any class, to be trusted with all of its capacity."""
        if self._proven is None or self._proven[0] != day:
            if self._policy.independent_partners:
                checks = self._checks.total(day)
            else:
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
        """Its reputation by capability class; its credibility is for the submitter that counts most."""
        return {capability: self._reputation(capability, day) for capability in self._tallies}

    def _reputation(self, capability: str, day: int) -> Reputation:
        policy, tally = self._policy, self._tallies[capability]
        record = tally.record(day=day)
        checks = self._checks.most(day) if policy.independent_partners else None
        credibility = credibility_of_worker(
            record.checks if checks is None else checks, fault_fraction=policy.fault_fraction
        )
        lines = explain(tally, day=day, fault_fraction=policy.fault_fraction, checks=checks)
        return Reputation(capability, record.score, credibility, tuple(lines))

    def _tally(self, capability: str) -> Tally:
        return self._tallies.get(capability) or Tally(self._policy.half_life_days)
