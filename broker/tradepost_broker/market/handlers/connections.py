"""Workers that join, connect, change their offer and disconnect.

A worker that connects names the leases that it works on. What the broker has open and the worker does not
name is granted again: the grant was lost on the way, or with the worker's last process. What the worker names
and the broker does not hold open is recalled, or acknowledged if its result is in.
"""

from __future__ import annotations

import msgspec

from tradepost.errors import InvalidJoinToken, ProtocolError, Unauthorized, WorkerLost
from tradepost.protocol import Offer
from tradepost_broker.market.handlers import timer
from tradepost_broker.market.model.entities import LeaseState, Worker, WorkerStanding
from tradepost_broker.market.model.events import (
    OfferUpdated,
    Restarted,
    SendAcknowledged,
    SendGrant,
    SendRecall,
    WorkerConnected,
    WorkerDisconnected,
    WorkerJoined,
)
from tradepost_broker.market.model.lease_states import WITH_RECEIPT, LeaseTrigger
from tradepost_broker.market.model.worker_states import WorkerTrigger, transition_worker
from tradepost_broker.market.settling import (
    break_offs,
    late_receipts,
    owner_examination,
    revocation,
    settlement,
)
from tradepost_broker.market.state.market_state import MarketState
from tradepost_broker.market.state.timers import TimerPurpose
from tradepost_broker.market.state.worker_state import WorkerState, in_order


def join(state: MarketState, event: WorkerJoined) -> None:
    """Take in a worker with its stake. Joining again as the same owner's uses up the token, and no more."""
    known = state.workers.get(event.worker)
    if known is not None and known.record.owner != event.owner:
        raise InvalidJoinToken(f"worker {event.worker} already joined for another owner")
    if event.token and any(
        worker.record.has_used(event.token) for worker in state.workers.values() if worker is not known
    ):
        raise InvalidJoinToken("another device has used it")
    if known is not None:
        if event.token and not known.record.has_used(event.token):
            known.record.tokens = (*(known.record.tokens or ()), event.token)
            state.save(known.record)
        return
    state.ledger.stake(event.worker, event.stake_microcredits, at=event.at)
    record = Worker(
        id=event.worker,
        owner=event.owner,
        device=event.device,
        public_key=event.public_key,
        joined_at=event.at,
        auditor=event.auditor,
        tokens=(event.token,) if event.token else msgspec.UNSET,
    )
    state.add_worker(record)
    state.save(record)


def connect(state: MarketState, event: WorkerConnected) -> None:
    """A worker's stream opened."""
    worker = _known(state, event.worker)
    worker.connected = True
    worker.refused.clear()
    state.timers.cancel(TimerPurpose.ABSENCE, event.worker)
    if worker.record.standing is WorkerStanding.SUSPENDED and worker.deserves_return(state.day):
        transition_worker(worker.record, WorkerTrigger.RETURN_DESERVED)
    _take_offer(state, worker, event.offer)
    _reconcile(state, worker, event.open_leases)


def update_offer(state: MarketState, event: OfferUpdated) -> None:
    """A connected worker changed its offer."""
    worker = _known(state, event.worker)
    if not worker.connected:
        raise ProtocolError(f"worker {event.worker} is not connected")
    _take_offer(state, worker, event.offer)


def disconnect(state: MarketState, event: WorkerDisconnected) -> None:
    """A worker's stream closed. It has `reconnect_s` before its open leases go to others."""
    worker = _known(state, event.worker)
    if worker.connected:
        _leave(state, worker)
    else:
        state.is_repeated = True


def restart(state: MarketState, _event: Restarted) -> None:
    """All streams closed, or were never open since the records were loaded. Workers get time to come back.

    A lease that ended meanwhile stays open for as long: its result may be on the way. What is not in the
    records is made anew from them, so a replay that goes on past a restart stays the same.
    """
    state.restarted_at = state.at
    if state.workers:  # else nobody is on the way back: this is a first start
        state.patience_from = state.at + state.policy.reconnect_s
    break_offs.forget(state)
    for worker in state.workers.values():
        worker.refused.clear()
        worker.absence_blamed = None
        if worker.connected or worker.open:
            _leave(state, worker)
        if not worker.open:
            state.timers.cancel(TimerPurpose.ABSENCE, worker.record.id)
        for lease in worker.open.values():
            until = max(lease.expires_at, state.at + state.policy.reconnect_s)
            state.timers.put(TimerPurpose.LEASE_EXPIRY, lease.id, until)
            break_offs.watch_again(state, lease, until)
    late_receipts.wait_again(state)
    for job in state.jobs.values():
        if job.finished_at is not None:
            state.timers.put(TimerPurpose.RETIREMENT, job.id, job.finished_at + state.policy.retain_s)
    timer.forget_due(state)  # the records have it still
    state.review_everything()
    owner_examination.restart(state)


def _leave(state: MarketState, worker: WorkerState) -> None:
    worker.connected = False
    worker.absent_since = state.at
    worker.refused.clear()
    state.too_old.pop(worker.record.id, None)
    state.place(worker)
    state.supply_changed = True
    if worker.open:
        state.timers.put(TimerPurpose.ABSENCE, worker.record.id, state.at + state.policy.reconnect_s)
    if worker.record.auditor:
        # They may have to be decided by replicas now: the next `MatchingEvent` does so.
        state.jobs_to_advance.update(dict.fromkeys(state.audits_wanted.undecided))


def _take_offer(state: MarketState, worker: WorkerState, offer: Offer) -> None:
    worker.record.offer = offer
    state.save(worker.record)
    state.note_kind(worker.record.owner)
    revocation.review_engines(state, worker)
    state.place(worker)
    state.supply_changed = True
    if len(worker.open) < worker.capacity(state.day):
        state.workers_freed[worker.record.id] = True


def _reconcile(state: MarketState, worker: WorkerState, claimed: tuple[str, ...]) -> None:
    unnamed = [lease for lease in in_order(worker.open) if lease.id not in claimed]
    room = worker.capacity(state.day) - (len(worker.open) - len(unnamed))
    for lease in unnamed[: max(0, room)]:
        state.send(SendGrant(lease.id, lease.worker))
    for lease in unnamed[max(0, room) :]:
        state.job_at_hand = lease.job
        problem = WorkerLost("the worker came back with room for fewer leases").to_problem()
        settlement.lose(state, lease, LeaseTrigger.FORGOTTEN, problem)
    for lease_id in claimed:
        held = state.leases.get(lease_id)
        if held is None or held.worker != worker.record.id:
            state.send(SendRecall(lease_id, worker.record.id))
        elif held.state in WITH_RECEIPT:
            state.send(SendAcknowledged(lease_id, worker.record.id))
        elif held.state is not LeaseState.OPEN:
            state.send(SendRecall(lease_id, worker.record.id))


def _known(state: MarketState, worker: str) -> WorkerState:
    if worker not in state.workers:
        raise Unauthorized(f"worker {worker} has not joined", hint="Join first: `tradepost worker join`.")
    return state.workers[worker]
