"""When a new lease is late: then it is hedged with another one for its job, and the first result counts.

A lease is late after `late_after_runs` times what runs of the pipeline take, plus `late_s_min` and the time
to fetch. What they take is what is typical of owners, or what its own owner takes, if that is more: a slow
device that is known to be slow is not late. But it is late at the latest when another worker has just enough
time left before the job's deadline. Where it is not known how long runs take, it is late after half of the
time it has.
"""

from __future__ import annotations

from tradepost_broker.market.model.entities import Job, Lease
from tradepost_broker.market.state.commitments import Lateness, LeaseWatch
from tradepost_broker.market.state.market_state import MarketState
from tradepost_broker.market.state.timers import TimerPurpose


def watch(state: MarketState, job: Job, lease: Lease, *, fetch_s: float) -> None:
    """Set the timer that finds a new ordinary lease late, unless that is after its end."""
    late_at, lateness = _late_at(state, job, lease, fetch_s)
    state.watches[lease.id] = LeaseWatch(lateness)
    if state.policy.hedges_max and late_at < lease.expires_at:
        state.timers.put(TimerPurpose.LATENESS, lease.id, late_at)


def _late_at(state: MarketState, job: Job, lease: Lease, fetch_s: float) -> tuple[float, Lateness]:
    policy, owner = state.policy, state.workers[lease.worker].record.owner
    typical_s_per_unit = state.run_times.typical_s_per_unit(job.pipeline)
    if typical_s_per_unit is None:
        return lease.granted_at + (lease.expires_at - lease.granted_at) / 2, Lateness.UNMEASURED
    own_s_per_unit = state.run_times.own_s_per_unit(job.pipeline, owner)
    extra_s = fetch_s + policy.late_s_min
    another_s = policy.late_after_runs * typical_s_per_unit * job.units + extra_s
    own_s = policy.late_after_runs * own_s_per_unit * job.units + extra_s
    urgent_at = max(lease.granted_at + another_s, job.deadline_at - another_s)
    if state.commitments_of(lease).begin_trial(lease.id):
        return urgent_at, Lateness.CERTAIN
    late_at = lease.granted_at + max(another_s, own_s)
    return (late_at, Lateness.CERTAIN) if late_at <= urgent_at else (urgent_at, Lateness.URGENT)
