"""Scores the bids and computes winner and price: a second-score auction.

The score of bidder i is `v_i - b_i`. `b_i` is its price per unit times the job's units. `v_i` is what is left
of the job's cap less what the broker, alone, expects bidder i to cost beyond its bid:

    failure       (1 - score_i) * failure_cost_bids * typical bid
    verification  (results_i - 1) * typical bid
    fetch         artifact_bytes / fetch_bytes_per_s * delay_cost_bids_per_s * typical bid, unless cached
    lateness      seconds beyond the deadline * delay_cost_bids_per_s * typical bid
    latency       seconds that its owner's runs take * delay_cost_bids_per_s * typical bid
    load          open leases * load_cost_bids * typical bid

where `results_i` is how many results the job needs in all if bidder i gives the first, and the typical bid
is what earlier winners asked, so that `v_i` does not depend on the bids at hand. The job's preference weighs
fetch, latency and load, each divided by its weight of the price. Without one, fetch counts once and the last
two do not.

The winner is paid `v_w - S_2`, `S_2` being the second score: what it asks plus what the market would lose
without it (Vickrey, 1961; Che, 1993). It is paid at least its bid and at most an equal share of the cap, so
that the other results that it needs can be paid as well. As any bid up to that share may win, `S_2` counts as
at least `v_w - share`, and as 0 if that is more: then its best bid against idle rivals is its true price.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tradepost.protocol import Preference
from tradepost_broker.market.model.amounts import saturated
from tradepost_broker.market.model.entities import Candidate
from tradepost_broker.market.model.median import median
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.market.state.worker_state import Belief, WorkerState
from tradepost_reputation import results_needed

#: What a job without a preference prefers.
NEUTRAL: Final = Preference()


class Terms(NamedTuple):
    """The job's values: the rest of its cap, the log odds it still needs, and the costs of a run.

    Without a `typical_bid_microcredits` of its class it is the lower median of the bids.
    """

    cap_microcredits: int
    typical_bid_microcredits: int | None
    log_odds_missing: float
    artifact_bytes: int
    wall_s: float
    time_left_s: float
    preference: Preference = NEUTRAL


class Costs(NamedTuple):
    """What a bidder is expected to cost beyond its bid, in microcredits."""

    failure_microcredits: int = 0
    verification_microcredits: int = 0
    fetch_microcredits: int = 0
    lateness_microcredits: int = 0
    latency_microcredits: int = 0
    load_microcredits: int = 0


@dataclass(slots=True)
class Bidder:
    """One offer in one match. `weigh` fills in what follows `open_leases`.

    `run_s` is how long its owner's runs take, and `open_leases` how many it has, where a preference asks.
    """

    worker: WorkerState
    bid_microcredits: int
    belief: Belief
    warm: bool
    run_s: float = 0.0
    open_leases: int = 0
    results: int = 1
    ceiling_microcredits: int = 0
    score_microcredits: int = 0
    costs: Costs = field(default=Costs())

    @property
    def id(self) -> str:
        """The worker's id."""
        return self.worker.record.id


def weigh(bidders: Sequence[Bidder], terms: Terms, policy: MarketPolicy) -> None:
    """Fill in what each of at least one bidder is worth under `terms`."""
    typical_bid_microcredits: float | None = terms.typical_bid_microcredits
    if typical_bid_microcredits is None:
        typical_bid_microcredits = median([bidder.bid_microcredits for bidder in bidders])
    typical_log_odds = median([bidder.belief.log_odds for bidder in bidders])
    delay_cost_microcredits_per_s = policy.delay_cost_bids_per_s * typical_bid_microcredits
    failure_cost_microcredits = policy.failure_cost_bids * typical_bid_microcredits
    prefer = terms.preference
    fetch_cost_microcredits = saturated(
        terms.artifact_bytes
        / policy.fetch_bytes_per_s
        * delay_cost_microcredits_per_s
        * (prefer.locality / prefer.price)
    )
    latency_cost_microcredits_per_s = delay_cost_microcredits_per_s * prefer.latency / prefer.price
    load_cost_microcredits = policy.load_cost_bids * typical_bid_microcredits * prefer.load / prefer.price
    lateness_cost_microcredits = saturated(
        max(0.0, terms.wall_s - terms.time_left_s) * delay_cost_microcredits_per_s
    )
    for bidder in bidders:
        belief = bidder.belief
        more = results_needed(terms.log_odds_missing - belief.log_odds, typical_log_odds)
        bidder.results = 1 + more
        bidder.ceiling_microcredits = terms.cap_microcredits // bidder.results
        bidder.costs = costs = Costs(
            saturated((1 - belief.score) * failure_cost_microcredits),
            saturated(more * typical_bid_microcredits),
            0 if bidder.warm else fetch_cost_microcredits,
            lateness_cost_microcredits,
            saturated(bidder.run_s * latency_cost_microcredits_per_s),
            saturated(bidder.open_leases * load_cost_microcredits),
        )
        bidder.score_microcredits = saturated(terms.cap_microcredits - sum(costs) - bidder.bid_microcredits)


