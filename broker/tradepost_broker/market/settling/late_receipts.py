"""Leases lost while their worker's stream was closed: they become evidence only if no receipt arrives.

The lease goes to another worker at once. Whether its worker was idle or only out of reach is told by the
receipt: it is refused, since the lease is gone, but a worker that brings it in time has done the work. So the
evidence waits, and nothing that was recorded ever has to be withdrawn.

A device that crashes loses all of its leases at once. That is one event, so it counts once.
"""

from __future__ import annotations

import msgspec

from tradepost.errors import Problem
from tradepost_broker.market.model.entities import EvidenceKind, Lease, LeasePurpose, LeaseState
from tradepost_broker.market.model.events import ReceiptDelivered
from tradepost_broker.market.model.job_states import FINAL
from tradepost_broker.market.model.lease_states import LeaseTrigger
from tradepost_broker.market.settling import blame, break_offs, findings, quarantine, settlement
from tradepost_broker.market.state.market_state import MarketState
from tradepost_broker.market.state.timers import TimerPurpose


def lose(state: MarketState, lease: Lease, problem: Problem) -> None:
    """Take an open lease from a worker that is not connected. It is to blame later, or not at all.

    Not at all if the broker was away while the lease was open: then it may be away because of that.
    """
    settlement.lose(state, lease, LeaseTrigger.EXPIRED, problem)
    if lease.purpose is not LeasePurpose.AUDIT and not state.was_interrupted(lease):
        if state.policy.absence_counts_once:
            lease.absent_since = state.workers[lease.worker].absent_since
        break_offs.await_receipt(state, lease, max(lease.expires_at, state.at) + state.policy.late_receipt_s)


def wait_again(state: MarketState) -> None:
    """Give every awaited receipt time after a restart: while the broker was down, none could come."""
    for lease in state.leases.values():
        if lease.blame_at is not None and lease.blame_at < state.at + state.policy.reconnect_s:
            break_offs.await_receipt(state, lease, state.at + state.policy.reconnect_s)


def forgive(state: MarketState, lease: Lease, event: ReceiptDelivered) -> bool:
    """The worker has brought a checked receipt; whether that changed anything.

    A repeated one changes nothing, nor one after `blame_at`.

    Where results are in, the receipt must agree with one of them: made-up work is not forgiven.
    """
    if lease.blame_at is None or event.at >= lease.blame_at:
        return False
    results = [other for other in state.leases_of[lease.job] if settlement.is_result(other)]
    if results and not any(other.id in event.agrees_with for other in results):
        return False
    excuse(state, lease)
    return True


def excuse(state: MarketState, lease: Lease) -> None:
    """Await no receipt for a lease any more, and hold its loss against nobody."""
    if lease.blame_at is not None:
        lease.blame_at = None
        state.timers.cancel(TimerPurpose.BLAME, lease.id)
        state.save(lease)


def expire(state: MarketState, lease: Lease) -> None:
    """No receipt came: having lost the lease is evidence, once its job has ended."""
    lease.blame_at = None
    state.save(lease)
    detail = findings.in_words(lease.problem)
    if lease.state is LeaseState.RECALLED:  # another owner did the job while it was late
        blame.hold_failure_against(state, lease, EvidenceKind.EXPIRED, detail=detail)
    elif _has_counted(state, lease):
        pass
    elif state.policy.lost_at_end and state.jobs[lease.job].status not in FINAL:
        lease.pending_evidence = EvidenceKind.EXPIRED
    else:
        quarantine.hold_against(state, lease, EvidenceKind.EXPIRED, detail=detail)


def _has_counted(state: MarketState, lease: Lease) -> bool:
    """Whether another lease that was lost in the same absence counts already; if not, this one does now."""
    if lease.absent_since is msgspec.UNSET:
        return False
    worker = state.workers[lease.worker]
    if worker.absence_blamed == lease.absent_since:
        return True
    worker.absence_blamed = lease.absent_since
    return False
