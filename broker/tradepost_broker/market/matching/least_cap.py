"""The least cap under which a job is matched, and the most confidence that a cap buys.

What the auction and the outlook decide depends on the cap in steps: with each higher bid that it admits,
another bidder competes, and what is typical of the bidders changes. Between two steps only the cap counts, so
the least cap that does is found step by step, from the lowest bid on, by the formulas of `viability.viable`.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tradepost_broker.market.matching.eligible_offers import Field
from tradepost_broker.market.matching.scoring import Bidder
from tradepost_broker.market.matching.viability import cost_of_results
from tradepost_broker.market.model.amounts import AMOUNT_MAX_MICROCREDITS
from tradepost_broker.market.model.median import median
from tradepost_reputation import results_needed


class Cap(NamedTuple):
    """A cap, and how many results it pays for."""

    microcredits: int
    results: int


@dataclass(slots=True)
class Step:
    """The bidders that compete while the cap is at least `from_microcredits` and below `to_microcredits`.

    Of those with equal log odds only the lowest bid counts. `owner_bids_microcredits` are the lowest bids of
    the owners that could give the results, ascending, of which there may be `results_max`.
    """

    from_microcredits: int
    to_microcredits: int
    typical_log_odds: float
    owner_bids_microcredits: Sequence[int]
    results_max: int
    bids_microcredits: dict[float, int] = field(default_factory=dict)

    def least_cap(self, log_odds_missing: float) -> Cap | None:
        """The least cap that pays for enough results; `None` if none does between the bounds."""
        caps = []
        for log_odds, bid_microcredits in self.bids_microcredits.items():
            results = 1 + results_needed(log_odds_missing - log_odds, self.typical_log_odds)
            if results <= self.results_max:
                caps.append(Cap(self._cost(results, bid_microcredits), results))
        if not caps:
            return None
        least = min(caps)
        least = least._replace(microcredits=max(least.microcredits, self.from_microcredits))
        return least if least.microcredits < self.to_microcredits else None

    def log_odds_for(self, cap_microcredits: int) -> float:
        """The most log odds that can be reached within a cap; 0 if it pays for no result."""
        reached = [
            log_odds + (results - 1) * self.typical_log_odds
            for log_odds, bid_microcredits in self.bids_microcredits.items()
            for results in range(1, self.results_max + 1)
            if self._cost(results, bid_microcredits) <= cap_microcredits
        ]
        return max(reached, default=0.0)

    def _cost(self, results: int, bid_microcredits: int) -> int:
        """What so many results cost, each paid the same, if this bidder gives the first."""
        return cost_of_results(results, bid_microcredits, self.owner_bids_microcredits)


def steps_of(bidders: Field, owner_bids_microcredits: Sequence[int], results_max: int) -> Iterator[Step]:
    """The steps of an auction in which these compete, from the lowest cap on."""
    is_idle = {bidder.id for bidder in bidders.idle}
    order = sorted((*bidders.idle, *bidders.busy), key=lambda bidder: bidder.bid_microcredits)
    log_odds: list[float] = []
    bids_microcredits: dict[float, int] = {}
    for number, bidder in enumerate(order, 1):
        insort(log_odds, bidder.belief.log_odds)
        if bidder.id in is_idle:
            bids_microcredits.setdefault(bidder.belief.log_odds, bidder.bid_microcredits)
        next_microcredits = order[number].bid_microcredits if number < len(order) else AMOUNT_MAX_MICROCREDITS
        if bids_microcredits and next_microcredits > bidder.bid_microcredits:
            yield Step(
                bidder.bid_microcredits,
                next_microcredits,
                median(log_odds),
                owner_bids_microcredits,
                results_max,
                dict(bids_microcredits),
            )


def step_of_owners(owners: Sequence[Bidder], results_max: int) -> Step:
    """The one step of a job's outlook, for which each owner's cheapest bidder counts at any cap."""
    bids_microcredits: dict[float, int] = {}
    for owner in owners:
        bids_microcredits.setdefault(owner.belief.log_odds, owner.bid_microcredits)
    return Step(
        0,
        AMOUNT_MAX_MICROCREDITS,
        median(owner.belief.log_odds for owner in owners),
        [owner.bid_microcredits for owner in owners],
        results_max,
        bids_microcredits,
    )


def least_cap(steps: Iterable[Step], log_odds_missing: float) -> Cap | None:
    """The least cap of all the steps."""
    caps = (step.least_cap(log_odds_missing) for step in steps)
    return next((cap for cap in caps if cap is not None), None)
