"""What a waiting job may hope for, and what it would cost, with the standing offers, idle or busy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum
from typing import Final, NamedTuple

from tradepost_broker.market.matching.eligible_offers import EligibleOffers
from tradepost_broker.market.matching.scoring import Bidder, weigh
from tradepost_broker.market.matching.viability import cost_of_results, has_live, share, terms, viable
from tradepost_broker.market.model.entities import Job
from tradepost_broker.market.model.median import median
from tradepost_broker.market.state.market_state import MarketState

#: Beyond any doubt that a float could express, and far below what `math.exp` overflows at.
_LOG_ODDS_MAX: Final = 100.0


class Outlook(Enum):
    """Whether a job without a lease could get one, with the standing offers."""

    POSSIBLE = "an offer could run it when it is idle"
    TOO_DEAR = "offers that could run it ask more than the cap allows"
    NOBODY = "too few offers could run it at any price"


def outlook(
    state: MarketState, job: Job, log_odds_missing: float, *, again: bool = False, proven_only: bool = False
) -> Outlook:
    """Whether any standing offer, idle or busy, could take the job's next ordinary lease.

    With `again`, of owners that lost it, too; with `proven_only`, of proven workers that did not.
    """
    eligible = EligibleOffers(state, job, again=again and not proven_only, proven_only=proven_only)
    found = Outlook.NOBODY
    # Usually the cheapest few tell; a longer look is for jobs that they are too dear or too few for.
    for owners_max in (state.policy.candidates_max, state.policy.scan_max):
        owners = eligible.cheapest_by_owner(owners_max=owners_max, busy_too=True)
        found = outlook_with(state, job, owners, log_odds_missing)
        if found is Outlook.POSSIBLE:
            break
    return found


class Plan(NamedTuple):
    """The least that verified results of a job cost on standing offers, each result paid the same.

    `cap_microcredits` is what `results` results cost; `owner_bids_microcredits` are the lowest bids of as
    many owners as may ever get a lease of one job, ascending.
    """

    cap_microcredits: int
    results: int
    owner_bids_microcredits: tuple[int, ...]
    typical_log_odds: float

    def affordable(self, cap_microcredits: int) -> int:
        """The most results that `cap_microcredits` pays for."""
        counts = range(1, len(self.owner_bids_microcredits) + 1)
        return max(
            (
                count
                for count in counts
                if count * self.owner_bids_microcredits[count - 1] <= cap_microcredits
            ),
            default=0,
        )

    def confidence(self, results: int) -> float:
        """What so many typical results that agree can be believed to, rounded down to three digits."""
        odds = math.exp(min(_LOG_ODDS_MAX, results * self.typical_log_odds))
        return math.floor(1000 * odds / (1 + odds)) / 1000


def plan(state: MarketState, job: Job, log_odds_missing: float) -> Plan | None:
    """The cheapest way to the job's confidence, ignoring its cap; `None` if nobody could take it."""
    eligible = EligibleOffers(state, job, again=True)
    owners = eligible.cheapest_by_owner(owners_max=state.policy.scan_max, busy_too=True)
    return plan_with(state, job, owners, log_odds_missing)


def plan_with(state: MarketState, job: Job, owners: Sequence[Bidder], log_odds_missing: float) -> Plan | None:
    """As `plan`, with these: each owner's cheapest bidder, cheapest first."""
    if not owners:
        return None
    weigh(owners, terms(state, job, log_odds_missing), state.policy)
    bids_microcredits = tuple(owner.bid_microcredits for owner in owners)
    costs_microcredits = [
        (cost_of_results(owner.results, owner.bid_microcredits, bids_microcredits), owner.results)
        for owner in owners
    ]
    return Plan(
        *min(costs_microcredits),
        bids_microcredits[: state.policy.results_max],
        median([owner.belief.log_odds for owner in owners]),
    )


def outlook_with(state: MarketState, job: Job, owners: Sequence[Bidder], log_odds_missing: float) -> Outlook:
    """Whether one of these, each owner's cheapest bidder, could take the job's next ordinary lease."""
    if not owners:
        return Outlook.NOBODY
    if has_live(state, job):
        affordable = owners[0].bid_microcredits <= share(job, owners, log_odds_missing)
        return Outlook.POSSIBLE if affordable else Outlook.TOO_DEAR
    weigh(owners, terms(state, job, log_odds_missing), state.policy)
    if viable(state, job, owners, owners):
        return Outlook.POSSIBLE
    enough = any(bidder.results <= min(len(owners), state.policy.results_max) for bidder in owners)
    return Outlook.TOO_DEAR if enough else Outlook.NOBODY
