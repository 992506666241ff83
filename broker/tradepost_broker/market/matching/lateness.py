"""When a new lease is late: then it is hedged with another one for its job, and the first result counts.

A lease is late after `late_after_runs` times what runs of the pipeline take, plus `late_s_min` and the time
to fetch. What they take is what is typical of owners, or what its own owner takes, if that is more: a slow
device that is known to be slow is not late. But it is late at the latest when another worker has just enough
time left before the job's deadline. Where it is not known how long runs take, it is late after half of the
time it has.

Workers report finished stages with their heartbeats. A lease whose next report is overdue is hedged before it
is late; that alone is no hold, and a report that comes makes nothing later than said above.
"""

from __future__ import annotations

import math

from tradepost.pipeline.manifest import STAGES_MAX
from tradepost.protocol.worker_frames import HEARTBEAT_S
from tradepost_broker.market.model.entities import Job, Lease, LeaseState
from tradepost_broker.market.model.events import LeaseProgressed
from tradepost_broker.market.state.commitments import Lateness, LeaseWatch
from tradepost_broker.market.state.market_state import MarketState
from tradepost_broker.market.state.timers import TimerPurpose


def watch(state: MarketState, job: Job, lease: Lease, *, fetch_s: float) -> None:
    """Set the timer that finds a new ordinary lease late, unless that is after its end."""
    late_at, lateness = _late_at(state, job, lease, fetch_s)
    state.watches[lease.id] = LeaseWatch(lateness, late_at, fetch_s)
    _set_timer(state, job, lease)


def note_progress(state: MarketState, event: LeaseProgressed) -> None:
    """Take in that more stages of a lease are done: the next report is awaited."""
    done = stages_done(state, event.worker, event.lease)
    new = 0 if done is None else min(event.stages_done, STAGES_MAX) - done
    if new <= 0:
        state.is_repeated = True
        return
    lease, watch = state.leases[event.lease], state.watches[event.lease]
    watch.stages_s += [event.at - lease.granted_at] * new
    if not watch.is_late:
        _set_timer(state, state.jobs[lease.job], lease)


def stages_done(state: MarketState, worker: str, lease: str) -> int | None:
    """How many stages of this worker's open lease are known to be done; `None` without such a lease."""
    known, watch = state.leases.get(lease), state.watches.get(lease)
    if known is None or watch is None or known.worker != worker or known.state is not LeaseState.OPEN:
        return None
    return len(watch.stages_s)


def _set_timer(state: MarketState, job: Job, lease: Lease) -> None:
    known = state.watches[lease.id]
    due_at = min(known.late_at, _report_due_at(state, job, lease, known))
    if state.policy.hedges_max and due_at < lease.expires_at:
        state.timers.put(TimerPurpose.LATENESS, lease.id, due_at)
    else:
        state.timers.cancel(TimerPurpose.LATENESS, lease.id)


def _report_due_at(state: MarketState, job: Job, lease: Lease, known: LeaseWatch) -> float:
    """When the report of the next stage is overdue. Only owners whose workers sent such reports owe one."""
    stages = f"{job.pipeline} {len(known.stages_s) + 1}"
    typical_s_per_unit = state.stage_times.typical_s_per_unit(stages)
    own_s_per_unit = state.stage_times.own_s_per_unit(stages, state.workers[lease.worker].record.owner)
    if typical_s_per_unit is None or not own_s_per_unit:
        return math.inf
    policy = state.policy
    stage_s = policy.late_after_runs * max(typical_s_per_unit, own_s_per_unit) * job.units
    return lease.granted_at + known.fetch_s + stage_s + policy.late_s_min + HEARTBEAT_S


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
