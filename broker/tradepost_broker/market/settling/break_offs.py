"""Leases that their owners do not keep: broken off, or held until another owner has done the job.

Both are charged to the owner's budget (`state.commitments`); beyond it, all of the owner's devices cool off.
A hold becomes evidence as well, unless it is the owner's first since a result. Whether a late lease was a
hold shows when its job ends: only the result of another owner proves that the job could be done in that time.
"""

from __future__ import annotations

from typing import Final

from tradepost.errors import LeaseGone
from tradepost_broker.market.model.entities import EvidenceKind, Job, Lease, LeasePurpose, LeaseState
from tradepost_broker.market.settling import blame
from tradepost_broker.market.state.commitments import Lateness, LeaseWatch
from tradepost_broker.market.state.market_state import MarketState
from tradepost_broker.market.state.timers import TimerPurpose

_HELD: Final = "another owner did the job while this lease was late"
#: Ends of a late lease that gave the job nothing. Preemption is charged at once, late or not.
_WITHOUT_RESULT: Final = frozenset({LeaseState.RECALLED, LeaseState.EXPIRED, LeaseState.RETURNED})


def charge(state: MarketState, lease: Lease) -> None:
    """Count a lease against its owner's budget. An owner without competitors never cools off."""
    if lease.purpose is LeasePurpose.AUDIT or not state.policy.cool_off_s:
        return
    owner = state.workers[lease.worker].record.owner
    devices = state.workers_of[owner]
    if len(state.offers) == sum(device.seat is not None for device in devices):
        return
    commitments = state.commitments_of(lease)
    if commitments.charge(state.policy, state.at):
        state.cooling_owners[owner] = None
        state.timers.put(TimerPurpose.COOLING_OFF, owner, commitments.cooling_until)
        for device in devices:
            state.place(device)


def end_cooling_off(state: MarketState, owner: str) -> None:
    """Let an owner's devices have leases again."""
    state.cooling_owners.pop(owner, None)
    devices = state.workers_of[owner]
    for device in devices:
        state.place(device)
    state.save(devices[0].record)  # so that the journal has the event


def judge(state: MarketState, job: Job, successful_owners: set[str]) -> None:
    """Credit who gave the job's result, and charge who was late while another owner gave it."""
    for lease in state.leases_of[job.id]:
        watch = state.watches.pop(lease.id, None)
        if watch is None:
            continue
        if lease.id in job.accepted:
            _credit(state, job, lease, watch)
        elif (
            watch.is_late
            and state.at >= watch.late_at
            and watch.lateness is not Lateness.UNMEASURED
            and lease.state in _WITHOUT_RESULT
            and successful_owners - {state.workers[lease.worker].record.owner}
        ):
            charge(state, lease)
            _judge_hold(state, lease, watch)
        else:
            state.commitments_of(lease).end_trial(lease.id)


def await_receipt(state: MarketState, lease: Lease, until: float) -> None:
    """Hold it against the worker that a lease was lost, unless a receipt comes before `until`."""
    lease.blame_at = until
    state.timers.put(TimerPurpose.BLAME, lease.id, until)
    state.save(lease)


def watch_again(state: MarketState, lease: Lease, until: float) -> None:
    """Find a lease late that outlives a restart and ends at `until`: after half of the time it has left."""
    if lease.purpose is LeasePurpose.AUDIT or not state.policy.hedges_max:
        return
    late_at = max(state.at + state.policy.reconnect_s, (state.at + until) / 2)
    state.watches[lease.id] = LeaseWatch(Lateness.UNMEASURED, late_at)
    state.timers.put(TimerPurpose.LATENESS, lease.id, late_at)


def forget(state: MarketState) -> None:
    """Begin anew after a restart: nothing of this is in the records."""
    for owner in state.commitments:
        state.timers.cancel(TimerPurpose.COOLING_OFF, owner)
    for lease in state.watches:
        state.timers.cancel(TimerPurpose.LATENESS, lease)
    state.commitments.clear()
    state.cooling_owners.clear()
    state.watches.clear()
    state.run_times.clear()
    state.stage_times.clear()
    _recall_price_levels(state)


def _recall_price_levels(state: MarketState) -> None:
    """Know what those ask who won lately: leases that every restart finds in the records, newest last."""
    state.price_levels.clear()
    if not state.policy.absent_compete:
        return
    won = [
        lease
        for lease in state.leases.values()
        if lease.purpose is LeasePurpose.AUCTION and lease.granted_at > state.at - state.policy.retain_s
    ]
    for lease in sorted(won, key=lambda lease: (lease.granted_at, lease.id)):
        worker = state.workers[lease.worker].record
        if worker.offer is not None:
            price_microcredits = worker.offer.price_per_unit_microcredits
            state.price_levels.note(state.capability(state.jobs[lease.job]), worker.owner, price_microcredits)
    state.agreeing_pairs.clear()


def _credit(state: MarketState, job: Job, lease: Lease, watch: LeaseWatch) -> None:
    state.commitments_of(lease).credit(state.policy)
    owner = state.workers[lease.worker].record.owner
    if watch.run_s is not None:
        state.run_times.note(job.pipeline, owner, watch.run_s / job.units)
    for number, stage_s in enumerate(watch.stages_s, 1):
        state.stage_times.note(f"{job.pipeline} {number}", owner, stage_s / job.units)


def _judge_hold(state: MarketState, lease: Lease, watch: LeaseWatch) -> None:
    if lease.state is not LeaseState.RECALLED or watch.lateness is not Lateness.CERTAIN:
        return
    if not state.commitments_of(lease).hold(lease.id):
        return
    if state.workers[lease.worker].connected:
        blame.hold_failure_against(state, lease, EvidenceKind.EXPIRED, detail=_HELD)
    else:
        lease.problem = lease.problem or LeaseGone(_HELD).to_problem()
        await_receipt(state, lease, max(lease.expires_at, state.at) + state.policy.late_receipt_s)
