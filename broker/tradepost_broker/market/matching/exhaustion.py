"""When lost leases end a job.

`attempts_max` lost leases do, so that a job which breaks devices is not taken to all of them. But owners
could agree to lose the leases of others' jobs. So if there are workers that are proven and have not tried the
job, only they are asked from then on, and `attempts_proven_max` of them must have lost it too.
"""

from __future__ import annotations

from tradepost_broker.market.matching.eligible_offers import EligibleOffers
from tradepost_broker.market.model.entities import Job, LeasePurpose
from tradepost_broker.market.model.lease_states import LOST
from tradepost_broker.market.state.market_state import MarketState


def is_exhausted(state: MarketState, job: Job) -> bool:
    """Whether a job that needs another lease gets none any more."""
    if job.failures < state.policy.attempts_max:
        return False
    lost_by_proven = sum(
        lease.state in LOST
        and lease.purpose is not LeasePurpose.AUDIT
        and state.workers[lease.worker].is_proven(state.day)
        for lease in state.leases_of[job.id]
    )
    if lost_by_proven >= state.policy.attempts_proven_max:
        return True
    untried = EligibleOffers(state, job, proven_only=True)
    return not untried.cheapest_by_owner(owners_max=1, busy_too=True)


def needs_proven(state: MarketState, job: Job) -> bool:
    """Whether the next lease of a job that is not exhausted is for a proven worker only."""
    return job.failures >= state.policy.attempts_max
