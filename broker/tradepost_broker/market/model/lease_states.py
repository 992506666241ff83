"""The states of a lease. No other module writes `lease.state`.

A lease is OPEN until its receipt comes (DELIVERED) or it is lost, and a delivered one gets a verdict. An
accepted result can still be rejected: a later reference run may contradict it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from tradepost_broker.market.model.entities import Lease, LeaseState
from tradepost_broker.market.model.transition_table import TransitionTable


class LeaseTrigger(StrEnum):
    """What moves a lease."""

    RECEIPT_DELIVERED = "receipt delivered"
    ACCEPTED = "accepted"
    OUTVOTED = "outvoted"
    CONTRADICTED = "contradicted by a reference run"
    UNDECIDED = (
        "ended without a verdict"  # its job ended, or its worker was expelled because of another result
    )
    GIVEN_BACK = "given back"
    FORGOTTEN = "unknown to its worker, which has no room for it"
    PREEMPTED = "preempted by owner"
    EXPIRED = "expired"  # by its time, or because its worker was away for too long
    RECALLED = "recalled"


LEASE_STATES: Final = TransitionTable(
    "lease",
    initial=LeaseState.OPEN,
    transitions={
        (LeaseState.OPEN, LeaseTrigger.RECEIPT_DELIVERED): LeaseState.DELIVERED,
        (LeaseState.OPEN, LeaseTrigger.GIVEN_BACK): LeaseState.RETURNED,
        (LeaseState.OPEN, LeaseTrigger.FORGOTTEN): LeaseState.RETURNED,
        (LeaseState.OPEN, LeaseTrigger.PREEMPTED): LeaseState.PREEMPTED,
        (LeaseState.OPEN, LeaseTrigger.EXPIRED): LeaseState.EXPIRED,
        (LeaseState.OPEN, LeaseTrigger.RECALLED): LeaseState.RECALLED,
        (LeaseState.DELIVERED, LeaseTrigger.ACCEPTED): LeaseState.ACCEPTED,
        (LeaseState.DELIVERED, LeaseTrigger.OUTVOTED): LeaseState.REJECTED,
        (LeaseState.DELIVERED, LeaseTrigger.CONTRADICTED): LeaseState.REJECTED,
        (LeaseState.DELIVERED, LeaseTrigger.UNDECIDED): LeaseState.INCONCLUSIVE,
        (LeaseState.ACCEPTED, LeaseTrigger.CONTRADICTED): LeaseState.REJECTED,
        # The result of a cancelled job is paid, and can be checked like any other.
        (LeaseState.INCONCLUSIVE, LeaseTrigger.CONTRADICTED): LeaseState.REJECTED,
        # Results that other results outvoted are compared with a later reference run as well.
        (LeaseState.REJECTED, LeaseTrigger.CONTRADICTED): LeaseState.REJECTED,
    },
)

#: Leases that may still end in a verdict.
LIVE: Final = frozenset({LeaseState.OPEN, LeaseState.DELIVERED})
#: Leases that were granted and ended without a receipt, for which their worker or its owner is the cause.
LOST: Final = frozenset({LeaseState.RETURNED, LeaseState.PREEMPTED, LeaseState.EXPIRED})
#: Leases whose receipt is in.
WITH_RECEIPT: Final = frozenset(
    {LeaseState.DELIVERED, LeaseState.ACCEPTED, LeaseState.REJECTED, LeaseState.INCONCLUSIVE}
)


def transition_lease(lease: Lease, trigger: LeaseTrigger) -> None:
    """Move `lease`. Raises `StateBroken` for what the table does not have."""
    lease.state = LEASE_STATES.target(lease.id, lease.state, trigger)
