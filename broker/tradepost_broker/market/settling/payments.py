"""Payments of leases: posted from the job's reservation, held, then matured or clawed back.

A lease is paid once: for its result, or for the stages that were done when its owner broke it off
(`partial_pay` says how much). Every payment and every refusal to pay states its reason.
"""

from __future__ import annotations

from collections.abc import Sequence

from tradepost.money import format_credits
from tradepost_broker.market.ledger import Kind
from tradepost_broker.market.model.entities import Job, Lease, WorkerStanding
from tradepost_broker.market.model.events import SendSettled
from tradepost_broker.market.model.lease_states import LeaseTrigger
from tradepost_broker.market.settling import begun_work, partial_pay, quarantine
from tradepost_broker.market.state.market_state import MarketState
from tradepost_broker.market.state.timers import TimerPurpose


def pay(state: MarketState, job: Job, lease: Lease, reason: str) -> None:
    """Accept a delivered result, and pay its price."""
    state.close_lease(lease, LeaseTrigger.ACCEPTED)
    state.ledger.pay(job.id, lease.id, lease.worker, lease.price_microcredits, at=state.at)
    _hold(state, job, lease, lease.price_microcredits)
    send_settled(state, lease, reason)


def pay_stages(state: MarketState, job: Job, accepted: Sequence[Lease]) -> None:
    """Pay the stages of preempted leases that the accepted results confirm, out of what they leave."""

    def owner_of(lease: Lease) -> str:
        return state.workers[lease.worker].record.owner

    leases = [
        lease
        for lease in state.leases_of[job.id]
        if state.workers[lease.worker].record.standing is not WorkerStanding.EXPELLED
    ]
    left_microcredits = state.ledger.reservation(job.id)
    for lease, stages, amount_microcredits in partial_pay.due(
        leases, accepted, owner_of=owner_of, left_microcredits=left_microcredits
    ):
        state.ledger.pay(
            job.id, lease.id, lease.worker, amount_microcredits, at=state.at, kind=Kind.PAY_STAGES
        )
        _hold(state, job, lease, amount_microcredits)
        state.save(lease)
        count = len(accepted[0].stage_hashes)
        send_settled(state, lease, f"{stages} of {count} stages, verified; preempted by owner")


def due_for_begun(state: MarketState, job: Job, cause: begun_work.Cause) -> list[tuple[Lease, int]]:
    """Which of a job's leases are due something, in microcredits, now that it ends without a result.

    Never more in all than what is reserved for it.
    """
    at_fault = quarantine.quarantined(state, job.pipeline, job.account) is not None
    left_microcredits = state.ledger.reservation(job.id)
    found: list[tuple[Lease, int]] = []
    for lease in state.leases_of[job.id]:
        worker = state.workers[lease.worker]
        if worker.record.standing is WorkerStanding.EXPELLED:
            continue
        due_microcredits = begun_work.due(
            lease,
            cause=cause,
            at=state.at,
            connected=worker.connected,
            at_fault=at_fault,
            begun_share=state.policy.begun_share,
        )
        amount_microcredits = min(due_microcredits, left_microcredits)
        if amount_microcredits:
            left_microcredits -= amount_microcredits
            found.append((lease, amount_microcredits))
    return found


def pay_begun(state: MarketState, job: Job, lease: Lease, amount_microcredits: int, reason: str) -> None:
    """Pay a lease that has ended what it is due, if anything, for work that its job has no result of."""
    if amount_microcredits:
        state.ledger.pay(
            job.id, lease.id, lease.worker, amount_microcredits, at=state.at, kind=Kind.PAY_BEGUN
        )
        _hold(state, job, lease, amount_microcredits)
        state.save(lease)
    send_settled(state, lease, reason)


def mature(state: MarketState, lease: Lease) -> None:
    """Let a held payment become the worker's own."""
    state.ledger.mature(lease.id, lease.worker, lease.paid_microcredits, at=state.at)
    _release_hold(state, lease)


def hold_until(state: MarketState, lease: Lease, until: float) -> None:
    """Let a held payment mature at another time."""
    lease.matures_at = until
    state.timers.put(TimerPurpose.MATURITY, lease.id, until)
    state.save(lease)


def claw_back(state: MarketState, lease: Lease) -> int:
    """Return a held payment to the submitter who made it, and say how much it was."""
    job, amount_microcredits = state.jobs[lease.job], lease.paid_microcredits
    state.ledger.claw_back(job.id, lease.id, lease.worker, job.account, amount_microcredits, at=state.at)
    lease.paid_microcredits = 0
    job.paid_microcredits -= amount_microcredits
    state.save(job)
    _release_hold(state, lease)
    return amount_microcredits


def claw_back_stages(state: MarketState, job: Job, audit: Lease) -> None:
    """Take back what stages were paid for that only the contradicted results had confirmed."""
    accepted = [state.leases[lease] for lease in job.accepted]
    for lease in partial_pay.preempted(state.leases_of[job.id]):
        held = lease.id in state.workers[lease.worker].held
        confirmed = partial_pay.confirmed_stages(lease, accepted)
        if held and partial_pay.confirmed_stages(lease, [audit]) < confirmed:
            amount = format_credits(claw_back(state, lease))
            send_settled(
                state,
                lease,
                f"a reference run does not confirm its stages; {amount} credits are refunded",
            )


def send_settled(state: MarketState, lease: Lease, reason: str) -> None:
    """Tell the worker the lease's state, what it is paid, and why."""
    state.send(SendSettled(lease.id, lease.worker, lease.state.value, lease.paid_microcredits, reason))


def _hold(state: MarketState, job: Job, lease: Lease, amount_microcredits: int) -> None:
    """Note a payment that was just posted, until it matures."""
    job.paid_microcredits += amount_microcredits
    lease.paid_microcredits = amount_microcredits
    lease.settled_at = state.at
    lease.matures_at = state.at + state.policy.hold_s
    state.workers[lease.worker].held[lease.id] = lease
    state.timers.put(TimerPurpose.MATURITY, lease.id, lease.matures_at)


def _release_hold(state: MarketState, lease: Lease) -> None:
    lease.matures_at = None
    del state.workers[lease.worker].held[lease.id]
    state.timers.cancel(TimerPurpose.MATURITY, lease.id)
    state.save(lease)
