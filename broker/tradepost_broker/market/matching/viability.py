"""Whether a job could be completed with the offers at hand, within what is left of its cap.

The auction, the outlook of jobs that wait, and estimates judge by the same functions.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from tradepost_broker.market.matching.scoring import NEUTRAL, Bidder, Terms
from tradepost_broker.market.model.amounts import bid_for, saturated
from tradepost_broker.market.model.entities import Job, LeasePurpose
from tradepost_broker.market.model.median import median
from tradepost_broker.market.settling.reference_runs import able_auditors
from tradepost_broker.market.state.market_state import MarketState
from tradepost_reputation import results_needed


def viable(state: MarketState, job: Job, bidders: Sequence[Bidder], owners: Sequence[Bidder]) -> list[Bidder]:
    """The bidders whose first result could be followed, within the cap, by the others that it needs.

    `owners` has the cheapest bidder of each owner. Where they are too few, a reference run can stand in.
    """
    affordable = [bidder for bidder in bidders if bidder.bid_microcredits <= bidder.ceiling_microcredits]
    if all(bidder.results == 1 for bidder in affordable):
        return affordable
    bids_microcredits = [owner.bid_microcredits for owner in owners]
    # Owners enough for the replicas; more, if a reference run can stand in for them.
    reachable = state.policy.results_max if auditor_available(state, job) else len(bids_microcredits)
    return [
        bidder
        for bidder in affordable
        if bidder.results <= min(reachable, state.policy.results_max)
        and bisect_right(bids_microcredits, bidder.ceiling_microcredits)
        >= min(bidder.results, len(bids_microcredits))
    ]


def cost_of_results(results: int, bid_microcredits: int, owner_bids_microcredits: Sequence[int]) -> int:
    """What so many results cost, each paid the same, if who bids this gives the first.

    `owner_bids_microcredits` are the lowest bids of at least one owner, ascending; where they are too few,
    reference runs stand in.
    """
    others = owner_bids_microcredits
    return saturated(results * max(bid_microcredits, others[min(results, len(others)) - 1]))


def share(job: Job, bidders: Sequence[Bidder], log_odds_missing: float) -> int:
    """An equal share of what is left of the cap for each result that is still needed."""
    typical_log_odds = median([bidder.belief.log_odds for bidder in bidders])
    return left_of_cap(job) // max(1, results_needed(log_odds_missing, typical_log_odds))


def terms(state: MarketState, job: Job, log_odds_missing: float) -> Terms:
    pipeline = state.pipelines[job.pipeline]
    level_microcredits = None
    if state.policy.bids_independent:
        level_microcredits = state.price_levels.typical_microcredits(state.capability(job))
    return Terms(
        cap_microcredits=left_of_cap(job),
        typical_bid_microcredits=None
        if level_microcredits is None
        else bid_for(level_microcredits, job.units),
        log_odds_missing=log_odds_missing,
        artifact_bytes=pipeline.artifact_bytes,
        wall_s=pipeline.wall_s,
        time_left_s=job.deadline_at - state.at,
        preference=job.preference or NEUTRAL,
    )


def left_of_cap(job: Job) -> int:
    return job.cap_microcredits - job.committed_microcredits


def auditor_available(state: MarketState, job: Job) -> bool:
    """Whether a reference run of this job can be had, now or when an auditor is idle."""
    return bool(state.auditors) and bool(able_auditors(state, job))


def auditor_in_time(state: MarketState, job: Job) -> bool:
    """Whether a reference run decides a contested job; not if so many wait that more results are faster."""
    if not state.auditors:
        return False
    able = able_auditors(state, job)
    limit = state.policy.contested_per_run_max
    if not limit or job.id in state.audits_wanted:
        return bool(able)
    runs = sum(auditor.capacity(state.day) for auditor in able)
    return state.audits_wanted.undecided_count < limit * runs


def has_live(state: MarketState, job: Job) -> bool:
    return any(lease.purpose is not LeasePurpose.AUDIT for lease in state.live_leases(job))
