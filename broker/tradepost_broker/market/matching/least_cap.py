"""The least cap under which a job may be matched, and the most confidence that a cap buys.

By the formulas of `viability.viable`, for the owners that a job's outlook looks at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tradepost_broker.market.matching.scoring import Bidder
from tradepost_broker.market.matching.viability import cost_of_results
from tradepost_broker.market.model.median import median
from tradepost_reputation import results_needed


class Cap(NamedTuple):
    """A cap, and how many results it pays for."""

    microcredits: int
    results: int


class OwnersBids:
    """What at least one owner's cheapest bidders ask, of which the job may have `results_max` results."""

    def __init__(self, owners: Sequence[Bidder], results_max: int) -> None:
        self._results_max = results_max
        self._typical_log_odds = median(owner.belief.log_odds for owner in owners)
        self._owner_bids_microcredits = [owner.bid_microcredits for owner in owners]
        #: Of those with equal log odds only the lowest bid counts.
        self._bids_microcredits: dict[float, int] = {}
        for owner in owners:
            self._bids_microcredits.setdefault(owner.belief.log_odds, owner.bid_microcredits)

    def least_cap(self, log_odds_missing: float) -> Cap | None:
        """The least cap that pays for enough results; `None` if they cannot give so many."""
        caps = []
        for log_odds, bid_microcredits in self._bids_microcredits.items():
            results = 1 + results_needed(log_odds_missing - log_odds, self._typical_log_odds)
            if results <= self._results_max:
                caps.append(Cap(self._cost(results, bid_microcredits), results))
        return min(caps, default=None)

    def log_odds_for(self, cap_microcredits: int) -> float:
        """The most log odds that can be reached within a cap; 0 if it pays for no result."""
        reached = [
            log_odds + (results - 1) * self._typical_log_odds
            for log_odds, bid_microcredits in self._bids_microcredits.items()
            for results in range(1, self._results_max + 1)
            if self._cost(results, bid_microcredits) <= cap_microcredits
        ]
        return max(reached, default=0.0)

    def _cost(self, results: int, bid_microcredits: int) -> int:
        """What so many results cost, each paid the same, if this bidder gives the first."""
        return cost_of_results(results, bid_microcredits, self._owner_bids_microcredits)
