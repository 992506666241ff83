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
from collections.abc import Sequence
from typing import NamedTuple

from tradepost_broker.market.matching.eligible_offers import NOT_RECONNECTED, EligibleOffers
from tradepost_broker.market.matching.outlook import Outlook, outlook
from tradepost_broker.market.matching.scoring import (
    Bidder,
    clearing_price,
    explained,
    ranked,
    weigh,
)
from tradepost_broker.market.matching.viability import has_live, left_of_cap, share, terms, viable
from tradepost_broker.market.model.entities import Candidate, Job, LeasePurpose
from tradepost_broker.market.model.lease_states import LOST
from tradepost_broker.market.model.median import median
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.market.settling import partial_pay, reference_verdicts
from tradepost_broker.market.settling.reference_runs import able_auditors
from tradepost_broker.market.state import seeded_random
from tradepost_broker.market.state.market_state import MarketState
from tradepost_broker.market.state.worker_state import WorkerState


class Award(NamedTuple):
    """A choice, and what the match records about it. `drawn_from` owners could have got a replica."""

    worker: WorkerState
    price_microcredits: int
    purpose: LeasePurpose
    candidates: tuple[Candidate, ...]
    left_out: dict[str, int]
    drawn_from: int = 0


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


def _choose(state: MarketState, job: Job, eligible: EligibleOffers, log_odds_missing: float) -> Award | None:
    if has_live(state, job):
        return _draw(state, job, eligible, log_odds_missing)
    return _auction(state, job, eligible, log_odds_missing)


def _auction(state: MarketState, job: Job, eligible: EligibleOffers, log_odds_missing: float) -> Award | None:
    policy, cap_microcredits = state.policy, left_of_cap(job)
    field = eligible.competing(bid_microcredits_max=cap_microcredits, limit=policy.candidates_max)
    bidders, rivals = field.idle, field.busy
    if not bidders:
        return None
    weigh([*bidders, *rivals], terms(state, job, log_odds_missing), policy)
    if any(bidder.results > 1 for bidder in bidders):
        owners = eligible.cheapest_by_owner(owners_max=policy.results_max, busy_too=True)
    else:
        owners = bidders
    ranking = ranked(viable(state, job, bidders, owners))
    if not ranking:
        return None
    runners_up = ranked([*ranking[1:], *viable(state, job, rivals, owners)])
    set_aside_microcredits = partial_pay.set_aside(state.leases_of[job.id], cap_microcredits, policy)
    price_microcredits = clearing_price(
        ranking[0],
        runners_up[0] if runners_up else None,
        policy,
        set_aside_microcredits=set_aside_microcredits,
    )
    left_out = eligible.count_left_out(bid_microcredits_max=cap_microcredits, considered=len(field.cheapest))
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
    share_microcredits = share(job, owners, log_odds_missing)
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


def _was_lost(state: MarketState, job: Job) -> bool:
    return any(lease.state in LOST for lease in state.leases_of[job.id])
