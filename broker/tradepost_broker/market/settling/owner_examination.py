"""Examines the other devices of an owner of whom one device was expelled: one owner is one will.

Nothing is proven about these devices. So their stakes stay, and their held payments stay held: a reference
run of each accepted result that is still held decides about it, as a spot check would. Until the last of
these results is decided, the devices get no new leases; their later results are not believed alone.

A result that no auditor could check within `reexamine_s` stands only if others are enough for it, as one of
the expelled device does (`reexamination`); if it stands, its payment matures.
"""

from __future__ import annotations

from typing import Final

import msgspec

from tradepost_broker.market.model.entities import Job, Lease, LeaseState, WorkerStanding
from tradepost_broker.market.settling import payments
from tradepost_broker.market.settling.reference_runs import references
from tradepost_broker.market.state.market_state import MarketState
from tradepost_broker.market.state.worker_state import WorkerState, in_order

_HELD: Final = (
    "another device of its owner was expelled; this payment is held, and the device gets no new leases, "
    "until its held results are checked"
)


def begin(state: MarketState, expelled: WorkerState) -> None:
    """Examine the other devices of an expelled worker's owner, if the policy has it so."""
    state.examinations.pending.pop(expelled.record.id, None)
    expelled.record.examined_since = msgspec.UNSET
    if not is_policy(state):
        return
    devices = sorted(state.workers_of[expelled.record.owner], key=lambda device: device.record.id)
    for device in devices:
        if device.record.standing is WorkerStanding.EXPELLED or device.record.auditor:
            continue
        device.record.examined_since = state.at
        _distrust_undecided(state, device)
        _resume(state, device)
        state.save(device.record)
        state.place(device)


def restart(state: MarketState) -> None:
    """Find out again what is still to be examined: it follows from the records."""
    state.examinations.pending.clear()
    state.examinations.changed.clear()
    for _, worker in sorted(state.workers.items()):
        if worker.is_examined:
            _resume(state, worker)


def is_policy(state: MarketState) -> bool:
    """Whether the policy has the other devices of an owner examined."""
    return state.policy.owner_examined and state.policy.reexamine_s > 0


def is_suspect(state: MarketState, worker: WorkerState) -> bool:
    """Whether a worker's results are not believed alone, because a device of its owner was expelled."""
    return is_policy(state) and worker.record.owner in state.examinations.expelled_owners


def is_due(state: MarketState, lease: Lease) -> bool:
    """Whether a lease's held payment is to be examined."""
    return lease.id in state.examinations.pending.get(lease.worker, ())


def held_until(state: MarketState, lease: Lease) -> float:
    """Until when a payment must be held because it is examined; 0 if it is not."""
    if not is_due(state, lease):
        return 0.0
    return state.jobs[lease.job].in_doubt_until or _over_at(state, state.workers[lease.worker])


def take(state: MarketState, lease: Lease) -> None:
    """Doubt the result that a held payment was made for, until a reference run of its job is made."""
    job = state.jobs[lease.job]
    state.job_at_hand = job.id
    state.examinations.to_reexamine.pop(lease.id, None)
    payments.send_settled(state, lease, _HELD)
    if references(state, job):
        state.examinations.changed[lease.id] = lease.worker  # or it is accused, and this comes to nothing
    elif job.in_doubt_until is None:
        state.doubt(job, _over_at(state, state.workers[lease.worker]))
        job.spot_check = True
        state.save(job)
        state.jobs_to_advance[job.id] = None


def review_next(state: MarketState) -> None:
    """End the examination of one lease that something has become known of, and with the last its worker's."""
    lease_id, worker_id = next(iter(state.examinations.changed.items()))
    del state.examinations.changed[lease_id]
    lease = state.leases.get(lease_id)  # `None` if it was refunded, and its job has left memory
    pending = state.examinations.pending.get(worker_id, set())
    if lease_id not in pending or (lease is not None and _is_undecided(state, lease)):
        return
    pending.discard(lease_id)
    if lease is not None and lease.matures_at is not None:
        due_at = max(state.at, (lease.settled_at or 0.0) + state.policy.hold_s)
        if lease.matures_at > due_at:
            payments.hold_until(state, lease, due_at)
    if not pending:
        _end(state, state.workers[worker_id])


def _resume(state: MarketState, worker: WorkerState) -> None:
    """Examine what is undecided of a worker's held results; if there is nothing, its examination is over."""
    pending = {lease.id for lease in worker.held.values() if _is_to_be_examined(state, worker, lease)}
    if not pending:
        _end(state, worker)
        return
    state.examinations.pending[worker.record.id] = pending
    state.examinations.to_reexamine.update(
        (lease, None)
        for lease in sorted(pending)
        if state.jobs[state.leases[lease].job].in_doubt_until is None
    )


def _end(state: MarketState, worker: WorkerState) -> None:
    """Let a worker have leases again: what was held of it is decided."""
    state.examinations.pending.pop(worker.record.id, None)
    worker.record.examined_since = msgspec.UNSET
    state.save(worker.record)
    state.place(worker)
    if len(worker.open) < worker.capacity(state.day):
        state.workers_freed[worker.record.id] = True  # to the jobs that wait, its offer is new


def _is_to_be_examined(state: MarketState, worker: WorkerState, lease: Lease) -> bool:
    """Whether a held payment is for a result, from before the examination, that nothing has confirmed."""
    since = worker.record.examined_since
    is_earlier = since is not msgspec.UNSET and (lease.settled_at or 0.0) <= since
    job = state.jobs[lease.job]
    is_verdict = lease.state is LeaseState.ACCEPTED and lease.id in job.accepted
    is_open = _is_undecided(state, lease) or not references(state, job)
    return is_earlier and is_verdict and job.verdict_changed_at is None and is_open


def _is_undecided(state: MarketState, lease: Lease) -> bool:
    """Whether a held result still waits for what reference runs say."""
    job: Job = state.jobs[lease.job]
    return (
        job.in_doubt_until is not None
        or lease.id in job.accused
        or lease.id in state.examinations.to_reexamine
    )


def _distrust_undecided(state: MarketState, worker: WorkerState) -> None:
    """Let results without a verdict decide nothing alone."""
    for lease in in_order(worker.delivered):
        lease.recheck = True
        state.save(lease)


def _over_at(state: MarketState, worker: WorkerState) -> float:
    since = worker.record.examined_since
    return (state.at if since is msgspec.UNSET else since) + state.policy.reexamine_s
