"""Chooses workers: the auction for a job's first result, the draw for its replicas, the auditor for checks.

An auction weighs the `candidates_max` cheapest eligible offers, and as many that have the pipeline cached. An
offer further up the price list could only win by a reputation that makes up for its price, so leaving it out
is an approximation; the match records how many there were. Only idle offers can win, but busy ones compete on
price all the same: a worker that happens to be idle alone is no monopolist.

Replicas are not auctioned: bidders who underbid together would take both places. They are drawn uniformly at
random from all idle eligible offers of other owners within a price: the auction's clearing price, raised as
far as it takes to have `draw_owners_min` owners in the draw, but not for the most expensive
(`draw_highest_share`, `draw_bid_medians_max`), and never above an equal share of what is left of the cap. The
worker that is drawn is paid that price. The functions here only choose; nothing is changed.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from enum import Enum
from typing import Final, NamedTuple

from tradepost_broker.market.matching.eligible_offers import NOT_RECONNECTED, EligibleOffers
from tradepost_broker.market.matching.scoring import (
    Bidder,
    Terms,
    clearing_price,
    explained,
    median,
    ranked,
    weigh,
)
from tradepost_broker.market.model.amounts import saturated
from tradepost_broker.market.model.entities import Candidate, Job, LeasePurpose
from tradepost_broker.market.model.lease_states import LOST
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.market.settling import partial_pay, reference_verdicts
from tradepost_broker.market.settling.reference_runs import able_auditors
from tradepost_broker.market.state import seeded_random
from tradepost_broker.market.state.market_state import MarketState
from tradepost_broker.market.state.worker_state import WorkerState
from tradepost_reputation import results_needed

#: Beyond any doubt that a float could express, and far below what `math.exp` overflows at.
_LOG_ODDS_MAX: Final = 100.0


class Award(NamedTuple):
    """A choice, and what the match records about it. `drawn_from` owners could have got a replica."""

    worker: WorkerState
    price_microcredits: int
    purpose: LeasePurpose
    candidates: tuple[Candidate, ...]
    left_out: dict[str, int]
    drawn_from: int = 0


class Outlook(Enum):
    """Whether a job without a lease could get one, with the standing offers."""

    POSSIBLE = "an offer could run it when it is idle"
    TOO_DEAR = "offers that could run it ask more than the cap allows"
    NOBODY = "too few offers could run it at any price"


def choose(
    state: MarketState, job: Job, log_odds_missing: float, *, proven_only: bool = False
) -> Award | None:
    """A worker for the job's next ordinary lease, or nobody now.

    Workers that lost a lease of the job come last: only if no other could ever take it. With `proven_only`,
    it is one that is proven and did not lose it.
    """
    if proven_only:
        return _choose(state, job, EligibleOffers(state, job, proven_only=True), log_odds_missing)
    choice = _choose(state, job, EligibleOffers(state, job), log_odds_missing)
    if (
        choice is None
        and _was_lost(state, job)
        and outlook(state, job, log_odds_missing) is not Outlook.POSSIBLE
    ):
        choice = _choose(state, job, EligibleOffers(state, job, again=True), log_odds_missing)
    return choice


def outlook(state: MarketState, job: Job, log_odds_missing: float, *, again: bool = False) -> Outlook:
    """Whether any standing offer, idle or busy, could take the job's next ordinary lease."""
    eligible = EligibleOffers(state, job, again=again)
    found = Outlook.NOBODY
    # Usually the cheapest few tell; a longer look is for jobs that they are too dear or too few for.
    for owners_max in (state.policy.candidates_max, state.policy.scan_max):
        found = _outlook(
            state, job, eligible.cheapest_by_owner(owners_max=owners_max, busy_too=True), log_odds_missing
        )
        if found is Outlook.POSSIBLE:
            break
    return found