def ranked(bidders: Sequence[Bidder]) -> list[Bidder]:
    """Best score first; of equals the lower bid, then the lower id."""
    return sorted(
        bidders, key=lambda bidder: (-bidder.score_microcredits, bidder.bid_microcredits, bidder.id)
    )


def clearing_price(
    winner: Bidder, runner_up: Bidder | None, policy: MarketPolicy, *, set_aside_microcredits: int = 0
) -> int:
    """What the winner is paid. `set_aside_microcredits` are left to others as far as its bid allows."""
    worth_microcredits = winner.score_microcredits + winner.bid_microcredits
    second_score_microcredits = 0
    if policy.bids_independent:
        second_score_microcredits = min(0, worth_microcredits - winner.ceiling_microcredits)
    if runner_up is not None:
        second_score_microcredits = max(second_score_microcredits, runner_up.score_microcredits)
    ceiling_microcredits = winner.ceiling_microcredits - set_aside_microcredits // winner.results
    return max(
        winner.bid_microcredits,
        min(worth_microcredits - second_score_microcredits, ceiling_microcredits),
    )


def explained(ranking: Sequence[Bidder], *, losers_max: int) -> tuple[Candidate, ...]:
    """The winner and the best of those who lost, each with the reason that weighs most."""
    winner = ranking[0]
    losers = [
        Candidate(
            worker=each.id,
            bid_microcredits=each.bid_microcredits,
            score_microcredits=each.score_microcredits,
            lost_because=why_lost(each, winner),
        )
        for each in ranking[1 : 1 + losers_max]
    ]
    return (
        Candidate(
            worker=winner.id,
            bid_microcredits=winner.bid_microcredits,
            score_microcredits=winner.score_microcredits,
        ),
        *losers,
    )


def why_lost(loser: Bidder, winner: Bidder) -> str:
    """The largest of the differences that made `loser` score less than `winner`, in words."""
    mine, theirs = loser.costs, winner.costs
    gaps_microcredits = {
        "bid": loser.bid_microcredits - winner.bid_microcredits,
        "failure": mine.failure_microcredits - theirs.failure_microcredits,
        "verification": mine.verification_microcredits - theirs.verification_microcredits,
        "fetch": mine.fetch_microcredits - theirs.fetch_microcredits,
        "lateness": mine.lateness_microcredits - theirs.lateness_microcredits,
        "latency": mine.latency_microcredits - theirs.latency_microcredits,
        "load": mine.load_microcredits - theirs.load_microcredits,
    }
    reason, largest = max(gaps_microcredits.items(), key=operator.itemgetter(1))
    if largest <= 0:
        return "a tie, decided by bid and id"
    return {
        "bid": f"outbid by {largest} microcredits",
        "failure": f"reputation: {loser.belief.score:.2f} against {winner.belief.score:.2f}",
        "verification": f"reputation: needs {loser.results} results, the winner needs {winner.results}",
        "fetch": "not cached",
        "lateness": "late",
        "latency": f"latency: runs take {loser.run_s:.3g} s, the winner's {winner.run_s:.3g} s",
        "load": f"load: {loser.open_leases} open leases, the winner has {winner.open_leases}",
    }[reason]