def choose_auditor(state: MarketState, job: Job) -> Award | None:
    """An auditor with spare capacity that can make the reference run, or nobody now."""
    able = [
        auditor
        for auditor in able_auditors(state, job)
        if len(auditor.open) < auditor.capacity(state.day) and reference_verdicts.admits(state, job, auditor)
    ]
    if not able:
        return None
    auditor = able[seeded_random.below(len(able), state.seed, "auditor", job.id)]
    candidate = Candidate(worker=auditor.record.id, bid_microcredits=0, score_microcredits=0)
    return Award(auditor, 0, LeasePurpose.AUDIT, (candidate,), {})


def may_run(state: MarketState, job: Job, auditor: WorkerState) -> bool:
    """Whether this auditor may make the reference run of a job, when it is idle."""
    return auditor in able_auditors(state, job) and reference_verdicts.admits(state, job, auditor)


def auditor_available(state: MarketState, job: Job) -> bool:
    """Whether a reference run of this job can be had, now or when an auditor is idle."""
    return bool(state.auditors) and bool(able_auditors(state, job))


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
    if not owners:
        return None
    weigh(owners, _terms(state, job, log_odds_missing), state.policy)
    bids_microcredits = tuple(owner.bid_microcredits for owner in owners)
    costs_microcredits = [
        (
            saturated(
                owner.results
                * max(
                    owner.bid_microcredits, bids_microcredits[min(owner.results, len(bids_microcredits)) - 1]
                )
            ),
            owner.results,
        )
        for owner in owners
    ]
    return Plan(
        *min(costs_microcredits),
        bids_microcredits[: state.policy.results_max],
        median([owner.belief.log_odds for owner in owners]),
    )


def _choose(state: MarketState, job: Job, eligible: EligibleOffers, log_odds_missing: float) -> Award | None:
    if _has_live(state, job):
        return _draw(state, job, eligible, log_odds_missing)
    return _auction(state, job, eligible, log_odds_missing)


def _auction(state: MarketState, job: Job, eligible: EligibleOffers, log_odds_missing: float) -> Award | None:
    policy, cap_microcredits = state.policy, _left_of_cap(job)
    bidders = eligible.cheapest(bid_microcredits_max=cap_microcredits, limit=policy.candidates_max)
    considered = len(bidders)
    bidders += eligible.cached(bidders, bid_microcredits_max=cap_microcredits, limit=policy.candidates_max)
    if not bidders:
        return None
    idle = {bidder.id for bidder in bidders}
    rivals = [
        rival
        for rival in eligible.standing(bid_microcredits_max=cap_microcredits, limit=policy.candidates_max)
        if rival.id not in idle
    ]
    weigh([*bidders, *rivals], _terms(state, job, log_odds_missing), policy)
    if any(bidder.results > 1 for bidder in bidders):
        owners = eligible.cheapest_by_owner(owners_max=policy.results_max, busy_too=True)
    else:
        owners = bidders
    ranking = ranked(_viable(state, job, bidders, owners))
    if not ranking:
        return None
    runners_up = ranked([*ranking[1:], *_viable(state, job, rivals, owners)])
    set_aside_microcredits = partial_pay.set_aside(state.leases_of[job.id])
    price_microcredits = clearing_price(
        ranking[0], runners_up[0] if runners_up else None, set_aside_microcredits=set_aside_microcredits
    )
    left_out = eligible.count_left_out(bid_microcredits_max=cap_microcredits, considered=considered)
    if len(ranking) < len(bidders):
        left_out["price"] = left_out.get("price", 0) + len(bidders) - len(ranking)
    if policy.absent_recorded and (absent := eligible.count_absent()):
        left_out[NOT_RECONNECTED] = absent
    candidates = explained(ranking, losers_max=policy.losers_recorded_max)
    return Award(ranking[0].worker, price_microcredits, LeasePurpose.AUCTION, candidates, left_out)


def _draw(state: MarketState, job: Job, eligible: EligibleOffers, log_odds_missing: float) -> Award | None:
    policy = state.policy
    # So many more that `draw_owners_min` are left without the most expensive.
    looked_at = math.ceil(policy.draw_owners_min / (1 - policy.draw_highest_share))
    owners = eligible.cheapest_by_owner(owners_max=looked_at, busy_too=False)
    if not owners:
        return None
    share_microcredits = _share(job, owners, log_odds_missing)
    opened_to_microcredits = _opened_to(owners, share_microcredits, policy)
    clearing_microcredits = max(lease.price_microcredits for lease in state.live_leases(job))
    price_microcredits = min(share_microcredits, max(clearing_microcredits, opened_to_microcredits))
    drawn = eligible.draw(bid_microcredits_max=price_microcredits)
    if drawn is None:
        return None
    candidate = Candidate(worker=drawn.id, bid_microcredits=drawn.bid_microcredits, score_microcredits=0)
    left_out = eligible.count_left_out(bid_microcredits_max=price_microcredits, considered=len(owners))
    # Busy ones as well: who is idle is chance, and under load hardly anybody is.
    rivals = eligible.cheapest_by_owner(owners_max=looked_at, busy_too=True)
    drawn_from = sum(bidder.bid_microcredits <= price_microcredits for bidder in rivals)
    return Award(drawn.worker, price_microcredits, LeasePurpose.REPLICA, (candidate,), left_out, drawn_from)


def _opened_to(owners: Sequence[Bidder], share_microcredits: int, policy: MarketPolicy) -> int:
    """The price that the draw is opened to, for the cheapest of `owners`: what few ask must not raise it."""
    kept = min(len(owners) - int(len(owners) * policy.draw_highest_share), policy.draw_owners_min)
    limit_microcredits: float = share_microcredits
    if policy.draw_bid_medians_max:
        typical_microcredits = median([bidder.bid_microcredits for bidder in owners[:kept]])
        limit_microcredits = min(limit_microcredits, policy.draw_bid_medians_max * typical_microcredits)
    return max(
        (
            bidder.bid_microcredits
            for bidder in owners[:kept]
            if bidder.bid_microcredits <= limit_microcredits
        ),
        default=0,
    )


def _outlook(state: MarketState, job: Job, owners: Sequence[Bidder], log_odds_missing: float) -> Outlook:
    if not owners:
        return Outlook.NOBODY
    if _has_live(state, job):
        affordable = owners[0].bid_microcredits <= _share(job, owners, log_odds_missing)
        return Outlook.POSSIBLE if affordable else Outlook.TOO_DEAR
    weigh(owners, _terms(state, job, log_odds_missing), state.policy)
    if _viable(state, job, owners, owners):
        return Outlook.POSSIBLE
    enough = any(bidder.results <= min(len(owners), state.policy.results_max) for bidder in owners)
    return Outlook.TOO_DEAR if enough else Outlook.NOBODY


def _viable(
    state: MarketState, job: Job, bidders: Sequence[Bidder], owners: Sequence[Bidder]
) -> list[Bidder]:
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


def _share(job: Job, bidders: Sequence[Bidder], log_odds_missing: float) -> int:
    """An equal share of what is left of the cap for each result that is still needed."""
    typical_log_odds = median([bidder.belief.log_odds for bidder in bidders])
    return _left_of_cap(job) // max(1, results_needed(log_odds_missing, typical_log_odds))


def _terms(state: MarketState, job: Job, log_odds_missing: float) -> Terms:
    pipeline = state.pipelines[job.pipeline]
    return Terms(
        cap_microcredits=_left_of_cap(job),
        log_odds_missing=log_odds_missing,
        artifact_bytes=pipeline.artifact_bytes,
        wall_s=pipeline.wall_s,
        time_left_s=job.deadline_at - state.at,
    )


def _left_of_cap(job: Job) -> int:
    return job.cap_microcredits - job.committed_microcredits


def _has_live(state: MarketState, job: Job) -> bool:
    return any(lease.purpose is not LeasePurpose.AUDIT for lease in state.live_leases(job))


def _was_lost(state: MarketState, job: Job) -> bool:
    return any(lease.state in LOST for lease in state.leases_of[job.id])
